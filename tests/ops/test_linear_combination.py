"""``linear_combination`` and ``prepare``: the promises of their docstrings, against float64."""

import itertools
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyaccel import ops
from pyaccel.ops import backend
from tests.ops.combinations import assert_combines, exact, random_coefficients

F32, BF16, F16, F64 = DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
X = torch.ones(2, 3)
SHAPES = [(), (1,), (3,), (17,), (255,), (1000,), (4099,), (0,), (2, 0, 3), (3, 5, 7)]


def random(shape, *dtypes):
    return [torch.randn(shape).to(d) for d in dtypes]


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_odd_sizes(instruction_set, dtype):
    for shape in SHAPES:
        tensors, c = random(shape, dtype, dtype, dtype), random_coefficients(2, 3)
        assert_combines(ops.linear_combination(tensors, c), tensors, c)
        out = random(shape, dtype, dtype)
        assert ops.linear_combination(tensors, c, out=out)[0] is out[0]
        assert_combines(out, tensors, c)


def test_mixtures_of_dtypes(instruction_set):
    for ins in itertools.product(DTYPES, repeat=2):
        for outs in ((F32, BF16, F16), (F64, BF16, F32, F16)):
            tensors, c = random((3, 41), *ins), random_coefficients(len(outs), 2)
            results = ops.linear_combination(tensors, c, dtype=outs)
            assert tuple(r.dtype for r in results) == outs
            assert_combines(results, tensors, c)


@pytest.mark.parametrize("n", range(1, 7))
@pytest.mark.parametrize("k", [1, 2, 5, 16, 17, 64, 70])
def test_counts(instruction_set, n, k):
    tensors, c = random((2, 133), *itertools.islice(itertools.cycle((F32, BF16, F16)), k)), random_coefficients(n, k)
    outs = list(itertools.islice(itertools.cycle((F32, F16, BF16)), n))
    assert_combines(ops.linear_combination(tensors, c, dtype=outs), tensors, c)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_calls(data):
    k, n = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 6))
    shape = data.draw(st.lists(st.integers(0, 9), max_size=4))
    per_sample = bool(shape) and data.draw(st.booleans())
    ins, outs = (data.draw(st.lists(st.sampled_from(DTYPES), min_size=m, max_size=m)) for m in (k, n))
    c = torch.randn(*(shape[:1] if per_sample else ()), n, k, dtype=torch.float64)
    tensors = random(shape, *ins)
    listed = c if (per_sample and shape[0] == 0) or data.draw(st.booleans()) else c.tolist()
    assert_combines(ops.linear_combination(tensors, listed, dtype=outs), tensors, c)
    out = random(shape, *outs)
    assert_combines(ops.linear_combination(tensors, listed, out=out), tensors, c)


def test_coefficients_per_sample(instruction_set):
    for shape in [(4, 3, 3), (5, 1), (3,), (7, 257)]:
        for dtype in (F32, BF16, F64):
            tensors, c = random(shape, dtype, F32), random_coefficients(shape[0], 2, 2)
            assert_combines(ops.linear_combination(tensors, c), tensors, c)
            assert_combines(ops.linear_combination(tensors, torch.tensor(c)), tensors, torch.tensor(c))


def test_default_dtype_is_the_promoted_one():
    for a, b in itertools.product(DTYPES, repeat=2):
        (result,) = ops.linear_combination(random(3, a, b), [[1.0, 1.0]])
        assert result.dtype is torch.promote_types(a, b)


def test_threads_and_non_temporal_stores(instruction_set):
    """More than the last cache holds, with an odd end and outputs that are not aligned to a cache line."""
    size = 5_000_003
    tensors = random(size, F32, BF16)
    for outs, offset in (((F32, BF16), 0), ((F32,), 3)):
        c = random_coefficients(len(outs), 2)
        out = [torch.empty(size + offset, dtype=d)[offset:] for d in outs]
        ops.linear_combination(tensors, c, out=out)
        wide = torch.stack([t.double() for t in tensors])
        for row, o in zip(c, out, strict=True):
            answer = torch.einsum("k,ke->e", torch.tensor(row, dtype=F64), wide)
            torch.testing.assert_close(o.double(), answer, rtol=2.0**-8 if o.dtype is BF16 else 1e-6, atol=1e-6)


def test_large_samples_of_their_own(instruction_set):
    """The threads' shares do not end where samples do."""
    tensors, c = random((3, 100_001), F32, F32), random_coefficients(3, 1, 2)
    assert_combines(ops.linear_combination(tensors, c), tensors, c)


def test_float64_is_exact():
    """Coefficients and sums keep 53 bits: no float32 anywhere on the way."""
    a, b = torch.full((9,), 1.0, dtype=F64), torch.full((9,), 2.0**-40, dtype=F64)
    (result,) = ops.linear_combination([a, b], [[1.0, 1 + 2.0**-10]])
    assert (result == 1 + 2.0**-40 + 2.0**-50).all()
    (result,) = ops.linear_combination([torch.ones(9)], [[1 + 2.0**-40]], dtype=F64)
    assert (result == 1 + 2.0**-40).all()


def test_accumulates_in_float32(instruction_set):
    one, small = torch.ones(40, dtype=BF16), torch.full((40,), 2.0**-9, dtype=BF16)
    (result,) = ops.linear_combination([one, small, small], [[1.0, 1.0, 1.0]], dtype=F32)
    assert (result == 1 + 2.0**-8).all()


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_rounds_to_nearest_even(instruction_set, dtype):
    """Every tie, its neighbours, subnormal and huge numbers and infinities round as torch rounds them."""
    bits = torch.randint(-(2**31), 2**31, (200_000,), dtype=torch.int64).to(torch.int32)
    ties = (torch.arange(0x10000, dtype=torch.int64) << 16).to(torch.int32)
    lowest = {BF16: 15, F16: 12}[dtype]  # the bit just below the last that is kept
    ties = torch.cat([ties, ties | (1 << lowest), (ties | (1 << lowest)) + 1, (ties | (1 << lowest)) - 1])
    x = torch.cat([bits, ties]).view(F32)
    if dtype is BF16:
        x = x[(x.abs() >= 2.0**-126) | (x == 0) | x.isnan()]  # results below may be flushed to zero
    (result,) = ops.linear_combination([x], [[1.0]], dtype=dtype)
    torch.testing.assert_close(result, x.to(dtype), rtol=0, atol=0, equal_nan=True)


def test_subnormal_bfloat16_results_are_rounded_or_zero(instruction_set):
    x = torch.tensor([2.0**-130, -(2.0**-127), 2.0**-149] * 11)
    (result,) = ops.linear_combination([x], [[1.0]], dtype=BF16)
    assert ((result == x.to(BF16)) | (result == 0)).all()


def test_nan_and_infinity_propagate(instruction_set):
    nan, inf = float("nan"), float("inf")
    for dtype in DTYPES:
        x = torch.tensor([nan, inf, -inf, 1.0, 0.0] * 9).to(dtype)
        y = torch.tensor([1.0, 1.0, inf, nan, 2.0] * 9).to(dtype)
        (result,) = ops.linear_combination([x, y], [[2.0, 1.0]])
        torch.testing.assert_close(result, 2 * x + y, equal_nan=True)
        (result,) = ops.linear_combination([x, y], [[0.0, 1.0]])
        assert result.isnan()[:4].tolist() == [True, True, True, True]


def test_every_16_bit_number_is_read_right(instruction_set):
    for dtype in (BF16, F16):
        x = torch.arange(0x10000, dtype=torch.int32).to(torch.int16).view(dtype)
        (result,) = ops.linear_combination([x], [[1.0]], dtype=F32)
        torch.testing.assert_close(result, x.float(), rtol=0, atol=0, equal_nan=True)


def test_kinds_of_numbers():
    numpy = pytest.importorskip("numpy")
    x = random(5, F32, F32)
    expected = ops.linear_combination(x, [[2.0, 1.0]])[0]
    given = ([[2, 1]], [[2, True]], ((2.0, 1.0),), [(2, 1)], numpy.array([[2.0, 1.0]]), [[numpy.float32(2), 1.0]])
    for c in (*given, torch.tensor([[2.0, 1.0]]), torch.tensor([[2.0, 1.0]], dtype=F16)):
        torch.testing.assert_close(ops.linear_combination(tuple(x), c)[0], expected)


# ---- layouts --------------------------------------------------------------------------------------------------------


def strided_inputs():
    x = torch.randn(2, 6, 4, 8)
    yield "transposed", x.transpose(1, 3)
    yield "sliced", x[:, ::2, :, 1::3]
    yield "offset", x[1:, 1:]
    yield "expanded", torch.randn(1, 6, 1, 8).expand(2, 6, 4, 8)
    yield "channels last", x.to(memory_format=torch.channels_last)
    yield "negated", torch.randn(3, 5, dtype=torch.complex64).conj().imag
    yield "negated and dense", torch._neg_view(torch.randn(3, 5))
    yield "negated, of one element", torch.randn(5, dtype=torch.complex64).conj().imag[:1]
    yield "zeros without memory", torch._efficientzerotensor((3, 5))
    yield "parameter", torch.nn.Parameter(torch.randn(4), requires_grad=False)


@pytest.mark.parametrize(("name", "x"), list(strided_inputs()), ids=lambda v: v if isinstance(v, str) else "")
def test_layouts(name, x):
    tensors, c = [x, torch.randn(x.shape)], random_coefficients(2, 2)
    assert_combines(ops.linear_combination(tensors, c), tensors, c)
    assert_combines(ops.linear_combination(tensors[::-1], c), tensors[::-1], c)
    into = [torch.empty(x.shape), torch.empty(x.shape)]
    assert_combines(ops.linear_combination(tensors, c, out=into), tensors, c)
    combination = ops.prepare(c, [F32, F32], [F32, F32])
    assert_combines(combination(tensors, [torch.empty(x.shape), torch.empty(x.shape)]), tensors, c)


@pytest.mark.parametrize(("rank", "layout"), [(4, torch.channels_last), (5, torch.channels_last_3d)])
def test_channels_last_stays_so(rank, layout):
    shape = (2, 3, 4, 5, 6)[:rank]
    x = torch.randn(shape).to(memory_format=layout)
    tensors = [x, torch.randn(shape), torch.randn(3, *[1] * (rank - 2))]
    c = random_coefficients(2, 2, 3)
    results = ops.linear_combination(tensors, c, dtype=[F32, BF16])
    assert all(r.is_contiguous(memory_format=layout) for r in results)
    assert_combines(results, tensors, c)
    out = [torch.empty_like(x), torch.empty(shape)]
    assert_combines(ops.linear_combination(tensors, c, out=out), tensors, c)


def test_broadcasting():
    tensors = [torch.randn(4, 1, 5), torch.randn(3, 1), torch.randn(())]
    for c in (random_coefficients(2, 3), random_coefficients(4, 2, 3)):
        assert_combines(ops.linear_combination(tensors, c), tensors, c)


def test_outputs_of_any_layout():
    x = torch.randn(6, 8)
    c = random_coefficients(1, 1)
    for out in (torch.empty(8, 6).t(), torch.empty(6, 16)[:, ::2], torch._neg_view(torch.empty(6, 8))):
        assert ops.linear_combination([x], c, out=[out])[0] is out
        assert_combines([out], [x], c)


# ---- out= -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 4, 5, 6])
def test_outputs_may_be_inputs(instruction_set, n):
    for shape in [(1003,), (40, 5)]:
        tensors, c = random(shape, *[F32] * 6), random_coefficients(n, 6)
        before = [t.clone() for t in tensors]
        out = tensors[6 - n :][::-1]
        assert_combines(ops.linear_combination(tensors, c, out=out), before, c)
    tensors, c = random((7, 9), *[F32] * 6), random_coefficients(7, n, 6)
    before = [t.clone() for t in tensors]
    assert_combines(ops.linear_combination(tensors, c, out=tensors[:n]), before, c)


def test_output_may_be_a_strided_input():
    x, y = torch.randn(5, 7).t(), torch.randn(7, 5)
    before, c = [x.clone(), y.clone()], random_coefficients(2, 2)
    assert_combines(ops.linear_combination([x, y], c, out=[x, y]), before, c)


def test_version_counter_tells_autograd():
    """Backward through a tensor that out= has overwritten since must fail, not be silently wrong."""
    for other_layout in (False, True):
        x, saved = torch.randn(4, 3, requires_grad=True), torch.randn(3, 4).t() if other_layout else torch.randn(4, 3)
        product = x * saved
        with torch.no_grad():
            ops.linear_combination([torch.ones(4, 3)], [[1.0]], out=[saved])
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.sum().backward()


# ---- prepare --------------------------------------------------------------------------------------------------------


def test_prepared_equals_unprepared(instruction_set):
    for ins, outs in (((F32, BF16, F32), (F32, BF16)), ((F64,), (F32,)), ((F16,) * 20, (F16,) * 6)):
        c = random_coefficients(len(outs), len(ins))
        combination = ops.prepare(c, ins, outs)
        for shape in SHAPES:
            tensors, out = random(shape, *ins), random(shape, *outs)
            assert combination(tensors, out) is out
            assert_combines(out, tensors, c)
            assert_combines(combination(tuple(tensors), tuple(out)), tensors, c)


def test_prepared_takes_what_the_unprepared_takes():
    """Other layouts, dtypes and shapes than the fast call serves are right too, or refused with the same words."""
    c = random_coefficients(1, 2)
    combination = ops.prepare(c, [F32, F32], [F32])
    for tensors, out in [
        ([torch.randn(4, 3).t(), torch.randn(3, 4)], torch.empty(3, 4)),
        ([torch.randn(3, 4).bfloat16(), torch.randn(3, 4)], torch.empty(3, 4)),
        ([torch.randn(3, 4), torch.randn(4)], torch.empty(3, 4)),
        ([torch.randn(3, 4), torch.randn(3, 4)], torch.empty(4, 3, dtype=F64).t()),
    ]:
        assert_combines(combination(tensors, [out]), tensors, c)
    for tensors, out, error in [
        ([X], [torch.empty(2, 3)], ValueError),
        ([X, X], [], ValueError),
        ([X, X], [torch.empty(3, 2)], ValueError),
        ([X, torch.ones(4)], [torch.empty(2, 3)], ValueError),
        ([X, None], [torch.empty(2, 3)], TypeError),
        ([X, X], [X.to("meta")], ValueError),
        ([X, X], [X.to_sparse()], TypeError),
        ([X.clone().requires_grad_(), X], [torch.empty(2, 3)], ValueError),
    ]:
        with pytest.raises(error, match="linear_combination"):
            combination(tensors, out)


def test_prepared_on_meta_tensors_touches_nothing():
    out = [torch.empty(5, device="meta")]
    assert ops.prepare([[1.0]], [F32], [F32])([torch.ones(5, device="meta")], out) is out


def test_prepare_checks():
    for c, ins, outs, error in [
        ([[1.0]], [F32, F32], [F32], ValueError),
        ([[1.0]], [F32], [F32, F32], ValueError),
        ([], [], [], ValueError),
        ([[]], [], [F32], ValueError),
        ([[float("inf")]], [F32], [F32], ValueError),
        ([[1.0]], [torch.int8], [F32], TypeError),
        ([[1.0]], [F32], [torch.complex64], TypeError),
    ]:
        with pytest.raises(error):
            ops.prepare(c, ins, outs)


@pytest.mark.skipif(backend._native is None, reason=backend.native_missing or "built")
def test_reading_tensors_by_their_attributes_is_the_same(monkeypatch):
    """What versions of torch without DLPack's C functions do."""
    try:
        assert not backend.read_tensors(dlpack=False)
        test_prepared_takes_what_the_unprepared_takes()
        for _, x in strided_inputs():
            test_layouts("", x)
        for shape in SHAPES:
            tensors, c = random(shape, F32, BF16, F64), random_coefficients(1, 3)
            assert_combines(ops.linear_combination(tensors, c, out=random(shape, F16)), tensors, c)
    finally:
        backend.read_tensors()


def test_threads_may_share_a_prepared_combination():
    c = random_coefficients(2, 3)
    combination = ops.prepare(c, [F32] * 3, [F32] * 2)
    failures = []

    def work(seed):
        try:
            generator = torch.Generator().manual_seed(seed)
            for size in (5, 1000, 40_000) * 5:
                tensors = [torch.randn(size, generator=generator) for _ in range(3)]
                assert_combines(combination(tensors, [torch.empty(size), torch.empty(size)]), tensors, c)
                assert_combines(ops.linear_combination(tensors, c), tensors, c)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


# ---- gradients ------------------------------------------------------------------------------------------------------


def learned(*sizes):
    return torch.randn(*sizes, dtype=F64, requires_grad=True)


@pytest.mark.parametrize("sizes", [(2, 3), (4, 2, 3)], ids=["shared", "per sample"])
def test_gradients(sizes):
    tensors, c = [learned(4, 5), learned(4, 1), learned(5)], learned(*sizes)
    fixed = c.detach().tolist()

    def of_all(c, *tensors):
        return tuple(ops.linear_combination(tensors, c))

    def of_tensors(*tensors):
        return tuple(ops.linear_combination(tensors, fixed))

    assert torch.autograd.gradcheck(of_all, (c, *tensors), check_batched_grad=False)
    assert torch.autograd.gradgradcheck(of_all, (c, *tensors))
    assert torch.autograd.gradcheck(of_tensors, tensors)
    assert torch.autograd.gradgradcheck(of_tensors, tensors)


def test_gradients_have_the_tensors_dtypes_and_reach_only_what_asks():
    a, b = torch.randn(7, dtype=BF16, requires_grad=True), torch.randn(7)
    c = torch.randn(2, 2, requires_grad=True)
    first, _second = ops.linear_combination([a, b], c)
    first.sum().backward()  # the second output is not used
    assert a.grad.dtype is BF16
    torch.testing.assert_close(a.grad.float(), c[0, 0].detach().expand(7), rtol=2.0**-8, atol=0)
    torch.testing.assert_close(c.grad, torch.stack([torch.stack([a.float().sum(), b.sum()]), torch.zeros(2)]).detach())
    assert b.grad is None


def test_no_graph_where_none_is_wanted():
    a = torch.randn(5, requires_grad=True)
    with torch.no_grad():
        assert not ops.linear_combination([a], [[1.0]])[0].requires_grad
    with torch.inference_mode():
        x = torch.randn(5)
        (result,) = ops.linear_combination([a, x], [[1.0, 2.0]])
        assert result.is_inference()
        torch.testing.assert_close(result, a + 2 * x)
        out = [torch.empty(5)]
        ops.prepare([[1.0, 2.0]], [F32, F32], [F32])([a, x], out)
        torch.testing.assert_close(out[0], result)
        ops.linear_combination([x, result], [[1.0, 1.0]], out=out)
    torch.testing.assert_close(ops.linear_combination([x.clone()], [[1.0]], out=[torch.empty(5)])[0], x)


# ---- transforms -----------------------------------------------------------------------------------------------------

FIXED = [[2.0, -1.0], [0.5, 3.0]]


def both(a, b):
    return torch.stack(ops.linear_combination([a, b], FIXED))


def test_func_transforms():
    a, b, da = torch.randn(3), torch.randn(3), torch.randn(3)
    expected = torch.tensor(FIXED)
    value, tangent = torch.func.jvp(lambda a: both(a, b), (a,), (da,))
    torch.testing.assert_close(value, both(a, b))
    torch.testing.assert_close(tangent, expected[:, :1] * da)
    jacobian = expected[:, 0, None, None] * torch.eye(3)
    torch.testing.assert_close(torch.func.jacfwd(both)(a, b), jacobian)
    torch.testing.assert_close(torch.func.jacrev(both)(a, b), jacobian)
    torch.testing.assert_close(torch.func.grad(lambda a: both(a, b).sum())(a), torch.full((3,), 2.5))
    batch = torch.randn(4, 3)
    torch.testing.assert_close(
        torch.func.vmap(both, in_dims=(0, None))(batch, b), torch.stack([both(x, b) for x in batch])
    )
    hessian = torch.func.hessian(lambda a: both(a * a, b).sum())(a)
    torch.testing.assert_close(hessian, 2 * 2.5 * torch.eye(3))


def test_func_transforms_of_coefficients():
    a, b = torch.randn(3), torch.randn(3)

    def of(c):
        return torch.stack(ops.linear_combination([a, b], c))

    c = torch.randn(2, 2)
    stacked = torch.stack([a, b])
    value, tangent = torch.func.jvp(of, (c,), (torch.ones_like(c),))
    torch.testing.assert_close(value, c @ stacked)
    torch.testing.assert_close(tangent, torch.ones_like(c) @ stacked)
    many = torch.randn(5, 2, 2)
    torch.testing.assert_close(torch.func.vmap(of)(many), many @ stacked)
    torch.testing.assert_close(torch.func.grad(lambda c: of(c).sum())(c), stacked.sum(1).expand(2, 2))


def test_forward_mode():
    from torch.autograd import forward_ad

    a, b, da = torch.randn(3), torch.randn(3), torch.randn(3)
    combination = ops.prepare(FIXED, [F32, F32], [F32, F32])
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(a, da)
        results = ops.linear_combination([dual, b], FIXED)
        into = ops.linear_combination([dual, b], FIXED, out=[torch.empty(3), torch.empty(3)])
        prepared = combination([dual, b], [torch.empty(3), torch.empty(3)])
        for route in (results, into, prepared):
            for i, result in enumerate(route):
                torch.testing.assert_close(forward_ad.unpack_dual(result).tangent, FIXED[i][0] * da)


def test_jvp_of_a_gradient_path():
    """A tangent must not be lost where gradients are required as well."""
    a, b = torch.randn(3, requires_grad=True), torch.randn(3)
    _, tangent = torch.func.jvp(lambda a: both(a, b), (a,), (torch.ones(3),))
    torch.testing.assert_close(tangent, torch.tensor(FIXED)[:, :1].expand(2, 3))


def test_fake_and_meta_tensors():
    from torch._subclasses import FakeTensorMode

    for meta in (False, True):
        with FakeTensorMode() if not meta else torch.device("meta"):
            a, b = torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.empty(3, 1, 1, dtype=BF16)
            results = ops.linear_combination([a, b], FIXED, dtype=[F32, F16])
            assert [r.dtype for r in results] == [F32, F16]
            assert all(r.shape == a.shape and r.is_contiguous(memory_format=torch.channels_last) for r in results)
            out = [torch.empty_like(a), torch.empty_like(a)]
            assert ops.linear_combination([a, b], FIXED, out=out)[1] is out[1]


# ---- torch.compile --------------------------------------------------------------------------------------------------


def test_registered_operation():
    operator = torch.ops.pyaccel.linear_combination.default
    for tensors, c, dtypes in [
        (random((2, 3), F32, BF16), torch.randn(2, 2), [F32, F16]),
        (
            [torch.randn(2, 3, requires_grad=True), torch.randn(3, 2).t()],
            torch.randn(2, 1, 2, requires_grad=True),
            [F32],
        ),
        ([torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)], torch.randn(1, 1, dtype=F64), [F32]),
    ]:
        torch.library.opcheck(operator, (tensors, c, [backend.CODES[d] for d in dtypes]))


def test_compiled_forward_and_backward():
    def loss(a, b, c):
        first, second = ops.linear_combination([a, b], FIXED)
        (third,) = ops.linear_combination([first * second, b], c)
        return (third.sin() + ops.linear_combination([a, b], [[1.0, 1.0], [5.0, 5.0]])[0]).sum()

    tensors = [learned(4, 3), learned(3), learned(4, 1, 2)]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got, expected = compiled(*tensors), loss(*tensors)
    torch.testing.assert_close(got, expected)
    for x, y in zip(torch.autograd.grad(got, tensors), torch.autograd.grad(expected, tensors), strict=True):
        torch.testing.assert_close(x, y)


def test_compiled_transforms():
    """jvp and vmap inside of the compiled function: a tangent is a tangent, not a silent zero."""

    def f(a, b, da):
        _, tangent = torch.func.jvp(lambda a: both(a, b).sin(), (a,), (da,))
        return tangent, torch.func.vmap(both, in_dims=(0, None))(torch.stack([a, b]), b)

    a, b, da = random(3, F32, F32, F32)
    got = torch.compile(f, fullgraph=True, backend="aot_eager")(a, b, da)
    for x, y in zip(got, f(a, b, da), strict=True):
        torch.testing.assert_close(x, y)
    assert got[0].abs().max() > 0


def test_compiled_with_inductor_and_out():
    def f(a, b, out):
        ops.linear_combination([a, b], [[2.0, 1.0]], out=[out])
        return out + ops.linear_combination([a.t(), b.t()], FIXED)[1].t()

    a, b = random((3, 5), F32, F32)
    out = torch.empty(3, 5)
    with torch.no_grad():
        result = torch.compile(f, fullgraph=True)(a, b, out)
    torch.testing.assert_close(out, 2 * a + b)
    torch.testing.assert_close(result, 2.5 * a + 4 * b)


def test_exact_owes_nothing_to_the_code():
    """The reference of these tests, on numbers done by hand."""
    values, magnitudes = exact([torch.tensor([1.0, -2.0]), torch.tensor([3.0, 4.0])], [[2.0, -1.0]])
    assert values[0].tolist() == [-1.0, -8.0]
    assert magnitudes[0].tolist() == [5.0, 8.0]
