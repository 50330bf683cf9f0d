"""The semantics itself, against sums written out with einsum in float64."""

import pytest
import torch

from pyaccel.ops import reference


def test_shared_and_per_sample_coefficients_match_einsum():
    tensors = [torch.randn(4, 3, 5, dtype=torch.float64) for _ in range(3)]
    stacked = torch.stack(tensors)
    shared, own = torch.randn(2, 3, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64)
    for c, formula in ((shared, "nk,kb...->nb..."), (own, "bnk,kb...->nb...")):
        expected = torch.einsum(formula, c, stacked)
        for given in (c, c.tolist()):
            results = reference.linear_combination(tensors, given, [torch.float64] * 2)
            torch.testing.assert_close(torch.stack(results), expected, rtol=1e-13, atol=1e-13)


def test_accumulates_in_float32_and_rounds_once():
    """1 + 2^-9 + 2^-9 is 1 + 2^-8: a sum in bfloat16 would lose both addends."""
    one, small = torch.ones(3, dtype=torch.bfloat16), torch.full((3,), 2.0**-9, dtype=torch.bfloat16)
    (result,) = reference.linear_combination([one, small, small], [[1.0, 1.0, 1.0]], [torch.float32])
    assert (result == 1 + 2.0**-8).all()


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ([torch.bfloat16, torch.float16], torch.float32),
        ([torch.float32], torch.float32),
        ([torch.bfloat16, torch.float64], torch.float64),
    ],
)
def test_accumulator(dtypes, expected):
    assert reference.accumulator(dtypes) is expected


def test_broadcasts_and_gives_each_output_its_dtype():
    a, b = torch.randn(2, 1, 3), torch.randn(4, 1)
    results = reference.linear_combination([a, b], [[1.0, 2.0], [0.5, 0.0]], [torch.float64, torch.float16])
    assert [r.shape for r in results] == [(2, 4, 3)] * 2
    assert [r.dtype for r in results] == [torch.float64, torch.float16]
    torch.testing.assert_close(results[0], a.double() + 2 * b.double())
