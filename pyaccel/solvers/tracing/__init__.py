"""Tracing: any scheduler object whose steps are linear, turned into tables (DESIGN: a sampler is a table)."""

from .capture import NoiseDraw, NotLinear
from .probing import Argument, State, StepTable, state_of
from .running import made_ready, run_step
from .state import Given, Slot, Snapshot, filled

__all__ = [
    "Argument",
    "Given",
    "NoiseDraw",
    "NotLinear",
    "Slot",
    "Snapshot",
    "State",
    "StepTable",
    "filled",
    "made_ready",
    "run_step",
    "state_of",
]
