"""Quality of samples, its stored reference, and the trajectory error. Random weights serve: no data set is needed."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from pyaccel.evaluation import (
    Quality,
    Reference,
    class_accuracy,
    classify,
    evaluate,
    frechet_distance,
    moments,
    precision_recall,
    rmse,
)
from pyaccel.models import Classifier


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return Classifier(width=8).eval()


def images(count, seed=0):
    """Smooth random pictures in [−1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 7, 7, generator=generator)
    return torch.tanh(torch.nn.functional.interpolate(coarse, size=28, mode="bilinear"))


def test_is_made_of_its_parts(classifier):
    real, samples = images(300, seed=1), images(100, seed=2) * 0.7
    labels = torch.arange(100) % 10
    reference = Reference.from_images(classifier, real, keep=200)
    quality = evaluate(samples, labels, classifier, reference)
    with torch.no_grad():
        features, logits = classifier.features(samples), classifier(samples)
        expected_fid = frechet_distance(features, moments(classifier.features(real)))
    assert quality.fid == pytest.approx(expected_fid, rel=1e-5)
    assert (quality.precision, quality.recall) == pytest.approx(
        precision_recall(features, reference.features), abs=0.011
    )
    assert quality.accuracy == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_tells_better_from_worse(classifier):
    reference = Reference.from_images(classifier, images(400, seed=3))
    _, logits = classify(classifier, images(200, seed=4))
    labels = logits.argmax(1)
    good = evaluate(images(200, seed=4), labels, classifier, reference)
    noise = torch.randn(200, 1, 28, 28, generator=torch.Generator().manual_seed(5))
    bad = evaluate(noise, (labels + 1) % 10, classifier, reference)
    assert good.fid < 0.1 * bad.fid
    assert good.precision > bad.precision
    assert good.recall > bad.recall
    assert good.accuracy == 1.0


def test_the_reference_survives_a_file_to_the_same_figures(classifier, tmp_path):
    reference = Reference.from_images(classifier, images(300, seed=6), keep=100)
    assert reference.features.shape == (100, 128)
    assert reference.features.dtype == torch.float16
    save_file(reference.to_tensors(), tmp_path / "reference.safetensors")
    again = Reference.from_tensors(load_file(tmp_path / "reference.safetensors"))
    samples, labels = images(50, seed=7), torch.zeros(50, dtype=torch.long)
    assert again.moments.count == 300
    assert evaluate(samples, labels, classifier, again) == evaluate(samples, labels, classifier, reference)


def test_bytes_and_floats_are_the_same_images(classifier):
    data = torch.randint(0, 256, (40, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(8))
    assert torch.equal(classify(classifier, data)[0], classify(classifier, data.float() / 127.5 - 1)[0])


def test_values_beyond_the_screen_count_as_its_ends(classifier):
    loud = images(20, seed=9) * 3
    assert torch.equal(classify(classifier, loud)[0], classify(classifier, loud.clamp(-1, 1))[0])


def test_works_in_evaluation_mode_and_leaves_the_mode_alone(classifier):
    fresh = Classifier(width=8)
    fresh.load_state_dict(classifier.state_dict())
    fresh.train()
    features, _ = classify(fresh, images(30, seed=10))
    assert fresh.training
    assert torch.equal(features, classify(classifier, images(30, seed=10))[0])


def test_a_diverged_run_has_no_quality(classifier):
    reference = Reference.from_images(classifier, images(50, seed=11))
    samples = images(20, seed=12)
    samples[3, 0, 5, 5] = math.nan
    quality = evaluate(samples, torch.zeros(20, dtype=torch.long), classifier, reference)
    assert all(math.isnan(value) for value in vars(quality).values())
    assert set(vars(quality)) == {"fid", "precision", "recall", "accuracy"}
    assert isinstance(quality, Quality)


def test_rmse_equals_its_formula():
    a, b = images(10, seed=15), images(10, seed=16)
    expected = math.sqrt(
        sum((x - y) ** 2 for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)) / 7840
    )
    assert rmse(a, b) == pytest.approx(expected, rel=1e-12)
    assert rmse(a, a) == 0
    tiny = torch.full((4,), 1e-30, dtype=torch.float32)
    assert rmse(tiny, torch.zeros(4)) == pytest.approx(1e-30, rel=1e-6)  # its square is no float32


def test_bad_input_is_named(classifier):
    reference = Reference.from_images(classifier, images(50, seed=17))
    with pytest.raises(ValueError, match=r"\[N, C, H, W\]"):
        classify(classifier, torch.zeros(28, 28))
    with pytest.raises(ValueError, match="labels of shape"):
        evaluate(images(20), torch.zeros(19, dtype=torch.long), classifier, reference)
    with pytest.raises(ValueError, match="one shape"):
        rmse(torch.zeros(2, 3), torch.zeros(3))
    tensors = reference.to_tensors()
    del tensors["radii"]
    with pytest.raises(ValueError, match="radii missing"):
        Reference.from_tensors(tensors)
    with pytest.raises(ValueError, match="labels of shape"):
        class_accuracy(torch.zeros(3, 10), torch.zeros(2))
