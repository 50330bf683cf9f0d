import pytest
import torch
from torch import nn

from pyaccel import Denoiser, schedules
from pyaccel.distill import DMD
from pyaccel.distill.dmd import distribution_matching_loss, fake_score_loss
from pyaccel.training.batch import Batch
from pyaccel.training.trainer import Trainer, TrainerConfig

from .adversarial import Lines
from .references import (
    KINDS,
    alpha,
    assert_agree,
    data,
    denoiser,
    gaussian_sample,
    gradients,
    in_parts,
    networks,
    sample_and_noise,
    sigma,
    wide,
)


def pairs_twice(kind=KINDS[0], count=7, **settings):
    """Two batches of pairs with the same random numbers."""
    x, labels = data(count)
    noise = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(5))
    return tuple(Batch(x, labels, noise=noise, **settings) for _ in range(2))


def reference(recipe, kind, student, teacher, fake, batch):
    """(the student's loss, the fake score's): Algorithm 1; all are networks, the teacher's guidance is 2."""
    labels, ones = batch.conditioning, torch.ones(len(batch.x), dtype=torch.float64)
    top = wide(sigma(kind[0], ones))
    sample = sample_and_noise(kind, student, top * batch.normal(), ones, **labels)[0]
    of_pairs = sample_and_noise(kind, student, top * batch.noise, ones, **labels)[0]

    s = recipe.least + (recipe.most - recipe.least) * batch.uniform()
    noisy = wide(alpha(kind[0], s)) * sample + wide(sigma(kind[0], s)) * batch.normal()

    def guided(x, t, label):
        return 2.0 * teacher(x, t, label) - teacher(x, t, torch.full_like(label, 4))

    with torch.no_grad():
        of_teacher = sample_and_noise(kind, guided, noisy, s, **labels)[0]
        of_fake = sample_and_noise(kind, fake, noisy, s, **labels)[0]
        g = (of_fake - of_teacher) / (sample - of_teacher).abs().mean((1, 2), keepdim=True)
    difference = of_pairs - batch.x
    apart = {"l2": difference.square().mean(), "l1": difference.abs().mean()}[recipe.distance]
    of_student = 0.5 * (sample - (sample - g).detach()).square().mean() + recipe.regression * apart

    low, high = limits(kind[0])
    s = low + (high - low) * batch.uniform()
    a, sig, x = wide(alpha(kind[0], s)), wide(sigma(kind[0], s)), sample.detach()
    of_fake = sample_and_noise(kind, fake, a * x + sig * batch.normal(), s, **labels)[0]
    weight = (a / sig) ** 2 + 1 / recipe.sigma_data**2
    return of_student, (weight * (of_fake - x).square()).mean()


def limits(name):
    """The times between which the fake score learns."""
    schedule = schedules.from_name(name)
    assert 0 < schedule.t_min < 0.01
    assert 0.98 < schedule.t_max <= 1
    return schedule.t_min, schedule.t_max


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"regression": 3.0, "distance": "l1", "least": 0.1, "most": 0.7, "sigma_data": 1.3}],
    ids=["paper", "other"],
)
def test_losses(kind, options):
    recipe = DMD(**options)
    made = networks(student=denoiser(kind, 0), teacher=denoiser(kind, 1, guidance=2.0), fake=denoiser(kind, 2))
    mine, other = pairs_twice(step=3, seed=2)
    found = list(recipe.losses(made, mine))
    assert [name for name, _ in found] == ["student", "fake"]
    of_student, of_fake = reference(recipe, kind, made.student.model, made.teacher.model, made.fake.model, other)
    assert_agree(found[0][1], of_student, made.student, rtol=1e-6)
    assert_agree(found[1][1], of_fake, made.fake, rtol=1e-7)
    assert not any(g.any() for g in gradients(found[0][1], made.fake, made.teacher))
    assert not any(g.any() for g in gradients(found[1][1], made.student, made.teacher))


def test_an_infinite_sigma_data_weighs_by_the_signal_to_noise_ratio():
    fake, (x, labels) = denoiser(("vp_linear", "epsilon")), data()
    noise, s = torch.randn_like(x), torch.linspace(0.1, 0.9, 7, dtype=torch.float64)
    found = fake_score_loss(fake, x, noise, s, float("inf"), labels)
    a, sig = (wide(f("vp_linear", s)) for f in (alpha, sigma))
    # (alpha/sigma)²·(x̂ − x)² is (epŝ − eps)².
    expected = (fake.model(a * x + sig * noise, s, **labels) - noise).square().mean()
    assert_agree(found, expected, fake, rtol=1e-8)


def test_distribution_matching():
    x, real, fake = torch.randn(3, 4, 3, 2, dtype=torch.float64)
    x.requires_grad_()
    loss = distribution_matching_loss(x, real, fake)
    (gradient,) = torch.autograd.grad(loss, x)
    for i in range(4):
        scale = float((x[i] - real[i]).detach().abs().mean())
        torch.testing.assert_close(gradient[i] * x.numel(), (fake[i] - real[i]) / scale)
    # Where x is what the teacher makes of it, the scale is 0 and nothing becomes infinite.
    same = x.detach().clone().requires_grad_()
    assert torch.isfinite(torch.autograd.grad(distribution_matching_loss(same, x.detach(), fake), same)[0]).all()


def test_a_step_moves_samples_from_fake_to_real():
    """Gaussians: the student's samples have mean 1, the data −1; exact denoisers of both; samples go down."""
    schedule = schedules.vp_linear()
    sample = (1 + 0.5 * torch.randn(256, 1, dtype=torch.float64)).requires_grad_()
    t = 0.1 + 0.8 * torch.rand(256, 1, dtype=torch.float64)
    a, s = schedule.alpha(t), schedule.sigma(t)
    noisy = (a * sample + s * torch.randn_like(sample)).detach()
    real, fake = (gaussian_sample(noisy, a, s, mean, 0.5) for mean in (-1.0, 1.0))
    (gradient,) = torch.autograd.grad(distribution_matching_loss(sample, real, fake), sample)
    assert torch.all(gradient > 0)  # a step against it lowers each
    (none,) = torch.autograd.grad(distribution_matching_loss(sample, real, real), sample)
    assert not none.any()


def test_parts():
    made = networks(student=denoiser(KINDS[0]), teacher=denoiser(KINDS[0], 1), fake=denoiser(KINDS[0], 2))
    in_parts(DMD(), made, noise=torch.randn(12, 3, 2, dtype=torch.float64))


class Affine(nn.Module):
    """The flow of data N(mean, exp(log_std)²), whatever these are; from pure noise it is one call to a sample."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.log_std = nn.Parameter(torch.tensor(float(mean))), nn.Parameter(torch.tensor(std).log())

    def forward(self, x, t):
        a, s, std = 1 - t[:, None], t[:, None], self.log_std.exp()
        x0 = gaussian_sample(x, a, s, self.mean, std)
        if bool((t == 1).all()):  # the student's call: mean + std·noise
            x0 = self.mean + std * x
        return (x - a * x0) / s - x0


def test_samples_move_to_the_teachers_distribution():
    """Without pairs' help: from N(-1, 0.3²) to N(1, 0.8²), where the fake score has to follow."""
    schedule = schedules.flow()
    made = networks(**{
        name: Denoiser(Affine(mean, std), schedule, "flow")
        for name, mean, std in (("student", -1.0, 0.3), ("fake", -1.0, 0.3), ("teacher", 1.0, 0.8))
    })  # fmt: skip
    recipe = DMD(regression=0.0)
    rates = {n: torch.optim.Adam(getattr(made, n).model.parameters(), 0.05) for n in ("student", "fake")}
    seen = []
    for step in range(250):
        batch = Batch(torch.zeros(128, 3), noise=torch.zeros(128, 3), step=step)
        for name, loss in recipe.losses(made, batch):
            rates[name].zero_grad()
            loss.backward()
            rates[name].step()
        seen.append([float(made.student.model.mean.detach()), float(made.student.model.log_std.detach().exp())])
    mean, std = torch.tensor(seen[-80:]).mean(0).tolist()
    assert mean == pytest.approx(1.0, abs=0.12)
    assert std == pytest.approx(0.8, abs=0.12)


def test_networks():
    teacher = denoiser(("vp_cosine", "v"), guidance=2.0)
    made = DMD().networks(teacher)
    assert set(made) == {"student", "fake", "teacher"}
    assert [made[n].guidance for n in ("student", "fake", "teacher")] == [1.0, 1.0, 2.0]
    assert len({id(d.model) for d in made.values()}) == 3


@pytest.mark.parametrize(
    "options",
    [{"least": -0.1}, {"least": 0.5, "most": 0.5}, {"most": 1.1}, {"regression": -1.0}, {"sigma_data": 0.0}],
)
def test_errors(options):
    with pytest.raises(ValueError, match="dmd needs 0 <= least"):
        DMD(**options)


class Pairs(Lines):
    def noise_at(self, index):
        return torch.randn(len(index), 3, 2)


def trainer(data, folder):
    teacher = denoiser(KINDS[0])
    teacher.model.float()
    return Trainer(
        DMD(), DMD().networks(teacher), data, TrainerConfig(steps=2, batch_size=4, bf16=False, flip=False), folder
    )


def test_data_without_noise_are_refused(tmp_path):
    with pytest.raises(ValueError, match="DMD learns from a teacher's samples: make them with pyaccel teacher"):
        trainer(Lines(), tmp_path)


def test_a_fake_score_that_diverged_is_named(tmp_path):
    run = trainer(Pairs(), tmp_path)
    with torch.no_grad():
        for p in run.modules["fake"].parameters():
            p.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the loss of fake became nan at step 1"):
        run.fit(progress=False)
