"""``attention`` and ``attention_jvp``: the promises of their docstrings, against a plain softmax in float64."""

import itertools
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyaccel import ops
from pyaccel.ops import attention_blocks, reference
from tests.ops.attentions import assert_right, exact, plain, random_arguments

F32, BF16, F16, F64 = DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MASKS = [{}, {"causal": True}, {"padding": True}, {"causal": True, "padding": True, "scale": -0.7}]
SHAPES = [
    (2, 3, 7, 9, 5),
    (1, 2, 90, 33, 40),
    (2, 1, 33, 90, 64),
    (1, 1, 1, 1, 1),
    (2, 2, 5, 0, 8),
    (2, 2, 0, 5, 8),
    (0, 2, 5, 5, 8),
]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of few rows and heads, so that small tensors take several of them."""
    monkeypatch.setattr(attention_blocks, "SCORES", 200)
    monkeypatch.setattr(attention_blocks, "FEWEST_ROWS", 3)


def close(found, expected):
    found, expected = tree_leaves(found), tree_leaves(expected)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def float64(*shape):
    return torch.randn(shape, dtype=F64)


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("masks", MASKS, ids=str)
def test_output_and_tangent(small_blocks, dtype, masks):
    for shape in SHAPES:
        primals, tangents, options = random_arguments(shape, dtype, **masks)
        results = ops.attention_jvp(*primals, tangents, **options)
        assert_right(results, primals, tangents, **options)
        for t in results:
            assert t.transpose(1, 2).is_contiguous()
        if dtype is F64:
            close(ops.attention(*primals, **options), results[0])


@pytest.mark.parametrize("order", ["heads inside", "strided", "expanded"])
def test_other_strides(order):
    for dtype, masks in itertools.product((F32, BF16), MASKS[:3]):
        primals, tangents, options = random_arguments((2, 3, 17, 11, 12), dtype, order=order, **masks)
        assert_right(ops.attention_jvp(*primals, tangents, **options), primals, tangents, **options)


@pytest.mark.parametrize("given", ["", "q", "k", "v", "qk", "qv", "kv"])
def test_tangents_that_are_zero(small_blocks, given):
    primals, tangents, options = random_arguments((2, 3, 17, 11, 12), F64, given, padding=True)
    results = ops.attention_jvp(*primals, tangents, **options)
    close(results, exact(primals, tangents, **options))
    if not given:
        assert not results[1].any()


def test_rows_without_keys_are_zero():
    primals, tangents, options = random_arguments((2, 3, 9, 9, 4), F32, padding=True, causal=True)
    for t in (*ops.attention_jvp(*primals, tangents, **options), ops.attention(*primals, **options)):
        assert not t[0, :, :5].any()
        assert not t[1].any()
        assert t[0, :, -1].any() or options["key_padding"][0].all()


def test_a_common_part_of_all_scores_changes_nothing():
    """exp(S) would overflow: the running maximum has to be taken off, of the tangent too."""
    primals, tangents, _ = random_arguments((1, 2, 20, 20, 8), F32)
    primals[1] = primals[1] + 300.0
    for t in ops.attention_jvp(*primals, tangents):
        assert t.isfinite().all()


def test_reference_backend(monkeypatch):
    primals, tangents, options = random_arguments((2, 3, 7, 9, 5), F64, padding=True)
    monkeypatch.setenv("PYACCEL_BACKEND", "reference")
    monkeypatch.setattr(attention_blocks, "attention_jvp", None)
    close(ops.attention_jvp(*primals, tangents, **options), exact(primals, tangents, **options))


def test_error_in_bfloat16_is_that_of_the_math_backend():
    primals, tangents, _ = random_arguments((1, 4, 300, 300, 64), BF16)
    expected = exact(primals, tangents)

    def math_backend(q, k, v):
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v)

    ours, peer = ops.attention_jvp(*primals, tangents), jvp(math_backend, tuple(primals), tuple(tangents))
    for mine, theirs, right in zip(ours, peer, expected, strict=True):
        assert (mine.double() - right).norm() <= 1.01 * (theirs.double() - right).norm()


# ---- memory ---------------------------------------------------------------------------------------------------------


class PeakMemory(TorchDispatchMode):
    """The most bytes of storages that live at once, of those that operations under it have made."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, torch.Tensor) and t.untyped_storage() not in self.known:
                storage = t.untyped_storage()
                self.known[storage] = None
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.freed, storage.nbytes())
        return result

    def freed(self, size):
        self.now -= size


def test_memory_is_a_tenth_of_the_math_backend():
    primals, tangents, _ = random_arguments((1, 2, 2048, 2048, 64), F32)

    def math_backend(q, k, v):
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v)

    with PeakMemory() as plain_memory:
        jvp(math_backend, tuple(primals), tuple(tangents))
    with PeakMemory() as ours:
        ops.attention_jvp(*primals, tangents)
    with PeakMemory() as in_forward_mode:
        jvp(ops.attention, tuple(primals), tuple(tangents))
    print(f"MATH {plain_memory.peak / 1e6:.1f} MB, ours {ours.peak / 1e6:.1f}, in jvp {in_forward_mode.peak / 1e6:.1f}")
    scores = 2 * 2048 * 2048 * 4
    assert plain_memory.peak >= 3 * scores  # the measure sees what the peer holds
    assert ours.peak >= 2 * primals[0].nbytes
    assert max(ours.peak, in_forward_mode.peak) <= plain_memory.peak / 10


# ---- derivatives ----------------------------------------------------------------------------------------------------


@pytest.fixture
def arguments():
    primals, tangents, _ = random_arguments((2, 3, 7, 9, 8), F64)
    return tuple(primals), tuple(tangents)


def along(function):
    """Output and tangent, with primals and tangents as six arguments."""
    return lambda *args: jvp(function, args[:3], args[3:])


def square(function):
    return grad(lambda *args: function(*args).square().sum(), argnums=(0, 1, 2))


@pytest.mark.parametrize("masks", MASKS, ids=str)
def test_jvp(masks):
    primals, tangents, options = random_arguments((2, 3, 7, 9, 8), F64, **masks)
    found = jvp(lambda *args: ops.attention(*args, **options), tuple(primals), tuple(tangents))
    close(found, exact(primals, tangents, **options))


def test_jvp_of_some(arguments):
    (q, k, v), (dq, _, dv) = arguments
    close(jvp(lambda v: ops.attention(q, k, v), (v,), (dv,)), exact((q, k, v), (None, None, dv)))
    close(jvp(lambda q: ops.attention(q, k, v), (q,), (dq,)), exact((q, k, v), (dq, None, None)))
    one, tangent = jvp(
        lambda x: ops.attention(q, k, v) + x, (torch.zeros((), dtype=F64),), (torch.ones((), dtype=F64),)
    )
    close((one, tangent), (plain(q, k, v), torch.ones_like(q)))


def test_dual_numbers(arguments):
    (q, k, v), (dq, dk, _) = arguments
    expected = exact((q, k, v), (dq, dk, None))
    leaf = q.clone().requires_grad_()
    with forward_ad.dual_level():
        out, tangent = forward_ad.unpack_dual(
            ops.attention(forward_ad.make_dual(leaf, dq), forward_ad.make_dual(k, dk), v)
        )
        close((out, tangent), expected)
        out.square().sum().backward()
    close(leaf.grad, square(plain)(q, k, v)[0])


def test_jvp_takes_one_pass(arguments, monkeypatch):
    passes = []
    blocked = attention_blocks.attention_jvp
    monkeypatch.setattr(attention_blocks, "attention_jvp", lambda *args: passes.append(blocked(*args)))
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)
    close(jvp(ops.attention, *arguments), exact(*arguments))
    assert len(passes) == 1


def test_vmap_inside_and_outside_of_jvp(arguments):
    stacked = [torch.stack([t, 2 * t, t.flip(2)]) for three in arguments for t in three]
    expected = vmap(along(plain))(*stacked)
    close(vmap(along(ops.attention))(*stacked), expected)
    close(along(vmap(ops.attention))(*stacked), expected)
    close(vmap(lambda *args: ops.attention_jvp(*args[:3], args[3:]))(*stacked), expected)
    padding = torch.rand(3, 2, 9) < 0.3

    def padded(function):
        return vmap(lambda q, k, v, p: function(q, k, v, key_padding=p), in_dims=(0, None, 1, 0))

    some = (
        stacked[0],
        stacked[1][0],
        stacked[2].transpose(0, 1),
        stacked[3],
        stacked[4][0],
        stacked[5].transpose(0, 1),
    )
    found, expected = (along(lambda q, k, v, f=f: padded(f)(q, k, v, padding))(*some) for f in (ops.attention, plain))
    close(found, expected)


def test_forward_over_reverse_and_reverse_over_forward(arguments):
    primals, tangents = arguments
    close(jvp(square(ops.attention), primals, tangents), jvp(square(plain), primals, tangents))

    def loss(function):
        """Of the form of MeanFlow's: a target without gradients, made of the tangent."""

        def of(*primals):
            out, tangent = jvp(function, primals, tangents)
            return (out - tangent.detach()).square().sum()

        return of

    expected = grad(loss(plain), argnums=(0, 1, 2))(*primals)
    close(grad(loss(ops.attention), argnums=(0, 1, 2))(*primals), expected)
    leaves = [t.clone().requires_grad_() for t in primals]
    loss(ops.attention)(*leaves).backward()
    close([t.grad for t in leaves], expected)


def test_second_derivatives(arguments):
    (q, k, v), (dq, dk, dv) = arguments

    def twice(function):
        return jvp(lambda q, v: jvp(lambda k: function(q, k, v), (k,), (dk,)), (q, v), (dq, dv))

    close(twice(ops.attention), twice(plain))

    def of_operation(f):
        return jvp(lambda q, dv: f((q, k, v), (dq, None, dv)), (q, dv), (dk[:, :, :7], dv.cos()))

    expected = of_operation(exact)
    close(of_operation(lambda primals, tangents: ops.attention_jvp(*primals, tangents)), expected)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(q, dk[:, :, :7]), forward_ad.make_dual(dv, dv.cos())
        found = ops.attention_jvp(dual[0], k, v, (dq, None, dual[1]))
        close([forward_ad.unpack_dual(t).tangent for t in found], expected[1])


def test_gradients_of_the_primal():
    primals, tangents, masks = random_arguments((2, 1, 3, 4, 2), F64, padding=True)
    padding = masks["key_padding"]
    leaves = tuple(t.clone().requires_grad_() for t in primals)
    for options in ({}, {"causal": True}, {"causal": True, "key_padding": padding}):
        assert torch.autograd.gradcheck(lambda *a, o=options: ops.attention(*a, **o), leaves)
        assert torch.autograd.gradcheck(lambda *a, o=options: ops.attention_jvp(*a, tangents, **o)[0], leaves)


def test_gradients_of_the_tangent_are_refused(arguments):
    primals, tangents = arguments
    leaves = [t.clone().requires_grad_() for t in primals]
    out, tangent = ops.attention_jvp(*leaves, tangents)
    with pytest.raises(NotImplementedError, match="gradients of the tangent are not supported"):
        (out + tangent).sum().backward()
    direction = tangents[0].clone().requires_grad_()
    with pytest.raises(NotImplementedError, match="detach the tangent"):
        ops.attention_jvp(*primals, (direction, None, None))[1].sum().backward()
    with pytest.raises(NotImplementedError):
        grad(lambda q: jvp(lambda q: ops.attention(q, *primals[1:]), (q,), tangents[:1])[1].sum())(primals[0])


class Block(torch.nn.Module):
    """A small transformer block with the attention handed in."""

    def __init__(self, width, heads, attend):
        super().__init__()
        self.heads, self.attend = heads, attend
        self.norm, self.qkv = torch.nn.LayerNorm(width), torch.nn.Linear(width, 3 * width)
        self.out, self.mlp = torch.nn.Linear(width, width), torch.nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(self.attend(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(torch.nn.functional.gelu(x))


def test_jvp_and_training_through_transformer_blocks():
    """Output, tangent and gradients by parameter, as MeanFlow trains: tangents go from block to block."""
    ours = torch.nn.Sequential(*(Block(12, 3, ops.attention) for _ in range(2))).double()
    peer = torch.nn.Sequential(*(Block(12, 3, plain) for _ in range(2))).double()
    peer.load_state_dict(ours.state_dict())
    x, dx = float64(2, 7, 12), float64(2, 7, 12)
    for model in (ours, peer):
        out, tangent = jvp(model, (x,), (dx,))
        model.results = out, tangent
        (out - (x - 0.3 * tangent).detach()).square().mean().backward()
    close(ours.results, peer.results)
    close([p.grad for p in ours.parameters()], [p.grad for p in peer.parameters()])


def test_autocast():
    """Queries and keys in float32, as norms leave them, and values in bfloat16: cast as PyTorch's function does."""
    (q, k, v), (dq, dk, dv), _ = random_arguments((1, 2, 9, 9, 8), F32)
    with torch.autocast("cpu", torch.bfloat16):
        out, tangent = jvp(ops.attention, (q, k, v.bfloat16()), (dq, dk, dv.bfloat16()))
        assert ops.attention(q, k, v.bfloat16()).dtype is BF16
    narrow = [t.bfloat16() for t in (q, k, v, dq, dk, dv)]
    assert_right((out, tangent), narrow[:3], narrow[3:])


# ---- torch.compile --------------------------------------------------------------------------------------------------


def test_compile(arguments):
    primals, tangents = arguments
    torch._dynamo.reset()

    def compiled(function):
        return torch.compile(function, fullgraph=True)

    expected = exact(primals, tangents)
    close(compiled(ops.attention)(*primals), expected[0])
    close(compiled(lambda *args: ops.attention_jvp(*args[:3], args[3:]))(*primals, *tangents), expected)
    close(compiled(along(ops.attention))(*primals, *tangents), expected)
    leaves = [t.clone().requires_grad_() for t in primals]
    compiled(lambda *args: ops.attention_jvp(*args, tangents)[0].square().sum())(*leaves).backward()
    close([t.grad for t in leaves], square(plain)(*primals))
    with pytest.raises(Exception, match="gradients of the tangent are not supported"):  # in the compiler's own wrapping
        compiled(lambda *args: ops.attention_jvp(*args, tangents)[1].sum())(*leaves).backward()

    def second(function):
        return lambda q, dq: jvp(lambda q: function(q, dq), (q,), (dq,))

    found = compiled(second(lambda q, dq: ops.attention_jvp(q, *primals[1:], (dq, None, None))))
    reached = second(lambda q, dq: exact((q, *primals[1:]), (dq, None, None)))
    close(found(primals[0], tangents[0]), reached(primals[0], tangents[0]))


def test_opcheck(arguments):
    primals, tangents = arguments
    args = (
        *(t.clone().requires_grad_() for t in primals),
        tangents[0],
        None,
        tangents[2],
        torch.rand(2, 9) < 0.3,
        True,
        0.5,
    )
    torch.library.opcheck(torch.ops.pyaccel.attention_jvp.default, args, test_utils=("test_schema", "test_faketensor"))


def test_meta_tensors_have_shapes():
    primals, tangents, _ = random_arguments((1, 2, 3, 4, 8), BF16)
    for t in ops.attention_jvp(*(t.to("meta") for t in primals), [t.to("meta") for t in tangents]):
        assert t.shape == (1, 2, 3, 8)
        assert t.dtype is BF16


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_bad_input():
    q, k, v = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 4)
    some, padding = (None, None, None), torch.zeros(2, 6, dtype=torch.bool)
    for error, match, call in (
        (TypeError, "attention: q is a list", lambda: ops.attention([q], k, v)),
        (TypeError, "attention: q of shape .* has dtype torch.int64", lambda: ops.attention(q.long(), k, v)),
        (ValueError, r"attention: q has shape \(3, 5, 4\)", lambda: ops.attention(q[0], k, v)),
        (ValueError, r"attention: k is .* expected \(2, 3, 6, 4\)", lambda: ops.attention(q, k[:1], v)),
        (ValueError, "attention: k is", lambda: ops.attention(q, k[..., :3], v)),
        (ValueError, "attention: v is", lambda: ops.attention(q, k, v[:, :, :5])),
        (TypeError, "attention: v has dtype torch.float64", lambda: ops.attention(q, k, v.double())),
        (ValueError, "D ≥ 1", lambda: ops.attention(q[..., :0], k[..., :0], v[..., :0])),
        (TypeError, "key_padding is torch.float32", lambda: ops.attention(q, k, v, key_padding=padding.float())),
        (TypeError, "key_padding is list", lambda: ops.attention(q, k, v, key_padding=[True])),
        (ValueError, r"key_padding is \(2, 5\)", lambda: ops.attention(q, k, v, key_padding=padding[:, :5])),
        (ValueError, "scale is nan", lambda: ops.attention(q, k, v, scale=float("nan"))),
        (TypeError, "scale is a Tensor", lambda: ops.attention(q, k, v, scale=torch.tensor(1.0))),
        (ValueError, "2 tangents; expected three", lambda: ops.attention_jvp(q, k, v, (q, k))),
        (ValueError, "1 tangents; expected three", lambda: ops.attention_jvp(q, k, v, q)),
        (ValueError, "the tangent of q is", lambda: ops.attention_jvp(q, k, v, (k, None, None))),
        (TypeError, "the tangent of v has dtype", lambda: ops.attention_jvp(q, k, v, (None, None, v.half()))),
        (TypeError, "the tangent of k is a float", lambda: ops.attention_jvp(q, k, v, (None, 1.0, None))),
        (ValueError, "k is .* on meta", lambda: ops.attention_jvp(q, k.to("meta"), v, some)),
    ):
        with pytest.raises(error, match=match):
            call()


def test_reference_agrees_with_the_plain_softmax():
    primals, tangents, options = random_arguments((2, 3, 7, 9, 5), F64, padding=True, causal=True)
    padding = options["key_padding"]
    found = reference.attention_jvp(primals, tangents, True, padding, 0.3)
    close(found, exact(primals, tangents, causal=True, key_padding=padding, scale=0.3))
    close(reference.attention(*primals, True, padding, 0.3), found[0])
