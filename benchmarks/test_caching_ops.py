"""The operations of feature caches against eager PyTorch and the machine's memory, in bfloat16.

Bytes, for each element of a feature [B, N, C]: ``gated_combination`` of a residual, a gate [B, 1, C] and three tensors
reads 2·4 and writes 2; with two of the three quantized it reads 2·2 + 1·2. ``quantize`` of a difference reads 2·2 and
writes 1; ``relative_l1`` reads 2·2. The ceiling is a native loop that reads so many streams of bfloat16 and writes one,
with nothing to compute (csrc/cpu/ceiling.h), with regular or non-temporal stores, whichever is faster. There is none
that writes as little as the last two operations do: they are given the time of three and of two streams, in proportion
to their bytes.

The peers are what one writes in eager PyTorch, with ``out=`` where it takes one. What large temporaries of theirs cost
is page faults for the most part; ``quantize`` has those of its codes on both sides.
"""

import pytest
import torch
from harness import in_turns

from pyaccel import ops
from pyaccel.ops import backend

pytestmark = pytest.mark.skipif(backend._native is None, reason=backend.native_missing or "built")

SHAPES = [(2, 256, 1152), (1, 4608, 3072)]
WEIGHTS = [3.0, -3.0, 1.0]
TABLE = "operations of feature caches, bfloat16"
CODES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}


def aligned(shape) -> torch.Tensor:
    """A tensor that begins a cache line, as the ceiling's stores want."""
    room = torch.empty(shape.numel() + 64, dtype=torch.bfloat16)
    skip = -room.data_ptr() % 64 // 2
    return room[skip : skip + shape.numel()].normal_().view(shape)


def features(shape, count: int) -> list[torch.Tensor]:
    return [aligned(torch.Size(shape)) for _ in range(count)]


def measure(benchmark, report, case: str, ours, peer, against: str, streams, out, share: float = 1.0):
    """A row: ``ours`` beside ``peer`` and beside reading ``streams`` and writing ``out``, a ``share`` of it."""
    pointers, ceiling = [t.data_ptr() for t in streams], backend._native.read_write_ceiling
    with torch.no_grad():
        seconds = in_turns(
            {
                "ours": ours,
                "peer": peer,
                "regular": lambda: ceiling(pointers, out.data_ptr(), out.nbytes, False),
                "streaming": lambda: ceiling(pointers, out.data_ptr(), out.nbytes, True),
            }
        )
        benchmark.pedantic(ours, rounds=20, iterations=2)
    report(
        TABLE,
        case=case,
        shape="×".join(map(str, out.shape)),
        peer=against,
        **{
            "ours, µs": seconds["ours"] * 1e6,
            "× peer": seconds["peer"] / seconds["ours"],
            "of the ceiling, %": 100 * share * min(seconds["regular"], seconds["streaming"]) / seconds["ours"],
            "GB/s": share * (len(streams) + 1) * out.nbytes / seconds["ours"] / 1e9,
        },
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("gated", ["[B, 1, C]", "full gate", "no gate"])
def test_gated_combination(benchmark, report, shape, gated):
    residual, *tensors, full, out = features(shape, 6)
    gate = {"[B, 1, C]": full[:, :1].clone(), "full gate": full, "no gate": None}[gated]

    def peer():
        total = torch.mul(tensors[0], WEIGHTS[0])
        for w, t in zip(WEIGHTS[1:], tensors[1:], strict=True):
            total.add_(t, alpha=w)
        return torch.add(residual, total, out=out) if gate is None else torch.addcmul(residual, gate, total, out=out)

    measure(
        benchmark,
        report,
        f"gated, 3 tensors, {gated}",
        lambda: ops.gated_combination(residual, gate, tensors, WEIGHTS, out=out),
        peer,
        "mul, add_, addcmul" if gate is not None else "mul, add_, add",
        [residual, *tensors, *([full] if gated == "full gate" else [])],
        out,
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("codes", CODES)
def test_gated_combination_of_codes(benchmark, report, shape, codes):
    residual, h, *others, out = features(shape, 5)
    gate, pairs = residual[:, :1].clone(), [ops.quantize(t, dtype=CODES[codes]) for t in others]

    def peer():
        total = WEIGHTS[0] * h.float()
        for w, q in zip(WEIGHTS[1:], pairs, strict=True):
            total.addcmul_(q.codes.float(), (w * q.scales)[..., None])
        return out.copy_(total.mul_(gate).add_(residual))

    measure(
        benchmark,
        report,
        f"gated, 1 tensor, 2 of {codes}",
        lambda: ops.gated_combination(residual, gate, [h, *pairs], WEIGHTS, out=out),
        peer,
        "float, addcmul_, mul_",
        [residual, h, others[0]],  # as many bytes as the two inputs of codes
        out,
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("codes", CODES)
def test_quantize(benchmark, report, shape, codes):
    x, minus, out = features(shape, 3)
    dtype, largest = CODES[codes], {"int8": 127, "fp8": 448}[codes]

    def peer():
        v = x.float().sub_(minus)
        scales = v.abs().amax(-1) / largest
        v.div_(scales[..., None])
        return (v.round_() if codes == "int8" else v).to(dtype), scales

    measure(
        benchmark,
        report,
        f"quantize, {codes}",
        lambda: ops.quantize(x, minus, dtype=dtype),
        peer,
        "sub_, amax, div_, to",
        [x, minus],
        out,
        share=5 / 6,
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_relative_l1(benchmark, report, shape):
    a, b, out = features(shape, 3)
    measure(
        benchmark,
        report,
        "relative_l1",
        lambda: ops.relative_l1(a, b),
        lambda: (a - b).abs().sum(dtype=torch.float32) / b.abs().sum(dtype=torch.float32),
        "sub, abs, sum",
        [a],
        out,
    )
