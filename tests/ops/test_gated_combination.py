"""``gated_combination``: the promises of its docstring, against its formula in float64."""

import itertools

import pytest
import torch

from pyaccel import ops
from pyaccel.ops import reference
from tests.ops.test_linear_combination import strided_inputs
from tests.tolerances import tolerance

F32, BF16, F16, F64 = DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
CODES = (torch.int8, torch.float8_e4m3fn)
WEIGHTS = [1.5, -0.75, 0.25]


def random(shape, *dtypes):
    return [torch.randn(shape).to(d) for d in dtypes]


def value(t):
    """In float64; owes nothing to the code that is tested."""
    if isinstance(t, tuple):
        return t[0].float().double() * t[1].double()[..., None]
    return t.detach().double()


def exact(residual, gate, tensors, weights, function=lambda x: x):
    total = sum(
        function(torch.tensor(w, dtype=F64)) * function(value(t)) for w, t in zip(weights, tensors, strict=True)
    )
    total = total if gate is None else function(value(gate)) * total
    return total if residual is None else function(value(residual)) + total


def assert_right(result, residual, gate, tensors, weights):
    answer = exact(residual, gate, tensors, weights)
    magnitude = exact(residual, gate, tensors, weights, torch.abs)
    assert result.shape == answer.shape
    operands = [t for t in (residual, gate, result, *tensors) if isinstance(t, torch.Tensor)]
    accumulator = reference.accumulator([t.dtype for t in operands])
    allowed = tolerance(result.dtype, accumulator, magnitude, len(tensors) + 4)
    error = (result.double() - answer).abs()
    assert (error <= allowed).all(), f"{error.max()} off, {(error / allowed).max()} times the tolerance"


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_odd_sizes(instruction_set, dtype):
    for shape in [(), (1,), (3,), (17,), (255,), (4099,), (0,), (2, 0, 3), (3, 5, 7), (2, 300)]:
        residual, gate, *tensors = random(shape, *[dtype] * 5)
        for r, g in itertools.product((None, residual), (None, gate)):
            result = ops.gated_combination(r, g, tensors, WEIGHTS)
            assert result.dtype is dtype
            assert_right(result, r, g, tensors, WEIGHTS)
            for place in range(3 if r is None else 4):
                copies = [None if t is None else t.clone() for t in (*tensors, r)]
                out = copies[place]
                assert ops.gated_combination(copies[3], g, copies[:3], WEIGHTS, out=out) is out
                assert torch.equal(out, result)


def test_mixtures_of_dtypes(instruction_set):
    for dtypes in itertools.product(DTYPES, repeat=4):
        residual, gate, *tensors = random((3, 29), *dtypes)
        result = ops.gated_combination(residual, gate, tensors, WEIGHTS[:2])
        assert result.dtype is residual.dtype
        assert_right(result, residual, gate, tensors, WEIGHTS[:2])
        out = torch.empty(3, 29, dtype=dtypes[-1])
        assert_right(ops.gated_combination(residual, None, tensors, [1, -2], out=out), residual, None, tensors, [1, -2])
        assert ops.gated_combination(None, gate, tensors, [1, 1]).dtype is torch.promote_types(*dtypes[2:])


GATES = [(2, 1, 24, 20), (2, 3, 1, 20), (2, 1, 1, 20), (20,), (1,), (), (2, 1, 1, 1), (2, 3, 24, 1), (2, 3, 1, 1),
         (3, 24, 20), (1, 3, 1, 20), (1, 1, 24, 1), (2, 3, 24, 20)]  # fmt: skip


@pytest.mark.parametrize("shape", GATES, ids=str)
@pytest.mark.parametrize("codes", [None, *CODES], ids=str)
def test_gates_in_their_own_shape(instruction_set, shape, codes):
    for dtype, layout in itertools.product((F32, BF16, F64), (torch.contiguous_format, torch.channels_last)):
        residual, *tensors = (t.to(memory_format=layout) for t in random((2, 3, 24, 20), *[dtype] * 3))
        gate = torch.randn(shape).to(dtype)
        if codes is not None:
            tensors[1] = ops.quantize(tensors[1], dtype=codes)
        for g in (gate, gate.expand(residual.shape), gate.expand(residual.shape).contiguous()):
            result = ops.gated_combination(residual, g, tensors, WEIGHTS[:2])
            assert_right(result, residual, g, tensors, WEIGHTS[:2])
            assert result.is_contiguous(memory_format=layout if codes is None else torch.contiguous_format)
            out = residual.clone()
            assert ops.gated_combination(out, g, tensors, WEIGHTS[:2], out=out) is out
            assert_right(out, residual, g, tensors, WEIGHTS[:2])


@pytest.mark.parametrize("codes", CODES, ids=str)
@pytest.mark.parametrize("shape", [(7,), (5, 1), (2, 3, 17), (3, 130), (2, 5, 1000), (4, 0), (0, 4)], ids=str)
def test_quantized(instruction_set, codes, shape):
    for dtype in DTYPES:
        residual, gate, *tensors = random(shape, *[dtype] * 5)
        tensors[1:] = [ops.quantize(t, dtype=codes) for t in tensors[1:]]
        result = ops.gated_combination(residual, gate, tensors, WEIGHTS)
        assert result.dtype is dtype
        assert_right(result, residual, gate, tensors, WEIGHTS)
        pairs = tensors[1:]
        result = ops.gated_combination(None, None, pairs, [2.0, 0.5])
        assert result.dtype is F32
        assert_right(result, None, None, pairs, [2.0, 0.5])


def test_every_code(instruction_set):
    bits = torch.arange(256, dtype=torch.uint8).repeat(3)[:763]
    for codes in CODES:
        found = ops.gated_combination(None, None, [ops.Quantized(bits.view(codes), torch.tensor(0.5))], [2.0])
        torch.testing.assert_close(found, bits.view(codes).float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("k", [1, 2, 16, 17, 64, 70])
def test_counts(instruction_set, k):
    residual, gate, *tensors = random((2, 3, 133), *itertools.islice(itertools.cycle((F32, BF16, F16)), k + 2))
    tensors[::3] = [ops.quantize(t) for t in tensors[::3]]
    weights = torch.randn(k).tolist()
    assert_right(ops.gated_combination(residual, gate, tensors, weights), residual, gate, tensors, weights)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_non_temporal_stores(instruction_set, threads):
    """More than the last cache holds, rows that end inside of a thread's share, rows and an output off a line."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for width in (1056, 1999):
            residual, h = random((3, 2750, width), BF16, BF16)
            q = ops.quantize(h)
            for gate in (torch.randn(3, 1, width), torch.randn(3, 2750, 1)):
                out = torch.empty(h.numel() + 1, dtype=BF16)[1:].view(h.shape)
                ops.gated_combination(residual, gate, [h, q], [1.0, -0.5], out=out)
                result = ops.gated_combination(residual, gate, [h, q], [1.0, -0.5])
                assert torch.equal(out, result)
                for b in range(3):
                    assert_right(result[b], residual[b], gate[b], [h[b], (q.codes[b], q.scales[b])], [1.0, -0.5])
    finally:
        torch.set_num_threads(before)


def test_nan_propagates(instruction_set):
    for place in range(4):
        operands = random(50, F32, F32, F32, F32)
        operands[place][7] = float("nan")
        residual, gate, *tensors = operands
        assert ops.gated_combination(residual, gate, tensors, [1, 0]).isnan().tolist() == [i == 7 for i in range(50)]
    q = ops.quantize(torch.stack([torch.ones(20), torch.full((20,), float("inf"))]))
    assert ops.gated_combination(None, None, [q], [1.0]).isnan().all(dim=1).tolist() == [False, True]


# ---- layouts and out= -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "t"), list(strided_inputs()), ids=lambda v: v if isinstance(v, str) else "")
def test_layouts(name, t):
    for place, codes in itertools.product(range(3), (None, torch.int8)):
        operands = random(t.shape, F32, F32, F32, F32)
        operands[place] = t
        residual, gate, *tensors = operands
        if codes is not None:
            tensors[1] = ops.quantize(tensors[1])
        assert_right(ops.gated_combination(residual, gate, tensors, [2, -1]), residual, gate, tensors, [2, -1])
        out = torch.empty(t.shape)
        assert ops.gated_combination(residual, gate, tensors, [2, -1], out=out) is out
        assert_right(out, residual, gate, tensors, [2, -1])


def test_strided_pairs():
    q = ops.quantize(torch.randn(4, 6, 40))
    for pair in (ops.Quantized(q.codes[:, ::2], q.scales[:, ::2]),
                 ops.Quantized(q.codes.transpose(0, 1), q.scales.t())):  # fmt: skip
        assert_right(ops.gated_combination(None, None, [pair], [3.0]), None, None, [pair], [3.0])


def test_outputs_of_any_layout():
    residual, gate, h = random((6, 8), F32, F32, F32)
    for out in (torch.empty(8, 6).t(), torch.empty(6, 16)[:, ::2], torch._neg_view(torch.empty(6, 8))):
        assert ops.gated_combination(residual, gate, [h], [2.0], out=out) is out
        assert_right(out, residual, gate, [h], [2.0])


def test_version_counter_tells_autograd():
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(1, 2, 3, 4, requires_grad=True)
        saved, h = (t.to(memory_format=layout) for t in random((1, 2, 3, 4), F32, F32))
        product = x * saved
        ops.gated_combination(saved, None, [h], [1.0], out=saved)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.sum().backward()


# ---- derivatives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", [(2, 1, 4), (4,), (2, 3, 4), ()], ids=str)
def test_gradients(gate):
    q = ops.quantize(torch.randn(2, 3, 4))
    inputs = [torch.randn(s, dtype=F64, requires_grad=True) for s in ((2, 3, 4), gate, (2, 3, 4))]

    def f(residual, gate, h):
        return ops.gated_combination(residual, gate, [h, q, h], WEIGHTS)

    assert torch.autograd.gradcheck(f, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, inputs)


def test_gradient_of_the_scales():
    codes, scales = ops.quantize(torch.randn(3, 5))
    scales.requires_grad_()
    ops.gated_combination(None, None, [ops.Quantized(codes, scales)], [2.0]).sum().backward()
    torch.testing.assert_close(scales.grad, 2 * codes.float().sum(1))


def test_func_transforms():
    residual, h, dh = random((4, 3, 5), F64, F64, F64)
    gate, q = torch.randn(4, 1, 5, dtype=F64), ops.quantize(torch.randn(4, 3, 5))

    def f(residual, gate, h, q=q):
        return ops.gated_combination(residual, gate, [h, q], [2.0, -1.0])

    expected, tangent = torch.func.jvp(f, (residual, gate, h), (residual, 2 * gate, dh))
    torch.testing.assert_close(expected, exact(residual, gate, [h, q], [2.0, -1.0]))
    torch.testing.assert_close(tangent, residual + 2 * gate * (2 * h - value(q)) + gate * 2 * dh)
    torch.testing.assert_close(torch.func.vmap(f)(residual, gate, h, q), expected)
    torch.testing.assert_close(torch.func.vmap(f, (0, None, 0, None))(
        torch.stack([residual] * 2), gate, torch.stack([h] * 2), q)[1], expected)  # fmt: skip
    torch.testing.assert_close(torch.func.grad(lambda h: f(residual, gate, h).sum())(h), (2 * gate).expand(h.shape))


def test_compiled():
    q = ops.quantize(torch.randn(3, 4, 5))

    def f(residual, gate, h, q, out):
        with torch.no_grad():
            ops.gated_combination(residual, gate, [h, q], [1.0, 0.5], out=out)
        y = ops.gated_combination(residual, gate, [2 * h, q], [1.0, 2.0])
        return y, torch.func.jvp(
            lambda h: ops.gated_combination(None, gate.detach(), [h, q], [3.0, 1.0]),
            (h.detach(),),
            (torch.ones_like(h),),
        )

    for codes, compiler in itertools.product(CODES, ("aot_eager", "inductor")):
        torch.compiler.reset()
        q = ops.quantize(torch.randn(3, 4, 5), dtype=codes)
        residual, h = random((3, 4, 5), F64, F64)
        gate, out = torch.randn(3, 1, 5, dtype=F64), torch.empty(3, 4, 5, dtype=F64)
        h.requires_grad_()
        y, (_, tangent) = torch.compile(f, fullgraph=True, backend=compiler)(residual, gate, h, q, out)
        torch.testing.assert_close(out, exact(residual, gate, [h, q], [1.0, 0.5]))
        torch.testing.assert_close(y, exact(residual, gate, [2 * h, q], [1.0, 2.0]))
        torch.testing.assert_close(torch.autograd.grad(y.sum(), h)[0], (2 * gate).expand(h.shape))
        torch.testing.assert_close(tangent, (3 * gate).expand(h.shape))


def test_fake_and_meta_tensors():
    from torch._subclasses import FakeTensorMode

    for meta in (False, True):
        with FakeTensorMode() if not meta else torch.device("meta"):
            x = torch.empty(2, 3, 4, dtype=BF16)
            q = ops.quantize(x)
            result = ops.gated_combination(x, torch.empty(4), [x, q], [1.0, 1.0])
            assert result.shape == x.shape
            assert result.dtype is BF16
            assert ops.gated_combination(x, None, [x, q], [1.0, 1.0], out=x) is x


# ---- what is refused ------------------------------------------------------------------------------------------------

X = torch.ones(2, 3)
Q = ops.quantize(X)


@pytest.mark.parametrize(
    ("args", "options", "error", "words"),
    [
        ((X, None, [X], [1, 2]), {}, ValueError, "1 tensors and 2 weights"),
        ((X, None, [], []), {}, ValueError, "0 tensors and 0 weights; expected one or more"),
        ((X, None, [X, X[:1]], [1, 1]), {}, ValueError, r"tensors\[1\] is \(1, 3\), tensors\[0\] \(2, 3\)"),
        ((X[0], None, [X], [1]), {}, ValueError, r"residual is \(3,\), tensors\[0\] \(2, 3\)"),
        ((X, X[:, 0], [X], [1]), {}, ValueError, r"gate of shape \(2,\) does not broadcast to the tensors, \(2, 3\)"),
        ((X, X[None], [X], [1]), {}, ValueError, "does not broadcast"),
        ((X, None, [X], [float("nan")]), {}, ValueError, r"weights\[0\] is nan; expected a finite number"),
        ((X, None, [X, X], [1, torch.tensor(1.0)]), {}, TypeError, r"weights\[1\] is a Tensor; expected a number"),
        ((X, None, [X], torch.ones(1)), {}, TypeError, "expected a list of numbers"),
        ((X, None, X, [1, 1]), {}, TypeError, r"write \[tensor\]"),
        ((X, None, Q, [1, 1]), {}, TypeError, r"write \[tensor\]"),
        ((X.long(), None, [X], [1]), {}, TypeError, r"residual of shape \(2, 3\) has dtype torch.int64"),
        ((X, None, [Q.codes], [1]), {}, TypeError, r"tensors\[0\] of shape \(2, 3\) has dtype torch.int8"),
        ((X, None, [(X, X)], [1]), {}, TypeError, r"tensors\[0\] is a tuple"),
        ((X, None, [ops.Quantized(X, X[:, 0])], [1]), {}, TypeError, r"tensors\[0\].codes .* expected .* torch.int8"),
        ((X, None, [ops.Quantized(Q.codes, X[0])], [1]), {}, ValueError,
         r"tensors\[0\].scales is \(3,\), tensors\[0\] \(2, 3\); expected \(2,\)"),
        ((X, None, [ops.Quantized(Q.codes, X[:, 0].half())], [1]), {}, TypeError, "scales have dtype torch.float16"),
        ((X, None, [X.to_sparse()], [1]), {}, TypeError, r"tensors\[0\] has layout"),
        ((X, X.to("meta"), [X], [1]), {}, ValueError, r"gate is on meta, tensors\[0\] on cpu"),
        ((X, None, [X], [1]), {"out": torch.ones(3)}, ValueError, r"out is \(3,\)"),
        ((X, None, [X], [1]), {"out": X.int()}, TypeError, "out of shape .* torch.int32"),
        ((X, None, [X], [1]), {"out": X[:1].expand(2, 3)}, ValueError, "expanded"),
        ((X.clone().requires_grad_(), None, [X], [1]), {"out": X.clone()}, ValueError, "does not support gradients"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_input(args, options, error, words):
    with pytest.raises(error, match=f"gated_combination: .*{words}"):
        ops.gated_combination(*args, **options)


def test_overlap_in_part_is_refused():
    memory = torch.rand(64)
    for place, name in enumerate(["residual", "gate", r"tensors\[0\]", r"tensors\[1\]"]):
        operands = random(30, *[F32] * 4)
        operands[place] = memory[:30]
        residual, gate, *tensors = operands
        with pytest.raises(ValueError, match=f"out overlaps {name} in part"):
            ops.gated_combination(residual, gate, tensors, [1, 1], out=memory[5:35])
    x = torch.rand(4, 20)
    with pytest.raises(ValueError, match="out overlaps gate in part"):
        ops.gated_combination(None, x[1], [x.clone()], [1.0], out=x)
    with pytest.raises(ValueError, match=r"out overlaps .*tensors\[0\]"):
        ops.gated_combination(None, None, [ops.Quantized(torch.ones(4, 8, dtype=torch.int8), memory[:4])], [1.0],
                              out=memory[:32].view(4, 8))  # fmt: skip
