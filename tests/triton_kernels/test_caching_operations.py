"""The Triton kernels of ``gated_combination``, ``relative_l1`` and ``quantize``: in the interpreter, and compiled."""

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")

from pyaccel.triton_kernels import gated_combination, quantize, relative_l1  # noqa: E402

from tests.triton_kernels.ahead_of_time import (  # noqa: E402
    assert_nothing_spilled,
    compiled_kernel,
    dump,
    in_interpreter,
    needs_compiler,
)

BEGINNING = """
import itertools
import torch
from pyaccel import ops
from pyaccel.ops import reference

torch.manual_seed(0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
CODES = (torch.int8, torch.float8_e4m3fn)
# The interpreter truncates where it stores bfloat16.
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-9, torch.float64: 1e-14}
assert ops.backend.choose(torch.device("cpu")) == "triton"
formulas = reference.gated_combination, reference.relative_l1, reference.quantize

def formula(*args):
    raise AssertionError("the formula was used, not the kernel")

reference.gated_combination = reference.relative_l1 = reference.quantize = formula

def agrees(result, expected):
    tolerance = ROUNDING[result.dtype]
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
"""

GATED = """
def check(residual, gate, tensors, weights):
    dtype = residual.dtype if residual is not None else torch.float32
    expected = formulas[0](residual, gate, tensors, weights, dtype)
    out = torch.empty(expected.shape, dtype=dtype)
    agrees(ops.gated_combination(residual, gate, tensors, weights, out=out), expected)
    if residual is not None:
        agrees(ops.gated_combination(residual, gate, tensors, weights, out=residual), expected)

shape = (2, 3, 4, 300)
gates = [(), (300,), (2, 1, 1, 300), (2, 3, 1, 300), shape, (2, 1, 1, 1), (2, 3, 4, 1), (2, 3, 1, 1), (1, 3, 1, 300)]
for i, (gate, codes) in enumerate(itertools.product(gates, (None, *CODES))):
    dtypes = [DTYPES[(i + j) % 4] for j in range(4)]
    residual, h, other = (torch.randn(shape).to(d) for d in dtypes[1:])
    if codes is not None:
        reference.quantize = formulas[2]
        other = ops.Quantized(*formulas[2](other, None, codes))
        reference.quantize = formula
    check(residual, torch.randn(gate).to(dtypes[0]), [h, other], [1.5, -0.5])
    check(None, None, [h, other], [1.5, -0.5])
for width in (1, 20, 70001):
    h = torch.randn(2, width)
    check(torch.randn(2, width), torch.randn(width), [h, ops.Quantized(*formulas[2](h, None, CODES[1]))], [1.0, 3.0])
many = [torch.randn(2, 33) for _ in range(130)]
check(many[0].clone(), many[1], many, torch.randn(130).tolist())
for codes in CODES:
    bits = torch.arange(256, dtype=torch.uint8).view(codes)
    check(None, None, [ops.Quantized(bits, torch.tensor(0.5))], [2.0])
last = [torch.randn(2, 3, 24, 20).to(memory_format=torch.channels_last) for _ in range(3)]
check(last[0], torch.randn(2, 3, 1, 1), last[1:], [1.0, 2.0])
assert ops.gated_combination(None, None, [torch.empty(2, 0)], [1.0]).shape == (2, 0)
print("right")
"""

SUMS = """
for shape, dtypes in itertools.product([(1,), (3, 17), (7, 100001), (0, 3), ()], itertools.product(DTYPES, repeat=2)):
    a, b = (torch.randn(shape).to(d) for d in dtypes)
    difference, size = formulas[1](a.double(), b.double())
    expected = difference / size if a.numel() else torch.zeros(())
    found = ops.relative_l1(a, b)
    assert found.dtype == reference.accumulator(dtypes)
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-6, atol=0)
a, b = torch.randn(2, 6, 40, 7)
torch.testing.assert_close(ops.relative_l1(a[:, ::2], b[:, ::2]), ops.relative_l1(a[:, ::2].clone(), b[:, ::2].clone()))
zero, bad = torch.zeros(5), torch.full((5,), float("nan"))
assert [ops.relative_l1(*t).item() for t in [(zero, zero), (zero + 1, zero)]] == [0, float("inf")]
assert ops.relative_l1(bad, zero + 1).isnan() and ops.relative_l1(zero, bad).isnan()
print("right")
"""

QUANTIZED = """
for codes, shape, dtypes in itertools.product(CODES, [(1,), (3, 17), (2, 3, 300)], itertools.product(DTYPES, repeat=2)):
    x, minus = (3 * torch.randn(shape).to(d) for d in dtypes)
    for other in (None, minus):
        found, expected = ops.quantize(x, other, dtype=codes), formulas[2](x, other, codes)
        assert torch.equal(found.codes.float(), expected[0].float()), (codes, dtypes)
        assert torch.equal(found.scales, expected[1])
for size in (1e30, 1e-30, 3e-37):
    x = size * torch.randn(4, 100)
    for codes in CODES:
        found, expected = ops.quantize(x, dtype=codes), formulas[2](x, None, codes)
        assert torch.equal(found.codes.float(), expected[0].float())
        assert torch.equal(found.scales, expected[1])
ties = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, 126.5])
assert ops.quantize(ties).codes.tolist() == [127, 0, 2, 2, 0, -2, -126, 126]
everything = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
everything = everything[everything.isfinite()]
assert torch.equal(ops.quantize(everything, dtype=torch.float8_e4m3fn).codes.float(), everything)
assert ops.quantize(torch.tensor([1e300, 1.0], dtype=torch.float64)).scales.isnan()
x = torch.randn(5, 40)
x[1], x[2, 3], x[3, 39] = 0, float("inf"), float("nan")
for codes, dtype in itertools.product(CODES, DTYPES):
    found = ops.quantize(x.to(dtype), dtype=codes)
    assert found.scales.isnan().tolist() == [False, False, True, True, False]
    assert found.scales[1] == 0 and (found.codes[1:4].float() == 0).all()
print("right")
"""


@pytest.mark.parametrize("program", [GATED, SUMS, QUANTIZED], ids=["gated_combination", "relative_l1", "quantize"])
def test_values_in_the_interpreter(program):
    assert in_interpreter(BEGINNING + program) == "right"


@needs_compiler
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("gate", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp64"])
def test_gated_combination_compiles_without_spills(dtype, gate, capability, tmp_path):
    accumulator = "fp64" if dtype == "fp64" else "fp32"
    pointers = {
        "residual": f"*{dtype}",
        "gate": f"*{dtype}",
        "inputs": (f"*{dtype}", f"*{dtype}", "*i8", "*u8"),
        "scales": (f"*{dtype}", f"*{dtype}", "*fp32", "*fp32"),
        "out": f"*{dtype}",
        "weights": f"*{accumulator}",
    }
    constants = {
        "K": 4,
        "GATE": gate,
        "RESIDUAL": True,
        "ACCUMULATOR": getattr(triton.language, {"fp64": "float64", "fp32": "float32"}[accumulator]),
        "BLOCK": gated_combination.BLOCK,
    }
    divisible = ("row_size", "inner")
    kernel = compiled_kernel(gated_combination.combine_gated, pointers, constants, divisible, capability)
    assert_nothing_spilled(kernel, tmp_path)
    if dtype == "bf16":  # eight elements at once, of the gate too
        assert dump(kernel, tmp_path, "--dump-sass").count("LDG.E.128") >= (4 if gate == 2 else 3)


@needs_compiler
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp64"])
def test_relative_l1_compiles_without_spills(dtype, capability, tmp_path):
    wide = dtype == "fp64"
    pointers = {"a": f"*{dtype}", "b": f"*{dtype}", "partial": "*fp64" if wide else "*fp32"}
    accumulator = triton.language.float64 if wide else triton.language.float32
    constants = {"ACCUMULATOR": accumulator, "STEPS": relative_l1.STEPS, "BLOCK": relative_l1.BLOCK}
    kernel = compiled_kernel(relative_l1.add_up, pointers, constants, ("total",), capability)
    assert_nothing_spilled(kernel, tmp_path)


@needs_compiler
@pytest.mark.parametrize(("code", "largest"), [("i8", 127.0), ("u8", 448.0)])
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp64"])
def test_quantize_compiles_without_spills(dtype, capability, code, largest, tmp_path):
    pointers = {"x": f"*{dtype}", "minus": f"*{dtype}", "codes": f"*{code}", "scales": "*fp32"}
    constants = {"LARGEST": largest, "MINUS": True, "WIDE": dtype == "fp64", "BLOCK": quantize.MOST_BLOCK}
    kernel = compiled_kernel(quantize.quantize_row, pointers, constants, ("width",), capability)
    assert_nothing_spilled(kernel, tmp_path)
