"""``quantize`` and ``Quantized``: the promises of their docstrings, against bounds in float64 and the reference."""

import itertools
import math

import pytest
import torch
from torch.utils import _pytree as pytree

from pyaccel import ops
from pyaccel.ops import backend, reference
from tests.ops.test_linear_combination import strided_inputs

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
CODES = (torch.int8, torch.float8_e4m3fn)
LARGEST = {torch.int8: 127, torch.float8_e4m3fn: 448}
TINY = 2.0**-126


def assert_right(x, minus, codes):
    found = ops.quantize(x, minus, dtype=codes)
    assert type(found) is ops.Quantized
    assert (found.codes.dtype, found.codes.shape) == (codes, x.shape)
    assert (found.scales.dtype, found.scales.shape) == (torch.float32, x.shape[:-1])
    assert found.codes.is_contiguous()
    assert found.scales.is_contiguous()
    exact = x.detach().double() - (0 if minus is None else minus.detach().double())
    if not x.numel():
        return
    # What float32 loses of a difference, relative to its row.
    sizes = x.detach().double().abs() + (0 if minus is None else minus.detach().double().abs())
    lost = sizes * 2.0**-23
    biggest = exact.abs().amax(-1)
    expected = torch.where(biggest > 0, (biggest / LARGEST[codes]).clamp_min(TINY), 0.0)
    scale = found.scales.double()
    assert ((scale - expected).abs() <= 2.0**-22 * expected + lost.amax(-1) / LARGEST[codes]).all()
    error = (found.codes.float().double() * scale[..., None] - exact).abs()
    half = 0.5 * scale[..., None]
    allowed = half if codes == torch.int8 else torch.maximum(exact.abs() / 16, scale[..., None] / 1024)
    assert (error <= 1.00001 * allowed + lost).all()


@pytest.mark.parametrize("codes", CODES, ids=str)
def test_sizes_and_dtypes(instruction_set, codes):
    for shape in [(1,), (7,), (3, 5), (2, 3, 4, 33), (5, 64), (2, 131), (30, 1000), (0, 4), (4, 0), (2, 0, 3)]:
        for dtype in DTYPES:
            assert_right(3 * torch.randn(shape).to(dtype), None, codes)
        for dtypes in itertools.product(DTYPES, repeat=2):
            assert_right(*(torch.randn(shape).to(d) for d in dtypes), codes)


@pytest.mark.parametrize("codes", CODES, ids=str)
def test_same_bits_as_the_reference(instruction_set, codes):
    for size, dtype in itertools.product((1.0, 1e30, 1e-30, 3e-37, 1e-39), (torch.float32, torch.bfloat16)):
        x, minus = (size * torch.randn(2, 57, 203)).to(dtype)
        for other in (None, minus):
            found, expected = ops.quantize(x, other, dtype=codes), reference.quantize(x, other, codes)
            assert torch.equal(found.scales, expected[1])
            assert torch.equal(found.codes.float(), expected[0].float())


def test_rounds_ties_to_even(instruction_set):
    """With a scale of exactly 1, the codes are the numbers, rounded."""
    numbers = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, 126.5, 0.49999997, 3.0]
    rounded = [127, 0, 2, 2, 0, -2, -126, 126, 0, 3]
    for repeats in (1, 20):
        found = ops.quantize(torch.tensor(numbers * repeats))
        assert found.scales == 1
        assert found.codes.tolist() == rounded * repeats
    numbers = [448.0, 17.0, 19.0, -17.0, 432.0, 2.0**-10, 3 * 2.0**-10, 15 * 2.0**-10, -(2.0**-6), 0.0]
    rounded = [448.0, 16.0, 20.0, -16.0, 448.0, 0.0, 2.0**-8, 2.0**-6, -(2.0**-6), 0.0]
    for repeats in (1, 20):
        found = ops.quantize(torch.tensor(numbers * repeats), dtype=torch.float8_e4m3fn)
        assert found.scales == 1
        assert found.codes.float().tolist() == rounded * repeats


def test_every_number_of_e4m3_is_its_own_code(instruction_set):
    bits = torch.arange(256, dtype=torch.uint8)
    x = bits.view(torch.float8_e4m3fn).float()
    x = x[x.isfinite()]
    found = ops.quantize(x, dtype=torch.float8_e4m3fn)
    assert found.scales == 1
    assert torch.equal(found.codes.float(), x)


@pytest.mark.parametrize("codes", CODES, ids=str)
def test_rows_of_zeros_and_rows_that_are_not_finite(instruction_set, codes):
    for width in (3, 300):
        x = torch.randn(6, width)
        x[1] = 0
        x[2, width // 2], x[3, -1], x[4, 0] = math.inf, math.nan, -math.inf
        for dtype, other in itertools.product(DTYPES, (False, True)):
            found = ops.quantize(x.to(dtype), torch.zeros_like(x) if other else None, dtype=codes)
            assert found.scales.isnan().tolist() == [False, False, True, True, True, False]
            assert found.scales[1] == 0
            assert (found.codes[1:5].float() == 0).all()
            values = found.dequantize()
            assert values.isnan().all(dim=1).tolist() == [False, False, True, True, True, False]
            assert (values[1] == 0).all()
    # Both are finite, their difference is not.
    most = torch.full((2, 4), 3e38)
    assert ops.quantize(most, -most, dtype=codes).scales.isnan().all()
    # No float32 is its scale.
    assert ops.quantize(torch.tensor([1e300, 1.0], dtype=torch.float64), dtype=codes).dequantize().isnan().all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x, minus = torch.randn(301, 3001), torch.randn(301, 3001, dtype=torch.bfloat16)
        found, expected = ops.quantize(x, minus), reference.quantize(x, minus, torch.int8)
        assert torch.equal(found.codes, expected[0])
        assert torch.equal(found.scales, expected[1])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "t"), list(strided_inputs()), ids=lambda v: v if isinstance(v, str) else "")
def test_layouts(name, t):
    for codes in CODES:
        assert_right(t, None, codes)
        assert_right(t, torch.randn(t.shape), codes)
        assert_right(torch.randn(t.shape), t, codes)


def test_large_strided_tensors_are_read_in_parts():
    a, b = torch.randn(3, 500, 400), torch.randn(3, 500, 400)
    for cut in (lambda t: t[:, 7:, :], lambda t: t[:, :, 1:], lambda t: t.transpose(0, 1), lambda t: t.transpose(1, 2)):
        assert_right(cut(a), cut(b), torch.int8)
        assert_right(cut(a), cut(b).contiguous(), torch.int8)


# ---- the pair, and what torch makes of it ----------------------------------------------------------------------------


def test_quantized_pair():
    x = torch.randn(2, 3, 40)
    for codes in CODES:
        q = ops.quantize(x, dtype=codes)
        assert q.shape == x.shape
        assert isinstance(q.shape, torch.Size)
        assert q.nbytes == x.numel() + 4 * 6
        for dtype in DTYPES:
            values = q.dequantize(dtype)
            assert values.dtype is dtype
            exact = q.codes.float().double() * q.scales.double()[..., None]
            torch.testing.assert_close(values.double(), exact, rtol=2.0**-8, atol=1e-6)
        leaves, spec = pytree.tree_flatten({"q": q})
        assert len(leaves) == 2
        again = pytree.tree_unflatten(leaves, spec)["q"]
        assert type(again) is ops.Quantized
        assert again.nbytes == q.nbytes
        codes_, scales = q
        assert torch.equal(codes_.float(), q.codes.float())
        assert torch.equal(scales, q.scales)


def test_is_a_constant_to_autograd():
    x, minus = torch.randn(2, 3, 5, requires_grad=True)
    found = ops.quantize(x, minus)
    assert not found.scales.requires_grad
    value, tangent = torch.func.jvp(lambda x: ops.quantize(x).dequantize(), (x.detach(),), (torch.ones(3, 5),))
    torch.testing.assert_close(value, ops.quantize(x).dequantize())
    assert (tangent == 0).all()
    mapped = torch.func.vmap(ops.quantize)(x.detach(), minus.detach())
    assert torch.equal(mapped.codes, found.codes)
    assert torch.equal(mapped.scales, found.scales)


def test_compiled_and_fake():
    from torch._subclasses import FakeTensorMode

    def f(x, minus, codes):
        q = ops.quantize(2 * x, minus, dtype=codes)
        return q, q.dequantize(), q.shape[0] + q.nbytes

    x, minus = torch.randn(2, 7, 9)
    for codes, compiler in itertools.product(CODES, ("aot_eager", "inductor")):
        torch.compiler.reset()
        found, values, number = torch.compile(f, fullgraph=True, backend=compiler)(x, minus, codes)
        expected = ops.quantize(2 * x, minus, dtype=codes)
        torch.testing.assert_close(values, expected.dequantize(), rtol=0.13, atol=float(expected.scales.max()))
        assert type(found) is ops.Quantized
        assert number == 7 + expected.nbytes
    with FakeTensorMode():
        assert ops.quantize(torch.empty(3, 4)).scales.shape == (3,)
    assert ops.quantize(x.to("meta")).codes.is_meta


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_bad_input():
    x = torch.zeros(2, 3)
    for args, options, error, words in [
        ((x,), {"dtype": torch.float16}, ValueError, "dtype must be torch.int8 or torch.float8_e4m3fn, got torch.fl"),
        ((x, x[:1]), {}, ValueError, r"minus is \(1, 3\) on cpu, x \(2, 3\) on cpu; expected the same"),
        ((x, x.to("meta")), {}, ValueError, "minus is .* on meta"),
        ((torch.tensor(1.0),), {}, ValueError, "at least one dimension"),
        (([1.0],), {}, TypeError, "x is a list, not a tensor"),
        ((x.int(),), {}, TypeError, r"x of shape \(2, 3\) has dtype torch.int32"),
        ((x, x.int()), {}, TypeError, "minus of shape"),
    ]:
        with pytest.raises(error, match=f"quantize: .*{words}"):
            ops.quantize(*args, **options)


@pytest.mark.skipif(backend._native is None, reason=backend.native_missing or "built")
def test_native_module_refuses_what_does_not_fit():
    x, codes, scales = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int8), torch.zeros(2)
    assert backend._native.quantize(x, None, codes, scales)
    for bad in (
        (x, None, codes[:1], scales),
        (x, None, codes, scales[:1]),
        (x, None, x, scales),
        (x, None, codes, scales.double()),
        (x, x[:1], codes, scales),
        (x, codes, codes, scales),
        (x.double(), None, codes, scales),
        (codes, None, codes, scales),
        (x[0, 0], None, codes, scales),
    ):
        assert not backend._native.quantize(*bad)
