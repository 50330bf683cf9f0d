"""Numbers that carry their derivatives: forward-mode differentiation of scalar code, for a few dozen parameters.

A trained solver's coefficients are some hundred operations on floats away from its parameters. As tensors each of them
costs microseconds, forward and backward; as duals the whole table comes with its Jacobian in about a millisecond.
Whatever would cut a derivative off without a word (``float``, numpy's functions) raises :class:`DerivativeLost`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


class DerivativeLost(TypeError):
    """A dual was about to be turned into a plain number."""


class Dual:
    """``value`` with its derivatives ``slope`` [P] by P parameters, all float64."""

    __slots__ = ("slope", "value")
    __hash__ = None

    def __init__(self, value: float, slope: np.ndarray):
        self.value, self.slope = value, slope

    def chain(self, value: float, derivative: float) -> Dual:
        """f(self), from f's value and derivative there."""
        return Dual(value, derivative * self.slope)

    def __add__(self, other):
        if isinstance(other, Dual):
            return Dual(self.value + other.value, self.slope + other.slope)
        if isinstance(other, _NUMBERS):
            return Dual(self.value + float(other), self.slope)
        return _refused(other)

    __radd__ = __add__

    def __sub__(self, other):
        if isinstance(other, Dual):
            return Dual(self.value - other.value, self.slope - other.slope)
        if isinstance(other, _NUMBERS):
            return Dual(self.value - float(other), self.slope)
        return _refused(other)

    def __rsub__(self, other):
        if isinstance(other, _NUMBERS):
            return Dual(float(other) - self.value, -self.slope)
        return _refused(other)

    def __mul__(self, other):
        if isinstance(other, Dual):
            return Dual(self.value * other.value, other.value * self.slope + self.value * other.slope)
        if isinstance(other, _NUMBERS):
            return Dual(self.value * float(other), float(other) * self.slope)
        return _refused(other)

    __rmul__ = __mul__

    def __truediv__(self, other):
        if isinstance(other, Dual):
            value = self.value / other.value
            return Dual(value, (self.slope - value * other.slope) / other.value)
        if isinstance(other, _NUMBERS):
            return Dual(self.value / float(other), self.slope / float(other))
        return _refused(other)

    def __rtruediv__(self, other):
        if isinstance(other, _NUMBERS):
            value = float(other) / self.value
            return Dual(value, (-value / self.value) * self.slope)
        return _refused(other)

    def __pow__(self, exponent):
        exponent = float(exponent)
        if exponent == 0:
            return Dual(1.0, 0.0 * self.slope)
        return self.chain(self.value**exponent, exponent * self.value ** (exponent - 1))

    def __neg__(self):
        return Dual(-self.value, -self.slope)

    def __abs__(self):
        return self if self.value >= 0 else -self

    def __eq__(self, other):
        return self.value == value_of(other)

    def __lt__(self, other):
        return self.value < value_of(other)

    def __le__(self, other):
        return self.value <= value_of(other)

    def __gt__(self, other):
        return self.value > value_of(other)

    def __ge__(self, other):
        return self.value >= value_of(other)

    def __float__(self):
        raise DerivativeLost("float() of a number with derivatives would lose them; value_of() says that it is meant")

    def __array__(self, *_, **__):
        raise DerivativeLost("an array of numbers with derivatives would lose them")

    def __array_ufunc__(self, ufunc, method, *inputs, **_):
        # numpy's scalars as the left operand of arithmetic end here.
        operations = {np.add: "add", np.subtract: "sub", np.multiply: "mul", np.true_divide: "truediv"}
        if method == "__call__" and ufunc in operations and len(inputs) == 2 and inputs[1] is self:
            return getattr(self, f"__r{operations[ufunc]}__")(inputs[0])
        raise DerivativeLost(f"numpy's {ufunc.__name__} does not know numbers with derivatives")

    def __repr__(self) -> str:
        return f"Dual({self.value!r}, {self.slope!r})"


def value_of(x) -> float:
    """``x`` as a float, whether it is a number, a tensor of one element or a dual."""
    return x.value if isinstance(x, Dual) else float(x)


def seeds(values: Sequence[float]) -> list[Dual]:
    """The parameters themselves: the derivative of each by itself is 1."""
    return [Dual(float(value), row) for value, row in zip(values, np.eye(len(values)), strict=True)]


def unpacked(numbers: Sequence, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(values [M], Jacobian [M, count]) of M duals and floats over ``count`` parameters."""
    values, jacobian = np.empty(len(numbers)), np.zeros((len(numbers), count))
    for i, x in enumerate(numbers):
        if isinstance(x, Dual):
            values[i], jacobian[i] = x.value, x.slope
        else:
            values[i] = x
    return values, jacobian


_NUMBERS = (float, int, np.generic)


def _refused(other):
    """Of arrays the derivatives would be lost; anything else may know what to do with a number."""
    if isinstance(other, np.ndarray):
        raise DerivativeLost("arithmetic of a number with derivatives and an array would lose them")
    return NotImplemented


def solved(matrix: list[list], right: list) -> list:
    """x with matrix·x = right for a small system of floats and duals: Gauss's elimination, the largest pivot first."""
    a = [[*row, r] for row, r in zip(matrix, right, strict=True)]
    n = len(a)
    for i in range(n):
        pivot = max(range(i, n), key=lambda row: abs(value_of(a[row][i])))
        if value_of(a[pivot][i]) == 0 or math.isnan(value_of(a[pivot][i])):
            raise ValueError("a linear system of a solver's coefficients is singular: two of its times are equal")
        a[i], a[pivot] = a[pivot], a[i]
        for row in range(i + 1, n):
            factor = a[row][i] / a[i][i]
            a[row][i + 1 :] = [x - factor * y for x, y in zip(a[row][i + 1 :], a[i][i + 1 :], strict=True)]
    x = [0.0] * n
    for i in range(n - 1, -1, -1):
        total = a[i][n]
        for j in range(i + 1, n):
            total = total - a[i][j] * x[j]
        x[i] = total / a[i][i]
    return x
