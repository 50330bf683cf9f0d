"""What :mod:`.threshold` and :mod:`.blend` share: checks of their arguments, and which calls take the formula."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from . import backend
from .checks import check_dtype, share_in_part


def check_tensor(t, what: str) -> None:
    """TypeError, naming ``what``, unless ``t`` is a strided tensor of a dtype that the kernels know."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{what} is a {type(t).__name__}, not a tensor")
    check_dtype(t.dtype, f"{what} of shape {tuple(t.shape)}")
    if t.layout is not torch.strided:
        raise TypeError(f"{what} has layout {t.layout}; expected torch.strided")


def check_number(value, what: str) -> float:
    """``value`` as a float; TypeError for anything but a number: a tensor would lose its gradient."""
    if not isinstance(value, Real):
        raise TypeError(f"{what} is a {type(value).__name__}; expected a number")
    return float(value)


def check_finite(value, what: str) -> float:
    """``value`` as a finite float."""
    value = check_number(value, what)
    if not math.isfinite(value):
        raise ValueError(f"{what} is {value}; expected a finite number")
    return value


def check_out(out, like: Tensor, operation: str, name: str, tensors: dict[str, Tensor]) -> None:
    """An error unless ``out`` is None, or a tensor like the one of that name that may be written.

    It may be exactly one of ``tensors``, or share no memory with any.
    """
    if out is None:
        return
    check_tensor(out, f"{operation}: out")
    if out.shape != like.shape or out.dtype != like.dtype or out.device != like.device:
        raise ValueError(
            f"{operation}: out has shape {tuple(out.shape)} and dtype {out.dtype} on {out.device}, "
            f"expected those of {name}: {tuple(like.shape)} and {like.dtype} on {like.device}"
        )
    if any(size > 1 and stride == 0 for size, stride in zip(out.shape, out.stride(), strict=True)):
        raise ValueError(f"{operation}: out is an expanded tensor; several elements share memory")
    if torch.is_grad_enabled() and any(t.requires_grad for t in (out, *tensors.values())):
        raise ValueError(f"{operation}: out= does not support gradients; leave it away or use torch.no_grad()")
    if torch.compiler.is_compiling() or backend.transformed():
        return
    for other, t in tensors.items():
        if share_in_part(out, t):
            raise ValueError(
                f"{operation}: out overlaps {other} in part; it may be exactly that, or share no memory with it"
            )


def takes_formula(*tensors: Tensor) -> bool:
    """Whether the formula has to serve a call, and no kernel.

    Forward mode, torch.func and dispatch modes, and gradients: there it is differentiable, where a kernel would give
    silent zeros. torch.compile: it makes one loop of the formula and of what stands around it.
    """
    if torch.compiler.is_compiling() or backend.forward_mode():
        return True
    if not backend.private_names_work() or backend.transformed():
        return True
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def written(result: Tensor, out: Tensor | None) -> Tensor:
    """``result``, or ``out`` with its values."""
    return result if out is None or out is result else out.copy_(result)
