"""Times of a sampler that are searched for by the quality of its samples: also of one that adds noise on its way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

EVALUATIONS = 8
GOLDEN = (math.sqrt(5) - 1) / 2


def searched_times(
    times: Sequence[float],
    score: Callable[[list[float]], float],
    *,
    sweeps: int = 1,
    evaluations: int = EVALUATIONS,
) -> tuple[list[float], float]:
    """(times, their score): the inner ones of falling ``times`` [N + 1] moved so that ``score(times)`` is least.

    As consistency models choose theirs (Song et al. 2023, arXiv 2303.01469, section 3 and Algorithm 1: greedily, each
    by a ternary search of the FID), one after the other, ``sweeps`` times; each by a golden-section search of
    ``evaluations`` scores between its neighbours. What is returned is the best that was seen, the start included.
    """
    best, least = list(times), score(list(times))
    for place in [*range(1, len(times) - 1)] * sweeps:
        before, after = best[:place], best[place + 1 :]
        known = {best[place]: least}
        t = _golden_section(lambda t, a=before, b=after: score([*a, t, *b]), after[0], before[-1], known, evaluations)
        best, least = [*before, t, *after], known[t]
    return best, least


def _golden_section(
    f: Callable[[float], float], low: float, high: float, known: dict[float, float], evaluations: int
) -> float:
    """Where f was least among ``known`` {t: f(t)}, to which the search between low and high adds its own."""

    def at(t: float) -> float:
        if t not in known:
            known[t] = f(t)
        return known[t]

    a, b = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    for _ in range(evaluations - 1):
        if at(a) <= at(b):
            high, a, b = b, b - GOLDEN * (b - low), a
        else:
            low, a, b = a, b, a + GOLDEN * (high - a)
    return min(known, key=known.get)
