"""``threshold`` and ``blend`` against eager PyTorch, as ``diffusers`` writes them, and the machine's memory.

Bytes: the clamp reads one tensor and writes one; dynamic thresholding reads it once more, for the quantile; the blend
with a full mask reads four and writes one. The ceiling is a native loop over as many streams with nothing to compute
(csrc/cpu/ceiling.h), with regular or non-temporal stores, whichever is faster. All contestants write into memory that
is there already, but for the temporaries that the peers make.

The peer of the quantile is ``torch.quantile``, a sort. Versions of torch that refuse more than 16 million elements get
the order statistic from ``torch.kthvalue`` instead; which it was stands in the table.
"""

import pytest
import torch
from harness import in_turns

from pyaccel import ops
from pyaccel.ops import backend

pytestmark = pytest.mark.skipif(backend._native is None, reason=backend.native_missing or "built")

MB = 1 << 20
RATIO, LIMIT = 0.995, 3.0


def aligned(elements: int) -> torch.Tensor:
    """A tensor that begins a cache line, as the ceiling's stores want."""
    room = torch.empty(elements + 64)
    skip = -room.data_ptr() % 64 // 4
    return room[skip : skip + elements].normal_().view(1, -1)


def measure(benchmark, report, case: str, ours, peer, streams: list[torch.Tensor], out: torch.Tensor, against: str):
    """A row: ``ours`` beside ``peer`` and beside reading ``streams`` and writing ``out``."""
    pointers, size = [t.data_ptr() for t in streams], out.numel() * 4
    ceiling = backend._native.read_write_ceiling
    with torch.no_grad():
        seconds = in_turns(
            {
                "ours": ours,
                "peer": peer,
                "regular": lambda: ceiling(pointers, out.data_ptr(), size, False),
                "streaming": lambda: ceiling(pointers, out.data_ptr(), size, True),
            }
        )
        benchmark.pedantic(ours, rounds=20, iterations=2)
    best = min(seconds["regular"], seconds["streaming"])
    report(
        "the maps at the end of a step, float32",
        case=case,
        peer=against,
        **{
            "ours, µs": seconds["ours"] * 1e6,
            "× peer": seconds["peer"] / seconds["ours"],
            "of the ceiling, %": 100 * best / seconds["ours"],
            "GB/s": (len(streams) + 1) * size / seconds["ours"] / 1e9,
        },
    )


@pytest.mark.parametrize("megabytes", [1, 64])
def test_clamp(benchmark, report, megabytes):
    x, out = aligned(megabytes * MB // 4), aligned(megabytes * MB // 4)
    measure(
        benchmark,
        report,
        f"clamp, {megabytes} MB",
        lambda: ops.threshold(x, 1.0, out=out),
        lambda: torch.clamp(x, -1.0, 1.0, out=out),
        [x],
        out,
        "torch.clamp(out=)",
    )


@pytest.mark.parametrize("megabytes", [1, 64])
def test_dynamic_threshold(benchmark, report, megabytes):
    x, out = aligned(megabytes * MB // 4), aligned(megabytes * MB // 4)
    try:
        torch.quantile(x, RATIO, dim=1)
        name = "quantile, clamp, div"
    except RuntimeError:
        name = "kthvalue, clamp, div"

    def peer():
        magnitudes = x.abs()
        if name.startswith("quantile"):
            s = torch.quantile(magnitudes, RATIO, dim=1)
        else:
            s = magnitudes.kthvalue(int(RATIO * (x.shape[1] - 1)) + 1, dim=1).values
        s = s.clamp(1.0, LIMIT).unsqueeze(1)
        return out.copy_(torch.clamp(x, -s, s) / s)

    ours = lambda: ops.threshold(x, LIMIT, RATIO, out=out)  # noqa: E731
    measure(benchmark, report, f"dynamic threshold, {megabytes} MB", ours, peer, [x, x], out, name)


@pytest.mark.parametrize("mask", ["full mask", "[1, 1, H, W]"])
@pytest.mark.parametrize("megabytes", [1, 64])
def test_blend(benchmark, report, megabytes, mask):
    side = 256 if megabytes == 1 else 2048
    x, image, noise, out = (aligned(megabytes * MB // 4).view(1, 4, side, side) for _ in range(4))
    m = aligned(side * side).view(1, 1, side, side).round().clamp(0, 1)
    if mask == "full mask":
        m = aligned(megabytes * MB // 4).view(1, 4, side, side).copy_(m)

    def peer():
        known = torch.add(0.8 * image, noise, alpha=0.6)
        return torch.lerp(known, x, m, out=out)

    measure(
        benchmark,
        report,
        f"blend, {mask}, {megabytes} MB",
        lambda: ops.blend(x, m, image, noise, 0.8, 0.6, out=out),
        peer,
        [x, image, noise, m] if mask == "full mask" else [x, image, noise],
        out,
        "mul, add, lerp",
    )
