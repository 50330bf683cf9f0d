"""``pyaccel bench caching``: every cache beside the uncached run, and beside solvers with as many full calls."""

from .measure import run

__all__ = ["run"]
