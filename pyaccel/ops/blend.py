"""``blend``: what a mask keeps of an image, at its noise level, put into a sample: one pass over memory.

The arithmetic is in csrc/blend.h, the semantics in reference.py. Dense tensors without gradients go straight to
the native kernel. Otherwise, in this order: forward mode, torch.compile, torch.func and dispatch modes, and gradients
take the formula; the rest takes the kernel of the backend, through copies where its layout wants one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import backend, reference
from .epilogues import check_finite, check_out, check_tensor, takes_formula, written
from .layout import dense, in_memory_order, memory_format_of, unexpanded

_empty_like = torch.empty_like
_is_compiling = torch.compiler.is_compiling
_grad_enabled = torch.is_grad_enabled
_increment_version = torch.autograd.graph.increment_version
_plain = backend.plain
_native_first = backend.native_first()
_native = backend._native.blend if backend._native is not None else None


def blend(
    x: Tensor, mask: Tensor, image: Tensor, noise: Tensor, alpha: float, sigma: float, *, out: Tensor | None = None
) -> Tensor:
    """mask·x + (1 − mask)·(alpha·image + sigma·noise), elementwise: a sample whose known region is replaced.

    Args:
        x: the sample, of any shape and strides; float32, bfloat16, float16 or float64, each tensor its own.
        mask: of a shape that broadcasts to that of x. It is 1 where x is kept and 0 where the image is; numbers between
            them mix. One shared by channels or samples, such as [1, 1, H, W] or [B, 1, H, W], is best handed over in
            that shape: the kernel goes over it again, where others are copied into the shape of x first.
        image, noise: of the shape of x.
        alpha, sigma: finite numbers, the noise level.
        out: a tensor of x's shape and dtype to write into. It may be exactly x, image, noise or a mask of their shape;
            overlap in part is refused.

    Returns a tensor of x's dtype. Where the mask is exactly 1 it is exactly x, and where the mask is exactly 0 exactly
    alpha·image + sigma·noise, in the arithmetic of float32 (float64 where any tensor is float64) and as far as x,
    image and noise are finite there. Gradients flow to the four tensors; ``torch.func``, forward mode, ``vmap`` and
    ``torch.compile(fullgraph=True)`` work.

    Raises:
        ValueError: shapes, devices or numbers that do not fit, or an ``out`` that does not or wants gradients.
        TypeError: anything but real floating-point tensors and numbers.
    """
    if not _is_compiling() and _native_first and _plain():
        # Dense tensors of shapes that fit, good numbers, no gradients: the common case, or None if it is another.
        result = _native(x, mask, image, noise, alpha, sigma, out, _grad_enabled(), _empty_like)
        if result is not None:
            if out is not None:
                _increment_version([out])
            return result
    return _general(x, mask, image, noise, alpha, sigma, out)


def _general(x, mask, image, noise, alpha, sigma, out) -> Tensor:
    tensors = {"x": x, "mask": mask, "image": image, "noise": noise}
    for name, t in tensors.items():
        check_tensor(t, f"blend: {name}")
        if t.device != x.device:
            raise ValueError(f"blend: {name} is on {t.device}, x on {x.device}")
        if name != "mask" and t.shape != x.shape:
            raise ValueError(f"blend: {name} has shape {tuple(t.shape)}, x {tuple(x.shape)}; expected the same")
    try:
        full = mask.expand(x.shape)
    except RuntimeError:
        raise ValueError(
            f"blend: mask of shape {tuple(mask.shape)} does not broadcast to x, {tuple(x.shape)}"
        ) from None
    alpha, sigma = check_finite(alpha, "blend: alpha"), check_finite(sigma, "blend: sigma")
    check_out(out, x, "blend", "x", tensors)
    if takes_formula(*tensors.values()):
        return written(reference.blend(x, mask, image, noise, alpha, sigma), out)
    return _run(x, full, image, noise, alpha, sigma, out)


def _run(x, mask, image, noise, alpha: float, sigma: float, out: Tensor | None) -> Tensor:
    """The values by the backend that serves these tensors, of any strides; the mask has been expanded."""
    chosen, memory_format = backend.choose(x.device), memory_format_of([x], x.shape)
    if chosen != "reference":
        direct = out is not None and out.is_contiguous(memory_format=memory_format) and not out.is_neg()
        result = out if direct else torch.empty_like(x, memory_format=memory_format)
        to = in_memory_order(result.detach(), memory_format)
        ordered = [in_memory_order(dense(t.detach(), memory_format), memory_format) for t in (x, image, noise)]
        m = in_memory_order(mask.detach(), memory_format)
        # First the mask as it was before it was expanded, then, where that has runs too short for a kernel, in full.
        if any(_launch(chosen, c, ordered, alpha, sigma, to) for c in (unexpanded(m), m)):
            if direct:
                _increment_version([out])
            return written(result, out)
    result = reference.blend(x, mask, image, noise, alpha, sigma).contiguous(memory_format=memory_format)
    return written(result, out)


def _launch(chosen: str, mask: Tensor, tensors: list[Tensor], alpha: float, sigma: float, to: Tensor) -> bool:
    """Fills ``to`` from contiguous tensors; False, and nothing done, where the kernel does not take these."""
    x, image, noise = tensors
    mask = dense(mask, torch.contiguous_format)
    if chosen == "native":
        return _native(x, mask, image, noise, alpha, sigma, to, False, _empty_like) is not None
    from ..triton_kernels import blend as kernel

    return kernel.launch(x, mask, image, noise, alpha, sigma, to)
