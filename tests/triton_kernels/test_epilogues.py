"""The Triton kernels of ``threshold`` and ``blend``: their values in the interpreter, and compiled without a GPU."""

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")

from pyaccel.triton_kernels import blend, threshold  # noqa: E402

from tests.triton_kernels.ahead_of_time import (  # noqa: E402
    assert_nothing_spilled,
    compiled_kernel,
    in_interpreter,
    needs_compiler,
)

VALUES = """
import itertools
import torch
from pyaccel import ops
from pyaccel.ops import reference

torch.manual_seed(0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# The interpreter truncates where it stores bfloat16.
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10, torch.float64: 1e-14}
assert ops.backend.choose(torch.device("cpu")) == "triton"

formulas = reference.threshold, reference.blend

def formula(*args):
    raise AssertionError("the formula was used, not the kernel")

reference.threshold = reference.blend = formula

def agrees(result, expected):
    tolerance = ROUNDING[result.dtype]
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance, equal_nan=True)

for dtype, shape, ratio in itertools.product(DTYPES, [(1,), (3, 17), (3, 4, 70001), (0, 3)], [0.0, 0.9]):
    x = 2 * torch.randn(shape).to(dtype)
    if x.numel() > 10:
        x[-1].view(-1)[3] = float("nan")
    expected = formulas[0](x, 1.5, ratio)
    agrees(ops.threshold(x, 1.5, ratio), expected)
    assert ops.threshold(x, 1.5, ratio, out=x) is x
    agrees(x, expected)
agrees(ops.threshold(torch.tensor(3.0), 1.5), torch.tensor(1.5))

for dtypes in [(d,) * 4 for d in DTYPES] + [(DTYPES[i], DTYPES[(i + 1) % 4], DTYPES[2], DTYPES[0]) for i in range(4)]:
    for mask in [(), (24, 20), (2, 1, 24, 20), (2, 3, 24, 20), (1, 3, 1, 1), (3, 24, 20), (2, 1, 1, 20), (1, 3, 1, 20)]:
        x, image, noise = (torch.randn(2, 3, 24, 20).to(d) for d in (dtypes[0], *dtypes[2:]))
        m = torch.rand(mask).to(dtypes[1])
        expected = formulas[1](x, m, image, noise, 0.8, 0.6)
        agrees(ops.blend(x, m, image, noise, 0.8, 0.6), expected)
        agrees(ops.blend(x, m.expand(x.shape), image, noise, 0.8, 0.6), expected)
        last = [t.to(memory_format=torch.channels_last) for t in (x, image, noise)]
        agrees(ops.blend(last[0], m, last[1], last[2], 0.8, 0.6), expected)
        agrees(ops.blend(x, m, image, noise, 0.8, 0.6, out=x), expected)
assert ops.blend(*[torch.empty(2, 0)] * 4, 1.0, 1.0).shape == (2, 0)
print("right")
"""


def test_values_in_the_interpreter():
    assert in_interpreter(VALUES) == "right"


@needs_compiler
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("divide", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp64"])
def test_threshold_compiles_without_spills(dtype, divide, capability, tmp_path):
    wide = dtype == "fp64"
    pointers = {"x_pointer": f"*{dtype}", "out_pointer": f"*{dtype}", "limits": "*fp64" if wide else "*fp32"}
    accumulator = triton.language.float64 if wide else triton.language.float32
    constants = {"DIVIDE": divide, "ACCUMULATOR": accumulator, "BLOCK": threshold.BLOCK}
    assert_nothing_spilled(compiled_kernel(threshold.clamp, pointers, constants, ("inner",), capability), tmp_path)


@needs_compiler
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp64"])
def test_blend_compiles_without_spills(dtype, capability, tmp_path):
    wide = dtype == "fp64"
    pointers = dict.fromkeys(["x", "mask", "image", "noise", "out"], f"*{dtype}")
    pointers["coefficients"] = "*fp64" if wide else "*fp32"
    accumulator = triton.language.float64 if wide else triton.language.float32
    constants = {"ACCUMULATOR": accumulator, "BLOCK": blend.BLOCK}
    assert_nothing_spilled(compiled_kernel(blend.mix, pointers, constants, ("inner",), capability), tmp_path)
