"""Fair timing: all contestants in one process, in turns, each judged by its best turn.

Interference from other programs only ever makes a turn longer, and it falls on all contestants alike when they take
turns: so the ratio of best times is what repeats from run to run, where means do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable

TURN_SECONDS = 2e-3
"""Calls are repeated within a turn for at least this long, so that the clock does not matter."""


def calls_per_turn(function: Callable[[], object]) -> int:
    calls = 1
    while True:
        seconds = time_calls(function, calls)
        if seconds >= TURN_SECONDS:
            return calls
        calls = max(calls + 1, int(calls * min(10.0, 1.2 * TURN_SECONDS / max(seconds, 1e-9))))


def time_calls(function: Callable[[], object], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        function()
    return time.perf_counter() - begin


def in_turns(contestants: dict[str, Callable[[], object]], seconds: float = 1.5, fewest: int = 15) -> dict[str, float]:
    """Best seconds per call of each contestant, measured in turns for about ``seconds`` altogether."""
    for function in contestants.values():
        function()  # compiles, and touches the memory
    calls = {name: calls_per_turn(function) for name, function in contestants.items()}
    best = dict.fromkeys(contestants, float("inf"))
    begin, turns = time.perf_counter(), 0
    while turns < fewest or time.perf_counter() - begin < seconds:
        for name, function in contestants.items():
            best[name] = min(best[name], time_calls(function, calls[name]) / calls[name])
        turns += 1
    return best


def steps_in_turns(
    contestants: dict[str, Callable[[int], object]], steps: int, seconds: float = 60, fewest: int = 3
) -> dict[str, list[float]]:
    """Best seconds of each step of a run of each contestant, who take turns at every step.

    ``contestant(i)`` does step i of its run, and begins a new run at step 0. Whole runs of several seconds would be too
    long for turns: in each of them something would interfere, and the best one would be a matter of luck.
    """
    best = {name: [float("inf")] * steps for name in contestants}
    begin, runs = time.perf_counter(), 0
    while runs < fewest or time.perf_counter() - begin < seconds:
        for i in range(steps):
            for name, function in contestants.items():
                best[name][i] = min(best[name][i], time_calls(lambda f=function, i=i: f(i), 1))
        runs += 1
    return best
