"""Gaussian noise by seed, stream and position: as a tensor, and drawn inside of ``linear_combination``."""

import itertools
import math

import pytest
import torch

from pyaccel import ops
from pyaccel.ops import backend, reference
from tests.ops.combinations import assert_combines, random_coefficients
from tests.tolerances import NORMAL

F32, BF16, F16, F64 = DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SHAPES = [(1,), (5,), (2, 3), (3, 1, 7), (2, 63), (2, 65), (3, 255), (2, 1023), (3, 1025), (2, 4099)]
SEEDS = [7, 2**32 + 7, 2**62 + 1, 0, 2**63 - 1]


def seeds_of(shape):
    return SEEDS[: shape[0]]


def random(shape, *dtypes):
    return [torch.randn(shape).to(d) for d in dtypes]


def with_noise(tensors, shape, seeds, streams):
    return [*tensors, *(ops.normal(shape, seeds, s) for s in streams)]


# ---- the numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [0, 5, 2**32 + 5, 2**63 - 1])
def test_matches_the_reference(instruction_set, stream):
    for shape in SHAPES:
        xi = ops.normal(shape, seeds_of(shape), stream)
        assert xi.shape == shape
        assert xi.dtype is F32
        assert (xi - reference.normal(shape, seeds_of(shape), stream)).abs().max() <= NORMAL


def test_normals_of_extreme_words(instruction_set):
    """Among millions, some of the largest radii, where half a unit in the last place is a quarter of the tolerance."""
    shape = (2, 1_000_000)
    xi, exact = ops.normal(shape, [1, 2], 3), reference.normal(shape, [1, 2], 3)
    assert (xi - exact).abs().max() <= NORMAL
    assert xi.abs().max() > 4.8  # a share of 1.6e-6 lies beyond
    assert xi.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_other_dtypes_are_the_float32_numbers_rounded_or_widened(dtype):
    shape = (3, 1001)
    expected = ops.normal(shape, [1, 2, 3], 4).to(dtype)
    assert torch.equal(ops.normal(shape, [1, 2, 3], 4, dtype=dtype), expected)


def test_empty_and_meta_tensors():
    assert ops.normal((0, 3), []).shape == (0, 3)
    assert ops.normal((3, 0), [1, 2, 3]).shape == (3, 0)
    assert ops.normal((2, 3), [1, 2], device="meta").device.type == "meta"


def test_distribution():
    """Moments and Kolmogorov-Smirnov of a million numbers: bounds that one honest draw in 1e5 misses."""
    n = 1_000_000
    x = ops.normal((1, n), [2024], 7)[0].double()
    assert abs(x.mean()) < 4.5 / math.sqrt(n)
    assert abs(x.square().mean() - 1) < 4.5 * math.sqrt(2 / n)
    assert abs(x.pow(3).mean()) < 4.5 * math.sqrt(15 / n)
    assert abs(x.pow(4).mean() - 3) < 4.5 * math.sqrt(96 / n)
    cdf = 0.5 * (1 + torch.erf(x.sort().values / math.sqrt(2)))
    steps = torch.arange(n + 1, dtype=F64) / n
    distance = torch.maximum((cdf - steps[:-1]).max(), (steps[1:] - cdf).max())
    assert distance * math.sqrt(n) < 2.5  # 2 exp(-2 d^2) = 7e-6
    assert x.max() > 4.5  # 1 - (1 - 3.4e-6)^1e6 = 0.97
    assert x.min() < -4.5


def test_streams_seeds_and_positions_are_independent():
    n = 100_000
    rows = [ops.normal((3, n), [11, 12, 11 + 2**32], stream) for stream in (0, 1, 2**32)]
    x = torch.cat(rows).double()
    x = torch.cat([x, x[:1].roll(1), x[:1].roll(2), x[:1].roll(3)])
    products = x @ x.T / n
    assert (products - torch.diag(products.diagonal())).abs().max() < 5 / math.sqrt(n)
    squares = x.square() - 1
    products = squares @ squares.T / (2 * n)
    assert (products - torch.diag(products.diagonal())).abs().max() < 5 / math.sqrt(n)


# ---- inside of the combination --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_combination_with_noise(instruction_set, dtype):
    for shape in SHAPES:
        for per_sample, streams in itertools.product((False, True), ([3], [3, 2**40, 5])):
            seeds = seeds_of(shape)
            tensors = random(shape, dtype, F32)
            c = random_coefficients(*shape[:1] * per_sample, 2, 2 + len(streams))
            inputs = with_noise(tensors, shape, seeds, streams)
            noise = ops.Noise(seeds, streams)
            results = ops.linear_combination(tensors, c, noise=noise)
            assert results[0].dtype is torch.promote_types(dtype, F32)
            assert_combines(results, inputs, c)
            out = random(shape, F32, dtype)
            assert ops.linear_combination(tensors, c, noise=noise, out=out) is not None
            assert_combines(out, inputs, c)
            learned = torch.tensor(c)
            assert_combines(ops.linear_combination(tensors, learned, noise=noise), inputs, learned)


@pytest.mark.parametrize(("n", "streams"), [(1, 1), (3, 2), (6, 5), (2, 20)])
def test_many_outputs_and_streams(instruction_set, n, streams):
    shape, numbers = (3, 1500), list(range(streams))
    tensors, c = random(shape, *[BF16] * 17), random_coefficients(n, 17 + streams)
    outs = list(itertools.islice(itertools.cycle((F32, F64 if n == 3 else F16, BF16)), n))
    results = ops.linear_combination(tensors, c, dtype=outs, noise=ops.Noise(SEEDS[:3], numbers))
    assert_combines(results, with_noise(tensors, shape, SEEDS[:3], numbers), c)


def test_equal_to_the_bit_for_every_split_of_a_batch(instruction_set):
    for inner, dtype in itertools.product((1, 63, 1001, 5000), (F32, BF16, F64)):
        tensors, c = random((5, inner), dtype, dtype), random_coefficients(2, 3)
        whole = ops.linear_combination(tensors, c, noise=ops.Noise(SEEDS, [9]))
        for split in ([1, 4], [2, 3], [1] * 5):
            at = 0
            for size in split:
                part = slice(at, at + size)
                results = ops.linear_combination([t[part] for t in tensors], c, noise=ops.Noise(SEEDS[part], [9]))
                assert all(torch.equal(r, w[part]) for r, w in zip(results, whole, strict=True))
                at += size


def test_equal_to_the_bit_for_every_number_of_threads(instruction_set):
    """Threads' shares begin inside of samples, and inside of the four numbers of a block."""
    before = torch.get_num_threads()
    tensors, c = random((3, 100_003), F32, BF16), random_coefficients(2, 4)
    results = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(ops.linear_combination(tensors, c, dtype=[F32, BF16], noise=ops.Noise([1, 2, 3], [4, 5])))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_large_and_beyond_the_cache(instruction_set):
    """Non-temporal stores, and an output that is not aligned to a cache line."""
    size = 5_000_003
    x = torch.randn(1, size)
    expected = 2 * x.double() - ops.normal((1, size), [3], 1).double()
    for offset in (0, 3):
        out = torch.empty(size + offset)[offset:].view(1, size)
        ops.linear_combination([x], [[2.0, -1.0]], out=[out], noise=ops.Noise([3], [1]))
        torch.testing.assert_close(out.double(), expected, rtol=1e-6, atol=1e-6)


def layouts():
    x = torch.randn(2, 6, 4, 8)
    yield "channels last", [x.to(memory_format=torch.channels_last), x]
    yield "transposed", [x.transpose(1, 3), x.transpose(1, 3)]
    yield "sliced", [x[:, ::2, :, 1::3], x[:, ::2, :, 1::3]]
    yield "broadcast", [x, torch.randn(6, 1, 8)]
    yield "expanded", [torch.randn(2, 1, 4, 1).expand(2, 6, 4, 8), torch.randn(8)]
    yield "negated", [torch._neg_view(x), x]


@pytest.mark.parametrize(("name", "tensors"), list(layouts()), ids=lambda v: v if isinstance(v, str) else "")
def test_the_logical_position_counts(name, tensors):
    shape, noise, c = tensors[0].shape, ops.Noise([5, 6], [1, 2]), random_coefficients(2, 4)
    dense = [t.expand(shape).contiguous() for t in tensors]
    expected = ops.linear_combination([t.clone() for t in dense], c, noise=noise)
    for r, e in zip(ops.linear_combination(tensors, c, noise=noise), expected, strict=True):
        assert torch.equal(r, e)
    out = [torch.empty(shape), torch.empty(shape[::-1]).permute(3, 2, 1, 0)]
    for r, e in zip(ops.linear_combination(tensors, c, noise=noise, out=out), expected, strict=True):
        assert torch.equal(r, e)
    prepared = ops.prepare(c, [F32, F32], [F32, F32], [1, 2])
    for r, e in zip(prepared(tensors, [torch.empty(shape), torch.empty(shape)], [5, 6]), expected, strict=True):
        assert torch.equal(r, e)


@pytest.mark.parametrize("n", [1, 4, 6])
def test_an_output_may_be_an_input(instruction_set, n):
    tensors, c = random((3, 1003), *[F32] * 6), random_coefficients(n, 7)
    inputs = with_noise([t.clone() for t in tensors], (3, 1003), SEEDS[:3], [8])
    ops.linear_combination(tensors, c, out=tensors[:n], noise=ops.Noise(SEEDS[:3], [8]))
    assert_combines(tensors[:n], inputs, c)


# ---- prepare --------------------------------------------------------------------------------------------------------


def test_prepared_equals_unprepared(instruction_set):
    for ins, outs in (((F32, BF16, F32), (F32, BF16)), ((F64,), (F32,)), ((F16,) * 20, (F16,) * 6)):
        c, streams = random_coefficients(len(outs), len(ins) + 2), [1, 2**33]
        combination = ops.prepare(c, ins, outs, streams)
        assert combination.streams == streams
        for shape in [*SHAPES, (0, 3), (2, 0)]:
            tensors, out, seeds = random(shape, *ins), random(shape, *outs), seeds_of(shape)
            expected = ops.linear_combination(tensors, c, dtype=outs, noise=ops.Noise(seeds, streams))
            for given in (seeds, tuple(seeds), torch.tensor(seeds, dtype=torch.int64)):
                assert combination(tensors, out, given) is out
                assert all(torch.equal(a, b) for a, b in zip(out, expected, strict=True))


def test_prepared_refuses_wrong_seeds():
    x = torch.ones(2, 3)
    combination = ops.prepare([[1.0, 1.0]], [F32], [F32], [0])
    for seeds, error, message in [
        (None, ValueError, "give seeds="),
        ([1], ValueError, "1 seeds were given for 2 samples"),
        ([1, -1], ValueError, r"seeds\[1\] is -1"),
        ([1, 2**63], ValueError, r"seeds\[1\] is 9223372036854775808"),
        ([1, 1.5], TypeError, r"seeds\[1\] is 1.5"),
        (7, TypeError, "list of integers"),
    ]:
        with pytest.raises(error, match=message):
            combination([x], [torch.empty(2, 3)], seeds)
    for c, streams, error in [([[1.0]], [0], ValueError), ([[1.0, 1.0]], [-1], ValueError), ([[1.0]], [], None)]:
        if error is None:
            assert ops.prepare(c, [F32], [F32], streams)([x], [torch.empty(2, 3)], [1, 2])[0].equal(x)
        else:
            with pytest.raises(error):
                ops.prepare(c, [F32], [F32], streams)


# ---- gradients and transforms ---------------------------------------------------------------------------------------

NOISE = ops.Noise([1, 2, 3], [4])
FIXED = [[0.5, 0.25, 2.0], [1.0, 0.0, -1.0]]


def both(a, b):
    return torch.stack(ops.linear_combination([a, b], FIXED, noise=NOISE))


def expected_of(a, b):
    return torch.stack(ops.linear_combination([a, b, ops.normal((3, 5), NOISE.seeds, 4)], FIXED))


@pytest.mark.parametrize("sizes", [(2, 4), (3, 2, 4)], ids=["shared", "per sample"])
def test_gradients(sizes):
    tensors = [torch.randn(3, 5, dtype=F64, requires_grad=True), torch.randn(5, dtype=F64, requires_grad=True)]
    c = torch.randn(*sizes, dtype=F64, requires_grad=True)
    noise = ops.Noise([1, 2, 3], [4, 5])

    def f(c, *tensors):
        return tuple(ops.linear_combination(tensors, c, noise=noise))

    assert torch.autograd.gradcheck(f, (c, *tensors), check_batched_grad=False)
    assert torch.autograd.gradgradcheck(f, (c, *tensors))


def test_the_gradient_of_a_coefficient_of_noise_is_the_noise():
    c = torch.tensor(FIXED, requires_grad=True)
    xi = ops.normal((3, 5), NOISE.seeds, 4)
    first, _ = ops.linear_combination([torch.ones(3, 5), torch.ones(3, 5)], c, noise=NOISE)
    first.sum().backward()
    torch.testing.assert_close(c.grad, torch.tensor([[15.0, 15.0, xi.sum()], [0.0, 0.0, 0.0]]))


def test_func_transforms():
    a, b, da = random((3, 5), F32, F32, F32)
    value, tangent = torch.func.jvp(lambda a: both(a, b), (a,), (da,))
    torch.testing.assert_close(value, expected_of(a, b))
    torch.testing.assert_close(tangent, torch.stack([0.5 * da, da]))
    torch.testing.assert_close(torch.func.grad(lambda a: both(a, b).sum())(a), torch.full((3, 5), 1.5))
    # Under vmap the samples are those of the function: each call draws the noise of its seeds, as it does in a loop.
    batch = torch.randn(4, 3, 5)
    mapped = torch.func.vmap(both, in_dims=(0, None))(batch, b)
    torch.testing.assert_close(mapped, torch.stack([both(x, b) for x in batch]))
    with pytest.raises(ValueError, match="noise wants tensors of at least one dimension"):
        torch.func.vmap(lambda x: ops.linear_combination([x], [[1.0, 1.0]], noise=NOISE)[0])(torch.ones(3))


def test_forward_mode():
    from torch.autograd import forward_ad

    a, b, da = random((3, 5), F32, F32, F32)
    prepared = ops.prepare(FIXED, [F32, F32], [F32, F32], NOISE.streams)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(a, da)
        for results in (
            ops.linear_combination([dual, b], FIXED, noise=NOISE),
            prepared([dual, b], [torch.empty(3, 5), torch.empty(3, 5)], NOISE.seeds),
        ):
            value, tangent = zip(*(forward_ad.unpack_dual(r) for r in results), strict=True)
            torch.testing.assert_close(torch.stack(value), expected_of(a, b))
            torch.testing.assert_close(torch.stack(tangent), torch.stack([0.5 * da, da]))


def test_fake_tensors():
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        assert ops.normal((2, 3), [1, 2]).shape == (2, 3)
        assert ops.linear_combination([torch.empty(3, 5)], [[1.0, 1.0]], noise=NOISE)[0].shape == (3, 5)


def test_registered_operation():
    torch.library.opcheck(torch.ops.pyaccel.normal.default, ([2, 7], [1, 2**63 - 1], 3, torch.device("cpu")))


@pytest.mark.parametrize("how", ["aot_eager", "inductor"])
def test_compiled(how):
    """Other seeds, too, are right: they are not frozen into what was compiled first."""

    def f(a, b, seeds):
        return ops.linear_combination([a, b], FIXED, noise=ops.Noise(seeds, [4]))[0] + ops.normal((3, 5), seeds, 5)

    torch.compiler.reset()
    compiled = torch.compile(f, fullgraph=True, backend=how)
    a, b = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5)
    for seeds in ([1, 2, 3], [3, 2, 1], [2**62, 0, 2**40], [9, 9, 9]):
        result = compiled(a, b, seeds)
        torch.testing.assert_close(result, f(a, b, seeds))
        torch.testing.assert_close(*torch.autograd.grad(result.sum(), [a]), torch.full((3, 5), 0.5))


@pytest.mark.skipif(backend._native is None, reason=backend.native_missing or "built")
def test_native_module_refuses_what_it_cannot_check_away():
    t = torch.ones(2, 4)
    good = ([1.0, 1.0], 1, [t.data_ptr()], [0], [t.data_ptr()], [0], 4, True, [1, 2], [0])
    backend._native.linear_combination(*good)
    for place, wrong in [(8, [1, -2]), (8, [1, 2**63]), (8, 3), (8, [1.5, 2]), (9, [-1]), (9, []), (9, [0, 1]), (1, 2)]:
        bad = list(good)
        bad[place] = wrong
        with pytest.raises(ValueError, match=r"streams|seeds|coefficients"):
            backend._native.linear_combination(*bad)
