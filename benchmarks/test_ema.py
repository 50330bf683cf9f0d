"""``ema_update`` against torch's ``_foreach_lerp_``, on the parameters of a transformer of about 50 million.

Bytes, for each parameter and rate: the average is read and written, 8 bytes, and the parameter is read once for all
rates. The peer takes one call for each rate, and averages of the parameters' own type alone: those of bfloat16 it has
to convert first, as training code does.
"""

import pytest
import torch
from harness import in_turns

from pyaccel import ops
from pyaccel.ops import backend

pytestmark = pytest.mark.skipif(backend._native is None, reason=backend.native_missing or "built")

WIDTH, BLOCKS = 512, 16
SHAPES = [(3 * WIDTH, WIDTH), (3 * WIDTH,), (WIDTH, WIDTH), (WIDTH,), (4 * WIDTH, WIDTH), (4 * WIDTH,)]
SHAPES = [*SHAPES, (WIDTH, 4 * WIDTH), (WIDTH,), (WIDTH,), (WIDTH,)] * BLOCKS


@pytest.mark.parametrize("rates", [[0.999], [0.99, 0.999, 0.9999]], ids=["1 rate", "3 rates"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ema_update(benchmark, report, dtype, rates):
    params = [torch.randn(shape).to(dtype) for shape in SHAPES]
    ours, theirs = ([[torch.randn(shape) for shape in SHAPES] for _ in rates] for _ in range(2))

    def peer():
        for averages, rate in zip(theirs, rates, strict=True):
            torch._foreach_lerp_(averages, [p.float() for p in params], 1 - rate)

    seconds = in_turns({"ours": lambda: ops.ema_update(ours, params, rates), "peer": peer})
    benchmark.pedantic(lambda: ops.ema_update(ours, params, rates), rounds=10)
    total = sum(p.numel() for p in params)
    report(
        "moving averages",
        dtype=str(dtype).removeprefix("torch."),
        rates=len(rates),
        peer="torch._foreach_lerp_",
        **{
            "ours, ms": seconds["ours"] * 1e3,
            "× peer": seconds["peer"] / seconds["ours"],
            "GB/s": total * (params[0].element_size() + 8 * len(rates)) / seconds["ours"] / 1e9,
        },
    )
