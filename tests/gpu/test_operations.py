"""Every operation on a GPU against float64, and against what the CPU computes."""

import itertools

import pytest
import torch

from pyaccel import ops
from pyaccel.ops import backend, reference, reference_norms
from tests.ops.combinations import assert_combines, random_coefficients
from tests.tolerances import NORMAL, ROUNDING

F32, BF16, F16, F64 = DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
CODES = (torch.int8, torch.float8_e4m3fn)
SHAPES = [(1,), (3,), (2, 8), (3, 31), (2, 257), (3, 5, 7), (2, 4099), (2, 3, 8, 40)]


def off_by(t, gpu, offset):
    """``t`` on the GPU, in memory that begins so many elements after an aligned address."""
    room = torch.empty(t.numel() + offset, dtype=t.dtype, device=gpu)
    return room[offset:].view(t.shape).copy_(t)


def random(gpu, shape, *dtypes, offset=0):
    return [off_by(torch.randn(shape).to(d), gpu, offset) for d in dtypes]


def poisoned(gpu, shape, *dtypes, offset=0):
    return [off_by(torch.full(shape, float("nan")).to(d), gpu, offset) for d in dtypes]


def on_cpu(tensors):
    return [t.cpu().clone() for t in tensors]


def close(got, expected, terms=8):
    """To the rounding of the dtype; ``expected`` is in float64, of numbers of the order of one."""
    rounding = ROUNDING[got.dtype] + terms * ROUNDING[F64 if got.dtype is F64 else F32]
    torch.testing.assert_close(got.cpu().double(), expected.cpu().double(), rtol=rounding, atol=8 * rounding)


# ---- linear_combination ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_combinations(gpu, dtype, offset):
    for shape, n, k in itertools.product(SHAPES, (1, 3, 6), (1, 5)):
        ins, outs = [dtype, F32, BF16, dtype, F16][:k], [F32, dtype, BF16, dtype, dtype, F16][:n]
        tensors, c = random(gpu, shape, *ins, offset=offset), random_coefficients(n, k)
        out = poisoned(gpu, shape, *outs, offset=offset)
        assert ops.linear_combination(tensors, c, out=out)[0] is out[0]
        assert_combines(on_cpu(out), on_cpu(tensors), c)
        learned = ops.linear_combination(tensors, torch.tensor(c, dtype=F64, device=gpu), dtype=outs)
        assert_combines(on_cpu(learned), on_cpu(tensors), c)
        prepared = ops.prepare(c, ins, outs)
        assert_combines(on_cpu(prepared(tensors, poisoned(gpu, shape, *outs))), on_cpu(tensors), c)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_coefficients_of_each_sample(gpu, dtype):
    for shape, many in itertools.product([(3, 31), (2, 256), (70, 24)], (1, 40)):
        tensors, c = random(gpu, shape, *[dtype] * many), random_coefficients(shape[0], 2, many)
        for given in (c, torch.tensor(c, dtype=F64), torch.tensor(c, dtype=F64, device=gpu)):
            assert_combines(on_cpu(ops.linear_combination(tensors, given)), on_cpu(tensors), c)


@pytest.mark.parametrize("k", [64, 65, 200])
def test_many_inputs(gpu, k):
    tensors, c = random(gpu, (2, 1003), *itertools.islice(itertools.cycle((BF16, F32)), k)), random_coefficients(5, k)
    assert_combines(on_cpu(ops.linear_combination(tensors, c, dtype=F32)), on_cpu(tensors), c)
    expected, noise = on_cpu(tensors), ops.Noise([5, 6], [1, 2, 3])
    c = random_coefficients(2, 2, k + 3)
    expected += [ops.normal((2, 1003), noise.seeds, s) for s in noise.streams]
    for given in (c, torch.tensor(c, dtype=F64, device=gpu)):
        assert_combines(on_cpu(ops.linear_combination(tensors, given, dtype=F32, noise=noise)), expected, c, slack=4)


@pytest.mark.parametrize("n", [1, 4, 6])
def test_an_output_may_be_an_input(gpu, n):
    tensors, c = random(gpu, (3, 1003), *[F32] * 6), random_coefficients(n, 6)
    before = on_cpu(tensors)
    ops.linear_combination(tensors, c, out=tensors[:n])
    assert_combines(on_cpu(tensors[:n]), before, c)


def test_other_layouts(gpu):
    x = torch.randn(2, 6, 4, 8, device=gpu)
    for t in (x.to(memory_format=torch.channels_last), x.transpose(1, 3), x[:, ::2], x[:1].expand(3, 6, 4, 8)):
        c, row = random_coefficients(2, 2), torch.randn(t.shape[-1], device=gpu)
        assert_combines(on_cpu(ops.linear_combination([t, row], c)), on_cpu([t, row]), c)


def test_noise_is_that_of_the_cpu(gpu):
    """A wrong bit of a word would make other normals, not ones that are 1e-6 away."""
    for shape in [(1,), (3, 7), (2, 4099), (70, 64), (2, 3, 5, 8)]:
        seeds = [(2**61 + 12345 * i) % 2**63 for i in range(shape[0])]
        for stream, dtype in itertools.product((0, 2**40 + 5, 2**63 - 1), (F32, F64)):
            xi = ops.normal(shape, seeds, stream, device=gpu, dtype=dtype)
            assert (xi.cpu() - ops.normal(shape, seeds, stream)).abs().max() <= 2 * NORMAL
            assert (xi.cpu().double() - reference.normal(shape, seeds, stream)).abs().max() <= NORMAL
        for ins in ([F32, BF16], [F64, F32]):
            tensors, c = random(gpu, shape, *ins), random_coefficients(2, 4)
            inputs = on_cpu(tensors) + [ops.normal(shape, seeds, s) for s in (3, 4)]
            results = ops.linear_combination(tensors, c, dtype=F32, noise=ops.Noise(seeds, [3, 4]))
            assert_combines(on_cpu(results), inputs, c, slack=8)


# ---- ema_update -----------------------------------------------------------------------------------------------------


def assert_averaged(gpu, dtypes, averages, rates, shapes, offset=0):
    """Many tensors of the dtypes in turn, a list of averages for each rate, against float64."""
    params = [random(gpu, s, dtypes[i % len(dtypes)], offset=offset)[0] for i, s in enumerate(shapes)]
    ema = [[random(gpu, s, averages[i % len(averages)], offset=offset)[0] for i, s in enumerate(shapes)] for _ in rates]
    before, thetas = [on_cpu(e) for e in ema], on_cpu(params)
    ops.ema_update(ema, params, rates)
    for e, b, rate in zip(ema, before, rates, strict=True):
        for got, old, theta in zip(e, b, thetas, strict=True):
            # A difference of numbers of the order of one is formed in the accumulator.
            wide = F64 in (old.dtype, theta.dtype)
            allowed = ROUNDING[got.dtype] + 8 * ROUNDING[F64 if wide else F32]
            expected = rate * old.double() + (1 - rate) * theta.double()
            torch.testing.assert_close(got.cpu().double(), expected, rtol=allowed, atol=8 * allowed)
    assert all(torch.equal(p.cpu(), theta) for p, theta in zip(params, thetas, strict=True))


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("average", DTYPES, ids=str)
def test_averages(gpu, average, offset):
    shapes = [*SHAPES, (0,), (), (2, 0, 3), (3 * 4096 + 5,)]
    for theta, rates in itertools.product(DTYPES, ([0.9], [0.999, 0.3, 0.0, 1.0])):
        assert_averaged(gpu, [theta], [average], rates, shapes, offset)
    assert_averaged(gpu, DTYPES, [average, F32], [0.9, 0.5], shapes, offset)


def test_averages_of_more_than_a_launch_takes(gpu):
    assert_averaged(gpu, [F32, BF16, F32], [F32], [0.99, 0.9], [(i % 97,) for i in range(2500)])
    assert_averaged(gpu, [BF16], [F32, F64], [r / 16 for r in range(17)], SHAPES)


def test_averages_leave_their_neighbours_alone(gpu):
    memory = torch.full((1000,), 7.0, device=gpu)
    ema = [memory[1 + 40 * i : 1 + 40 * i + size] for i, size in enumerate((1, 3, 8, 17, 31, 39))]
    ops.ema_update(ema, [torch.ones_like(e) for e in ema], 0.5)
    assert (memory == 4).sum() == sum(e.numel() for e in ema)
    assert (memory == 7).sum() == 1000 - sum(e.numel() for e in ema)


# ---- the other operations -------------------------------------------------------------------------------------------

GATES = [(2, 1, 24, 40), (2, 3, 1, 40), (2, 1, 1, 40), (40,), (), (2, 1, 1, 1), (2, 3, 24, 1), (2, 3, 24, 40)]


@pytest.mark.parametrize("codes", [None, *CODES], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gated_combination(gpu, dtype, codes):
    for shape, offset in itertools.product(GATES, (0, 1)):
        residual, h, other = random(gpu, (2, 3, 24, 40), dtype, dtype, F32, offset=offset)
        (gate,) = random(gpu, shape, dtype, offset=offset)
        tensors = [h, other if codes is None else ops.quantize(other, dtype=codes)]
        wide = [h.double(), other.double() if codes is None else tensors[1].dequantize(F64)]
        for r, g in itertools.product((None, residual), (None, gate)):
            expected = reference.gated_combination(r, g, wide, [1.5, -0.75], F64)
            out = poisoned(gpu, h.shape, dtype, offset=offset)[0]
            close(ops.gated_combination(r, g, tensors, [1.5, -0.75], out=out), expected)
        expected = reference.gated_combination(residual, gate, wide, [1.5, -0.75], F64)
        close(ops.gated_combination(residual, gate, tensors, [1.5, -0.75], out=residual), expected)
    many = random(gpu, (3, 130), *[dtype] * 150)
    weights = (torch.randn(150) / 12).tolist()
    expected = reference.gated_combination(None, None, [t.double() for t in many], weights, F64)
    close(ops.gated_combination(None, None, many, weights), expected, terms=300)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_blend(gpu, dtype):
    for shape, offset in itertools.product(GATES, (0, 1)):
        x, image, noise = random(gpu, (2, 3, 24, 40), dtype, F32, dtype, offset=offset)
        mask = torch.rand(shape, device=gpu).to(dtype)
        expected = reference.blend(x.double(), mask.double(), image.double(), noise.double(), 0.8, 0.6)
        out = poisoned(gpu, x.shape, dtype, offset=offset)[0]
        close(ops.blend(x, mask, image, noise, 0.8, 0.6, out=out), expected)
        close(ops.blend(x, mask, image, noise, 0.8, 0.6, out=x), expected)


@pytest.mark.parametrize("dtypes", list(itertools.product(DTYPES, repeat=2)), ids=str)
def test_relative_l1(gpu, dtypes):
    for shape, offset in itertools.product([(1,), (3, 17), (5, 100003), ()], (0, 1)):
        a, b = random(gpu, shape, *dtypes, offset=offset)
        difference, size = reference.relative_l1(a.double(), b.double())
        results = [ops.relative_l1(a, b) for _ in range(3)]
        assert all(torch.equal(r, results[0]) for r in results)
        torch.testing.assert_close(results[0].double(), difference / size, rtol=1e-6, atol=0)
    parts = torch.randn(2, 6, 40, 7, device=gpu)[:, :, ::2]
    torch.testing.assert_close(ops.relative_l1(*parts), ops.relative_l1(*parts.clone()))
    zero = torch.zeros(5, device=gpu)
    assert [ops.relative_l1(*t).item() for t in [(zero, zero), (zero + 1, zero)]] == [0, float("inf")]
    assert ops.relative_l1(zero[:0], zero[:0]).item() == 0


@pytest.mark.parametrize("codes", CODES, ids=str)
def test_quantize_gives_the_codes_of_the_cpu(gpu, codes):
    shapes = [(1,), (5, 1), (3, 130), (2, 5, 1000), (3, 4096)]
    for shape, dtypes in itertools.product(shapes, itertools.product(DTYPES, repeat=2)):
        for minus, offset in itertools.product((False, True), (0, 1)):
            given = random(gpu, shape, *dtypes, offset=offset)
            if len(shape) > 1:
                given[0][0], given[1][0], given[0][-1, ..., -1] = 0, 0, float("nan")
            given = given if minus else given[:1]
            found, expected = ops.quantize(*given, dtype=codes), ops.quantize(*on_cpu(given), dtype=codes)
            assert torch.equal(found.codes.cpu().view(torch.uint8), expected.codes.view(torch.uint8))
            torch.testing.assert_close(found.scales.cpu(), expected.scales, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_threshold(gpu, dtype):
    for shape, offset, (limit, ratio) in itertools.product(
        [(1, 1), (3, 31), (2, 4096), (2, 50001), (3, 4, 40)], (0, 1), [(1.5, 0), (1e9, 0.5), (1e9, 0.9), (2.0, 0.995)]
    ):
        for values in (torch.randn(shape), torch.randn(shape).round()):
            x = off_by(values.to(dtype), gpu, offset)
            expected = reference.threshold(x.double().cpu(), limit, ratio)
            close(ops.threshold(x, limit, ratio, out=poisoned(gpu, shape, dtype, offset=offset)[0]), expected)
            close(ops.threshold(x, limit, ratio, out=x), expected)
    x = torch.randn(3, 100, device=gpu).to(dtype)
    x[1, 7] = float("nan")
    assert ops.threshold(x, 2.0, 0.9).isnan().all(1).tolist() == [False, True, False]
    assert ops.threshold(x, 2.0).isnan().sum() == 1


def wide_on_cpu(*tensors):
    return [None if t is None else t.double().cpu() for t in tensors]


@pytest.mark.parametrize("shared", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_adaln(gpu, dtype, shared):
    widths = (1, 17, 64, 264, 1152, 2048, 3072, 4099, 9000)
    for width, norm, offset in itertools.product(widths, ("layer", "rms"), (0, 1)):
        shape, options = (2, 3, width), {"norm": norm, "eps": 1e-3}
        x, branch = random(gpu, shape, dtype, dtype, offset=offset)
        for shapes in ([(2, width)] * 3, [(width,), shape, (1, 3, width), (width,), (width,)]):
            given = [random(gpu, s, shared, offset=offset)[0] for s in shapes] + [None] * (5 - len(shapes))
            g, s, t, w, b = given
            r, y = ops.gated_residual_adaln(x, g, branch, s, t, weight=w, bias=b, **options)
            assert r.dtype is y.dtype is dtype
            x64, g64, branch64, s64, t64, w64, b64 = wide_on_cpu(x, g, branch, s, t, w, b)
            close(r, x64 + (g64[:, None] if g64.dim() == 2 else g64) * branch64)
            for z, normed in ((y, r), (ops.adaln_modulate(x, s, t, weight=w, bias=b, **options), x)):
                expected = ops.adaln_modulate(*wide_on_cpu(normed), s64, t64, weight=w64, bias=b64, **options)
                close(z, expected, terms=64)


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_qk_norm_rope(gpu, dtype, interleaved):
    sizes = [(1, 2), (3, 6), (2, 16), (5, 72), (24, 128), (12, 128), (40, 128), (70, 256)]
    for (heads, width), angles, offset in itertools.product(sizes, (None, dtype, F32), (0, 1)):
        q, k = random(gpu, (2, 7, heads, width), dtype, dtype, offset=offset)
        for shape, own in itertools.product([(7, width), (2, 7, width), (1, 7, 1, width)], (width, heads * width)):
            cos, sin = (None, None) if angles is None else random(gpu, shape, angles, angles, offset=offset)
            w, v = random(gpu, (own,), dtype, F32, offset=offset)
            found = ops.qk_norm_rope(q, k, w, v, cos, sin, eps=1e-3, interleaved=interleaved)
            expected = ops.qk_norm_rope(*wide_on_cpu(q, k, w, v, cos, sin), eps=1e-3, interleaved=interleaved)
            for result, right in zip(found, expected, strict=True):
                assert result.dtype is dtype
                close(result, right, terms=64)
    q = random(gpu, (2, 7, 3, 16), dtype)[0]
    for result in ops.qk_norm_rope(q, q.transpose(1, 2).contiguous().transpose(1, 2), None, None, None, None):
        close(result, torch.nn.functional.rms_norm(q.double(), (16,), eps=1e-6), terms=64)


# ---- streams, graphs and bad input ----------------------------------------------------------------------------------


def test_work_goes_into_the_current_stream(gpu):
    x, out = torch.zeros(1 << 22, device=gpu), torch.empty(1 << 22, device=gpu)
    side = torch.cuda.Stream()
    ops.linear_combination([x], [[2.0]], out=[out])
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)
        x.fill_(3)
        ops.linear_combination([x], [[2.0]], out=[out])
    side.synchronize()
    assert (out == 6).all()


def test_graphs_record_every_operation(gpu):
    if backend.choose(gpu) != "native":
        pytest.skip("the Triton path makes small tensors on the way")
    x, residual = torch.randn(3, 1000, device=gpu), torch.randn(3, 1000, device=gpu)
    noise = ops.Noise([1, 2, 3], [4])

    def work():
        (y,) = ops.linear_combination([x, residual], [[0.5, 2.0, 0.1]], noise=noise)
        y = ops.gated_combination(y, x[:, :1], [residual, ops.quantize(y)], [1.0, 0.5])
        y = ops.threshold(ops.blend(y, x, residual, y, 0.5, 0.5), 5.0, 0.9)
        y, z = ops.gated_residual_adaln(y, x[0], residual, x[1], x[2])
        heads = z.view(1, 3, 10, 100)
        q, k = ops.qk_norm_rope(heads, heads, None, None, heads[0, :, 0], heads[0, :, 1])
        return y, q, k, ops.relative_l1(y, residual)

    work()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = work()
    for _ in range(2):
        x.normal_()
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(recorded, work(), strict=True))


def test_no_elements(gpu):
    empty = torch.empty(0, 3, device=gpu)
    assert ops.linear_combination([empty], [[1.0]])[0].shape == (0, 3)
    assert ops.gated_combination(None, None, [empty], [1.0]).shape == (0, 3)
    assert ops.blend(empty, empty, empty, empty, 1.0, 1.0).shape == (0, 3)
    assert ops.threshold(empty, 1.0, 0.5).shape == (0, 3)
    assert ops.quantize(empty).codes.shape == (0, 3)
    ops.ema_update([empty], [empty.clone()], 0.9)
    assert ops.adaln_modulate(empty, None, None).shape == (0, 3)
    heads = torch.empty(2, 0, 3, 8, device=gpu)
    assert ops.qk_norm_rope(heads, heads, *[None] * 4)[0].shape == heads.shape
    assert ops.normal((0, 3), [], device=gpu).shape == (0, 3)


def test_memory_of_another_device_is_refused(gpu):
    here, cpu = torch.ones(8, device=gpu), torch.ones(8)
    for f in (
        lambda: ops.linear_combination([here, cpu], [[1.0, 1.0]]),
        lambda: ops.linear_combination([here], [[1.0]], out=[cpu]),
        lambda: ops.gated_combination(here, cpu, [here], [1.0]),
        lambda: ops.blend(here, here, cpu, here, 1.0, 1.0),
        lambda: ops.relative_l1(here, cpu),
        lambda: ops.quantize(here, cpu),
        lambda: ops.ema_update([here], [cpu], 0.9),
        lambda: ops.adaln_modulate(here, cpu, None),
        lambda: ops.qk_norm_rope(here.view(1, 1, 1, 8), here.view(1, 1, 1, 8), cpu, cpu, None, None),
    ):
        with pytest.raises(ValueError, match=r"is on cpu|on cpu"):
            f()
    if backend.choose(gpu) == "native":
        good = ([1.0], 1, [here.data_ptr()], [0], [here.data_ptr()], [0], 8, True, (), (), gpu.index)
        backend._native.linear_combination(*good)
        for place in (2, 4):
            bad = [*good[:place], [cpu.data_ptr()], *good[place + 1 :]]
            with pytest.raises(ValueError, match=r"not of memory of GPU|cannot be used"):
                backend._native.linear_combination(*bad)


def test_another_gpu_than_the_current_one(gpu):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    other = torch.device("cuda", (gpu.index + 1) % torch.cuda.device_count())
    x = torch.randn(3, 1000, device=other)
    close(ops.linear_combination([x], [[2.0]])[0], 2 * x.double())
    assert torch.cuda.current_device() == gpu.index
    with pytest.raises(ValueError, match="is on"):
        ops.linear_combination([x, x.to(gpu)], [[1.0, 1.0]])


def test_more_than_2_to_the_31_elements(gpu):
    size = 2**31 + 11
    if torch.cuda.mem_get_info()[0] < 6 * size:
        pytest.skip("13 GB of the GPU's memory are needed")
    x = torch.zeros(size, dtype=BF16, device=gpu)
    for part in (x[:9], x[2**31 - 5 :]):
        part.normal_()
    (out,) = ops.linear_combination([x], [[2.0]], out=[torch.full_like(x, float("nan"))])
    for part in (slice(0, 9), slice(2**31 - 5, None)):
        assert torch.equal(out[part], 2 * x[part])
    assert not out.isnan().any()
    gated = ops.gated_combination(x, None, [x], [1.0], out=out)
    assert torch.equal(gated[2**31 - 5 :], 2 * x[2**31 - 5 :])


def test_the_kernels_serve_and_not_the_formula(gpu, monkeypatch):
    def formula(*args, **kwargs):
        raise AssertionError("the formula was used, not the kernel")

    for name in (
        "linear_combination",
        "gated_combination",
        "blend",
        "relative_l1",
        "quantize",
        "threshold",
        "ema_update",
    ):
        monkeypatch.setattr(reference, name, formula)
    for name in ("adaln", "norm_rope"):
        monkeypatch.setattr(reference_norms, name, formula)
    x = torch.randn(3, 64, device=gpu)
    ops.linear_combination([x, x], [[1.0, 2.0]])
    ops.gated_combination(x, x[:, :1], [x], [1.0])
    ops.blend(x, x, x, x, 1.0, 1.0)
    ops.relative_l1(x, x)
    ops.quantize(x)
    ops.ema_update([x], [x + 1], 0.9)
    ops.threshold(x, 1.0, 0.5)
    ops.gated_residual_adaln(x, x, x, x, x)
    heads = x.view(1, 3, 4, 16)
    ops.qk_norm_rope(heads, heads, None, None, heads[0, :, 0].contiguous(), heads[0, :, 1].contiguous())
