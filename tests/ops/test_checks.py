"""What the operations refuse, and with which words."""

import pytest
import torch

from pyaccel import ops
from tests.ops.combinations import assert_combines, random_coefficients

F32, BF16 = torch.float32, torch.bfloat16
X = torch.ones(2, 3)
ERRORS = [
    (X, [[1.0]], {}, TypeError, "got one tensor"),
    ([], [[]], {}, ValueError, "no tensors"),
    ([X, 3.0], [[1.0, 1.0]], {}, TypeError, r"tensors\[1\] is a float"),
    ([X, X.int()], [[1.0, 1.0]], {}, TypeError, r"tensors\[1\] of shape \(2, 3\) has dtype torch.int32"),
    ([X.to(torch.complex64)], [[1.0]], {}, TypeError, "torch.complex64"),
    ([X, X.to_sparse()], [[1.0, 1.0]], {}, TypeError, r"tensors\[1\] has layout torch.sparse_coo"),
    ([X, X.to("meta")], [[1.0, 1.0]], {}, ValueError, r"tensors\[1\] is on meta"),
    ([X, torch.ones(4)], [[1.0, 1.0]], {}, ValueError, r"\(2, 3\), \(4,\)"),
    ([X, X], [[1.0]], {}, ValueError, r"\[n, 2\] or \[B, n, 2\] for 2 tensors, got shape \[1, 1\]"),
    ([X], [1.0], {}, ValueError, r"got shape \[1\]"),
    ([X], 1.0, {}, ValueError, r"got shape \[\]"),
    ([X], [], {}, ValueError, r"got shape \[0\]"),
    ([X, X], [[1.0, 2.0], [1.0]], {}, ValueError, "differ in length"),
    ([X], [["one"]], {}, TypeError, "nested lists of numbers"),
    ([X], [[None]], {}, TypeError, "nested lists of numbers"),
    ([X], [[torch.tensor(1.0)]], {}, TypeError, "nested lists of numbers"),
    ([X], [[torch.ones(1)]], {}, TypeError, "nested lists of numbers"),
    ([X], torch.ones(1, 1, dtype=torch.int64), {}, TypeError, "torch.int64"),
    ([X], torch.ones(3, 1, 1), {}, ValueError, "3 samples"),
    ([torch.ones(())], torch.ones(1, 1, 1), {}, ValueError, "1 samples"),
    ([X], [[float("nan")]], {}, ValueError, "is nan; coefficients must be finite"),
    ([X.t()], [[float("inf")]], {}, ValueError, "is inf; coefficients must be finite"),
    ([X], [[1.0]], {"out": []}, ValueError, "out has 0 tensors for 1 rows"),
    ([X], [[1.0]], {"out": [None]}, TypeError, r"out\[0\] is a NoneType"),
    ([X], [[1.0]], {"out": [torch.ones(3, 2)]}, ValueError, r"out\[0\] has shape \(3, 2\).*expected \(2, 3\)"),
    ([X], [[1.0]], {"out": [torch.ones(2, 3, dtype=torch.int32)]}, TypeError, "torch.int32"),
    ([X], [[1.0]], {"out": [torch.ones(2, 3).to_sparse()]}, TypeError, r"out\[0\] has layout"),
    ([X], [[1.0]], {"out": [torch.ones(2, 1).expand(2, 3)]}, ValueError, "expanded tensor"),
    ([X], [[1.0]], {"out": [torch.ones(2, 3, requires_grad=True)]}, ValueError, "does not support gradients"),
    ([X.clone().requires_grad_()], [[1.0]], {"out": [torch.ones(2, 3)]}, ValueError, "does not support gradients"),
    ([X], [[1.0]], {"dtype": torch.int32}, TypeError, "torch.int32"),
    ([X], [[1.0]], {"dtype": [F32, F32]}, ValueError, "2 dtypes were given for 1 outputs"),
    ([X], [[1.0]], {"noise": 3}, TypeError, r"must be an ops.Noise\(seeds, streams\), got int"),
    ([X], [[1.0, 1.0]], {"noise": ops.Noise(3, [0])}, TypeError, "noise.seeds must be a list of integers, got 3"),
    ([X], [[1.0, 1.0]], {"noise": ops.Noise([1, "2"], [0])}, TypeError, r"noise.seeds\[1\] is '2'"),
    ([X], [[1.0, 1.0]], {"noise": ops.Noise([1, 2.0], [0])}, TypeError, r"noise.seeds\[1\] is 2.0"),
    ([X], [[1.0, 1.0]], {"noise": ops.Noise([1, -2], [0])}, ValueError, r"noise.seeds\[1\] is -2"),
    (
        [X],
        [[1.0, 1.0]],
        {"noise": ops.Noise([1, 2], [2**63])},
        ValueError,
        r"noise.streams\[0\] is 92233720",
    ),
    ([X], [[1.0, 1.0]], {"noise": ops.Noise([1], [0])}, ValueError, "1 seeds were given for 2 samples"),
    ([X[0, 0]], [[1.0, 1.0]], {"noise": ops.Noise([1], [0])}, ValueError, "at least one dimension"),
    ([X], [[1.0]], {"noise": ops.Noise([1, 2], [0])}, ValueError, r"\[n, 2\].*1 tensors and 1 streams of noise"),
    ([X], [[1.0, 1.0]], {"noise": ops.Noise([1, 2], [])}, ValueError, r"\[n, 1\]"),
]


@pytest.mark.parametrize(("tensors", "coefficients", "options", "error", "message"), ERRORS)
def test_errors_say_what_was_given(tensors, coefficients, options, error, message):
    with pytest.raises(error, match=message):
        ops.linear_combination(tensors, coefficients, **options)


def test_a_coefficient_tensor_is_not_checked():
    (result,) = ops.linear_combination([X], torch.tensor([[float("nan")]]))
    assert result.isnan().all()


def test_partial_overlap_is_refused():
    memory = torch.zeros(100)
    strided = torch.zeros(10, 10)
    as_bfloat16 = memory.view(BF16)[:50]
    same_memory_twice = torch.frombuffer(bytearray(80), dtype=F32)
    pairs = [
        (memory[:50], memory[1:51]),
        (memory[:50], as_bfloat16),
        (strided[:, :5], strided[:, 4:9]),
        (strided, strided.t()),
        (memory[:50].view(5, 10), memory[:50].view(10, 5).t()),
        (same_memory_twice[1:11], torch.from_numpy(same_memory_twice.numpy()[2:12])),
    ]
    for x, out in pairs:
        with pytest.raises(ValueError, match=r"out\[0\] overlaps tensors\[0\] in part"):
            ops.linear_combination([x], [[1.0]], out=[out])
        with pytest.raises(ValueError, match=r"out\[1\] overlaps out\[0\]"):
            ops.linear_combination([torch.ones(x.shape)], [[1.0], [2.0]], out=[x, out])
    with pytest.raises(ValueError, match=r"out\[1\] overlaps out\[0\]"):
        ops.linear_combination([torch.ones(50)], [[1.0], [2.0]], out=[memory[:50], memory[:50]])
    with pytest.raises(ValueError, match="overlaps"):
        ops.prepare([[1.0]], [F32], [F32])([memory[:50]], [memory[1:51]])
    assert not memory.any()
    assert not strided.any()


def test_interleaved_views_without_common_bytes_are_accepted():
    for views in (
        lambda m: (m[:, ::2], m[:, 1::2]),
        lambda m: (m[:, :4], m[:, 4:]),
        lambda m: (m[::2].t(), m[1::2].t()),
    ):
        x, out = views(torch.randn(8, 8))
        before, c = x.clone(), random_coefficients(1, 1)
        assert_combines(ops.linear_combination([x], c, out=[out]), [before], c)
        assert torch.equal(x, before)


def test_empty_tensors_never_overlap():
    empty = torch.empty(0)
    ops.linear_combination([empty], [[1.0], [2.0]], out=[empty, empty[:0]])


@pytest.mark.parametrize(
    ("shape", "seeds", "stream", "options", "error", "message"),
    [
        ((), [], 0, {}, ValueError, "at least one dimension"),
        ((2, 3), [1], 0, {}, ValueError, "1 seeds were given for 2 samples"),
        ((2, 3), [1, -1], 0, {}, ValueError, r"normal: seeds\[1\] is -1"),
        ((2, 3), [1, 2], 0.5, {}, TypeError, r"normal: stream\[0\] is 0.5"),
        ((2, 3), [1, 2], 0, {"dtype": torch.int32}, TypeError, "torch.int32"),
    ],
)
def test_normal_says_what_was_given(shape, seeds, stream, options, error, message):
    with pytest.raises(error, match=message):
        ops.normal(shape, seeds, stream, **options)
