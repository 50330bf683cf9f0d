"""What kernels share whose programs hold whole rows in registers: how long a row may be, and how they are launched."""

from __future__ import annotations

import contextlib

import torch
import triton.language as tl

MOST_WIDTH = 8192
"""Elements of a row that a program holds. The backward of more than 4096 of float32, or of any of float64, spills."""

MOST_WARPS = 16
ELEMENTS = 8
"""Elements of a row that a thread has, unless that takes more than MOST_WARPS."""

ROWS = 16
"""Rows of a program of the backward."""


def warps_of(elements: int) -> int:
    """Of a program that has so many elements in its registers."""
    return max(1, min(MOST_WARPS, elements // (32 * ELEMENTS)))


def accumulator(*tensors: torch.Tensor | None) -> torch.dtype:
    """float64 where any operand is, otherwise float32."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


def launch(kernel, programs: int, elements: int, arguments: dict, constants: dict) -> None:
    """Runs ``kernel``, whose programs hold so many elements.

    In the place of an operand that is absent it gets another tensor, which it does not read.
    """
    present = [t for t in arguments.values() if isinstance(t, torch.Tensor)]
    wide = torch.float64 in [t.dtype for t in present]
    device = present[0].device
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[(programs,)](
            **{name: present[0] if value is None else value for name, value in arguments.items()},
            **constants,
            ACCUMULATOR=tl.float64 if wide else tl.float32,
            num_warps=warps_of(elements),
        )
