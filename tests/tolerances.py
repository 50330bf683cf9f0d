"""How far a result may lie from the float64 reference, by dtype: the one table of the tests."""

import torch

ROUNDING = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""Half the distance between neighbouring numbers, relative to them; doubled for the accumulators' types."""

NORMAL = 1e-6
"""How far a normal in float32 may lie from the exact one of its words: csrc/philox.h says why."""


def tolerance(out_dtype: torch.dtype, accumulator: torch.dtype, magnitude: torch.Tensor, terms: int) -> torch.Tensor:
    """The error that Σ of ``terms`` products may have: ``magnitude`` is Σ|c·x|, elementwise, in float64.

    Each addition in the accumulator errs by at most a rounding of the magnitude, the coefficient by another, and the
    result is rounded once more to ``out_dtype``, where the smallest numbers have an absolute error.
    """
    smallest = {torch.float16: 2.0**-24, torch.bfloat16: 2.0**-126}.get(out_dtype, 0.0)  # bfloat16 may flush to zero
    return magnitude * (ROUNDING[accumulator] * (terms + 2) + ROUNDING[out_dtype]) + smallest
