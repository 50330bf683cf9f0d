import math

import numpy as np
import pytest
import torch

from pyaccel import scalars

X = [0.03, 0.4, 0.9]


NAMES = ["exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "arcsin", "arccos", "arctan", "arcsinh", "softplus"]


@pytest.mark.parametrize("name", NAMES)
def test_floats_arrays_and_tensors_agree(name):
    function = getattr(scalars, name)
    floats = [function(x) for x in X]
    np.testing.assert_allclose(function(np.array(X)), floats, rtol=1e-15)
    np.testing.assert_allclose(function(torch.tensor(X, dtype=torch.float64)).numpy(), floats, rtol=1e-15)


def test_gradients_pass_through():
    x = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: scalars.expm1(x) * scalars.log(x) + scalars.softplus(x), x)


def test_log_of_zero_is_minus_infinity_everywhere():
    assert scalars.log(0.0) == -math.inf
    assert scalars.log(np.zeros(1))[0] == -math.inf
    assert math.isnan(scalars.log(-1.0))


def test_log1p_of_minus_one_and_exp_of_much_are_infinite_everywhere():
    assert scalars.log1p(-1.0) == -math.inf
    assert scalars.log1p(np.array([-1.0]))[0] == -math.inf
    assert math.isnan(scalars.log1p(-2.0))
    assert scalars.exp(1e4) == math.inf
    assert scalars.exp(np.array([1e4]))[0] == math.inf


def test_division_by_zero_is_infinite_everywhere():
    assert scalars.divide(-2.0, 0.0) == -math.inf
    assert scalars.divide(-2.0, 4.0) == -0.5
    assert scalars.divide(-2.0, np.array([0.0, 4.0])).tolist() == [-math.inf, -0.5]
    assert scalars.divide(torch.tensor(-2.0), torch.tensor([0.0, 4.0])).tolist() == [-math.inf, -0.5]


def test_softplus_does_not_overflow():
    assert scalars.softplus(1e4) == 1e4
    assert scalars.softplus(-1e4) == 0.0


def test_piecewise_linear_between_and_beyond_the_knots():
    line = scalars.PiecewiseLinear(np.array([0.0, 1.0, 3.0]), np.array([0.0, 2.0, 0.0]))
    x = np.array([-1.0, 0.5, 1.0, 2.0, 4.0])
    expected = np.array([-2.0, 1.0, 2.0, 1.0, -1.0])
    np.testing.assert_allclose(line(x), expected)
    np.testing.assert_allclose(line(torch.tensor(x)).numpy(), expected)
    assert [line(float(v)) for v in x] == expected.tolist()


@pytest.mark.parametrize(("right", "expected"), [(False, [0, 0, 0, 0, 1, 1, 1]), (True, [0, 0, 0, 1, 1, 1, 1])])
def test_interval_of_a_number_between_knots_and_at_them(right, expected):
    knots, x = np.array([0.0, 1.0, 3.0]), np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0])
    assert scalars.interval(x, knots, right).tolist() == expected
    assert scalars.interval(torch.tensor(x), knots, right).tolist() == expected
    assert [int(scalars.interval(float(v), knots, right)) for v in x] == expected
    assert scalars.take(knots, scalars.interval(torch.tensor([2.0]), knots)).tolist() == [1.0]


def test_as_float64_maximum_and_minimum():
    assert scalars.as_float64(torch.ones(2, dtype=torch.float32)).dtype == torch.float64
    assert scalars.as_float64([1, 2]).dtype == np.float64
    assert scalars.maximum(-1.0, 0.0) == 0.0
    assert scalars.maximum(torch.tensor([-1.0, 2.0]), 0.0).tolist() == [0.0, 2.0]
    assert scalars.minimum(1.0, 0.0) == 0.0
    assert scalars.minimum(np.array([-1.0, 2.0]), 0.0).tolist() == [-1.0, 0.0]
    assert scalars.minimum(torch.tensor([-1.0, 2.0]), 0.0).tolist() == [-1.0, 0.0]
