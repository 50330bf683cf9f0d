"""Distillation: students that sample in one to four calls. One file for each recipe; the Trainer does the rest.

A recipe is a frozen dataclass of its paper's hyper-parameters; see :mod:`pyaccel.training.recipe` for what it has to
say. ``RECIPES`` are those of the command ``pyaccel distill``.
"""

from .consistency import Consistency
from .ctm import CTM
from .dmd2 import DMD2
from .knowledge import KnowledgeDistillation
from .lcm import LCM
from .meanflow import MeanFlow
from .progressive import ProgressiveDistillation
from .scm import ContinuousConsistency

RECIPES = {
    "consistency": Consistency,
    "ctm": CTM,
    "dmd2": DMD2,
    "kd": KnowledgeDistillation,
    "lcm": LCM,
    "meanflow": MeanFlow,
    "progressive": ProgressiveDistillation,
    "scm": ContinuousConsistency,
}

__all__ = [
    "CTM", "DMD2", "LCM", "RECIPES", "Consistency", "ContinuousConsistency", "KnowledgeDistillation", "MeanFlow",
    "ProgressiveDistillation",
]  # fmt: skip
