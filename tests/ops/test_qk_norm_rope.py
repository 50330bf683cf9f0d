"""``qk_norm_rope``: the promises of its docstring, against its formula in float64 and the code of diffusers."""

import itertools

import pytest
import torch

from pyaccel import ops
from pyaccel.ops import backend
from tests.tolerances import ROUNDING

F32, BF16, F16, F64 = DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def exact(x, weight, cos, sin, eps=1e-6, interleaved=True, size=False):
    """In float64, pair by pair; ``size``: with all terms positive, which is what errors are relative to."""
    v = x.detach().double()
    if weight is not None and weight.shape[0] != x.shape[-1]:
        y = torch.nn.functional.rms_norm(v.flatten(2), weight.shape, weight.double(), eps).view(v.shape)
    else:
        y = torch.nn.functional.rms_norm(v, v.shape[-1:], None if weight is None else weight.double(), eps)
    if cos is None:
        return y.abs() if size else y
    cos, sin = (t.double().reshape(-1, x.shape[1], 1, x.shape[3]).expand(v.shape) for t in (cos, sin))
    half, sign, out = x.shape[-1] // 2, -1, torch.empty_like(v)
    if size:
        y, cos, sin, sign = y.abs(), cos.abs(), sin.abs(), 1
    for i in range(half):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
        out[..., a] = y[..., a] * cos[..., a] + sign * y[..., b] * sin[..., a]
        out[..., b] = y[..., b] * cos[..., b] + y[..., a] * sin[..., b]
    return out


def assert_right(found, x, *operands, **options):
    right, size = exact(x, *operands, **options), exact(x, *operands, **options, size=True)
    wide = any(t is not None and t.dtype is F64 for t in (x, *operands))
    assert found.shape == x.shape
    assert found.dtype is x.dtype
    assert found.is_contiguous()
    allowed = 16 * ROUNDING[F64 if wide else F32] * size + ROUNDING[x.dtype] * right.abs() + 1e-7 * (x.dtype is F16)
    error = (found.double() - right).abs()
    assert (error <= allowed).all(), f"{error.max()} off, {(error / allowed).max()} times the tolerance"


def random(dtype, *shapes):
    return [None if s is None else torch.randn(s).to(dtype) for s in shapes]


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_widths_and_angles(instruction_set, dtype, interleaved):
    for width, heads in ((2, 1), (6, 3), (16, 2), (34, 3), (64, 2), (128, 5)):
        q, k = random(dtype, (2, 7, heads, width), (2, 7, 1, width))
        for angles in (None, (7, width), (2, 7, width), (1, 7, 1, width), (2, 7, 1, width)):
            cos, sin = random(F32, angles, angles)
            for w, v in (random(dtype, width, None), random(dtype, heads * width, width)):
                found = ops.qk_norm_rope(q, k, w, v, cos, sin, eps=1e-3, interleaved=interleaved)
                assert_right(found[0], q, w, cos, sin, eps=1e-3, interleaved=interleaved)
                assert_right(found[1], k, v, cos, sin, eps=1e-3, interleaved=interleaved)


def test_mixtures_of_dtypes(instruction_set):
    for a, b, c in itertools.product(DTYPES, repeat=3):
        (q,), (w,), (cos, sin) = random(a, (2, 3, 2, 18)), random(b, 36), random(c, (3, 18), (3, 18))
        for found in ops.qk_norm_rope(q, q, w, w, cos, sin):
            assert_right(found, q, w, cos, sin)


def test_many_tokens_on_several_threads():
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            q, k, w, cos, sin = random(BF16, (2, 1001, 4, 64), (2, 33, 4, 64), 64, (1001, 64), (1001, 64))
            found = ops.qk_norm_rope(q, k, w, w, None, None)
            assert_right(found[1], k, w, None, None)
            assert_right(ops.qk_norm_rope(q, q, w, w, cos, sin)[1], q, w, cos, sin)
    finally:
        torch.set_num_threads(before)


def test_layouts():
    w, cos, sin = torch.randn(16), torch.randn(16, 6).t(), torch.randn(12, 16)[::2]
    wide = torch.randn(2, 6, 3, 3, 16)
    for q in (torch.randn(2, 3, 6, 16).transpose(1, 2), wide[..., 1, :], torch.randn(1, 6, 1, 16).expand(2, 6, 3, 16),
              torch._neg_view(torch.randn(2, 6, 3, 16))):  # fmt: skip
        assert_right(ops.qk_norm_rope(q, q, w, None, cos, sin)[0], q, w, cos, sin)
    assert ops.qk_norm_rope(torch.empty(0, 3, 2, 4), torch.empty(2, 0, 2, 4), None, None, None, None)[0].numel() == 0


def test_as_in_diffusers():
    """FLUX norms each head, Wan all of them at once; both turn neighbours, other models the halves of a head."""
    from diffusers.models.embeddings import apply_rotary_emb, get_1d_rotary_pos_embed

    x = torch.randn(2, 9, 3, 24)
    cos, sin = get_1d_rotary_pos_embed(24, torch.arange(9.0), use_real=True, repeat_interleave_real=True)
    each, across = torch.nn.RMSNorm(24, eps=1e-6), torch.nn.RMSNorm(72, eps=1e-6)
    torch.nn.init.normal_(each.weight), torch.nn.init.normal_(across.weight)
    with torch.no_grad():
        flux = apply_rotary_emb(each(x), (cos, sin), sequence_dim=1)
        wan = apply_rotary_emb(across(x.flatten(2)).view(x.shape), (cos, sin), sequence_dim=1)
        found = ops.qk_norm_rope(x, x, each.weight, across.weight, cos, sin)
        torch.testing.assert_close(found, (flux, wan))
        halves = get_1d_rotary_pos_embed(24, torch.arange(9.0), use_real=True, repeat_interleave_real=False)
        right = apply_rotary_emb(each(x), halves, use_real_unbind_dim=-2, sequence_dim=1)
        found = ops.qk_norm_rope(x, x, each.weight, None, *halves, interleaved=False)[0]
        torch.testing.assert_close(found, right)


# ---- derivatives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("across", [True, False])
def test_gradients(across, interleaved):
    shapes = ((2, 3, 2, 4), (2, 3, 1, 4), 8 if across else 4, 4, (3, 4), (2, 3, 4))
    inputs = [t.requires_grad_() for t in random(F64, *shapes)]

    def f(q, k, w, v, cos, sin):
        return ops.qk_norm_rope(q, k, w, v, cos, sin, interleaved=interleaved)

    def bare(q, k):
        return ops.qk_norm_rope(q, k, None, None, None, None)

    assert torch.autograd.gradcheck(f, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, inputs)
    assert torch.autograd.gradcheck(bare, inputs[:2], check_forward_ad=True)


def test_func_transforms():
    q, dq, w, cos, sin = random(F64, (3, 2, 5, 2, 4), (3, 2, 5, 2, 4), 8, (5, 4), (5, 4))

    def f(q, w=w):
        return ops.qk_norm_rope(q, q, w, None, cos, sin)

    rows = [f(t) for t in q]
    torch.testing.assert_close(torch.func.vmap(f)(q), tuple(torch.stack(t) for t in zip(*rows, strict=True)))
    _, tangent = torch.func.jvp(f, (q[0],), (dq[0],))
    step = 1e-6
    near = [(a - b) / (2 * step) for a, b in zip(f(q[0] + step * dq[0]), f(q[0] - step * dq[0]), strict=True)]
    torch.testing.assert_close(tangent, tuple(near), rtol=1e-6, atol=1e-8)
    grad = torch.func.grad(lambda w: (f(q[0], w)[0] * dq[0]).sum())(w)
    step = step * torch.randn(8, dtype=F64)
    near = ((f(q[0], w + step)[0] - f(q[0], w - step)[0]) * dq[0]).sum() / 2
    torch.testing.assert_close((grad * step).sum(), near, rtol=1e-5, atol=1e-12)


def test_compiled():
    def f(q, w, cos, sin):
        a, b = ops.qk_norm_rope(2 * q, q, w, None, cos, sin)
        return (
            a,
            b,
            torch.func.jvp(
                lambda q: ops.qk_norm_rope(q, q, None, None, cos, sin)[0],
                (q.detach(),),
                (cos[None, :, None].expand(q.shape),),
            )[1],
        )

    for compiler in ("aot_eager", "inductor"):
        torch.compiler.reset()
        q, w, cos, sin = random(F64, (2, 3, 2, 4), 8, (3, 4), (3, 4))
        q.requires_grad_(), w.requires_grad_()
        found = torch.compile(f, fullgraph=True, backend=compiler)(q, w, cos, sin)
        expected = f(q, w, cos, sin)
        torch.testing.assert_close(found, expected)
        assert expected[2].abs().max() > 0
        grads = [torch.autograd.grad((r[0] * r[1]).sum(), (q, w)) for r in (found, expected)]
        torch.testing.assert_close(*grads)


def test_registered_operation():
    q, w, cos = torch.randn(2, 3, 2, 4, requires_grad=True), torch.randn(4, requires_grad=True), torch.randn(1, 3, 1, 4)
    torch.library.opcheck(torch.ops.pyaccel.norm_rope, (q, w, cos, cos, 1e-6, True))
    torch.library.opcheck(torch.ops.pyaccel.norm_rope, (q, None, None, None, 1e-6, False))


# ---- what is refused ------------------------------------------------------------------------------------------------

Q, W, C = torch.ones(2, 3, 2, 4), torch.ones(4), torch.ones(3, 4)


@pytest.mark.parametrize(
    ("args", "options", "error", "words"),
    [
        ((Q[0], Q, W, W, C, C), {}, ValueError, r"q is \(3, 2, 4\); expected \[B, L, H, D\]"),
        ((Q, Q[..., :3], W, None, None, None), {}, ValueError, r"k is \(2, 3, 2, 3\); expected .* D even"),
        ((Q, Q, W[:2], W, C, C), {}, ValueError, r"q_weight is \(2,\), q \(2, 3, 2, 4\); expected \(4,\) .* or \(8,\)"),
        ((Q, Q, W, W, C, None), {}, ValueError, "one of cos and sin is None"),
        ((Q, Q, W, W, C[:2], C), {}, ValueError, r"cos is \(2, 4\), which does not go with \(2, 3, 2, 4\)"),
        ((Q, Q[:, :2], W, W, C, C), {}, ValueError, r"cos is \(3, 4\), which does not go with \(2, 2, 2, 4\)"),
        ((Q, Q, W, W, C, torch.ones(3, 3, 4)), {}, ValueError, r"sin is \(3, 3, 4\)"),
        ((Q, Q, W, W, C, torch.ones(2, 3, 2, 4)), {}, ValueError, r"sin is \(2, 3, 2, 4\)"),
        ((Q, Q, W, W, C, C), {"eps": -1.0}, ValueError, "eps is -1.0"),
        ((Q.long(), Q, W, W, C, C), {}, TypeError, "q of shape .* torch.int64"),
        ((Q, None, W, W, C, C), {}, TypeError, "k is a NoneType"),
        ((Q, Q, W.to("meta"), W, C, C), {}, ValueError, "q_weight is on meta, q on cpu"),
    ],
    ids=str,
)
def test_bad_input(args, options, error, words):
    with pytest.raises(error, match=f"qk_norm_rope: .*{words}"):
        ops.qk_norm_rope(*args, **options)


def test_the_kernel_was_used(monkeypatch):
    if backend._native is None or backend.forced() not in (None, "native"):
        pytest.skip("no native kernels")

    def formula(*args):
        raise AssertionError("the formula was used")

    monkeypatch.setattr("pyaccel.ops.reference_norms.norm_rope", formula)
    for q in (Q, Q.transpose(1, 2)[:, :, :3], Q.clone().requires_grad_()):
        ops.qk_norm_rope(q, q, W, None, torch.ones(q.shape[1], 4), torch.ones(q.shape[1], 4))
