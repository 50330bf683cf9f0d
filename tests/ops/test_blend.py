"""``blend``: the promises of its docstring, against its formula in float64."""

import itertools

import pytest
import torch

from pyaccel import ops
from pyaccel.ops import reference
from tests.ops.test_linear_combination import strided_inputs
from tests.tolerances import tolerance

F32, BF16, F16, F64 = DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ALPHA, SIGMA = 0.8, -0.6


def some(shape, *dtypes):
    """x, mask, image and noise; the mask has zeros, ones and numbers between."""
    dtypes = dtypes * 4 if len(dtypes) == 1 else dtypes
    x, image, noise = (torch.randn(shape).to(d) for d in (dtypes[0], *dtypes[2:]))
    return x, (2 * torch.rand(shape) - 0.5).clamp(0, 1).to(dtypes[1]), image, noise


def assert_blends(result, x, mask, image, noise, alpha=ALPHA, sigma=SIGMA):
    assert result.shape == x.shape
    assert result.dtype is x.dtype
    tensors = [t.detach().double() for t in (x, mask, image, noise)]
    answer = blended(*tensors, alpha, sigma)
    magnitude = blended(tensors[0].abs(), tensors[1], tensors[2].abs(), tensors[3].abs(), abs(alpha), abs(sigma))
    allowed = tolerance(x.dtype, reference.accumulator([t.dtype for t in (x, mask, image, noise)]), magnitude, 5)
    error = (result.double() - answer).abs()
    assert (error <= allowed).all(), f"{error.max()} off, {(error / allowed).max()} times the tolerance"


def blended(x, mask, image, noise, alpha, sigma):
    return mask * x + (1 - mask) * (alpha * image + sigma * noise)


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_odd_sizes(instruction_set, dtype):
    for shape in [(), (1,), (3,), (17,), (255,), (4099,), (0,), (2, 0, 3), (3, 5, 7)]:
        tensors = some(shape, dtype)
        assert_blends(ops.blend(*tensors, ALPHA, SIGMA), *tensors)
        for place in range(4):
            before = [t.clone() for t in tensors]
            out = before[place]
            assert ops.blend(*before, ALPHA, SIGMA, out=out) is out
            assert_blends(out, *tensors)


def test_mixtures_of_dtypes(instruction_set):
    for dtypes in itertools.product(DTYPES, repeat=4):
        tensors = some((3, 29), *dtypes)
        assert_blends(ops.blend(*tensors, ALPHA, SIGMA), *tensors)


SHARED = [(1, 1, 24, 20), (2, 1, 24, 20), (24, 20), (1, 24, 20), (2, 3, 1, 20), (20,), (1,), (), (2, 1, 1, 1),
          (1, 3, 1, 1), (1, 3, 24, 20), (2, 1, 24, 1), (1, 3, 1, 20)]  # fmt: skip


@pytest.mark.parametrize("shape", SHARED, ids=str)
def test_shared_masks(instruction_set, shape):
    for dtype, layout in itertools.product((F32, BF16, F64), (torch.contiguous_format, torch.channels_last)):
        x, _, image, noise = (t.to(memory_format=layout) for t in some((2, 3, 24, 20), dtype))
        mask = torch.rand(shape).round().to(dtype)
        for m in (mask, mask.expand(x.shape), mask.expand(x.shape).contiguous()):
            result = ops.blend(x, m, image, noise, ALPHA, SIGMA)
            assert_blends(result, x, m, image, noise)
            assert result.is_contiguous(memory_format=layout)
            out = x.clone()
            assert_blends(ops.blend(out, m, image, noise, ALPHA, SIGMA, out=out), x, m, image, noise)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zeros_and_ones_of_the_mask_are_exact(instruction_set, dtype):
    for size in (5, 1000):
        x, _, image, noise = some(size, dtype)
        mask = torch.rand(size).round().to(dtype)
        result = ops.blend(x, mask, image, noise, ALPHA, SIGMA)
        known = ops.blend(torch.zeros_like(x), torch.zeros_like(x), image, noise, ALPHA, SIGMA)
        assert torch.equal(result, torch.where(mask == 1, x, known))
        assert torch.equal(ops.blend(x, mask, image, noise, 1.0, 0.0), torch.where(mask == 1, x, image))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_non_temporal_stores(instruction_set, threads):
    """More than the last cache holds, runs of the mask that end inside of a thread's share, an output off a line."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x, _, image, noise = some((5, 3, 999, 211), F32)
        for mask in (torch.rand(5, 1, 999, 211), torch.rand(999, 211), torch.rand(5, 3, 999, 211)):
            out = torch.empty(x.numel() + 1)[1:].view(x.shape)
            for result in (
                ops.blend(x, mask, image, noise, ALPHA, SIGMA, out=out),
                ops.blend(x, mask, image, noise, 1, 2),
            ):
                numbers = (ALPHA, SIGMA) if result is out else (1, 2)
                answer = blended(x, mask, image, noise, *numbers)
                torch.testing.assert_close(result, answer, rtol=1e-5, atol=1e-5)
    finally:
        torch.set_num_threads(before)


def test_nan_propagates(instruction_set):
    for place in range(4):
        tensors = list(some(50, F32))
        tensors[place][7] = float("nan")
        assert ops.blend(*tensors, ALPHA, SIGMA).isnan().tolist() == [i == 7 for i in range(50)]


# ---- layouts and out= -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "t"), list(strided_inputs()), ids=lambda v: v if isinstance(v, str) else "")
def test_layouts(name, t):
    for place in range(4):
        tensors = list(some(t.shape, F32))
        tensors[place] = t.clamp(0, 1) if place == 1 and t.dim() else t
        tensors[1] = tensors[1].abs().clamp(0, 1)
        assert_blends(ops.blend(*tensors, ALPHA, SIGMA), *tensors)
        out = torch.empty(t.shape)
        assert ops.blend(*tensors, ALPHA, SIGMA, out=out) is out
        assert_blends(out, *tensors)


def test_outputs_of_any_layout():
    tensors = some((6, 8), F32)
    for out in (torch.empty(8, 6).t(), torch.empty(6, 16)[:, ::2], torch._neg_view(torch.empty(6, 8))):
        assert ops.blend(*tensors, ALPHA, SIGMA, out=out) is out
        assert_blends(out, *tensors)


def test_version_counter_tells_autograd():
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(1, 2, 3, 4, requires_grad=True)
        saved, *others = (t.to(memory_format=layout) for t in some((1, 2, 3, 4), F32))
        product = x * saved
        ops.blend(saved, *others, ALPHA, SIGMA, out=saved)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.sum().backward()


# ---- derivatives ----------------------------------------------------------------------------------------------------


def test_gradients():
    x, mask, image, noise = (t.requires_grad_() for t in some((2, 3, 4), F64))
    mask = torch.rand(3, 1, dtype=F64, requires_grad=True)

    def f(*tensors):
        return ops.blend(*tensors, ALPHA, SIGMA)

    assert torch.autograd.gradcheck(f, (x, mask, image, noise), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, (x, mask, image, noise))


def test_func_transforms():
    x, mask, image, noise = some((4, 5), F64)
    dx, dimage = torch.randn(2, 4, 5, dtype=F64)

    def f(x, image):
        return ops.blend(x, mask, image, noise, ALPHA, SIGMA)

    value, tangent = torch.func.jvp(f, (x, image), (dx, dimage))
    torch.testing.assert_close(value, blended(x, mask, image, noise, ALPHA, SIGMA))
    torch.testing.assert_close(tangent, mask * dx + (1 - mask) * ALPHA * dimage)
    many = torch.randn(3, 4, 5, dtype=F64)
    torch.testing.assert_close(
        torch.func.vmap(f, (0, None))(many, image), blended(many, mask, image, noise, ALPHA, SIGMA)
    )
    torch.testing.assert_close(torch.func.grad(lambda x: f(x, image).sum())(x), mask)


def test_compiled():
    def f(x, mask, image, noise, out):
        with torch.no_grad():
            ops.blend(x, mask, image, noise, 1.0, 0.5, out=out)
        y = ops.blend(2 * x, mask, image, noise, ALPHA, SIGMA)
        return y, torch.func.jvp(
            lambda x: ops.blend(x, mask, image, noise, 1.0, 1.0), (x.detach(),), (torch.ones_like(x),)
        )

    x, _, image, noise = some((3, 4, 5), F64)
    mask, out = torch.rand(5, dtype=F64), torch.empty(3, 4, 5, dtype=F64)
    x.requires_grad_()
    for compiler in ("aot_eager", "inductor"):
        torch.compiler.reset()
        y, (_, tangent) = torch.compile(f, fullgraph=True, backend=compiler)(x, mask, image, noise, out)
        torch.testing.assert_close(out, blended(x.detach(), mask, image, noise, 1.0, 0.5))
        torch.testing.assert_close(y, blended(2 * x, mask, image, noise, ALPHA, SIGMA))
        torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], (2 * mask).expand(x.shape))
        torch.testing.assert_close(tangent, mask.expand(x.shape))


def test_fake_and_meta_tensors():
    from torch._subclasses import FakeTensorMode

    for meta in (False, True):
        with FakeTensorMode() if not meta else torch.device("meta"):
            x = torch.empty(2, 3, 4, dtype=BF16)
            result = ops.blend(x, torch.empty(4), x, x, 1.0, 1.0)
            assert result.shape == x.shape
            assert result.dtype is BF16
            assert ops.blend(x, x, x, x, 1.0, 1.0, out=x) is x


# ---- what is refused ------------------------------------------------------------------------------------------------

X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("args", "options", "error", "words"),
    [
        ((X, X, X, torch.ones(3), 1, 1), {}, ValueError, r"noise has shape \(3,\), x \(2, 3\)"),
        ((X, X, X[:1], X, 1, 1), {}, ValueError, r"image has shape \(1, 3\)"),
        ((X, torch.ones(2), X, X, 1, 1), {}, ValueError, r"mask of shape \(2,\) does not broadcast to x, \(2, 3\)"),
        ((X, torch.ones(1, 2, 3), X, X, 1, 1), {}, ValueError, "does not broadcast"),
        ((X, X.bool(), X, X, 1, 1), {}, TypeError, r"mask of shape \(2, 3\) has dtype torch.bool"),
        ((X.int(), X, X, X, 1, 1), {}, TypeError, "x of shape .* torch.int32"),
        ((X, X, X, None, 1, 1), {}, TypeError, "noise is a NoneType"),
        ((X, X, X.to_sparse(), X, 1, 1), {}, TypeError, "image has layout"),
        ((X, X.to("meta"), X, X, 1, 1), {}, ValueError, "mask is on meta, x on cpu"),
        ((X, X, X, X, float("nan"), 1), {}, ValueError, "alpha is nan; expected a finite number"),
        ((X, X, X, X, 1, float("inf")), {}, ValueError, "sigma is inf"),
        ((X, X, X, X, 1, torch.tensor(1.0)), {}, TypeError, "sigma is a Tensor; expected a number"),
        ((X, X, X, X, 1, 1), {"out": torch.ones(3)}, ValueError, r"out has shape \(3,\)"),
        ((X, X, X, X, 1, 1), {"out": X.half()}, ValueError, "float16"),
        ((X, X, X, X, 1, 1), {"out": X[:1].expand(2, 3)}, ValueError, "expanded"),
        ((X, X.clone().requires_grad_(), X, X, 1, 1), {"out": X.clone()}, ValueError, "does not support gradients"),
    ],
    ids=str,
)
def test_bad_input(args, options, error, words):
    with pytest.raises(error, match=f"blend: .*{words}"):
        ops.blend(*args, **options)


def test_overlap_in_part_is_refused():
    memory = torch.rand(40)
    for place, name in enumerate(["x", "mask", "image", "noise"]):
        tensors = list(some(30, F32))
        tensors[place] = memory[:30]
        with pytest.raises(ValueError, match=f"out overlaps {name} in part"):
            ops.blend(*tensors, ALPHA, SIGMA, out=memory[5:35])
    x = torch.rand(4, 20)
    with pytest.raises(ValueError, match="out overlaps mask in part"):
        ops.blend(x.clone(), x[1], x.clone(), x.clone(), ALPHA, SIGMA, out=x)
