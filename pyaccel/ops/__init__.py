"""The engine: public operations, each with one contract and an implementation per backend (see :mod:`.backend`)."""

from .backend import CODES
from .blend import blend
from .linear_combination import Prepared, linear_combination, prepare
from .noise import Noise, normal
from .threshold import threshold

DTYPES = tuple(CODES)
"""Element types that the operations take."""

__all__ = ["DTYPES", "Noise", "Prepared", "blend", "linear_combination", "normal", "prepare", "threshold"]
