"""What the papers say of these solvers, put beside what was measured. Every verdict is computed from the rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

FEW = 10  # calls: up to here the papers compare
TIE = 0.02  # errors that differ by less than this share count as equal
SHOWN = 4  # exceptions that are written out

LADDER = ("UniPC-3 (B2)", "DPM-Solver++(3M)", "DPM-Solver++(2M)", "DDIM")
DEIS_RIVALS = ("DDIM", "DPM-Solver-2", "DPM-Solver-3", "DEIS-tAB1", "DEIS-tAB2", "DEIS-rhoAB1", "DEIS-rhoAB2",
               "DEIS-rhoAB3", "DEIS-rhoRK2", "DEIS-rhoRK3")  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """A claim, whether it was "reproduced", "partly reproduced", "not reproduced" or "not measured", and the detail."""

    claim: str
    word: str
    detail: str


@dataclass(frozen=True)
class Comparison:
    """One pair at one number of calls: ``better`` should have the smaller error."""

    better: str
    worse: str
    calls: int
    errors: tuple[float, float]

    @property
    def holds(self) -> bool:
        """Whether it has, or the two are equal."""
        return self.errors[0] <= (1 + TIE) * self.errors[1]

    def __str__(self) -> str:
        return f"at {self.calls} calls {self.better} has {self.errors[0]:.3g}, {self.worse} {self.errors[1]:.3g}"


def verdicts(calls: Sequence[int], rows: Sequence[Mapping]) -> list[Verdict]:
    """The four claims, judged by the rows of one model."""
    errors = {row["name"]: dict(zip(calls, row["rmse"], strict=True)) for row in rows}
    kinds = {row["name"]: row["kind"] for row in rows}
    few = [budget for budget in calls if budget <= FEW]
    multistep = [name for name, kind in kinds.items() if kind == "multistep"]
    several = [name for name, kind in kinds.items() if kind == "singlestep"]

    def pairs(better: Iterable[str], worse: Iterable[str], at: Sequence[int]) -> list[Comparison]:
        worse = list(worse)
        found = []
        for budget in at:
            for a in better:
                for b in worse:
                    values = errors.get(a, {}).get(budget), errors.get(b, {}).get(budget)
                    if a != b and None not in values:
                        found.append(Comparison(a, b, budget, values))
        return found

    return [
        _judged(f"With at most {FEW} calls every multistep solver of higher order is nearer to the exact solution than "
                "DDIM.", pairs(multistep, ["DDIM"], few)),
        _judged(f"UniPC-3 ≤ DPM-Solver++(3M) ≤ DPM-Solver++(2M) ≤ DDIM in error, with at most {FEW} calls (Zhao et al. "
                "2023, Lu et al. 2022).",
                [pair for a, b in itertools.pairwise(LADDER) for pair in pairs([a], [b], few)]),
        _judged("DEIS-tAB3 is the best of the DEIS family, DPM-Solver and DDIM with 4 or 5 calls (Zhang & Chen 2023).",
                pairs(["DEIS-tAB3"], DEIS_RIVALS, [budget for budget in calls if budget in (4, 5)])),
        _judged(f"With at most {FEW} calls, solvers that call the model several times a step (Heun, Runge–Kutta, "
                "DPM-Solver-2 and -3) lose to DPM-Solver++(2M), which calls it once.",
                pairs(["DPM-Solver++(2M)"], several, few)),
    ]  # fmt: skip


def _judged(claim: str, comparisons: list[Comparison]) -> Verdict:
    if not comparisons:
        return Verdict(claim, "not measured", "None of these solvers were compared at these numbers of calls.")
    fails = sorted((c for c in comparisons if not c.holds), key=lambda c: c.errors[1] / c.errors[0])
    held = len(comparisons) - len(fails)
    if not fails:
        return Verdict(claim, "reproduced", f"True of all {len(comparisons)} comparisons.")
    shown = "; ".join(map(str, fails[:SHOWN])) + ("; and others" if len(fails) > SHOWN else "")
    word = "partly reproduced" if 2 * held >= len(comparisons) else "not reproduced"
    return Verdict(
        claim, word, f"True of {held} of {len(comparisons)} comparisons. Not true, the clearest first: {shown}."
    )


def ranking(calls: Sequence[int], rows: Sequence[Mapping]) -> list[Mapping]:
    """The rows by their mean distance, as a ratio, to the best one at each number of calls, the nearest first.

    Rows without a value at one of the numbers come last.
    """
    best = [min((row["rmse"][i] for row in rows if row["rmse"][i]), default=None) for i in range(len(calls))]

    def score(row: Mapping) -> tuple[int, float]:
        ratios = [math.log(e / b) for e, b in zip(row["rmse"], best, strict=True) if e and b]
        return len(calls) - len(ratios), sum(ratios) / len(ratios) if ratios else 0.0

    return sorted(rows, key=score)


def opening(calls: Sequence[int], rows: Sequence[Mapping]) -> str:
    """One sentence: which solver was best at each number of calls, and how much better than DDIM."""
    parts: dict[str, list[str]] = {}
    ddim = next((row for row in rows if row["name"] == "DDIM"), None)
    for place, budget in enumerate(calls):
        measured = [row for row in rows if row["rmse"][place] is not None]
        if measured:
            best = min(measured, key=lambda row: row["rmse"][place])
            gain = ""
            if ddim is not None and best is not ddim and ddim["rmse"][place]:
                gain = f", {ddim['rmse'][place] / best['rmse'][place]:.1f}× nearer than DDIM"
            parts.setdefault(best["name"], []).append(f"{budget} (RMSE {best['rmse'][place]:.3g}{gain})")
    if not parts:
        return "Nothing was measured."
    return (
        "Nearest to the exact solution: "
        + "; ".join(f"{name} with {', '.join(budgets)} calls" for name, budgets in parts.items())
        + "."
    )
