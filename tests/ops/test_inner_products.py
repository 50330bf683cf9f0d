"""The gradient of linear_combination to its coefficients: every product in one pass."""

import itertools

import pytest
import torch

from pyaccel import ops
from pyaccel.ops import backend
from pyaccel.ops.inner_products import inner_products

F32, BF16, F16, F64 = torch.float32, torch.bfloat16, torch.float16, torch.float64


def exact(left, right, per_sample=False):
    batch = len(left[0]) if per_sample else 1
    g, x = (torch.stack([t.double().reshape(batch, -1) for t in ts], 1) for ts in (left, right))
    sums = g @ x.transpose(1, 2)
    return sums if per_sample else sums[0]


def random(shape, *dtypes):
    return [torch.randn(shape).to(dtype) for dtype in dtypes]


@pytest.mark.parametrize("shape", [(1,), (3, 41), (2, 1, 28, 28), (5, 7001), (3, 40_001)])
def test_sums_of_all_types(instruction_set, shape):
    for per_sample in (False, True):
        for lefts, rights in [
            ([F32], [F32]), ([F32, BF16], [F16, F32, BF16]), ([F32] * 3, [F32] * 11), ([F64, F32], [F32, F64]),
        ]:  # fmt: skip
            left, right = random(shape, *lefts), random(shape, *rights)
            result = inner_products(left, right, per_sample)
            tolerance = 1e-13 if F64 in lefts else 2e-6
            size = max(1.0, float(torch.tensor(shape).prod())) ** 0.5
            torch.testing.assert_close(result, exact(left, right, per_sample), rtol=0, atol=tolerance * size)


def test_large_sums_stay_accurate():
    """A sum of 4 million numbers of one sign, which a float32 loop would get wrong by its rounding."""
    x = torch.rand(1 << 22) + 1
    relative = inner_products([x], [x]) / exact([x], [x]) - 1
    assert abs(float(relative)) < 1e-7


def test_layouts_and_expanded_gradients():
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    y, ones = torch.randn(2, 3, 4, 5), torch.ones(()).expand(2, 3, 4, 5)
    for left, right in itertools.permutations([x, y, ones, y.transpose(1, 2).contiguous().transpose(1, 2)], 2):
        for per_sample in (False, True):
            torch.testing.assert_close(
                inner_products([left], [right, x], per_sample).double(),
                exact([left], [right, x], per_sample),
                atol=2e-5,
                rtol=1e-6,
            )


@pytest.mark.skipif(backend._native is None, reason=backend.native_missing or "built")
def test_the_result_does_not_depend_on_threads():
    left, right, before = random((7, 30_000), F32, F32), random((7, 30_000), F32, F32, F32), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = inner_products(left, right)
        torch.set_num_threads(3)
        assert torch.equal(inner_products(left, right), one)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("per_sample", [False, True])
def test_coefficients_gradient_by_gradcheck(per_sample):
    c = torch.randn(*([3] if per_sample else []), 2, 4, dtype=F64, requires_grad=True)
    tensors = [torch.randn(3, 5, dtype=F64, requires_grad=True) for _ in range(4)]

    def f(c, *tensors):
        return tuple(ops.linear_combination(tensors, c))

    assert torch.autograd.gradcheck(f, (c, *tensors))
    assert torch.autograd.gradgradcheck(f, (c, *tensors))


def test_no_samples_and_no_elements():
    for shape in ((0, 4), (3, 0)):
        x = torch.zeros(shape)
        assert inner_products([x], [x, x]).tolist() == [[0.0, 0.0]]
        assert inner_products([x], [x, x], per_sample=True).shape == (shape[0], 1, 2)
