"""What a trained solver adds to the solver that it starts from: numbers that are 0 before training.

At each step the solver's own sample x is followed by (GS, arXiv 2510.17699)

    x' = x + Σ_j p_j·m_j + Σ_j q_j·x_j

over all predictions m_j and all samples x_j so far, so a solver of N steps is of order N. Where the solver names the
coefficients of its newest predictions or their differences (:meth:`Builder.coefficient`), these are corrected instead
of the raw weights of the predictions that they cover: for DPM-Solver++(3M) on m0, D1 and D2, as in the paper.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..scalars import Scalar
from .builder import Builder, Value


class Corrections:
    """Hands out the learned numbers in the order in which the solver asks for them, and remembers what they are for.

    ``coefficients`` and ``states`` are the numbers p and q, step by step; None stands for zeros. Afterwards
    ``coefficient_names`` and ``state_names`` say what each of them belongs to, as (step, name).
    """

    def __init__(self, coefficients: Iterable[Scalar] | None = None, states: Iterable[Scalar] | None = None):
        self._coefficients = None if coefficients is None else iter(coefficients)
        self._states = None if states is None else iter(states)
        self.coefficient_names: list[tuple[int, str]] = []
        self.state_names: list[tuple[int, str]] = []
        self.predictions: list[Value] = []
        self.samples: list[Value] = []
        self._named = 0  # coefficients of this step that the solver named

    @property
    def _step(self) -> int:
        return len(self.samples) - 1

    def coefficient(self, name: str, value: Scalar) -> Scalar:
        """See :meth:`Builder.coefficient`."""
        self._named += 1
        return value + self._coefficient(name)

    def sample(self, b: Builder, x: Value) -> Value:
        """The sample at the end of a step, corrected; the first one, from which the run starts, as it is."""
        if self.samples:
            older = self.predictions[: max(0, len(self.predictions) - self._named)]
            parts = [(1.0, x)]
            parts += [(self._coefficient(f"m[{j}]"), m) for j, m in enumerate(older)]
            parts += [(self._state(f"x[{j}]"), y) for j, y in enumerate(self.samples)]
            x = b.combine(parts)
        self._named = 0
        return x

    def keep(self, x: Value) -> None:
        """The sample with which a step begins."""
        self.samples.append(x)

    def _coefficient(self, name: str) -> Scalar:
        self.coefficient_names.append((self._step, name))
        return 0.0 if self._coefficients is None else next(self._coefficients)

    def _state(self, name: str) -> Scalar:
        self.state_names.append((self._step, name))
        return 0.0 if self._states is None else next(self._states)
