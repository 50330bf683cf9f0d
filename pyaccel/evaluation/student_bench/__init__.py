"""``pyaccel bench students``: students beside all solvers of their teacher, with tuned solvers, and with a cache."""

from .measure import run

__all__ = ["run"]
