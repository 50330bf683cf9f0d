"""The methods that train a solver, as settings of one trainer: what is learned, and by which loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SolverMethod:
    """``settings`` of :class:`pyaccel.training.solver_config.SolverConfig`; ``paper`` and a line on what it does.

    ``solver`` is the one that it trains, where it trains no other.
    """

    name: str
    paper: str
    summary: str
    settings: dict[str, Any] = field(default_factory=dict)
    solver: str = ""

    @property
    def adversarial(self) -> bool:
        """Whether it wants a discriminator."""
        return self.settings.get("adversarial", 0.0) > 0


_EVERYTHING = ("times", "shifts", "coefficients", "states")

METHODS = {
    method.name: method
    for method in (
        SolverMethod(
            "gs", "arXiv 2510.17699", "times, time shifts and all coefficients, by the distance to the teacher",
            {"learn": _EVERYTHING},
        ),
        SolverMethod(
            "gas", "arXiv 2510.17699", "GS with R3GAN's relativistic loss, R1 and R2",
            {"learn": _EVERYTHING, "adversarial": 0.1},
        ),
        SolverMethod(
            "ld3", "arXiv 2405.15506", "times and time shifts alone; the noise may move within a small ball",
            {"learn": ("times", "shifts"), "ball": 0.02},
        ),
        SolverMethod(
            "s4s", "arXiv 2502.17423", "coefficients alone; the noise may move within a small ball",
            {"learn": ("coefficients", "states"), "ball": 0.02},
        ),
        SolverMethod(
            "s4s-alt", "arXiv 2502.17423", "coefficients and times in turn",
            {"learn": _EVERYTHING, "ball": 0.02, "alternate": 50},
        ),
        SolverMethod(
            "bns", "arXiv 2403.01329", "times and all coefficients, by the PSNR",
            {"learn": ("times", "coefficients", "states"), "objective": "psnr"},
        ),
        SolverMethod(
            "amed", "arXiv 2312.00094", "the place, the told time and the scale of the second call of each step",
            {"learn": ("named",)}, solver="amed",
        ),
    )
}  # fmt: skip
