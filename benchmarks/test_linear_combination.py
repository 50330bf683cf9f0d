"""``linear_combination`` against eager PyTorch, torch.compile and the machine's memory.

Bytes: k tensors read and one written. All contestants write into the same preallocated output: fresh memory would be
measured as page faults. The ceiling is a native loop with as many streams and nothing to compute (csrc/cpu/ceiling.h),
with regular or non-temporal stores, whichever is faster. What fits the cache is written with regular stores by all
contestants, as whoever reads it next finds it there; so its share of the regular ceiling stands beside.
"""

import pytest
import torch
from harness import in_turns

from pyaccel import ops
from pyaccel.ops import backend

pytestmark = pytest.mark.skipif(backend._native is None, reason=backend.native_missing or "built")

MB = 1 << 20


def aligned(elements: int, dtype: torch.dtype) -> torch.Tensor:
    """A tensor that begins a cache line, as the ceiling's stores want; torch's own large tensors do."""
    room = torch.empty(elements + 64, dtype=dtype)
    skip = -room.data_ptr() % 64 // room.element_size()
    return room[skip : skip + elements].normal_()


def eager(tensors, coefficients, out):
    torch.mul(tensors[0], coefficients[0], out=out)
    for t, c in zip(tensors[1:], coefficients[1:], strict=True):
        out.add_(t, alpha=c)


def formula(tensors, coefficients, out):
    total = coefficients[0] * tensors[0]
    for t, c in zip(tensors[1:], coefficients[1:], strict=True):
        total = total + c * t
    out.copy_(total)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("megabytes", [1, 64])
@pytest.mark.parametrize("k", [2, 4])
def test_bandwidth(benchmark, report, k, megabytes, dtype):
    elements = megabytes * MB // dtype.itemsize
    tensors, out = [aligned(elements, dtype) for _ in range(k)], aligned(elements, dtype)
    coefficients = [0.9, -0.3, 0.25, 0.1][:k]
    prepared, outs = ops.prepare([coefficients], [dtype] * k, [dtype]), [out]
    pointers = [t.data_ptr() for t in tensors]
    torch.compiler.reset()
    compiled = torch.compile(formula, fullgraph=True, dynamic=False)
    ceiling = backend._native.read_write_ceiling
    with torch.no_grad():
        seconds = in_turns(
            {
                "ours": lambda: prepared(tensors, outs),
                "eager": lambda: eager(tensors, coefficients, out),
                "compile": lambda: compiled(tensors, coefficients, out),
                "regular": lambda: ceiling(pointers, out.data_ptr(), megabytes * MB, False),
                "streaming": lambda: ceiling(pointers, out.data_ptr(), megabytes * MB, True),
            }
        )
        benchmark.pedantic(prepared, (tensors, outs), rounds=20, iterations=5)
    best = min(seconds["regular"], seconds["streaming"])
    report(
        "linear_combination: bandwidth",
        case=f"k = {k}, {megabytes} MB, {str(dtype).removeprefix('torch.')}",
        **{
            "GB/s": (k + 1) * megabytes * MB / seconds["ours"] / 1e9,
            "of the ceiling, %": 100 * best / seconds["ours"],
            "with regular stores, %": 100 * seconds["regular"] / seconds["ours"],
            "× eager": seconds["eager"] / seconds["ours"],
            "× compile": seconds["compile"] / seconds["ours"],
            "ceiling GB/s": (k + 1) * megabytes * MB / best / 1e9,
        },
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("megabytes", [1, 64])
def test_noise(benchmark, report, megabytes, dtype):
    """Two inputs and one stream of noise, drawn in the kernel; eager PyTorch draws it into a buffer and adds that."""
    k, elements = 2, megabytes * MB // dtype.itemsize
    *tensors, out = [aligned(elements, dtype).view(1, -1) for _ in range(k + 1)]
    buffer = torch.empty(1, elements)
    coefficients = [0.9, -0.3, 0.25]
    prepared, outs = ops.prepare([coefficients], [dtype] * k, [dtype], streams=[1]), [out]
    without = ops.prepare([coefficients[:k]], [dtype] * k, [dtype])
    pointers = [t.data_ptr() for t in tensors]
    ceiling = backend._native.read_write_ceiling

    def eager_noise():
        eager(tensors, coefficients[:k], out)
        torch.randn(1, elements, out=buffer)
        out.add_(buffer, alpha=coefficients[k])

    with torch.no_grad():
        seconds = in_turns(
            {
                "ours": lambda: prepared(tensors, outs, [7]),
                "without": lambda: without(tensors, outs),
                "eager": eager_noise,
                "regular": lambda: ceiling(pointers, out.data_ptr(), megabytes * MB, False),
                "streaming": lambda: ceiling(pointers, out.data_ptr(), megabytes * MB, True),
            }
        )
        benchmark.pedantic(prepared, (tensors, outs, [7]), rounds=20, iterations=2)
    best = min(seconds["regular"], seconds["streaming"])
    report(
        "linear_combination: two inputs and one stream of noise",
        case=f"{megabytes} MB, {str(dtype).removeprefix('torch.')}",
        **{
            "GB/s": (k + 1) * megabytes * MB / seconds["ours"] / 1e9,
            "of the ceiling, %": 100 * best / seconds["ours"],
            "× eager": seconds["eager"] / seconds["ours"],
            "× without noise": seconds["without"] / seconds["ours"],
            "ns per element": 1e9 * seconds["ours"] / elements,
            "ns per normal": 1e9 * (seconds["ours"] - seconds["without"]) / elements,
            "ceiling GB/s": (k + 1) * megabytes * MB / best / 1e9,
        },
    )


def test_call_overhead(benchmark, report):
    """Microseconds for three inputs and one output of four float32 elements, where nothing but the call counts."""
    tensors, outs = [torch.randn(4) for _ in range(3)], [torch.empty(4)]
    coefficients = [0.9, -0.3, 0.25]
    rows = [coefficients]
    prepared = ops.prepare(rows, [torch.float32] * 3, [torch.float32])
    samples, seeds = [[t.view(1, 4) for t in some] for some in (tensors, outs)], [7]
    noisy = ops.prepare([[*coefficients, 0.1]], [torch.float32] * 3, [torch.float32], streams=[1])
    compiled = torch.compile(formula, fullgraph=True, dynamic=False)
    with torch.no_grad():
        seconds = in_turns(
            {
                "prepared": lambda: prepared(tensors, outs),
                "with noise": lambda: noisy(*samples, seeds),
                "into out=": lambda: ops.linear_combination(tensors, rows, out=outs),
                "new tensor": lambda: ops.linear_combination(tensors, rows),
                "eager, out=": lambda: eager(tensors, coefficients, outs[0]),
                "compile, out=": lambda: compiled(tensors, coefficients, outs[0]),
            },
            seconds=1.0,
        )
        benchmark.pedantic(prepared, (tensors, outs), rounds=50, iterations=1000)
    report(
        "linear_combination: microseconds per call, 3 inputs of 4 elements", **{n: s * 1e6 for n, s in seconds.items()}
    )
