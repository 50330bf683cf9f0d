"""Which route a call takes of an operation whose kernels have derivatives of their own: :mod:`.adaln` and its kin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import backend
from .epilogues import check_finite
from .layout import dense


def routed(
    operands: Sequence[Tensor | None],
    *,
    formula: Callable[[], Any],
    differentiable: Callable[[], Any],
    operator: Callable[[], Any],
    run: Callable[[], Any],
    has_tangent: Callable[[], bool],
) -> Any:
    """The result of the first route that fits.

    Forward mode: the ``differentiable`` one where nothing else is going on and a kernel ``has_tangent``, otherwise the
    ``formula``. torch.compile: the registered ``operator``. torch.func and dispatch modes: the formula. Gradients: the
    differentiable one. Everything else: ``run``.
    """
    present = [t for t in operands if t is not None]
    if backend.forward_mode():
        return differentiable() if backend.only_forward_mode(present) and has_tangent() else formula()
    if torch.compiler.is_compiling():
        return operator()
    if not backend.private_names_work() or backend.transformed():
        return formula()
    if torch.is_grad_enabled() and any(t.requires_grad for t in present):
        return differentiable()
    return run()


def takes_backward_kernel() -> bool:
    """Whether a backward may take a kernel: nobody wants its derivative, and nothing traces it."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling() or backend.transformed())


def each(function: Callable[[Tensor], Any], tensors: Sequence[Tensor | None]) -> list:
    """``function`` of each tensor; None where there is none."""
    return [None if t is None else function(t) for t in tensors]


def contiguous(t: Tensor) -> Tensor:
    """``t`` without its graph, as a kernel reads it."""
    return dense(t.detach(), torch.contiguous_format)


def tangents_like(operands: Sequence[Tensor | None], tangents: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The tangents, contiguous and in the shapes of their operands; None where either is."""
    return [
        None if t is None or d is None else contiguous(d.expand_as(t)) for t, d in zip(operands, tangents, strict=True)
    ]


def check_eps(operation: str, eps: float) -> float:
    """``eps`` as a float; an error unless it is a finite number, not below 0."""
    eps = check_finite(eps, f"{operation}: eps")
    if eps < 0:
        raise ValueError(f"{operation}: eps is {eps}; expected a number not below 0")
    return eps
