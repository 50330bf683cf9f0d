"""The engine: public operations, each with one contract and an implementation per backend (see :mod:`.backend`)."""

from .linear_combination import Prepared, linear_combination, prepare

__all__ = ["Prepared", "linear_combination", "prepare"]
