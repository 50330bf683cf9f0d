"""The operations of feature caches: relative_l1, quantize and gated_combination, against float64."""

import math

import pytest
import torch

from pyaccel import ops

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float64: 1e-12}
CODES = [torch.int8, torch.float8_e4m3fn]


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# ---- relative_l1 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (2, 5, 7), (1, 40_001), (3, 400_000)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_relative_l1(shape, dtype):
    a, b = numbers(*shape, dtype=dtype), numbers(*shape, seed=1, dtype=dtype)
    expected = (a.double() - b.double()).abs().sum() / b.double().abs().sum()
    found = ops.relative_l1(a, b)
    assert found.shape == ()
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


def test_relative_l1_of_other_layouts_and_at_the_edges():
    a, b = numbers(6, 8, 9), numbers(6, 8, 9, seed=1)
    for cut in (lambda t: t.transpose(0, 2), lambda t: t[::2, :, ::3], lambda t: t[:1].expand(4, 8, 9)):
        torch.testing.assert_close(ops.relative_l1(cut(a), cut(b)), ops.relative_l1(cut(a).clone(), cut(b).clone()))
    zero = torch.zeros(5)
    assert ops.relative_l1(zero, zero) == 0
    assert ops.relative_l1(zero + 1, zero) == math.inf
    assert ops.relative_l1(torch.full((5,), math.nan), zero + 1).isnan()
    assert not ops.relative_l1(a.requires_grad_(), b).requires_grad
    with pytest.raises(ValueError, match=r"a is \(5,\) on cpu, b \(4,\)"):
        ops.relative_l1(zero, zero[:4])
    with pytest.raises(TypeError, match="relative_l1: b"):
        ops.relative_l1(zero, [0.0])


# ---- quantize --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4, 33), (300, 1000)])
def test_quantize(codes, dtype, shape):
    x, minus = 3 * numbers(*shape, dtype=dtype), numbers(*shape, seed=1, dtype=dtype)
    for other in (None, minus):
        exact = x.double() - (0 if other is None else other.double())
        found = ops.quantize(x, other, dtype=codes)
        assert (found.codes.dtype, found.shape, found.scales.shape) == (codes, x.shape, x.shape[:-1])
        largest = exact.abs().amax(-1, keepdim=True)
        error = (found.dequantize(torch.float64) - exact).abs()
        if codes == torch.int8:
            assert bool((error <= largest / 127 * 0.5001 + 1e-6).all())
        else:  # three bits behind the point, and the smallest step of a row
            assert bool((error <= exact.abs() / 16 * 1.0001 + largest / 448 * 2**-9 + 1e-6).all())
    assert found.nbytes == x.numel() + 4 * x.shape[:-1].numel()


def test_quantize_at_the_edges():
    x = torch.tensor([[0.0, 0.0], [math.inf, 1.0], [math.nan, 1.0], [-127.0, 0.5]])
    for codes in CODES:
        found = ops.quantize(x, dtype=codes)
        values = found.dequantize()
        assert torch.equal(values[0], x[0])
        assert values[1].isnan().all()
        assert values[2].isnan().all()
        assert values[3, 0] == -127
    with pytest.raises(ValueError, match=r"dtype must be torch.int8 or torch.float8_e4m3fn, got torch.float16"):
        ops.quantize(x, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"minus is \(2, 2\)"):
        ops.quantize(x, x[:2])
    with pytest.raises(ValueError, match="at least one dimension"):
        ops.quantize(torch.tensor(1.0))


# ---- gated_combination -----------------------------------------------------------------------------------------------


def exact(residual, gate, tensors, weights):
    total = 0
    for w, t in zip(weights, tensors, strict=True):
        total = total + w * (t.dequantize(torch.float64) if isinstance(t, ops.Quantized) else t.double())
    total = total * (1 if gate is None else gate.double())
    return total + (0 if residual is None else residual.double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 5, 8), (3, 7), (2, 700, 400), (2, 3, 20, 30, 40)])
@pytest.mark.parametrize("quantized", [None, *CODES])
@pytest.mark.parametrize("gated", ["none", "row", "channels", "full"])
def test_gated_combination(dtype, shape, quantized, gated):
    gates = {"none": None, "row": (shape[0], *[1] * (len(shape) - 2), shape[-1]), "channels": shape[-1:], "full": shape}
    gate = None if gates[gated] is None else numbers(*gates[gated], seed=9, dtype=dtype)
    tensors = [numbers(*shape, seed=j, dtype=dtype) for j in range(3)]
    if quantized is not None:
        tensors = [tensors[0], *(ops.quantize(t, dtype=quantized) for t in tensors[1:])]
    weights = [1.5, -0.75, 0.25]
    for residual in (None, numbers(*shape, seed=5, dtype=dtype)):
        expected = exact(residual, gate, tensors, weights)
        found = ops.gated_combination(residual, gate, tensors, weights)
        assert found.dtype == dtype
        size = TOLERANCE[dtype] * float(expected.abs().max())
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=size)
        if residual is not None:
            out = residual.clone()
            assert ops.gated_combination(out, gate, tensors, weights, out=out) is out
            assert torch.equal(out, found)


def test_gated_combination_has_gradients_and_tangents():
    residual, gate, h = numbers(2, 3, 4), numbers(2, 1, 4, seed=1), numbers(2, 3, 4, seed=2)
    q = ops.quantize(numbers(2, 3, 4, seed=3))

    def function(residual, gate, h, q=q):
        return ops.gated_combination(residual, gate, [h, q], [2.0, -1.0])

    inputs = [t.double().requires_grad_() for t in (residual, gate, h)]
    assert torch.autograd.gradcheck(function, inputs)
    primals, tangents = (residual, gate, h), (residual, gate * 2, h * 3)
    value, tangent = torch.func.jvp(function, primals, tangents)
    expected = residual + 2 * gate * (2 * h - q.dequantize()) + gate * 6 * h
    torch.testing.assert_close(tangent, expected)
    torch.testing.assert_close(torch.func.vmap(function)(residual, gate, h, q), value)
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(residual, gate, h), value)


def test_errors_of_gated_combination():
    x = torch.zeros(2, 3)
    cases = [
        (r"1 tensors and 2 weights", lambda: ops.gated_combination(None, None, [x], [1.0, 2.0])),
        (
            r"tensors\[1\] is \(3,\), tensors\[0\] \(2, 3\)",
            lambda: ops.gated_combination(None, None, [x, x[0]], [1, 1]),
        ),
        (r"gate of shape \(2,\) does not broadcast", lambda: ops.gated_combination(x, x[:, 0], [x], [1.0])),
        (r"out is \(3,\)", lambda: ops.gated_combination(x, None, [x], [1.0], out=x[0].clone())),
        ("finite", lambda: ops.gated_combination(x, None, [x], [math.nan])),
    ]
    for match, call in cases:
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(TypeError, match="residual"):
        ops.gated_combination(x.long(), None, [x], [1.0])
    both = torch.zeros(4, 3)
    with pytest.raises(ValueError, match="overlap"):
        ops.gated_combination(both[:2], x[:1], [x], [1.0], out=both[1:3])


# ---- the native loops ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 7, 64, 513, 3072])
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_every_instruction_set_is_the_formula(instruction_set, monkeypatch, width, dtype):
    x, y, z = (numbers(2, 5, width, seed=s, dtype=dtype) for s in range(3))
    gate = numbers(2, 1, width, seed=4, dtype=dtype)

    q, difference = ops.quantize(y), ops.quantize(z, minus=x)

    def results():
        again = [*ops.quantize(y), *ops.quantize(z, minus=x)]
        return [
            *(t.float() for t in again), ops.relative_l1(x, y),
            ops.gated_combination(x, gate, [y, q, difference], [0.5, 2.0, -1.5]),
            ops.gated_combination(None, None, [x, q], [1.0, 1.0]),
        ]  # fmt: skip

    native = results()
    monkeypatch.setenv("PYACCEL_BACKEND", "reference")
    for found, expected in zip(native, results(), strict=True):
        assert found.dtype == expected.dtype
        # A code that lies between two numbers may fall to either side.
        whole = found.numel() and bool((expected == expected.round()).all()) and expected.abs().max() > 100
        tolerance = 1.0 if whole else TOLERANCE[dtype] * max(1.0, float(expected.abs().max()))
        assert float((found - expected).abs().max()) <= tolerance
        assert float((found - expected).abs().double().mean()) <= max(1e-2 if whole else 0, TOLERANCE[dtype])


def test_no_elements_and_no_dimensions():
    empty = torch.zeros(0, 4)
    assert ops.quantize(empty).codes.shape == (0, 4)
    assert ops.quantize(torch.zeros(3, 0)).scales.tolist() == [0.0] * 3
    assert ops.relative_l1(empty, empty) == 0
    assert ops.gated_combination(empty, None, [empty, ops.quantize(empty)], [1.0, 1.0]).shape == (0, 4)
    assert ops.relative_l1(torch.tensor(3.0), torch.tensor(2.0)) == 0.5
    assert ops.gated_combination(torch.tensor(3.0), torch.tensor(2.0), [torch.tensor(1.0)], [4.0]) == 11


def test_gates_of_every_form_and_stretched_operands():
    x, y, r = (numbers(2, 3, 4, 6, seed=s) for s in range(3))
    q = ops.quantize(y)
    for shape in [
        (6,),
        (1,),
        (2, 1, 1, 6),
        (2, 3, 1, 6),
        (2, 3, 4, 6),
        (1, 3, 1, 6),
        (4, 6),
        (2, 1, 4, 6),
        (2, 3, 4, 1),
    ]:
        gate = numbers(*shape, seed=7)
        found = ops.gated_combination(r, gate, [x, q], [1.5, -0.5])
        torch.testing.assert_close(found, exact(r, gate, [x, q], [1.5, -0.5]).float(), rtol=1e-5, atol=1e-5)
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    found = ops.gated_combination(r, None, [turned, q], [1.0, 1.0])
    torch.testing.assert_close(found, exact(r, None, [x, q], [1.0, 1.0]).float(), rtol=1e-5, atol=1e-5)
    before = r._version
    ops.gated_combination(r, None, [x, q], [1.0, 1.0], out=r)
    assert r._version > before  # autograd and caches are told
