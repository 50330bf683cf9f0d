"""Distillation: students that sample in one to four calls. One file for each recipe; the Trainer does the rest.

A recipe is a frozen dataclass of its paper's hyper-parameters; see :mod:`pyaccel.training.recipe` for what it has to
say. ``RECIPES`` are those of the command ``pyaccel distill``.
"""

from .add import ADD
from .ayf import AlignYourFlow
from .consistency import Consistency
from .consistency_fm import ConsistencyFM
from .ctm import CTM
from .dmd import DMD
from .dmd2 import DMD2
from .knowledge import KnowledgeDistillation
from .ladd import LADD
from .lcm import LCM
from .meanflow import MeanFlow
from .progressive import ProgressiveDistillation
from .scm import ContinuousConsistency
from .shortcut import Shortcut

RECIPES = {
    "add": ADD,
    "ayf": AlignYourFlow,
    "consistency": Consistency,
    "consistency-fm": ConsistencyFM,
    "dmd": DMD,
    "ctm": CTM,
    "dmd2": DMD2,
    "kd": KnowledgeDistillation,
    "ladd": LADD,
    "lcm": LCM,
    "meanflow": MeanFlow,
    "progressive": ProgressiveDistillation,
    "scm": ContinuousConsistency,
    "shortcut": Shortcut,
}

__all__ = [
    "ADD", "CTM", "DMD", "DMD2", "LADD", "LCM", "RECIPES", "AlignYourFlow", "Consistency", "ConsistencyFM",
    "ContinuousConsistency", "KnowledgeDistillation", "MeanFlow", "ProgressiveDistillation", "Shortcut",
]  # fmt: skip
