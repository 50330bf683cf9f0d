"""The solvers that ``pyaccel bench solvers`` compares, and the plan of each within a number of model calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ... import solvers
from ...names import look_up
from ...schedules import Schedule
from ...solvers import Plan


@dataclass(frozen=True)
class Variant:
    """A row: a deterministic solver with its options.

    ``kind`` is "first order", "multistep" (one call a step and a memory), "singlestep" (several calls a step) or
    "parallel" (several calls at once).
    """

    name: str
    kind: str
    solver: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)


VARIANTS = (
    Variant("DDIM", "first order", "ddim"),
    Variant("DPM-Solver-2", "singlestep", "dpm", {"order": 2}),
    Variant("DPM-Solver-3", "singlestep", "dpm", {"order": 3}),
    Variant("DPM-Solver-fast", "singlestep", "dpm_fast"),
    Variant("DPM-Solver++(2M)", "multistep", "dpmpp", {"order": 2}),
    Variant("DPM-Solver++(3M)", "multistep", "dpmpp", {"order": 3}),
    Variant("DPM-Solver++(2S)", "singlestep", "dpmpp", {"order": 2, "method": "singlestep"}),
    Variant("DPM-Solver++(3S)", "singlestep", "dpmpp", {"order": 3, "method": "singlestep"}),
    Variant("DPM-Solver-v3, no statistics", "multistep", "dpm_v3", {"order": 2}),
    Variant("DEIS-tAB1", "multistep", "deis", {"order": 1}),
    Variant("DEIS-tAB2", "multistep", "deis", {"order": 2}),
    Variant("DEIS-tAB3", "multistep", "deis", {"order": 3}),
    Variant("DEIS-rhoAB1", "multistep", "rho_ab", {"order": 1}),
    Variant("DEIS-rhoAB2", "multistep", "rho_ab", {"order": 2}),
    Variant("DEIS-rhoAB3", "multistep", "rho_ab", {"order": 3}),
    Variant("DEIS-rhoRK2", "singlestep", "rho_rk", {"order": 2, "variant": "midpoint"}),
    Variant("DEIS-rhoRK3", "singlestep", "rho_rk", {"order": 3}),
    Variant("UniPC-1 (B2)", "multistep", "unipc", {"order": 1}),
    Variant("UniPC-2 (B1)", "multistep", "unipc", {"order": 2, "variant": "bh1"}),
    Variant("UniPC-2 (B2)", "multistep", "unipc", {"order": 2, "variant": "bh2"}),
    Variant("UniPC-3 (B1)", "multistep", "unipc", {"order": 3, "variant": "bh1"}),
    Variant("UniPC-3 (B2)", "multistep", "unipc", {"order": 3, "variant": "bh2"}),
    Variant("UniPC-4 (B2)", "multistep", "unipc", {"order": 4}),
    Variant("UniPC-2 singlestep", "singlestep", "unipc", {"order": 2, "method": "singlestep"}),
    Variant("UniC-2 on DPM++(2M)", "multistep", "unic", {"solver": "dpmpp", "order": 2}),
    Variant("Heun", "singlestep", "heun"),
    Variant("RK4", "singlestep", "rk4"),
    Variant("iPNDM", "multistep", "ipndm"),
    Variant("iPNDM-v", "multistep", "ipndm_v"),
    Variant("PNDM (PLMS)", "multistep", "pndm", {"warmup": "plms"}),
    Variant("LMS", "multistep", "lms"),
    Variant("EPD, 1 point", "parallel", "epd", {"points": 1}),
    Variant("EPD, 2 points", "parallel", "epd", {"points": 2}),
)


def chosen(names: Sequence[str] | None) -> tuple[Variant, ...]:
    """The variants of these names or of these solvers' names, in the order of ``VARIANTS``; all for None.

    Raises ValueError, with the nearest name, for one that is not there.
    """
    if names is None:
        return VARIANTS
    by_name = {v.name: (v,) for v in VARIANTS}
    for v in VARIANTS:
        by_name[v.solver] = (*by_name.get(v.solver, ()), v)
    wanted = [v for name in names for v in look_up("solver to compare", name.strip(), by_name)]
    return tuple(v for v in VARIANTS if v in wanted)


def plan_within(variant: Variant, schedule: Schedule, calls: int, grid: str = "uniform") -> Plan | None:
    """The plan with the most steps that makes at most ``calls`` model calls; None when not one step fits."""
    make = solvers.from_name(variant.solver)
    for steps in range(calls + 4, 0, -1):  # a few more: DPM-Solver-fast may leave some of its steps' calls unused
        plan = make(schedule, steps, grid=grid, **variant.options)
        if plan.calls <= calls:
            return plan
    return None
