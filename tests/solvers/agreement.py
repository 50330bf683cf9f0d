"""What tests of solvers share: noise that two programs can both be handed, and what counts as equal."""

from __future__ import annotations

import math

import torch

STEPS = (1, 2, 5, 9)


class Path:
    """A path W over rho = sigma/alpha, for both of two programs: smooth, so that rounding of rho does not matter.

    As of a Brownian path, the increments over parts of a step add up to that over the step, which is what solvers that
    look inside a step rely on.
    """

    def __init__(self, *shape: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.factors = torch.randn(12, *shape, generator=generator, dtype=torch.float64)

    def __call__(self, rho) -> torch.Tensor:
        return sum(math.sqrt(rho) * f * math.sin((k + 1) * math.log1p(rho)) for k, f in enumerate(self.factors))

    def draw(self, rho_from, rho_to) -> torch.Tensor:
        """Noise for the step between two values of sigma/alpha."""
        rho_from, rho_to = float(rho_from), float(rho_to)
        return (self(rho_from) - self(rho_to)) / math.sqrt(rho_from - rho_to)


def points(count: int = 20) -> torch.Tensor:
    """Unit Gaussian noise in float64."""
    return torch.randn(count, dtype=torch.float64)


def agrees(got: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-10) -> None:
    """Both finite and equal to ``tolerance``, relative and absolute."""
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
