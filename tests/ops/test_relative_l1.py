"""``relative_l1``: the promises of its docstring, against sums in float64."""

import itertools
import math

import pytest
import torch

from pyaccel import ops
from pyaccel.ops import backend
from tests.ops.test_linear_combination import strided_inputs

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
NAN, INF = math.nan, math.inf


def exact(a, b):
    a, b = a.detach().double(), b.detach().double()
    return (a - b).abs().sum() / b.abs().sum()


def assert_right(a, b):
    found = ops.relative_l1(a, b)
    wide = torch.float64 in (a.dtype, b.dtype)
    assert found.shape == ()
    assert found.dtype is (torch.float64 if wide else torch.float32)
    assert not found.requires_grad
    torch.testing.assert_close(found.double(), exact(a, b), rtol=1e-12 if wide else 3e-6, atol=0)


def test_sizes_and_dtypes(instruction_set):
    for shape in [(), (1,), (17,), (255,), (3, 5, 7), (4099,), (40_000,), (3, 33_333)]:
        for dtypes in itertools.product(DTYPES, repeat=2):
            assert_right(*(torch.randn(shape).to(d) for d in dtypes))


def test_large_sums_are_accurate(instruction_set):
    """In float32 one after the other these would lose more than a percent."""
    a, b = torch.full((20_000_000,), 0.125, dtype=torch.bfloat16), torch.full((20_000_000,), 0.1, dtype=torch.bfloat16)
    a[::3] = 0.3
    torch.testing.assert_close(ops.relative_l1(a, b).double(), exact(a, b), rtol=2e-7, atol=0)


def test_result_is_the_same_for_any_number_of_threads():
    a, b = torch.randn(3_000_001), torch.randn(3_000_001)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            results.append(ops.relative_l1(a, b).item())
    finally:
        torch.set_num_threads(before)
    assert len(set(results)) == 1


@pytest.mark.parametrize(("name", "t"), list(strided_inputs()), ids=lambda v: v if isinstance(v, str) else "")
def test_layouts(name, t):
    other = torch.randn(t.shape)
    assert_right(t, other)
    if name != "zeros without memory":
        assert_right(other, t)
        assert_right(t + 1, t)


def test_large_strided_tensors_are_read_in_parts(monkeypatch):
    a, b = torch.randn(3, 500, 400), torch.randn(3, 500, 400)
    for cut in (lambda t: t[:, 7:, :], lambda t: t[:, :, 1:], lambda t: t[..., ::2], lambda t: t.transpose(0, 2)[::2]):
        assert_right(cut(a), cut(b))
        assert_right(cut(a), cut(b).contiguous())


def test_at_the_edges(instruction_set):
    for size, dtype in itertools.product((5, 2000), DTYPES):
        zero = torch.zeros(size, dtype=dtype)
        assert ops.relative_l1(zero, zero) == 0
        assert ops.relative_l1(zero + 1, zero) == INF
        assert ops.relative_l1(torch.full_like(zero, INF), zero + 1) == INF
        for place in (0, size // 2, size - 1):
            bad = zero + 1
            bad[place] = NAN
            assert ops.relative_l1(bad, zero + 1).isnan()
            assert ops.relative_l1(zero + 1, bad).isnan()
            assert ops.relative_l1(bad, zero).isnan()
    assert ops.relative_l1(torch.empty(2, 0), torch.empty(2, 0)) == 0


def test_is_a_constant_to_autograd():
    a, b = torch.randn(5, requires_grad=True), torch.randn(5)
    assert_right(a, b)
    value, tangent = torch.func.jvp(ops.relative_l1, (a.detach(), b), (b, b))
    torch.testing.assert_close(value.double(), exact(a, b), check_dtype=False)
    assert tangent == 0
    many = torch.randn(4, 5)
    found = torch.func.vmap(ops.relative_l1, (0, None))(many, b)
    torch.testing.assert_close(found.double(), torch.stack([exact(m, b) for m in many]), rtol=1e-6, atol=0)


def test_compiled_and_fake():
    from torch._subclasses import FakeTensorMode

    a, b = torch.randn(7, 9), torch.randn(7, 9)
    for compiler in ("aot_eager", "inductor"):
        torch.compiler.reset()
        found = torch.compile(lambda a, b: ops.relative_l1(2 * a, b), fullgraph=True, backend=compiler)(a, b)
        torch.testing.assert_close(found.double(), exact(2 * a, b), rtol=1e-6, atol=0)
    with FakeTensorMode():
        assert ops.relative_l1(torch.empty(3), torch.empty(3)).shape == ()
    assert ops.relative_l1(a.to("meta"), b.to("meta")).is_meta


def test_bad_input():
    x = torch.zeros(5)
    with pytest.raises(ValueError, match=r"relative_l1: a is \(5,\) on cpu, b \(4,\) on cpu; expected the same"):
        ops.relative_l1(x, x[:4])
    with pytest.raises(ValueError, match=r"b \(5,\) on meta"):
        ops.relative_l1(x, x.to("meta"))
    with pytest.raises(TypeError, match="relative_l1: b is a list, not a tensor"):
        ops.relative_l1(x, [0.0])
    with pytest.raises(TypeError, match=r"relative_l1: a of shape \(5,\) has dtype torch.int8"):
        ops.relative_l1(x.to(torch.int8), x)


@pytest.mark.skipif(backend._native is None, reason=backend.native_missing or "built")
def test_native_module_refuses_what_it_cannot_read():
    x = torch.zeros(4, 4)
    for a, b in ((x, x[0]), (x, x.t()), (x, None), (x.int(), x), (x.to(torch.int8), x)):
        assert backend._native.relative_l1(a, b) is None
