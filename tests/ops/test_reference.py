"""The semantics itself, against sums written out with einsum in float64 and the published words of Philox."""

import math

import pytest
import torch

from pyaccel.ops import reference


def test_shared_and_per_sample_coefficients_match_einsum():
    tensors = [torch.randn(4, 3, 5, dtype=torch.float64) for _ in range(3)]
    stacked = torch.stack(tensors)
    shared, own = torch.randn(2, 3, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64)
    for c, formula in ((shared, "nk,kb...->nb..."), (own, "bnk,kb...->nb...")):
        expected = torch.einsum(formula, c, stacked)
        for given in (c, c.tolist()):
            results = reference.linear_combination(tensors, given, [torch.float64] * 2)
            torch.testing.assert_close(torch.stack(results), expected, rtol=1e-13, atol=1e-13)


def test_accumulates_in_float32_and_rounds_once():
    """1 + 2^-9 + 2^-9 is 1 + 2^-8: a sum in bfloat16 would lose both addends."""
    one, small = torch.ones(3, dtype=torch.bfloat16), torch.full((3,), 2.0**-9, dtype=torch.bfloat16)
    (result,) = reference.linear_combination([one, small, small], [[1.0, 1.0, 1.0]], [torch.float32])
    assert (result == 1 + 2.0**-8).all()


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ([torch.bfloat16, torch.float16], torch.float32),
        ([torch.float32], torch.float32),
        ([torch.bfloat16, torch.float64], torch.float64),
    ],
)
def test_accumulator(dtypes, expected):
    assert reference.accumulator(dtypes) is expected


def test_broadcasts_and_gives_each_output_its_dtype():
    a, b = torch.randn(2, 1, 3), torch.randn(4, 1)
    results = reference.linear_combination([a, b], [[1.0, 2.0], [0.5, 0.0]], [torch.float64, torch.float16])
    assert [r.shape for r in results] == [(2, 4, 3)] * 2
    assert [r.dtype for r in results] == [torch.float64, torch.float16]
    torch.testing.assert_close(results[0], a.double() + 2 * b.double())


def test_dynamic_limit_by_hand():
    """Of 1, 2, 3, 4, 5 the 0.6-quantile has rank 2.4: 3 + 0.4."""
    x = torch.tensor([[-3.0, 5.0, 1.0, -2.0, 4.0]], dtype=torch.float64)
    for limit, scale, s in ((9.0, 1.0, 3.4), (2.0, 1.0, 2.0), (0.5, 1.0, 1.0), (9.0, 0.1, 1.0)):
        torch.testing.assert_close(reference.dynamic_limit(scale * x, limit, 0.6).item(), s)
    torch.testing.assert_close(reference.threshold(x, 9.0, 0.6), x.clamp(-3.4, 3.4) / 3.4)
    torch.testing.assert_close(reference.threshold(x, 2.5, 0.0), x.clamp(-2.5, 2.5))


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.995])
def test_dynamic_limit_is_the_quantile_of_torch(ratio):
    x = 3 * torch.randn(4, 7, 9, dtype=torch.float64)
    expected = torch.quantile(x.flatten(1).abs(), ratio, dim=1).clamp(1, 5)
    torch.testing.assert_close(reference.dynamic_limit(x, 5.0, ratio), expected)


def test_dynamic_limit_of_nan_and_infinity():
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[1.0, 2.0, inf], [inf, -inf, inf], [nan, 1.0, 2.0]])
    assert reference.dynamic_limit(x, inf, 0.5)[:2].tolist() == [2.0, inf]
    assert reference.dynamic_limit(x, 7.0, 0.75)[:2].tolist() == [7.0, 7.0]
    assert reference.dynamic_limit(x, 7.0, 0.5)[2].isnan()


def test_blend_by_hand_and_rounds_once():
    x, mask = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, 0.25])
    image, noise = torch.tensor([8.0, 8.0, 8.0]), torch.tensor([4.0, 4.0, 4.0])
    assert reference.blend(x, mask, image, noise, 0.5, 0.25).tolist() == [1.0, 5.0, 4.0]
    narrow = [t.to(torch.bfloat16) for t in (x, mask, image, noise)]
    assert reference.blend(*narrow, 0.5, 0.25).dtype is torch.bfloat16
    fine = torch.full((1,), 1.0, dtype=torch.bfloat16)
    result = reference.blend(fine, torch.tensor([0.5]), fine, fine, 1.0, 2.0**-7)  # 1 + 2^-8, a tie, from float32
    assert result.item() == 1.0


# Counter, key and words of philox4x32-10, from the file kat_vectors of the Random123 distribution.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_published_words(counter, key, words):
    counter, key, words = ([int(w, 16) for w in text.split()] for text in (counter, key, words))
    assert [int(w) for w in reference.philox(counter, key)] == words
    several = [torch.tensor([c, 0]) for c in counter]
    assert [int(w[0]) for w in reference.philox(several, [torch.tensor([k, 0]) for k in key])] == words


def test_normals_of_known_words_by_hand():
    """Elements 0..3 of seed 0 and stream 0 are Box and Muller's of the first known words."""
    words = [int(w, 16) for w in KNOWN[0][2].split()]
    expected = []
    for w0, w1 in (words[:2], words[2:]):
        r, angle = math.sqrt(-2 * math.log((w0 + 0.5) / 2**32)), 2 * math.pi * w1 / 2**32
        expected += [r * math.cos(angle), r * math.sin(angle)]
    torch.testing.assert_close(reference.normal((1, 3), [0], 0)[0].tolist(), expected[:3], rtol=0, atol=1e-6)


def test_seed_stream_and_position_fill_key_and_counter():
    """Each half of a 64-bit number goes where the definition says; samples of two sizes agree where they overlap."""
    seed, stream = 0x0123456789ABCDEF, 0x7EDCBA9876543210
    words = reference.philox((2, 0, 0x76543210, 0x7EDCBA98), (0x89ABCDEF, 0x01234567))
    r, angle = math.sqrt(-2 * math.log((int(words[2]) + 0.5) / 2**32)), 2 * math.pi * int(words[3]) / 2**32
    x = reference.normal((2, 3, 5), [1, seed], stream)
    torch.testing.assert_close(x[1].flatten()[10:12].tolist(), [r * math.cos(angle), r * math.sin(angle)])
    assert torch.equal(reference.normal((1, 7), [seed], stream)[0], x[1].flatten()[:7])
