"""``adaln_modulate`` and ``gated_residual_adaln``: the promises of their docstrings, against the formula in float64."""

import itertools

import pytest
import torch

from pyaccel import ops
from pyaccel.ops import backend
from tests.ops.test_linear_combination import strided_inputs
from tests.tolerances import ROUNDING

F32, BF16, F16, F64 = DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
EPS = 1e-3


def spread(t, shape):
    """In float64, with as many dimensions as ``shape``."""
    t = t.detach().double()
    if t.dim() == 2 and len(shape) > 2:
        return t.reshape(shape[0], *[1] * (len(shape) - 2), shape[-1])
    return t


def exact(x, scale, shift, weight=None, bias=None, norm="layer", eps=EPS):
    """(y, how far it may be off for each rounding), in float64; by torch's own norms."""
    v = x.detach().double()
    width = v.shape[-1:]
    affine = [None if t is None else t.double() for t in (weight, bias)]
    if norm == "layer":
        h, centred = torch.nn.functional.layer_norm(v, width, eps=eps), v - v.mean(-1, keepdim=True)
    else:
        h, centred = torch.nn.functional.rms_norm(v, width, eps=eps), v
    one_plus = 1 if scale is None else 1 + spread(scale, v.shape)
    after = 0 if shift is None else spread(shift, v.shape)
    factor = one_plus if affine[0] is None else one_plus * affine[0]
    offset = after if affine[1] is None else one_plus * affine[1] + after
    # Where a row's numbers are nearly one, its mean is rounded and taken away from them.
    deviation = torch.sqrt(centred.square().mean(-1, keepdim=True) + eps)
    lost = v.abs().amax(-1, keepdim=True) / deviation
    size = (
        abs(factor) * (h.abs() + lost + 1) + abs(torch.as_tensor(after)) + abs(torch.as_tensor(offset)) + abs(one_plus)
    )
    return h * factor + offset, size


def assert_right(y, x, scale, shift, weight=None, bias=None, norm="layer", eps=EPS):
    right, size = exact(x, scale, shift, weight, bias, norm, eps)
    assert y.shape == x.shape
    assert y.dtype is x.dtype
    operands = [x, *(t for t in (scale, shift, weight, bias) if t is not None)]
    wide = any(t.dtype is F64 for t in operands)
    allowed = 8 * ROUNDING[F64 if wide else F32] * size + ROUNDING[y.dtype] * right.abs() + 1e-7 * (y.dtype is F16)
    error = (y.double() - right).abs()
    assert (error <= allowed).all(), f"{error.max()} off, {(error / allowed).max()} times the tolerance"


def assert_both_right(results, residual, gate, branch, scale, shift, *others, **options):
    r, y = results
    product = branch.detach().double() * (1 if gate is None else spread(gate, branch.shape))
    right = residual.detach().double() + product
    size = residual.detach().double().abs() + product.abs()
    wide = any(t is not None and t.dtype is F64 for t in (residual, gate, branch, scale, shift, *others))
    assert r.dtype is residual.dtype
    allowed = 3 * ROUNDING[F64 if wide else F32] * size + ROUNDING[r.dtype] * right.abs() + 1e-7 * (r.dtype is F16)
    assert ((r.double() - right).abs() <= allowed).all()
    if wide:  # what is float64 in the first half makes the second half so
        scale = torch.zeros(r.shape[-1], dtype=F64) if scale is None else scale.double()
    assert_right(y, r, scale, shift, *others, **options)


def random(dtype, *shapes):
    return [None if s is None else torch.randn(s).to(dtype) for s in shapes]


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_odd_widths(instruction_set, dtype, norm):
    for width in (1, 2, 7, 15, 16, 17, 63, 64, 65, 100, 255, 1152, 4099):
        shape = (2, 3, width)
        x, b, g, s, t, w, c = random(dtype, shape, shape, *[(2, width)] * 3, width, width)
        for affine in ({}, {"weight": w}, {"bias": c}, {"weight": w, "bias": c}):
            assert_right(ops.adaln_modulate(x, s, t, norm=norm, eps=EPS, **affine), x, s, t, norm=norm, **affine)
        results = ops.gated_residual_adaln(x, g, b, s, t, weight=w, bias=c, norm=norm, eps=EPS)
        assert_both_right(results, x, g, b, s, t, w, c, norm=norm)
        assert torch.equal(results[1], ops.adaln_modulate(results[0], s, t, weight=w, bias=c, norm=norm, eps=EPS))


def test_what_is_absent(instruction_set):
    x, b = torch.randn(2, 3, 5, 40), torch.randn(2, 3, 5, 40)
    for s, t, g in itertools.product((None, torch.randn(2, 40)), repeat=3):
        assert_right(ops.adaln_modulate(x, s, t, eps=EPS), x, s, t)
        assert_both_right(ops.gated_residual_adaln(x, g, b, s, t, eps=EPS), x, g, b, s, t)
    w = torch.randn(40)
    expected = torch.nn.functional.rms_norm(x, (40,), w, 1e-6)
    torch.testing.assert_close(ops.adaln_modulate(x, None, None, weight=w, norm="rms"), expected)


SHAPES = [(20,), (2, 20), (2, 1, 1, 20), (2, 3, 4, 20), (1, 3, 4, 20), (2, 3, 1, 20), (1, 3, 1, 20), (1, 1, 1, 20),
          (2, 1, 4, 20), (2, 3, 4, 1), (1, 1, 1, 1), (2, 1, 1, 1)]  # fmt: skip


@pytest.mark.parametrize("dtype", [F32, BF16, F64], ids=str)
def test_modulations_of_every_shape(instruction_set, dtype):
    x, b = random(dtype, (2, 3, 4, 20), (2, 3, 4, 20))
    for i, shape in enumerate(SHAPES):
        other, third = SHAPES[(i + 5) % len(SHAPES)], SHAPES[(i + 8) % len(SHAPES)]
        s, t, g = random(dtype, shape, other, third)
        assert_right(ops.adaln_modulate(x, s, t, eps=EPS), x, s, t)
        assert_both_right(ops.gated_residual_adaln(x, g, b, s, t, eps=EPS), x, g, b, s, t)
        expanded = s.expand(x.shape) if s.dim() != 2 else s[:, None, None].expand(x.shape)
        assert_right(ops.adaln_modulate(x, expanded, t, eps=EPS), x, s, t)
    for few in ((20,), (2, 20)):  # a matrix [B, D] has a row for each sample, of which there are as many as rows
        x, s = random(dtype, (2, 20), few)
        assert_right(ops.adaln_modulate(x, s, s, eps=EPS), x, s, s)
    x = torch.randn(20).to(dtype)
    assert_right(ops.adaln_modulate(x, x, x, eps=EPS), x, x, x)


def test_mixtures_of_dtypes(instruction_set):
    for dtypes in itertools.product(DTYPES, repeat=3):
        x, b, s = (torch.randn(n).to(d) for n, d in zip(((2, 3, 37), (2, 3, 37), (2, 37)), dtypes, strict=True))
        w, c = torch.randn(37).to(dtypes[1]), torch.randn(37).to(dtypes[0])
        assert_right(ops.adaln_modulate(x, s, s, weight=w, bias=c, eps=EPS), x, s, s, w, c)
        results = ops.gated_residual_adaln(x, s, b, None, s, weight=w, eps=EPS)
        assert_both_right(results, x, s, b, None, s, w)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_non_temporal_stores(instruction_set, threads):
    """More than the last cache holds, rows that begin a cache line and rows that do not."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for width in (1056, 1999):
            x, b, s = random(BF16, (3, 3500, width), (3, 3500, width), (3, width))
            results = ops.gated_residual_adaln(x, s, b, s, s, eps=EPS)
            y = ops.adaln_modulate(x, s, s, eps=EPS)
            for i in range(3):
                one = slice(i, i + 1)
                assert_both_right([r[one] for r in results], x[one], s[one], b[one], s[one], s[one])
                assert_right(y[one], x[one], s[one], s[one])
    finally:
        torch.set_num_threads(before)


def test_large_means_and_small_deviations(instruction_set):
    x = 1000 + 0.1 * torch.randn(4, 3072)
    assert_right(ops.adaln_modulate(x, None, None, eps=1e-6), x, None, None, eps=1e-6)
    constant = torch.full((2, 100), 3.0)
    assert (ops.adaln_modulate(constant, None, None).abs() < 1e-2).all()
    assert (ops.adaln_modulate(torch.zeros(2, 33), None, None, norm="rms") == 0).all()
    tiny = 1e-4 * torch.randn(3, 64)
    assert_right(ops.adaln_modulate(tiny, None, None, eps=0), tiny, None, None, eps=0)


def test_nan_makes_a_nan_of_its_row(instruction_set):
    x, s = torch.randn(3, 40), torch.randn(3, 40)
    x[1, 5], s[2, 7] = float("nan"), float("inf")
    y = ops.adaln_modulate(x, s, None)
    assert y.isnan().any(1).tolist() == [False, True, False]
    assert y[1].isnan().all()
    assert y.isinf().any(1).tolist() == [False, False, True]


@pytest.mark.parametrize(("name", "t"), list(strided_inputs()), ids=lambda v: v if isinstance(v, str) else "")
def test_layouts(name, t):
    others = torch.randn(t.shape), torch.randn(t.shape[-1]), torch.randn(t.shape[:1] + t.shape[-1:])
    for x, b in ((t, others[0]), (others[0], t)):
        results = ops.gated_residual_adaln(x, others[1], b, others[2] if t.dim() > 1 else None, t, eps=EPS)
        assert_both_right(results, x, others[1], b, others[2] if t.dim() > 1 else None, t)
        assert all(r.is_contiguous() for r in results)
    assert_right(ops.adaln_modulate(t, t, None, eps=EPS), t, t, None)


def test_chunks_of_one_projection():
    x = torch.randn(3, 5, 24)
    for pieces in (torch.randn(3, 6 * 24).chunk(6, dim=1), torch.randn(3, 6, 24).chunk(6, dim=1)):
        assert_both_right(ops.gated_residual_adaln(x, pieces[0], x, pieces[1], pieces[2], eps=EPS),
                          x, pieces[0], x, pieces[1], pieces[2])  # fmt: skip


def test_empty():
    for shape in ((0, 3, 4), (2, 0, 4), (2, 3, 0)):
        x = torch.empty(shape)
        assert ops.adaln_modulate(x, None, None).shape == shape
        assert [r.shape for r in ops.gated_residual_adaln(x, None, x, None, None)] == [shape, shape]


# ---- derivatives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("shape", [(6,), (2, 6), (2, 1, 6), (2, 3, 6), (1, 3, 1)], ids=str)
def test_gradients(shape, norm):
    inputs = [torch.randn(n, dtype=F64, requires_grad=True) for n in ((2, 3, 6), shape, (2, 3, 6), shape, shape, 6, 6)]

    def both(x, g, b, s, t, w, c):
        return ops.gated_residual_adaln(x, g, b, s, t, weight=w, bias=c, norm=norm, eps=EPS)

    def one(x, s, t, w):
        return ops.adaln_modulate(x, s, t, weight=w, norm=norm, eps=EPS)

    def bare(x, b):
        return ops.gated_residual_adaln(x, None, b, None, None, norm=norm, eps=EPS)

    for f, some in ((both, inputs), (one, [inputs[i] for i in (0, 3, 4, 5)]), (bare, [inputs[0], inputs[2]])):
        assert torch.autograd.gradcheck(f, some, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(f, some)


def test_gradients_have_the_dtypes_of_their_operands_and_one_result_may_go_unused():
    x, b, s = random(BF16, (2, 3, 40), (2, 3, 40), (2, 40))
    w = torch.randn(40)
    leaves = [t.requires_grad_() for t in (x, b, s, w)]
    wide = [t.detach().double().requires_grad_() for t in leaves]
    for place in (0, 1):
        for some in (leaves, wide):
            a, b, s, w = some
            ops.gated_residual_adaln(a, s, b, s, s, weight=w)[place].sum().backward()
        for t, right in zip(leaves, wide, strict=True):
            if place == 0 and t is leaves[3]:
                assert t.grad is None or not t.grad.any()
                continue
            assert t.grad.dtype is t.dtype
            torch.testing.assert_close(
                t.grad.double(), right.grad, rtol=0.03, atol=0.03 * float(right.grad.abs().max())
            )
            t.grad = right.grad = None


def test_func_transforms():
    x, b, g, s, dx, ds = random(F64, (4, 3, 5), (4, 3, 5), (4, 5), (4, 5), (4, 3, 5), (4, 5))

    def f(x, b, g, s):
        return ops.gated_residual_adaln(x, g, b, s, s, norm="rms")

    def formula(x, b, g, s):
        r = x + g.unsqueeze(-2) * b
        y = torch.nn.functional.rms_norm(r, (5,), eps=1e-6)
        return r, y * (1 + s.unsqueeze(-2)) + s.unsqueeze(-2)

    for function in (f, formula):
        given, changes = (x, b, g, s), (dx, x, ds, s)
        found = (
            torch.func.jvp(function, given, changes),
            torch.func.vmap(lambda x, b, g, s, h=function: h(x[None], b[None], g[None], s[None]))(*given),
            torch.func.grad(lambda x, h=function: h(x, b, g, s)[1].square().sum())(x),
            torch.func.grad(lambda x, h=function: torch.func.jvp(lambda x: h(x, b, g, s), (x,), (dx,))[1][1].sum())(x),
        )
        if function is f:
            mine = found
    for a, right in zip(torch.utils._pytree.tree_leaves(mine), torch.utils._pytree.tree_leaves(found), strict=True):
        torch.testing.assert_close(a.reshape(right.shape) if a.numel() == right.numel() else a, right)
        assert a.abs().max() > 0


def test_compiled():
    def f(x, b, g, s, w):
        y = ops.adaln_modulate(2 * x, s, None, weight=w)
        r, z = ops.gated_residual_adaln(y, g, b, s, s, bias=w, norm="rms")
        return r, z, torch.func.jvp(lambda x: ops.adaln_modulate(x, s.detach(), None), (x.detach(),), (b.detach(),))[1]

    for compiler in ("aot_eager", "inductor"):
        torch.compiler.reset()
        x, b, g, s, w = (t.requires_grad_() for t in random(F64, (2, 3, 5), (2, 3, 5), (2, 5), (2, 1, 5), 5))
        results = torch.compile(f, fullgraph=True, backend=compiler)(x, b, g, s, w)
        expected = f(x, b, g, s, w)
        torch.testing.assert_close(results, expected)
        assert expected[2].abs().max() > 0
        grads = [torch.autograd.grad(sum((r * r).sum() for r in rs), (x, b, g, s, w)) for rs in (results, expected)]
        torch.testing.assert_close(*grads)
        x, s = x.detach(), s.detach()[0, 0]
        batched = torch.func.vmap(lambda x, s: ops.adaln_modulate(x, s, None), in_dims=(0, None))
        compiled = torch.compile(batched, fullgraph=True, backend=compiler)
        torch.testing.assert_close(compiled(x, s), ops.adaln_modulate(x, s, None))


def test_registered_operation():
    x, s = torch.randn(2, 3, 5, requires_grad=True), torch.randn(2, 1, 5, requires_grad=True)
    for branch in (None, torch.randn(2, 3, 5)):
        torch.library.opcheck(torch.ops.pyaccel.adaln, (x, None, branch, s, s, None, None, False, 1e-6))


def test_fake_and_meta_tensors():
    from torch._subclasses import FakeTensorMode

    for meta in (False, True):
        with FakeTensorMode() if not meta else torch.device("meta"):
            x, s = torch.empty(2, 3, 4, dtype=BF16), torch.empty(2, 4)
            for result in (ops.adaln_modulate(x, s, s), *ops.gated_residual_adaln(x, s, x, s, s)):
                assert result.shape == x.shape
                assert result.dtype is BF16


# ---- what is refused ------------------------------------------------------------------------------------------------

X = torch.ones(2, 3, 4)
S = torch.ones(2, 4)


@pytest.mark.parametrize(
    ("args", "options", "error", "words"),
    [
        ((X, S, S), {"norm": "batch"}, ValueError, "norm is 'batch'; expected one of 'layer', 'rms'"),
        ((X, S, S), {"eps": -1e-6}, ValueError, "eps is -1e-06; expected a number not below 0"),
        ((X, S, S), {"eps": float("nan")}, ValueError, "eps is nan"),
        ((X, S, S), {"eps": torch.tensor(1.0)}, TypeError, "eps is a Tensor; expected a number"),
        ((X, S[:1], S), {}, ValueError, r"scale is \(1, 4\), .* \(2, 3, 4\); expected \(4,\), \(2, 4\)"),
        ((X, torch.ones(3, 4), None), {}, ValueError, r"scale is \(3, 4\)"),
        ((X, torch.ones(1), None), {}, ValueError, r"scale is \(1,\)"),
        ((X, torch.ones(()), None), {}, ValueError, r"scale is \(\)"),
        ((X, None, torch.ones(1, 2, 3, 4)), {}, ValueError, r"shift is \(1, 2, 3, 4\)"),
        ((X, S, S), {"weight": S}, ValueError, r"weight is \(2, 4\); expected \(4,\), the width of x"),
        ((X, S, S), {"bias": torch.ones(1)}, ValueError, r"bias is \(1,\)"),
        ((X.long(), S, S), {}, TypeError, r"x of shape \(2, 3, 4\) has dtype torch.int64"),
        ((X, S.bool(), S), {}, TypeError, "scale of shape .* torch.bool"),
        ((X, 1.0, S), {}, TypeError, "scale is a float, not a tensor"),
        ((None, S, S), {}, TypeError, "x is a NoneType, not a tensor"),
        ((X[0, 0, 0], None, None), {}, ValueError, "x must have at least one dimension"),
        ((X, S.to("meta"), S), {}, ValueError, "scale is on meta, x on cpu"),
        ((X.to_sparse(), S, S), {}, TypeError, "x has layout"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_input(args, options, error, words):
    with pytest.raises(error, match=f"adaln_modulate: .*{words}"):
        ops.adaln_modulate(*args, **options)


@pytest.mark.parametrize(
    ("args", "error", "words"),
    [
        ((X, S, X[:1], S, S), ValueError, r"branch is \(1, 3, 4\), residual \(2, 3, 4\); expected the same"),
        ((X, S, None, S, S), TypeError, "branch is a NoneType"),
        ((None, S, X, S, S), TypeError, "residual is a NoneType"),
        ((X, torch.ones(3), X, S, S), ValueError, r"gate is \(3,\)"),
    ],
    ids=str,
)
def test_bad_input_with_a_branch(args, error, words):
    with pytest.raises(error, match=f"gated_residual_adaln: .*{words}"):
        ops.gated_residual_adaln(*args)


def test_the_kernel_was_used(monkeypatch):
    """Dense tensors without gradients do not come by the formula."""
    if backend._native is None or backend.forced() not in (None, "native"):
        pytest.skip("no native kernels")

    def formula(*args):
        raise AssertionError("the formula was used")

    monkeypatch.setattr("pyaccel.ops.reference_norms.adaln", formula)
    for x in (X, X.transpose(0, 1), X.clone().requires_grad_()):
        ops.adaln_modulate(x, torch.ones(x.shape[0], 4), torch.ones(4))
        ops.gated_residual_adaln(
            x, torch.ones(x.shape[0], 4), x, torch.ones(x.shape), torch.ones(1, 3 - x.dim() + x.shape[1], 4)
        )
