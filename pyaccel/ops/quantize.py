"""``quantize``: a tensor, or the difference of two, in 8 bits with a scale for each row; for what caches remember.

The arithmetic is in csrc/quantize.h, the semantics in reference.py. torch.compile, torch.func and dispatch modes
take the formula; other calls the kernel of the backend, in parts where tensors are not contiguous.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import backend, reference
from .epilogues import check_tensor, takes_formula
from .layout import contiguous_parts

PART = 1 << 17
"""Elements that are copied, or widened by the formula, at once: they stay in the cache."""

LAUNCHED_PART = 1 << 22
"""The same on a GPU, where each part costs a launch."""


class Quantized(NamedTuple):
    """``codes`` [..., n] of int8 or float8_e4m3fn and ``scales`` [...] float32, one for each row.

    The value is scale·code. A pair as :func:`quantize` makes it, and a pytree to torch.
    """

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
        """The values, multiplied in float32, or in float64 if ``dtype`` is that."""
        wide = reference.accumulator([dtype])
        return (self.codes.to(wide) * self.scales.to(wide).unsqueeze(-1)).to(dtype)


@torch.no_grad()
def quantize(x: Tensor, minus: Tensor | None = None, *, dtype: torch.dtype = torch.int8) -> Quantized:
    """x, or x − minus, in 8-bit codes with a float32 scale for each row of the last dimension.

    Args:
        x: [..., n], at least one dimension, any strides; float32, bfloat16, float16 or float64.
        minus: of x's shape and device and of a dtype of its own; None for 0. The difference is formed in float32, in
            float64 where one of the two is, and never stored.
        dtype: torch.int8 or torch.float8_e4m3fn.

    Returns codes [..., n] and scales [...], both contiguous. With v a row of x − minus and L = 127 (int8) or 448
    (e4m3fn): scale = max|v| / L, code = v / scale rounded to nearest, ties to even. So a value errs by at most half
    its row's scale (int8), or by the greater of a sixteenth of itself and scale/1024 (e4m3fn). A scale is never below
    2^-126 unless its row is zeros: then scale and codes are 0. A row with NaN or infinity has the scale NaN and the
    codes 0: all of its values are NaN. Codes and scales are constants to autograd: no gradient and no tangent flows.

    Raises ValueError for shapes, devices and dtypes that do not fit, TypeError for anything but real floating-point
    tensors.
    """
    if dtype not in backend.CODED:
        raise ValueError(f"quantize: dtype must be torch.int8 or torch.float8_e4m3fn, got {dtype}")
    check_tensor(x, "quantize: x")
    if x.dim() < 1:
        raise ValueError("quantize: x must have at least one dimension, whose rows get a scale each")
    if minus is not None:
        check_tensor(minus, "quantize: minus")
        if minus.shape != x.shape or minus.device != x.device:
            raise ValueError(
                f"quantize: minus is {tuple(minus.shape)} on {minus.device}, x {tuple(x.shape)} on {x.device}; "
                "expected the same"
            )
    given = [t.detach() for t in (x, minus) if t is not None]
    chosen = backend.choose(x.device) if x.numel() and not takes_formula(*given) else "reference"
    if chosen == "reference":
        return Quantized(*reference.quantize(given[0], given[1] if minus is not None else None, dtype))
    codes = torch.empty(x.shape, dtype=dtype, device=x.device)
    scales = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    width, row = x.shape[-1], 0
    flat_codes, flat_scales = codes.view(-1, width), scales.view(-1)
    most = PART if chosen == "native" and x.device.type == "cpu" else LAUNCHED_PART
    for parts in contiguous_parts(given, most, x.dim() - 1):
        rows = slice(row, row + parts[0].numel() // width)
        row = rows.stop
        values = [p.view(-1, width) for p in parts]
        _quantize_rows(chosen, values[0], values[1] if minus is not None else None, flat_codes[rows], flat_scales[rows])
    return Quantized(codes, scales)


def _quantize_rows(chosen: str, x: Tensor, minus: Tensor | None, codes: Tensor, scales: Tensor) -> None:
    """Fills ``codes`` [rows, n] and ``scales`` [rows] from contiguous tensors."""
    if chosen == "native" and backend._native.quantize(x, minus, codes, scales):
        return
    if chosen == "triton":
        from ..triton_kernels import quantize as kernel

        kernel.launch(x, minus, codes, scales)
        return
    # float64, and subclasses that no kernel reads.
    step = max(1, (PART if x.device.type == "cpu" else LAUNCHED_PART) // x.shape[1])
    for i in range(0, len(x), step):
        some = slice(i, i + step)
        made = reference.quantize(x[some], None if minus is None else minus[some], codes.dtype)
        codes[some], scales[some] = made
