"""Solvers: functions that return a Plan. A sampler is a table."""

from .builder import Builder
from .ddim import ddim, euler
from .dpmpp import dpmpp
from .family import SOLVERS, from_name, solver
from .plan import Cost, Plan, Row, Stage
from .unipc import unipc

__all__ = [
    "SOLVERS",
    "Builder",
    "Cost",
    "Plan",
    "Row",
    "Stage",
    "ddim",
    "dpmpp",
    "euler",
    "from_name",
    "solver",
    "unipc",
]
