"""The weights of exponential integrators in half log-SNR, and the small linear system of UniPC."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ..scalars import Scalar, expm1


def psi(k: int, h: Scalar) -> Scalar:
    """psi_k(h) = ∫_0^h e^(u−h) (u/h)^k / k! du: what a prediction that grows like tau^k/k! over a step contributes.

    psi_0 = 1 − e^(−h) and psi_k = 1/k! − psi_(k−1)/h; in the notation of DPM-Solver++ and UniPC these are
    −phi_1, phi_2, −phi_3, ... times powers of h. The recursion cancels for small h, where the series
    h·Σ_j (−h)^j / (k+j+1)! is used instead.
    """
    if k == 0:
        return -expm1(-h)
    if abs(float(h.detach() if isinstance(h, torch.Tensor) else h)) > 1.0:
        return 1 / math.factorial(k) - psi(k - 1, h) / h
    total = 0.0
    for j in range(20, -1, -1):
        total = total * h + (-1) ** j / math.factorial(k + j + 1)
    return h * total


def moments_to_weights(nodes: Sequence[Scalar], moments: Sequence[Scalar]) -> list[Scalar]:
    """w with Σ_j w_j·nodes_j^i = moments_i for i = 0, 1, ...: a Vandermonde system, of the size of the order."""
    if any(isinstance(x, torch.Tensor) for x in (*nodes, *moments)):
        r = torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in nodes])
        m = torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in moments])
        return list(torch.linalg.solve(torch.stack([r**i for i in range(len(moments))]), m).unbind())
    r = np.asarray(nodes, dtype=np.float64)
    return np.linalg.solve(np.stack([r**i for i in range(len(moments))]), np.asarray(moments, np.float64)).tolist()
