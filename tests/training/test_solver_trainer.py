"""Training of solvers: it learns, resumes to the same bits, keeps the best, and says what went wrong."""

import dataclasses

import pytest
import torch
from torch import nn

from pyaccel import solvers
from pyaccel.training.distances import l2
from pyaccel.training.solver_config import SolverConfig
from pyaccel.training.solver_methods import METHODS
from tests.training.solvers import SCHEDULE, mixture, teacher, trainer


class Critic(nn.Module):
    """A discriminator of vectors."""

    def __init__(self, size=4):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(size, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, x, label=None):
        return self.net(x).squeeze(-1)


class Wide(Critic):
    """One that keeps a dimension too many."""

    def forward(self, x, label=None):
        return self.net(x)


def test_gs_trained_for_seconds_beats_its_start_by_a_factor_of_two(tmp_path):
    t = trainer(tmp_path, steps=300, batch_size=96, learning_rate=0.02, ema=0.98, validate_every=25)
    assert t.fit(progress=False)
    start = t.validations[0][1]
    assert t.best_score < 0.5 * start
    data = teacher(500)
    plan = t.best.plan()
    trained, untrained = (p.sample(mixture(), data.noise) for p in (plan, t.trainable.origin))
    new = slice(160, None)  # seen neither in training nor in validation
    error, before = ((x[new] - data.samples[new]).square().mean().sqrt() for x in (trained, untrained))
    assert error < 0.5 * before
    assert plan.calls == 4


def test_amed_beats_its_start(tmp_path):
    settings = {**METHODS["amed"].settings, "steps": 75, "batch_size": 96, "learning_rate": 0.01, "ema": 0.95}
    t = trainer(tmp_path, plan=solvers.amed(SCHEDULE, 3, end=1e-3), **settings)
    assert t.fit(progress=False)
    assert t.best_score < 0.5 * t.validations[0][1]
    assert t.best.plan().times == t.trainable.origin.times


@pytest.mark.parametrize("method", ["gs", "gas", "ld3", "s4s-alt"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(method, tmp_path):
    settings = {**METHODS[method].settings, **({"alternate": 3} if method == "s4s-alt" else {})}

    def make(folder):
        return trainer(folder, discriminator=Critic() if method == "gas" else None, **settings)

    whole = make(tmp_path / "whole")
    assert whole.fit(progress=False)
    part = make(tmp_path / "part")
    assert not part.fit(progress=False, steps=7)
    again = make(tmp_path / "part")
    assert again.fit(progress=False)
    assert again.validations == whole.validations
    assert (again.best_score, again.best_step) == (whole.best_score, whole.best_step)
    for name, tensor in whole._tensors().items():
        assert torch.equal(tensor, again._tensors()[name]), name


@pytest.mark.parametrize("method", list(METHODS))
def test_methods_learn_what_they_say_and_nothing_else(method, tmp_path):
    settings = {k: v for k, v in METHODS[method].settings.items() if k != "objective"}
    t = trainer(tmp_path, discriminator=Critic(), **settings | ({"alternate": 5} if "alternate" in settings else {}))
    before = {name: p.clone() for name, p in t.trainable.named_parameters()}
    t.fit(progress=False)
    names = {"times": "time_logits", "shifts": "time_shifts", "coefficients": "coefficients", "states": "states"}
    for kind, name in names.items():
        changed = not torch.equal(dict(t.trainable.named_parameters())[name], before[name])
        assert changed == (kind in t.config.learn or (kind == "coefficients" and "named" in t.config.learn)), kind
    assert t.best_score <= t.validations[0][1]


def test_the_noise_stays_within_its_ball(tmp_path):
    t = trainer(tmp_path, ball=0.05, ball_rate=0.7, learn=("times",))
    t.fit(progress=False)
    share = t.offsets.norm(dim=1) / t.data.noise.norm(dim=1)
    assert float(share.max()) <= 0.05 * (1 + 1e-5)
    assert float(share.min()) > 0


def test_the_time_limit(tmp_path):
    t = trainer(tmp_path, steps=10_000)
    assert not t.fit(progress=False, seconds=0.5)
    assert 0 < t.step < 10_000
    assert t.checkpoint.exists()


def test_a_nan_goes_back_to_the_last_checkpoint_and_names_the_sample(tmp_path):
    t = trainer(tmp_path)
    t.fit(progress=False, steps=6)
    kept = {name: tensor.clone() for name, tensor in t._tensors().items()}
    poisoned = t.data.first + int(t.data.indices(9, 32, 0)[3])

    def distance(samples, targets):
        hit = (targets == t.data.samples[poisoned]).all(1)
        return torch.where(hit & torch.tensor(t.step >= 9), float("nan"), l2(samples, targets))

    t.distance = distance
    with pytest.raises(FloatingPointError, match=rf"sample {poisoned}; the checkpoint of step 6 is whole"):
        t.fit(progress=False)
    assert t.step == 6
    assert all(torch.equal(tensor, kept[name]) for name, tensor in t._tensors().items())


@pytest.mark.parametrize("checkpoints", [0.0, 1e9])
def test_parameters_spoiled_by_a_nan_are_never_saved(tmp_path, checkpoints):
    """The loss is looked at now and then only: what is saved between two looks must be whole all the same."""
    t = trainer(tmp_path, steps=40)
    t.checkpoint_seconds = checkpoints
    poisoned = t.data.first + int(t.data.indices(9, 32, 0)[3])

    def distance(samples, targets):
        hit = (targets == t.data.samples[poisoned]).all(1)
        return l2(samples, targets) * torch.where(hit & torch.tensor(t.step >= 9), float("nan"), 1.0)

    t.distance = distance
    with pytest.raises(FloatingPointError, match=rf"sample {poisoned}; "):
        t.fit(progress=False)
    assert all(torch.isfinite(p).all() for p in t.trainable.parameters())
    if t.checkpoint.exists():
        again = trainer(tmp_path, steps=40)
        again.load()
        assert all(torch.isfinite(p).all() for p in again.trainable.parameters())


def test_teacher_samples_with_nan_are_refused_before_training(tmp_path):
    data = teacher(160)
    data.samples[17, 2] = float("inf")
    with pytest.raises(ValueError, match="teacher's sample 17 has NaN"):
        trainer(tmp_path, data=data)


def test_other_settings_do_not_go_on(tmp_path):
    trainer(tmp_path).fit(progress=False, steps=2)
    with pytest.raises(ValueError, match=r"learning_rate: 0.005 there, 0.5 now.*another --out"):
        trainer(tmp_path, learning_rate=0.5).fit(progress=False)
    with pytest.raises(ValueError, match=r"plan: .dpmpp"):
        trainer(tmp_path, plan=solvers.unipc(SCHEDULE, 4, end=1e-3)).fit(progress=False)


def test_a_discriminator_that_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"does not take samples \[2, 4\]"):
        trainer(tmp_path, adversarial=0.1, discriminator=Critic(size=5))
    with pytest.raises(ValueError, match=r"one number for each sample, \[2\], got \[2, 1\]"):
        trainer(tmp_path, adversarial=0.1, discriminator=Wide())
    with pytest.raises(TypeError, match="must be a torch"):
        trainer(tmp_path, adversarial=0.1, discriminator=lambda x, label: x.sum(1))
    with pytest.raises(ValueError, match="needs a discriminator"):
        trainer(tmp_path, adversarial=0.1)


def test_reports_at_each_validation(tmp_path):
    reports = []
    trainer(tmp_path, report=lambda step, values: reports.append((step, values))).fit(progress=False)
    assert [step for step, _ in reports] == [0, 5, 10, 15, 20]
    assert all({"validation", "loss", "best"} <= set(values) for _, values in reports)


def test_checkpointing_of_model_calls_changes_nothing(tmp_path):
    results = []
    for checkpoint in (False, True):
        t = trainer(tmp_path / str(checkpoint), steps=3, checkpoint=checkpoint)
        t.fit(progress=False)
        results.append(t.trainable.state_dict())
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, rtol=1e-9, atol=1e-12)


def test_config():
    config = SolverConfig(steps=120, warmup=20, learning_rate=1.0)
    assert config.learning_rate_at(0) == pytest.approx(0.05)
    assert config.learning_rate_at(19) == pytest.approx(1.0)
    assert config.learning_rate_at(70) == pytest.approx(0.505)
    assert dataclasses.asdict(config)["learn"]
    for wrong in ({"steps": 0}, {"learning_rate": 0.0}, {"adversarial": -1.0}):
        with pytest.raises(ValueError):
            SolverConfig(**wrong)
