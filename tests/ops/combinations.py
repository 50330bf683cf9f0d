"""What the tests of ``linear_combination`` share: the float64 answer, and the comparison with it."""

import torch

from pyaccel.ops import reference
from tests.tolerances import tolerance


def exact(tensors, coefficients):
    """The combinations in float64, and Σ|c·x|, which bounds their errors. Owes nothing to the code that is tested."""
    c = torch.as_tensor(coefficients, dtype=torch.float64).detach()
    stacked = torch.stack(torch.broadcast_tensors(*(t.detach().double() for t in tensors)))
    formula = "bnk,kb...->nb..." if c.dim() == 3 else "nk,k...->n..."
    return torch.einsum(formula, c, stacked).unbind(), torch.einsum(formula, c.abs(), stacked.abs()).unbind()


def assert_combines(results, tensors, coefficients, slack=1.0):
    """``results`` are the combinations to within the rounding of their dtypes, times ``slack``."""
    expected, magnitudes = exact(tensors, coefficients)
    accumulator = reference.accumulator([t.dtype for t in (*tensors, *results)])
    assert len(results) == len(expected)
    for i, (result, answer, magnitude) in enumerate(zip(results, expected, magnitudes, strict=True)):
        assert result.shape == answer.shape
        error = (result.double() - answer).abs()
        allowed = slack * tolerance(result.dtype, accumulator, magnitude, len(tensors))
        assert (error <= allowed).all(), f"output {i}: {error.max()} off, {(error / allowed).max()} times the tolerance"


def random_coefficients(*sizes):
    return torch.randn(*sizes, dtype=torch.float64).tolist()
