"""``pyaccel bench``: the error of every deterministic solver against its model calls, beside what the papers say."""

from .measure import run
from .table import rich_table

__all__ = ["rich_table", "run"]
