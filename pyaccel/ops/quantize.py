"""``quantize``: a tensor, or the difference of two, in 8 bits with a scale for each row; for what caches remember.

Row by row over the last dimension: scale = max|v| / 127 (int8) or / 448 (float8 e4m3), code = v / scale, rounded to
nearest even. int8 has a native loop (csrc/remembered.h); the formula goes through large tensors in stretches of rows,
so no temporary of their size is made.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import backend
from .epilogues import check_tensor

LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
STRETCH = 1 << 17  # elements


class Quantized(NamedTuple):
    """``codes`` [..., n] of int8 or float8_e4m3fn and ``scales`` [...] float32, one for each row; the value is
    scale·code."""

    codes: Tensor
    scales: Tensor

    @property
    def shape(self) -> torch.Size:
        """Of the tensor that it stands for."""
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self.codes.nbytes + self.scales.nbytes

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The values."""
        wide = torch.promote_types(dtype, torch.float32)
        return (self.codes.to(wide) * self.scales.to(wide)[..., None]).to(dtype)


@torch.no_grad()
def quantize(x: Tensor, minus: Tensor | None = None, *, dtype: torch.dtype = torch.int8) -> Quantized:
    """x, or x − minus, in 8 bits with a scale for each row of the last dimension.

    Args:
        x: [..., n], at least one dimension; float32, bfloat16, float16 or float64.
        minus: of x's shape and device, subtracted in float32 before anything is rounded.
        dtype: torch.int8 or torch.float8_e4m3fn.

    The error of a row is at most half its scale (int8) or a sixteenth of each value (e4m3). A row of zeros has the
    scale 0; one with NaN or infinity the scale NaN, so that its values are NaN. No gradient flows.

    Raises ValueError for shapes, devices and dtypes that do not fit, TypeError for anything but real tensors.
    """
    if dtype not in LARGEST:
        raise ValueError(f"quantize: dtype must be torch.int8 or torch.float8_e4m3fn, got {dtype}")
    check_tensor(x, "quantize: x")
    if x.dim() < 1:
        raise ValueError("quantize: x must have at least one dimension")
    if minus is not None:
        check_tensor(minus, "quantize: minus")
        if minus.shape != x.shape or minus.device != x.device:
            raise ValueError(
                f"quantize: minus is {tuple(minus.shape)} on {minus.device}, x {tuple(x.shape)} on {x.device}; "
                "expected the same"
            )
    width = x.shape[-1]
    rows = x.reshape(-1, width) if width else x.reshape(x.shape[:-1].numel(), 0)
    others = None if minus is None else minus.reshape(rows.shape)
    codes = torch.empty(rows.shape, dtype=dtype, device=x.device)
    scales = torch.empty(len(rows), dtype=torch.float32, device=x.device)
    if dtype == torch.int8 and backend.narrow_and_dense(x, minus):
        other = (0, 0) if minus is None else (minus.data_ptr(), backend.CODES[minus.dtype])
        pointers = x.data_ptr(), backend.CODES[x.dtype], *other, codes.data_ptr(), scales.data_ptr()
        backend._native.quantize_rows(*pointers, len(rows), width)
        return Quantized(codes.view(x.shape), scales.view(x.shape[:-1]))
    step = max(1, STRETCH // max(1, width)) if x.is_cpu else max(1, len(rows))
    for first in range(0, len(rows), step):
        part = slice(first, first + step)
        values = rows[part].float()
        if others is not None:
            values = values - others[part].float()
        _quantize_rows(values, codes[part], scales[part], LARGEST[dtype])
    return Quantized(codes.view(x.shape), scales.view(x.shape[:-1]))


def _quantize_rows(values: Tensor, codes: Tensor, scales: Tensor, largest: float) -> None:
    size = values.abs().amax(dim=-1) if values.shape[-1] else values.new_zeros(len(values))
    scale = size / largest
    scales.copy_(torch.where(scale.isfinite(), scale, torch.nan))
    scaled = (values / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).nan_to_num_(0.0)
    scaled = scaled.clamp_(-largest, largest)
    codes.copy_(scaled.round_() if codes.dtype == torch.int8 else scaled)
