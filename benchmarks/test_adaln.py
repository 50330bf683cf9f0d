"""The norms of transformer blocks against eager PyTorch, torch.compile and the machine's memory, in bfloat16.

Bytes, for each element of the hidden states [B, N, C]: ``adaln_modulate`` reads 2 and writes 2;
``gated_residual_adaln``, and ``qk_norm_rope`` of queries and keys, read 2·2 and write 2·2. Modulations and angles are
small beside that. The ceiling is a native loop that reads so many streams of bfloat16 and writes one, with nothing to
compute (csrc/cpu/ceiling.h), with regular or non-temporal stores, whichever is faster; once for each output.

All contestants make new outputs, as in a model; the ceiling does not, whose outputs are there.
"""

import pytest
import torch
import torch.nn.functional as F
from harness import in_turns
from test_caching_ops import aligned, features

from pyaccel import ops
from pyaccel.ops import backend

pytestmark = pytest.mark.skipif(backend._native is None, reason=backend.native_missing or "built")

SHAPES = [(2, 256, 1152), (1, 4608, 3072)]
TABLE = "norms of transformer blocks, bfloat16"


def measure(benchmark, report, case: str, shape, ours, eager, streams: int, outputs: int):
    """A row: ``ours`` beside ``eager``, compiled and not, and beside ``streams`` that are read and written."""
    compiled = torch.compile(eager)
    *ins, out = features(shape, streams + 1)
    pointers, ceiling = [t.data_ptr() for t in ins], backend._native.read_write_ceiling
    with torch.no_grad():
        seconds = in_turns(
            {
                "ours": ours,
                "eager": eager,
                "compiled": compiled,
                "regular": lambda: ceiling(pointers, out.data_ptr(), out.nbytes, False),
                "streaming": lambda: ceiling(pointers, out.data_ptr(), out.nbytes, True),
            }
        )
        benchmark.pedantic(ours, rounds=20, iterations=2)
    limit = outputs * min(seconds["regular"], seconds["streaming"])
    report(
        TABLE,
        case=case,
        shape="×".join(map(str, shape)),
        **{
            "ours, µs": seconds["ours"] * 1e6,
            "× eager": seconds["eager"] / seconds["ours"],
            "× compiled": seconds["compiled"] / seconds["ours"],
            "of the ceiling, %": 100 * limit / seconds["ours"],
            "GB/s": outputs * (streams + 1) * out.nbytes / seconds["ours"] / 1e9,
        },
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_adaln_modulate(benchmark, report, shape, norm):
    x, scale, shift = aligned(torch.Size(shape)), *torch.randn(2, shape[0], shape[2]).bfloat16()

    def eager():
        h = F.layer_norm(x, shape[2:], eps=1e-6) if norm == "layer" else F.rms_norm(x, shape[2:], eps=1e-6)
        return h * (1 + scale[:, None]) + shift[:, None]

    measure(
        benchmark, report, f"adaln_modulate, {norm}", shape,
        lambda: ops.adaln_modulate(x, scale, shift, norm=norm), eager, 1, 1,
    )  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gated_residual_adaln(benchmark, report, shape):
    (x, branch), (gate, scale, shift) = features(shape, 2), torch.randn(3, shape[0], shape[2]).bfloat16()

    def eager():
        r = x + gate[:, None] * branch
        return r, F.layer_norm(r, shape[2:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    measure(
        benchmark, report, "gated_residual_adaln", shape,
        lambda: ops.gated_residual_adaln(x, gate, branch, scale, shift), eager, 1, 2,
    )  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("across", [False, True], ids=["each head", "all heads"])
def test_qk_norm_rope(benchmark, report, shape, across):
    width = 128 if shape[2] % 128 == 0 else 72
    q, k = (t.view(*shape[:2], -1, width) for t in features(shape, 2))
    weight = torch.randn(shape[2] if across else width).bfloat16()
    cos, sin = torch.randn(2, shape[1], width)

    def turned(x):
        h = F.rms_norm(x.flatten(2), weight.shape, weight, 1e-6).view_as(x) if across else F.rms_norm(
            x, weight.shape, weight, 1e-6)  # fmt: skip
        a, b = h.unflatten(-1, (-1, 2)).unbind(-1)
        other = torch.stack([-b, a], dim=-1).flatten(3)
        return (h.float() * cos[None, :, None] + other.float() * sin[None, :, None]).to(x.dtype)

    measure(
        benchmark, report, f"qk_norm_rope, {'all heads' if across else 'each head'}", shape,
        lambda: ops.qk_norm_rope(q, k, weight, weight, cos, sin), lambda: (turned(q), turned(k)), 1, 2,
    )  # fmt: skip
