"""When the model computes in full: functions from the number of a step to yes or no."""

from __future__ import annotations

from collections.abc import Callable

When = Callable[[int], bool]


def every(interval: int, after: int = 1) -> When:
    """In full for the first ``after`` steps and then every ``interval``-th, counted from the last of those."""
    for name, value in (("interval", interval), ("after", after)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return lambda step: step < after or (step - after + 1) % interval == 0
