"""``threshold``: the promises of its docstring, against clamps and ``torch.quantile`` in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyaccel import ops
from pyaccel.ops import reference
from tests.ops.test_linear_combination import strided_inputs
from tests.tolerances import ROUNDING

F32, BF16, F16, F64 = DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INF, NAN = float("inf"), float("nan")


def exact(x0, limit, ratio):
    """In float64, sample by sample, by torch's own quantile."""
    wide = x0.detach().double()
    if ratio == 0:
        return wide.clamp(-limit, limit)
    flat = wide.reshape(len(wide), -1)
    s = torch.quantile(flat.abs(), ratio, dim=1, keepdim=True).clamp(1.0, max(limit, 1.0))
    return (torch.minimum(torch.maximum(flat, -s), s) / s).reshape(wide.shape)


def assert_thresholds(result, x0, limit, ratio):
    assert result.shape == x0.shape
    assert result.dtype is x0.dtype
    if ratio == 0:
        torch.testing.assert_close(result, exact(x0, limit, 0).to(x0.dtype), rtol=0, atol=0, equal_nan=True)
        return
    answer = exact(x0, limit, ratio)
    # s, rounded to the arithmetic's type, the quotient, and the result; 16-bit results have a smallest number.
    relative = 3 * ROUNDING[reference.accumulator([x0.dtype])] + ROUNDING[x0.dtype]
    torch.testing.assert_close(result.double(), answer, rtol=relative, atol=2.0**-24 if x0.dtype is F16 else 2.0**-126)


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_odd_sizes(instruction_set, dtype):
    for shape in [(1, 1), (3,), (2, 17), (1, 255), (4, 3, 7, 5), (2, 8191), (2, 8193), (3, 20_011)]:
        x0 = 2 * torch.randn(shape).to(dtype)
        for ratio in (0.0, 1e-9, 0.5, 0.995, 1 - 2.0**-53):
            for limit in (0.3, 1.5, 4.0) if x0.numel() < 1000 else (4.0,):
                before = x0.clone()
                assert_thresholds(ops.threshold(x0, limit, ratio), x0, limit, ratio)
                assert torch.equal(x0, before)
                out = x0.clone()
                assert ops.threshold(out, limit, ratio, out=out) is out
                assert_thresholds(out, x0, limit, ratio)


def test_empty_and_without_dimensions():
    for shape in [(0,), (0, 3), (2, 0)]:
        assert ops.threshold(torch.empty(shape), 1.0, 0.5).shape == shape
    assert ops.threshold(torch.tensor(3.0), 1.0) == 1.0
    assert ops.threshold(torch.tensor(-3.0, requires_grad=True), 1.0) == -1.0


def test_what_reaches_the_limit_is_exactly_one(instruction_set):
    x0 = 3 * torch.randn(2, 30_000)
    result = ops.threshold(x0, 100.0, 0.9)
    assert result.abs().max() == 1.0
    assert ((result.abs() == 1).sum(1) > 2900).all()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_quantiles_of_awkward_samples(data):
    """Few different values, values sorted, and outliers: the bracket may miss, the quantile must not.

    All are finite in every dtype: of two infinities torch.quantile makes NaN.
    """
    n = data.draw(st.sampled_from([9000, 40_001]))
    kind = data.draw(st.sampled_from(["ties", "clipped", "sorted", "outliers", "constant", "two"]))
    x = 3 * torch.randn(n)
    x = {
        "ties": (2 * x).round(),
        "clipped": x.clamp(-2.0, 2.0),
        "sorted": x.sort().values,
        "outliers": torch.where(torch.rand(n) < 0.001, 1e3 * x, 0.01 * x),
        "constant": torch.full((n,), 2.5),
        "two": torch.where(torch.arange(n) < n // 2, 2.0, 3.0),
    }[kind][None].to(data.draw(st.sampled_from(DTYPES)))
    ratio = data.draw(st.floats(0.0, 1.0, exclude_min=True, exclude_max=True) | st.sampled_from([0.5, 0.995, 0.999]))
    assert_thresholds(ops.threshold(x, 1e9, ratio), x, 1e9, ratio)


def test_a_bracket_that_misses(instruction_set):
    """Other values wherever the random sample of csrc/cpu/quantile.cpp looks than where it does not: all is selected
    from."""
    size, state, modulus = 64, 0x9E3779B97F4A7C15, 2**64
    x = torch.linspace(40.0, 50.0, 1024 * size)[None]
    for stratum in range(1024):
        state = (state * 6364136223846793005 + 1442695040888963407) % modulus
        x[0, stratum * size + (state >> 33) % size] = 2 + stratum / 1024
    for ratio in (0.001, 0.5, 0.999):
        assert_thresholds(ops.threshold(x, 1e3, ratio), x, 1e3, ratio)
    x[0, 777] = NAN
    assert ops.threshold(x, 1e3, 0.5).isnan().all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_non_temporal_stores(instruction_set, threads):
    """Many small samples, a few large ones, and one beyond the last cache that does not begin a line."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for shape, dtype in [((32, 3, 64, 64), F32), ((3, 300_001), BF16), ((1, 5_000_003), F32)]:
            x0 = 2 * torch.randn(shape).to(dtype)
            for ratio in (0.0, 0.99):
                out = torch.empty(x0.numel() + 3, dtype=dtype)[3:].view(shape)
                assert_thresholds(ops.threshold(x0, 3.0, ratio), x0, 3.0, ratio)
                assert_thresholds(ops.threshold(x0, 3.0, ratio, out=out), x0, 3.0, ratio)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("size", [40, 30_000])
def test_nan_and_infinity(instruction_set, size):
    for dtype in DTYPES:
        x = torch.randn(3, size).to(dtype)
        x[0, 3], x[1, 5], x[1, 7] = NAN, INF, -INF
        clamped = ops.threshold(x, 2.0)
        assert clamped[0, 3].isnan()
        assert clamped.isnan().sum() == 1
        assert clamped[1, 5] == -clamped[1, 7] == 2
        for kernel in (ops.threshold, reference.threshold):
            dynamic = kernel(x, 2.0, 0.995)
            assert dynamic[0].isnan().all()  # the quantile is a NaN, as torch's is
            assert not dynamic[1:].isnan().any()
            assert dynamic[1, 5] == -dynamic[1, 7] == 1
            x_inf = torch.full((1, size), INF, dtype=dtype)
            assert (kernel(x_inf, 2.0, 0.37) == 1).all()


def test_infinite_limit_is_the_papers():
    x0 = 5 * torch.randn(2, 500)
    assert_thresholds(ops.threshold(x0, INF, 0.9), x0, INF, 0.9)
    assert torch.equal(ops.threshold(x0, INF), x0)


def test_more_elements_than_some_versions_of_torch_quantile_take():
    x0 = 2 * torch.randn(1, 16_000_001)
    s = x0.abs().flatten().double().kthvalue(int(0.995 * 16_000_000) + 1).values
    torch.testing.assert_close(
        ops.threshold(x0, 100.0, 0.995).double(), x0.double().clamp(-s, s) / s, rtol=1e-6, atol=0
    )


# ---- layouts and out= -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "x"), list(strided_inputs()), ids=lambda v: v if isinstance(v, str) else "")
def test_layouts(name, x):
    for ratio in (0.0, 0.8):
        assert_thresholds(ops.threshold(x, 0.7, ratio), x, 0.7, ratio)
        out = torch.empty(x.shape)
        assert ops.threshold(x, 0.7, ratio, out=out) is out
        assert_thresholds(out, x, 0.7, ratio)


@pytest.mark.parametrize(("rank", "layout"), [(4, torch.channels_last), (5, torch.channels_last_3d)])
def test_channels_last_stays_so(rank, layout):
    x = torch.randn((2, 3, 4, 5, 6)[:rank]).to(memory_format=layout)
    for ratio in (0.0, 0.8):
        result = ops.threshold(x, 1.2, ratio)
        assert result.is_contiguous(memory_format=layout)
        assert_thresholds(result, x, 1.2, ratio)
        out = x.clone()
        assert_thresholds(ops.threshold(out, 1.2, ratio, out=out), x, 1.2, ratio)


def test_outputs_of_any_layout():
    x = torch.randn(6, 8)
    for out in (torch.empty(8, 6).t(), torch.empty(6, 16)[:, ::2], torch._neg_view(torch.empty(6, 8))):
        assert ops.threshold(x, 0.5, out=out) is out
        assert_thresholds(out, x, 0.5, 0.0)
    strided = torch.randn(8, 6).t()
    before = strided.clone()
    assert_thresholds(ops.threshold(strided, 0.5, 0.5, out=strided), before, 0.5, 0.5)


def test_version_counter_tells_autograd():
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(1, 2, 3, 4, requires_grad=True)
        saved = torch.randn(1, 2, 3, 4).to(memory_format=layout)
        product = x * saved
        ops.threshold(saved, 0.1, out=saved)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.sum().backward()


# ---- derivatives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.77])
@pytest.mark.parametrize("limit", [0.6, 1.7, 9.0])
def test_gradients(ratio, limit):
    x0 = 2 * torch.randn(3, 2, 7, dtype=F64)
    x0.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ops.threshold(x, limit, ratio), x0, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: ops.threshold(x, limit, ratio), x0)


def test_gradients_of_16_bits():
    x0 = torch.tensor([[0.5, -3.0, 2.0]], dtype=BF16, requires_grad=True)
    ops.threshold(x0, 1.5).sum().backward()
    assert x0.grad.dtype is BF16
    assert x0.grad.tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize("ratio", [0.0, 0.6])
def test_func_transforms(ratio):
    x, dx = 2 * torch.randn(4, 9, dtype=F64), torch.randn(4, 9, dtype=F64)

    def f(x):
        return ops.threshold(x, 1.8, ratio)

    value, tangent = torch.func.jvp(f, (x,), (dx,))
    jacobian = torch.func.jacrev(f)(x)
    torch.testing.assert_close(value, exact(x, 1.8, ratio))
    torch.testing.assert_close(tangent, torch.einsum("abij,ij->ab", jacobian, dx))
    assert tangent.abs().sum() > 0
    batch = torch.randn(3, 4, 9, dtype=F64)
    torch.testing.assert_close(torch.func.vmap(f)(batch), torch.stack([exact(b, 1.8, ratio) for b in batch]))
    in_place = torch.func.jvp(lambda x: ops.threshold(2 * x, 1.8, ratio, out=2 * x), (x,), (dx,))
    torch.testing.assert_close(in_place, torch.func.jvp(lambda x: f(2 * x), (x,), (dx,)))


@pytest.mark.parametrize("ratio", [0.0, 0.6])
def test_compiled(ratio):
    def f(x, out):
        y = ops.threshold(3 * x, 1.8, ratio)
        with torch.no_grad():
            ops.threshold(x, 1.8, ratio, out=out)
        return y.sin(), torch.func.jvp(lambda x: ops.threshold(x, 1.8, ratio), (x.detach(),), (torch.ones_like(x),))

    x, out = torch.randn(3, 40, dtype=F64, requires_grad=True), torch.empty(3, 40, dtype=F64)
    y, (_, tangent) = torch.compile(f, fullgraph=True, backend="aot_eager")(x, out)
    torch.testing.assert_close(out, exact(x, 1.8, ratio))
    expected = exact(3 * x, 1.8, ratio).sin()
    torch.testing.assert_close(y, expected)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    (eager,) = torch.autograd.grad(f(x, out)[0].sum(), x)
    torch.testing.assert_close(gradient, eager)
    torch.testing.assert_close(tangent, f(x, out)[1][1])
    assert gradient.abs().sum() > 0


def test_compiled_with_inductor():
    x = 2 * torch.randn(2, 300)
    for ratio in (0.0, 0.9):
        compiled = torch.compile(lambda x, ratio=ratio: ops.threshold(x, 1.5, ratio) + 1, fullgraph=True)
        torch.testing.assert_close(compiled(x).double(), exact(x, 1.5, ratio) + 1)


def test_fake_and_meta_tensors():
    from torch._subclasses import FakeTensorMode

    for meta in (False, True):
        with FakeTensorMode() if not meta else torch.device("meta"):
            x = torch.empty(2, 3, 4, dtype=BF16)
            for ratio in (0.0, 0.9):
                result = ops.threshold(x, 1.5, ratio)
                assert result.shape == x.shape
                assert result.dtype is BF16
                assert ops.threshold(x, 1.5, ratio, out=x) is x


# ---- what is refused ------------------------------------------------------------------------------------------------

X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("args", "options", "error", "words"),
    [
        ((X, 0.0), {}, ValueError, "limit is 0.0; expected a number above 0"),
        ((X, -1), {}, ValueError, "limit is -1"),
        ((X, NAN), {}, ValueError, "limit is nan"),
        ((X, torch.tensor(1.0)), {}, TypeError, "limit is a Tensor; expected a number"),
        ((X, 1.0, 1.0), {}, ValueError, "ratio is 1.0"),
        ((X, 1.0, -0.1), {}, ValueError, "ratio is -0.1"),
        ((X, 1.0, NAN), {}, ValueError, "ratio is nan"),
        ((X, 1.0, "0.5"), {}, TypeError, "ratio is a str"),
        ((X.int(), 1.0), {}, TypeError, r"x0 of shape \(2, 3\) has dtype torch.int32"),
        ((X.to(torch.complex64), 1.0), {}, TypeError, "complex64"),
        (([1.0], 1.0), {}, TypeError, "x0 is a list"),
        ((X.to_sparse(), 1.0), {}, TypeError, "layout"),
        ((torch.tensor(1.0), 1.0, 0.5), {}, ValueError, "first dimension is that of the samples"),
        ((X, 1.0), {"out": torch.ones(3, 2)}, ValueError, r"out has shape \(3, 2\).*expected those of x0: \(2, 3\)"),
        ((X, 1.0), {"out": X.double()}, ValueError, "float64"),
        ((X, 1.0), {"out": [X]}, TypeError, "out is a list"),
        ((X, 1.0), {"out": X[:1].expand(2, 3)}, ValueError, "expanded"),
        ((X, 1.0), {"out": X.clone().requires_grad_()}, ValueError, "does not support gradients"),
        ((X.clone().requires_grad_(), 1.0), {"out": X.clone()}, ValueError, "does not support gradients"),
    ],
    ids=str,
)
def test_bad_input(args, options, error, words):
    with pytest.raises(error, match=f"threshold: .*{words}"):
        ops.threshold(*args, **options)


def test_overlap_in_part_is_refused():
    memory = torch.randn(40)
    for x0, out in [(memory[:30], memory[5:35]), (memory[:36].view(6, 6), memory[:36].view(6, 6).t())]:
        with pytest.raises(ValueError, match="out overlaps x0 in part"):
            ops.threshold(x0, 1.0, out=out)
