"""Solvers and schedules by name, with ``key=value`` options, for ``plan`` and ``sample``."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..schedules import Schedule
    from ..solvers import Plan


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """``["order=3", "eta=0.5", "corrector=no", "variant=bh1"]`` as values: int, float, bool, JSON, or text.

    Raises ValueError for a text without "=" and for a key given twice.
    """
    options: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not sign or not key:
            raise ValueError(f"an option is written as key=value, e.g. -o order=3; got {text!r}")
        if key in options:
            raise ValueError(f"the option {key!r} is given twice")
        options[key] = parse_value(value.strip())
    return options


def parse_value(text: str) -> Any:
    """The value that a text stands for: a number, true/false (yes/no), none, a JSON list or object, or the text."""
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        return float(text)
    words = {"true": True, "yes": True, "false": False, "no": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if text.startswith(("[", "{")):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{text!r} is not JSON: {error}") from None
    return text


def traced_plan(path: Path, steps: int, **settings) -> Plan:
    """The Plan of the scheduler that a scheduler_config.json describes.

    Raises ValueError for a file that does not describe one, and for settings: a scheduler has its own.
    """
    from ..solvers import Plan

    given = [key for key, value in settings.items() if value is not None]
    if given:
        raise ValueError(f"{', '.join(given)}: the scheduler in {path} has its own settings; edit the file")
    try:
        import diffusers
    except ImportError:
        raise ValueError("schedulers need diffusers: pip install 'pyaccel-diffusion[diffusers]'") from None
    try:
        config = json.loads(path.read_text())
        scheduler_class = getattr(diffusers, config["_class_name"])
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} does not describe a scheduler of diffusers: it needs a _class_name") from None
    return Plan.trace(scheduler_class.from_config(config), steps)


def make_schedule(name: str, shift: float | None = None) -> Schedule:
    """The schedule ``name`` with the shift, where it has one.

    Raises ValueError, with the nearest name, for a schedule that is not there, one without a shift if a shift is
    given, and one that needs more than a name.
    """
    from ..names import look_up
    from ..schedules import SCHEDULES

    make = look_up("schedule", name, SCHEDULES)
    parameters = inspect.signature(make).parameters
    needed = [key for key, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if needed:
        raise ValueError(f"the schedule {name} needs its {', '.join(needed)}; make it in Python: schedules.{name}(...)")
    if shift is None:
        return make()
    if "shift" not in parameters:
        having = [other for other, f in SCHEDULES.items() if "shift" in inspect.signature(f).parameters]
        raise ValueError(f"the schedule {name} has no shift; those that have one: {', '.join(having)}")
    return make(shift=shift)
