"""The engine: public operations, each with one contract and an implementation per backend (see :mod:`.backend`)."""

from .backend import CODES
from .linear_combination import Prepared, linear_combination, prepare

DTYPES = tuple(CODES)
"""Element types that the operations take."""

__all__ = ["DTYPES", "Prepared", "linear_combination", "prepare"]
