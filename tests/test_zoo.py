import pytest
import torch

from pyaccel import solvers, zoo
from pyaccel.seeding import sample_noise


def test_every_file_is_small_and_has_a_card():
    for name in zoo.names():
        weights = zoo.FOLDER / f"{name}.safetensors"
        assert weights.stat().st_size <= 8 * 2**20
        card = zoo.card(name)
        assert card["name"] == name
        assert {"command", "steps", "minutes", "machine", "config"} <= set(card["training"])
        assert card["figures"]
        assert sum(p.numel() for p in zoo.load_model(name).parameters()) == card["parameters"]


def test_the_classifier_is_good_enough():
    assert zoo.card("fashion-classifier")["figures"]["test accuracy"] >= 0.91


@pytest.mark.parametrize("name", ["fashion-dit", "fashion-unet"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_denoise(name, dtype):
    """From a little noise, the prediction of x0 is nearer to the image than the noisy image is."""
    from pyaccel import predictions, solvers

    denoiser = zoo.load(name, dtype=dtype)
    assert not any(p.requires_grad for p in denoiser.model.parameters())
    label = torch.arange(8)
    noise = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    image = solvers.unipc(denoiser.schedule, 6, end=0.01).sample(denoiser, noise, label=label)
    t = 0.3
    alpha, sigma = denoiser.schedule.alpha(t), denoiser.schedule.sigma(t)
    x = alpha * image + sigma * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    p, q = predictions.to_sample(denoiser.prediction, alpha, sigma)
    x0 = p * x + q * denoiser(x, torch.full((8,), t), label=label).float()
    assert float((x0 - image).square().mean()) < 0.3 * float((x / alpha - image).square().mean())


def test_unknown_names_and_classifiers():
    with pytest.raises(ValueError, match="did you mean 'fashion-dit'"):
        zoo.load("fashion-dti")
    with pytest.raises(ValueError, match="Classifier, not a model to sample from"):
        zoo.load("fashion-classifier")


def test_save_and_load_half_precision(tmp_path, monkeypatch):
    from pyaccel.models import Classifier

    model = Classifier(width=4).eval()
    facts = {"name": "mine", "architecture": "Classifier", "options": {"width": 4}}
    zoo.save(model, facts, tmp_path)
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    assert zoo.names() == ["mine"]
    for a, b in zip(zoo.load_model("mine").parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", zoo.plan_names())
def test_trained_plans_fit_their_models_and_cards(name):
    model, plan_name = name.split("/")
    plan, card, denoiser = zoo.plan(model, plan_name), zoo.plan_card(model, plan_name), zoo.load(model)
    method, calls = plan_name.split("-")
    assert (plan.solver, plan.calls, card["model"], card["method"]) == (method, int(calls), model, method)
    assert card["figures"]["rmse to the teacher"] < 0.2
    for key, interval in card.get("intervals", {}).items():
        low, high = interval[-2:]
        assert low < card["figures"].get(key, interval[0]) < high
    noise, label = sample_noise(0, range(8), (1, 28, 28)), torch.arange(8)
    exact = solvers.unipc(denoiser.schedule, 20).sample(denoiser, noise, label=label)
    samples = plan.sample(denoiser, noise, label=label)
    error = (samples - exact).square().mean().sqrt()
    untrained = solvers.unipc(denoiser.schedule, int(calls)).sample(denoiser, noise, label=label)
    assert error < (untrained - exact).square().mean().sqrt()


def test_a_plan_that_is_not_there():
    with pytest.raises(ValueError, match="unknown plan for fashion-dit 'best-1'"):
        zoo.plan("fashion-dit", "best-1")


def test_a_student_that_is_told_the_guidance_makes_one_call():
    noise, label = torch.randn(3, 1, 28, 28), torch.arange(3)
    t, weights = torch.full((3,), 0.8), torch.full((3,), 1.8)
    plain, told = zoo.load("fashion-dit-lcm"), zoo.load("fashion-dit-lcm", guidance=1.8)
    found = told(noise, t, label=label)
    assert torch.equal(found, plain(noise, t, label=label, guidance=weights))
    assert not torch.allclose(found, plain(noise, t, label=label), atol=1e-3)
    assert list(told.weights) == [1.0]  # one call, no guidance of two
    with pytest.raises(ValueError, match="beside the label"):
        zoo.load("fashion-dit-lcm", guidance=weights)
