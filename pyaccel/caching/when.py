"""When sites compute in full: rules that need nothing but the number of the step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from .moment import Moment, When


def on_steps(due: Callable[[int], bool]) -> When:
    """In full at the steps for which ``due(step)`` holds, and where a pass has missed such a step."""

    def when(moment: Moment) -> bool:
        return any(due(step) for step in moment.new_steps)

    return when


def every(interval: int, after: int = 1) -> When:
    """In full for the first ``after`` steps and then every ``interval``-th, counted from the last of those."""
    whole_number("interval", interval), whole_number("after", after)
    return on_steps(lambda step: step < after or (step - after + 1) % interval == 0)


def mask(steps: Sequence[bool] | Iterable[int]) -> When:
    """In full at the steps where a list of truth values holds (and behind its end), or at those that are numbered.

    ``mask([True, False, True])`` and ``mask({0, 2, 5})``; the first step is in full in any case.
    """
    values = list(steps)
    if values and all(isinstance(v, bool) for v in values):
        return on_steps(lambda step: step >= len(values) or values[step])
    for value in values:
        whole_number("a step of the mask", value, least=0)
    numbers = set(values)
    return on_steps(lambda step: step == 0 or step in numbers)


def whole_number(name: str, value: object, least: int = 1) -> int:
    """``value``, or ValueError where it is not a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value


def positive(name: str, value: float) -> float:
    """``value``, or ValueError where it is not above 0."""
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value!r}")
    return value


def full_steps(when: When, steps: int) -> list[int]:
    """The steps of a run of ``steps`` at which a rule that needs no probe computes in full."""
    moment, found = Moment(), []
    for step in range(steps):
        moment.step, moment.steps = step, steps
        full = when(moment) or not found
        moment.decided(full)
        if full:
            found.append(step)
    return found
