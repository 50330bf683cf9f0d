"""``ema_update``: the promises of its docstring, against its formula in float64."""

import itertools

import pytest
import torch
from torch import nn

from pyaccel import ops
from pyaccel.ops import backend, reference
from tests.ops.test_linear_combination import strided_inputs
from tests.tolerances import tolerance

F32, BF16, F16, F64 = DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SHAPES = [(), (1,), (3,), (17,), (255,), (4099,), (0,), (2, 0, 3), (3, 5, 7), (1024,), (1025,)]


def some(shapes, *dtypes):
    """A tensor of each shape, their dtypes in turn."""
    return [torch.randn(shape).to(dtypes[i % len(dtypes)]) for i, shape in enumerate(shapes)]


def assert_updated(ema, before, params, rate):
    for e, b, theta in zip(ema, before, params, strict=True):
        b, theta = b.detach(), theta.detach()
        answer = rate * b.double() + (1 - rate) * theta.double()
        # The difference is formed first, whose rounding counts as much as it is gone along.
        magnitude = b.double().abs() + theta.double().abs()
        allowed = tolerance(e.dtype, reference.accumulator([b.dtype, theta.dtype]), magnitude, 3)
        error = (e.detach().double() - answer).abs()
        assert (error <= allowed).all(), f"{error.max()} off, {(error / allowed).max()} times the tolerance"


def assert_right(ema, params, rates):
    """Of lists of averages for each rate."""
    before = [[t.clone() for t in averages] for averages in ema]
    thetas = [t.clone() for t in params]
    assert ops.ema_update(ema, params, rates) is None
    for averages, b, rate in zip(ema, before, rates, strict=True):
        assert_updated(averages, b, params, rate)
    assert all(torch.equal(a, b) for a, b in zip(params, thetas, strict=True))


# ---- values ---------------------------------------------------------------------------------------------------------


def test_odd_sizes_and_dtypes(instruction_set):
    for theta, average in itertools.product(DTYPES, repeat=2):
        for rates in ([0.9], [0.999, 0.3, 0.0]):
            assert_right([some(SHAPES, average) for _ in rates], some(SHAPES, theta), rates)


def test_mixtures_of_dtypes(instruction_set):
    shapes = SHAPES * 3
    rates = [0.5, 0.99, 0.1, 0.7]
    for turn in range(4):
        dtypes = DTYPES[turn:] + DTYPES[:turn]
        assert_right([some(shapes, *dtypes[r:], F32) for r in range(4)], some(shapes, *dtypes), rates)


def test_more_than_a_thousand_tensors(instruction_set):
    shapes = [(i % 37,) for i in range(1500)]
    assert_right([some(shapes, F32), some(shapes, F32, F64)], some(shapes, F32, BF16, F32), [0.99, 0.9])


def test_more_rates_than_a_launch_takes(instruction_set):
    rates = [r / 16 for r in range(17)]
    assert_right([some(SHAPES, F32) for _ in rates], some(SHAPES, BF16), rates)


def test_one_list_for_one_rate():
    ema, params = some(SHAPES, F32), some(SHAPES, BF16)
    before = [t.clone() for t in ema]
    ops.ema_update(ema, params, 0.75)
    assert_updated(ema, before, params, 0.75)
    ops.ema_update(tuple(ema), tuple(params), 0)
    assert all(torch.equal(e, p.float()) for e, p in zip(ema, params, strict=True))


def test_memory_that_no_vector_takes(instruction_set):
    for theta, average in itertools.product(DTYPES, repeat=2):
        params = [torch.randn(5003).to(theta)[i:][:5000] for i in range(3)]
        ema = [torch.randn(5002).to(average)[2 - i :][:5000] for i in range(3)]
        before = [t.clone() for t in ema]
        ops.ema_update(ema, params, 0.8)
        assert_updated(ema, before, params, 0.8)


def test_neighbours_are_left_alone(instruction_set):
    for dtype in DTYPES:
        memory = torch.full((1000,), 7.0, dtype=dtype)
        ema = [memory[1 + 40 * i : 1 + 40 * i + size] for i, size in enumerate((1, 3, 8, 17, 31, 39))]
        ops.ema_update(ema, [torch.ones_like(e) for e in ema], 0.5)
        written = sum(e.numel() for e in ema)
        assert (memory == 4).sum() == written
        assert (memory == 7).sum() == 1000 - written


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9, 0.9999, 1.0])
def test_ends_are_exact(instruction_set, rate):
    """β = 1 and 0 to the bit; and an average of what does not change settles at it instead of beside it."""
    ema, params = some(SHAPES, F32), some(SHAPES, F32)
    before = [t.clone() for t in ema]
    ops.ema_update(ema, params, rate)
    for e, b, theta in zip(ema, before, params, strict=True):
        if rate in (0.0, 1.0):
            assert torch.equal(e, theta if rate == 0 else b)
    still = [t.clone() for t in params]
    ops.ema_update(still, params, rate)
    assert all(torch.equal(e, theta) for e, theta in zip(still, params, strict=True))


def test_same_bits_as_lerp(instruction_set):
    """What training did before, so that a run goes on as it began; the baseline multiplies and adds apart."""
    if instruction_set == "baseline":
        pytest.skip("rounds a product that lerp does not")
    ema, params = some(SHAPES, F32), some(SHAPES, F32)
    expected = [t.clone() for t in ema]
    for rate in (0.1, 0.9, 0.999):
        ops.ema_update(ema, params, rate)
        torch._foreach_lerp_(expected, params, 1 - rate)
    for e, other in zip(ema, expected, strict=True):
        torch.testing.assert_close(e, other, rtol=1e-6, atol=1e-7)


def test_nan_and_infinity_stay_where_they_are(instruction_set):
    ema, params = some([(50,)] * 3, F32), some([(50,)] * 3, F32)
    ema[1][7], params[2][9] = float("nan"), float("inf")
    ops.ema_update(ema, params, 0.9)
    assert [e.isnan().nonzero().flatten().tolist() for e in ema] == [[], [7], []]
    assert [e.isinf().nonzero().flatten().tolist() for e in ema] == [[], [], [9]]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_result_is_the_same_for_any_number_of_threads(instruction_set, threads):
    shapes = [(7,), (300_001,), (0,), (1,), (65_536,), (123,)] * 2
    ema, params = [some(shapes, F32), some(shapes, BF16)], some(shapes, F32, F16)
    alone = [[t.clone() for t in averages] for averages in ema]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        ops.ema_update(ema, params, [0.9, 0.4])
        torch.set_num_threads(1)
        for i, theta in enumerate(params):
            ops.ema_update([[averages[i]] for averages in alone], [theta], [0.9, 0.4])
    finally:
        torch.set_num_threads(before)
    for averages, expected in zip(ema, alone, strict=True):
        for e, other in zip(averages, expected, strict=True):
            torch.testing.assert_close(e, other, rtol=2.0**-8 if e.dtype is BF16 else 1e-6, atol=1e-7)


# ---- modules and layouts --------------------------------------------------------------------------------------------


def test_parameters_of_a_module():
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.GroupNorm(1, 5), nn.Linear(7, 9)).to(BF16)
    params = list(model.parameters())
    ema = [p.detach().float() + 1 for p in params]
    assert_right([ema], params, [0.9])
    assert all(not e.requires_grad for e in ema)
    averaged = [nn.Parameter(e) for e in ema]
    with torch.no_grad():
        assert_right([averaged], params, [0.9])


def test_layouts():
    shapes, params, ema = [], [], []
    for name, t in strided_inputs():
        if name == "zeros without memory":
            continue
        params.append(t)
        ema.append(torch.randn(t.shape))
        shapes.append(t.shape)
    channels_last = torch.randn(4, 3, 5, 6).to(memory_format=torch.channels_last)
    params += [channels_last, channels_last.clone(), torch.randn(4, 3, 5, 6)]
    ema += [torch.randn_like(channels_last), torch.randn(4, 3, 5, 6), torch.randn(8, 3, 5, 6)[::2]]
    assert_right([ema, [e.clone() for e in ema]], params, [0.9, 0.2])


def test_views_whose_memory_means_something_else():
    negated, zeros = torch._neg_view(torch.randn(6)), torch._efficientzerotensor(6)
    assert_right([[torch.randn(6), torch.randn(6)]], [negated, zeros], [0.9])
    average = torch._neg_view(torch.randn(6))
    assert_right([[average]], [torch.randn(6)], [0.9])


def test_version_counter_tells_autograd():
    for layout in (torch.contiguous_format, torch.channels_last):
        x, theta = torch.randn(1, 2, 3, 4, requires_grad=True), torch.randn(1, 2, 3, 4).to(memory_format=layout)
        saved = theta + 1
        product = x * saved
        ops.ema_update([saved], [theta], 0.9)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.sum().backward()


def test_parameters_are_constants_to_autograd():
    theta, e = torch.randn(5, requires_grad=True), torch.randn(5)
    ops.ema_update([e], [theta], 0.9)
    assert not e.requires_grad
    assert theta.grad is None


def test_compiled_and_within_modes():
    from torch._subclasses import FakeTensorMode

    def f(ema, params):
        ops.ema_update(ema, params, [0.9, 0.5])
        return [averages[0] + 1 for averages in ema]

    for compiler in ("aot_eager", "inductor"):
        torch.compiler.reset()
        ema, params = [some(SHAPES, F32), some(SHAPES, BF16)], some(SHAPES, F32)
        before = [[t.clone() for t in averages] for averages in ema]
        found = torch.compile(f, fullgraph=True, backend=compiler)(ema, params)
        for averages, b, rate in zip(ema, before, (0.9, 0.5), strict=True):
            assert_updated(averages, b, params, rate)
        torch.testing.assert_close(found[0], ema[0][0] + 1)
    with FakeTensorMode():
        ops.ema_update([torch.empty(3)], [torch.empty(3)], 0.9)
    ops.ema_update([torch.empty(3, device="meta")], [torch.empty(3, device="meta")], 0.9)


# ---- what is refused ------------------------------------------------------------------------------------------------

X, Y = torch.ones(2, 3), torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("args", "error", "words"),
    [
        (([], [], 0.9), ValueError, "params is empty"),
        (([], [X], []), ValueError, "rates is empty"),
        (([Y], [X, X], 0.9), ValueError, r"ema\[0\] has 1 tensors for 2 params"),
        (([[Y]], [X], [0.9, 0.8]), ValueError, "ema has 1 lists for 2 rates"),
        (([Y], [X], 1.5), ValueError, r"a rate is 1.5; expected a number in \[0, 1\]"),
        (([Y], [X], float("nan")), ValueError, "a rate is nan"),
        (([[Y]], [X], [torch.tensor(0.9)]), TypeError, "a rate is a Tensor; expected a number"),
        (([[Y]], [X], "0.9"), TypeError, "rates is a str; expected a list"),
        ((Y, [X], 0.9), TypeError, r"ema\[0\] is a Tensor; expected a list"),
        (([Y], X, 0.9), TypeError, "params is a Tensor; expected a list"),
        (([Y[:1]], [X], 0.9), ValueError, r"ema\[0\]\[0\] has shape \(1, 3\) on cpu, params\[0\] \(2, 3\)"),
        (([Y.to("meta")], [X], 0.9), ValueError, "on meta"),
        (([Y, None], [X, X], 0.9), TypeError, r"ema\[0\]\[1\] is a NoneType, not a tensor"),
        (([Y], [X.int()], 0.9), TypeError, r"params\[0\] of shape \(2, 3\) has dtype torch.int32"),
        (([Y], [X.to_sparse()], 0.9), TypeError, r"params\[0\] has layout"),
        (([Y[:1].expand(2, 3)], [X], 0.9), ValueError, "expanded"),
        (([Y.clone().requires_grad_()], [X], 0.9), ValueError, r"ema\[0\]\[0\] requires gradients"),
        (([Y, Y], [X, X], 0.9), ValueError, r"ema\[0\]\[\d\] shares memory with ema\[0\]\[\d\]"),
        (([[Y], [Y]], [X], [0.9, 0.5]), ValueError, r"ema\[\d\]\[0\] shares memory with ema\[\d\]\[0\]"),
        (([X], [X], 0.9), ValueError, r"ema\[0\]\[0\] shares memory with params\[0\]"),
        (([Y.t(), Y.t()[:, 1:]], [X.t(), X.t()[:, 1:]], 0.9), ValueError, "shares memory with"),
    ],
    ids=str,
)
def test_bad_input(args, error, words):
    with pytest.raises(error, match=f"ema_update: .*{words}"):
        ops.ema_update(*args)
    assert (Y == 0).all()


def test_interleaved_and_tied_tensors_are_no_overlap():
    memory, theta = torch.zeros(10), torch.ones(5)
    ops.ema_update([memory[::2], memory[1::2]], [theta, theta], 0.5)
    assert (memory == 0.5).all()


@pytest.mark.skipif(backend._native is None, reason=backend.native_missing or "built")
def test_native_module_refuses_what_it_cannot_read():
    x, y = torch.zeros(4, 4), torch.ones(4, 4)
    for ema, params, rates in (
        ([[x]], [y[0]], [0.5]),
        ([[x]], [y.t()], [0.5]),
        ([[x.t()]], [y.t()], [0.5]),
        ([[x]], [y.int()], [0.5]),
        ([[x]], [None], [0.5]),
        ([[x]], [y], [2]),
        ([[x]], [y], ["a"]),
        ([[x], [x]], [y], [0.5]),
        ([x], [y], 0.5),
        ([[x.requires_grad_()]], [y], [0.5]),
    ):
        assert not backend._native.ema_update(ema, params, rates, True)
    assert (x == 0).all()


def test_the_kernel_serves_and_not_the_formula(monkeypatch):
    if backend.choose(torch.device("cpu")) == "reference":
        pytest.skip("no kernel here")

    def formula(*args, **kwargs):
        raise AssertionError("the formula was used, not the kernel")

    monkeypatch.setattr(reference, "ema_update", formula)
    monkeypatch.setattr(torch, "_foreach_lerp_", formula)
    conv = torch.randn(4, 3, 5, 6).to(memory_format=torch.channels_last)
    ops.ema_update([[conv + 1, torch.zeros(3)]], [conv, nn.Parameter(torch.ones(3, dtype=BF16))], [0.9])
