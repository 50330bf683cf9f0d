"""Teacher data and a trained plan for a model that is none of the zoo's: a transformer of diffusers with texts."""

import json

import pytest
import torch
from torch import nn

from pyaccel import Denoiser, schedules, solvers
from pyaccel.evaluation.teaching import facts_of, make_teacher, teacher_spec
from pyaccel.evaluation.tuning import Job, make_trainer, tune
from pyaccel.solvers import Plan
from pyaccel.training.teacher import load_teacher, shard_path

pytest.importorskip("diffusers")
from tests.integrations.pipelines import TEXT, TOKENS, numbers, sd3_parts

SHAPE = (4, 8, 8)
TEXTS = {"encoder_hidden_states": numbers(3, TOKENS, TEXT, seed=1), "pooled_projections": numbers(3, TEXT, seed=2)}
SMALL = {"steps": 12, "batch_size": 12, "validate_every": 4, "learning_rate": 0.005, "ema": 0.8, "warmup": 2}


def texts(indices: range) -> dict[str, torch.Tensor]:
    """Each of three prompts in turn."""
    return {name: value[torch.tensor(indices) % 3] for name, value in TEXTS.items()}


class Critic(nn.Module):
    """A discriminator that reads the text."""

    def __init__(self):
        super().__init__()
        self.net, self.text = nn.Linear(256, 8), nn.Linear(TEXT, 8)

    def forward(self, x, pooled_projections, **_):
        return (self.net(x.flatten(1)) * self.text(pooled_projections)).sum(1)


@pytest.fixture(scope="module")
def denoiser():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = sd3_parts()["transformer"].requires_grad_(False)

    def model(x, t, **conditioning):
        return transformer(hidden_states=x, timestep=1000 * t, return_dict=False, **conditioning)[0]

    return Denoiser(model, schedules.flow(3.0), "flow")


@pytest.fixture(scope="module")
def folder(denoiser, tmp_path_factory):
    """Its teacher data: 20 samples in shards of 8."""
    folder = tmp_path_factory.mktemp("teacher")
    spec = teacher_spec("my SD3", denoiser, 20, steps=6, shard=8)
    made = make_teacher(folder, denoiser, spec, shape=SHAPE, conditioning=texts, device="cpu")
    assert made == [0, 1, 2]
    return folder


def test_teacher_data_carry_the_texts(denoiser, folder):
    data, spec = load_teacher(folder, model="my SD3", **facts_of(denoiser))
    assert (spec.schedule, spec.dtype) == (["flow", {"shift": 3.0}], "float32")
    assert torch.equal(data.conditioning["encoder_hidden_states"], texts(range(20))["encoder_hidden_states"])
    noise, samples, conditioning = data.at(slice(5, 9))
    again = solvers.unipc(denoiser.schedule, 6).sample(denoiser, noise, **conditioning)
    torch.testing.assert_close(samples, again, rtol=1e-4, atol=1e-5)
    other = solvers.unipc(denoiser.schedule, 6).sample(denoiser, noise, **texts(range(6, 10)))
    assert (samples - other).abs().max() > 1e-3


@pytest.mark.parametrize("method", ["gs", "gas"])
def test_a_plan_is_tuned_for_it(denoiser, folder, tmp_path, method):
    data, spec = load_teacher(folder)
    job = Job("my SD3", 3, method, changes={**SMALL, **({"adversarial": 1e-3} if method == "gas" else {})})
    torch.manual_seed(0)
    critic = Critic() if method == "gas" else None
    trainer, plan = tune(job, tmp_path, data, spec, denoiser, held_out=8, discriminator=critic, progress=False)
    assert trainer.best_score < trainer.validations[0][1]
    assert Plan.load(tmp_path / "plan.json").calls == plan.calls == 3
    card = json.loads((tmp_path / "card.json").read_text())
    assert (card["model"], card["dtype"], card["teacher"]["count"]) == ("my SD3", "float32", 20)


def test_what_only_the_zoo_has_must_be_brought_along(denoiser, folder, tmp_path):
    data, _ = load_teacher(folder)
    for method, changes, message in (
        ("gas", SMALL, "needs a discriminator"),
        ("gs", {**SMALL, "objective": "features"}, "needs a network"),
    ):
        with pytest.raises(ValueError, match=message):
            make_trainer(Job("my SD3", 3, method, changes=changes), denoiser, data, tmp_path, held_out=8)

    def distance(samples, targets):
        return (samples - targets).abs().amax((1, 2, 3))

    job = Job("my SD3", 3, "gs", changes={**SMALL, "objective": "largest error"})
    trainer = make_trainer(job, denoiser, data, tmp_path, held_out=8, distance=distance)
    assert float(trainer.train_step()) > 0


def test_a_model_without_conditioning_and_one_of_many_guidances(tmp_path):
    plain = Denoiser(lambda x, t: -x, schedules.flow(), "flow")
    make_teacher(tmp_path, plain, teacher_spec("plain", plain, 5, steps=4), shape=(2,), device="cpu")
    data, _ = load_teacher(tmp_path)
    assert (data.conditioning, data.samples.shape) == ({}, (5, 2))
    assert shard_path(tmp_path, 0).exists()
    many = Denoiser(lambda x, t: -x, schedules.flow(), "flow", torch.ones(5), {"label": 0})
    with pytest.raises(ValueError, match=r"one guidance for all samples, got a tensor \[5\]"):
        teacher_spec("many", many, 5)
