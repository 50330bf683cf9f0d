"""Distillation: students that sample in one to four calls. One file for each recipe; the Trainer does the rest.

A recipe is a frozen dataclass of its paper's hyper-parameters; see :mod:`pyaccel.training.recipe` for what it has to
say. ``RECIPES`` are those of the command ``pyaccel distill``.
"""

from .add import ADD
from .consistency import Consistency
from .dmd import DMD
from .dmd2 import DMD2
from .knowledge import KnowledgeDistillation
from .ladd import LADD
from .meanflow import MeanFlow
from .progressive import ProgressiveDistillation
from .scm import ContinuousConsistency

RECIPES = {
    "add": ADD,
    "consistency": Consistency,
    "dmd": DMD,
    "dmd2": DMD2,
    "kd": KnowledgeDistillation,
    "ladd": LADD,
    "meanflow": MeanFlow,
    "progressive": ProgressiveDistillation,
    "scm": ContinuousConsistency,
}

__all__ = [
    "ADD", "DMD", "DMD2", "LADD", "RECIPES", "Consistency", "ContinuousConsistency", "KnowledgeDistillation",
    "MeanFlow", "ProgressiveDistillation",
]  # fmt: skip
