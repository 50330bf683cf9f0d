"""Gaussian noise that is a function of (seed of the sample, stream, position in the sample): csrc/philox.h defines it.

``linear_combination`` draws it inside of its kernel, where it is never stored. Here it is as a tensor of the same
values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import backend, native, reference
from .checks import check_counters, check_dtype, check_seeds


class Noise(NamedTuple):
    """Unit Gaussian noise for :func:`linear_combination`: one ξ for each stream, reproducible on every backend.

    ``seeds`` has one integer for each sample, the first dimension of the tensors; ``streams`` tells draws apart: a
    sampler counts its steps in it. Both are in [0, 2^63). What a sample gets does not depend on the rest of its batch.
    """

    seeds: Sequence[int]
    streams: Sequence[int]


def normal(
    shape: Sequence[int],
    seeds: Sequence[int],
    stream: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """The unit Gaussian noise ξ of one stream as a tensor of ``shape`` [B, ...], one seed for each of the B samples.

    The numbers are those that ``linear_combination(..., noise=Noise(seeds, [stream]))`` draws. They are float32,
    rounded or widened to ``dtype``. ``device`` is torch's default device if not given.

    Raises:
        ValueError: a number of seeds other than B, or one outside of [0, 2^63); a shape without dimensions.
        TypeError: seeds or a stream that are not integers; a dtype that the kernels do not know.
    """
    check_dtype(dtype, "normal")
    shape = list(shape)
    seeds = check_counters(seeds, "normal: seeds")
    check_seeds(seeds, shape, "normal")
    (stream,) = check_counters([stream], "normal: stream")
    device = torch.empty(0, device=device).device  # torch.get_default_device() cannot be compiled
    if torch.compiler.is_compiling() or backend.transformed():
        return _operator(shape, seeds, stream, device).to(dtype)
    return _draw(shape, seeds, stream, device, dtype)


def check_noise(noise) -> Noise:
    """``noise`` with lists of Python's integers; an error says which is none, or what was given in its place."""
    if not isinstance(noise, tuple) or len(noise) != 2:
        raise TypeError(f"linear_combination: noise must be an ops.Noise(seeds, streams), got {type(noise).__name__}")
    seeds, streams = noise
    return Noise(
        check_counters(seeds, "linear_combination: noise.seeds"),
        check_counters(streams, "linear_combination: noise.streams"),
    )


def _draw(shape, seeds, stream: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The noise by the backend that serves ``device``: a combination of this one stream and of no tensor."""
    chosen = backend.choose(device)
    if chosen == "reference":
        return reference.normal(shape, seeds, stream, device).to(torch.float32).to(dtype)
    result = torch.empty(shape, dtype=dtype, device=device)
    if not result.numel():
        return result
    if chosen == "triton":
        from ..triton_kernels import linear_combination as kernel

        kernel.launch([], [[1.0]], [result], 1, Noise(seeds, [stream]))
    else:
        native.combine([], [[1.0]], [result], 1, seeds, [stream])
    return result


@torch.library.custom_op("pyaccel::normal", mutates_args=())
def _operator(shape: Sequence[int], seeds: Sequence[int], stream: int, device: torch.device) -> Tensor:
    return _draw(shape, list(seeds), stream, device, torch.float32)


@_operator.register_fake
def _(shape, seeds, stream, device):
    return torch.empty(shape, device=device)
