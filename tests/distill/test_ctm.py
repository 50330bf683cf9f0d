import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from pyaccel import Denoiser, schedules
from pyaccel.distill import CTM
from pyaccel.distill.critics import Critic, SampleCritic
from pyaccel.distill.ctm import denoising_levels, jump, solver_steps
from pyaccel.training.batch import Batch
from pyaccel.training.optimizers import Optimizer
from pyaccel.training.trainer import Trainer
from pyaccel.training.trainer_config import TrainerConfig

from .references import (
    KINDS,
    Small,
    all_losses,
    alpha,
    assert_agree,
    data,
    denoiser,
    gaussian_map,
    gaussian_sample,
    gradients,
    in_parts,
    networks,
    sample_and_noise,
    sigma,
    time_of_ratio,
    twice,
    wide,
)


class Judge(nn.Module):
    """D(x, label) of x [b, 3, 2]."""

    def __init__(self):
        super().__init__()
        self.first, self.label, self.second = nn.Linear(6, 5), nn.Embedding(5, 5), nn.Linear(5, 1)
        self.double()

    def forward(self, x, label):
        return self.second(torch.tanh(self.first(x.flatten(1)) + self.label(label))).squeeze(1)


def kept(kind, **options):
    """Networks of a recipe, of which none is another's copy."""
    torch.manual_seed(0)
    student, average = (denoiser(kind, seed, second_time=True) for seed in (0, 1))
    average.model.requires_grad_(False)
    teacher = denoiser(kind, 2, guidance=2.0)
    return networks(student=student, teacher=teacher, discriminator=Judge(), ema={"student": average})


def scaled_jump(kind, network, x, t, s, labels):
    """In y = x/alpha and r = sigma/alpha: y_s = (r_s/r_t)·y + (1 − r_s/r_t)·g."""
    (a_t, r_t), (a_s, r_s) = ((wide(alpha(kind[0], u)), wide(sigma(kind[0], u) / alpha(kind[0], u))) for u in (t, s))
    g = sample_and_noise(kind, network, x, t, to=s, **labels)[0]
    return a_s * (r_s / r_t * x / a_t + (1 - r_s / r_t) * g), g


def heun(kind, teacher, x, t, s, labels):
    a_t, a_s = wide(alpha(kind[0], t)), wide(alpha(kind[0], s))
    dr = wide(sigma(kind[0], s)) / a_s - wide(sigma(kind[0], t)) / a_t

    def eps(x, u):  # with the teacher's guidance of 2
        without = {"label": torch.full_like(labels["label"], 4)}
        return (
            2 * sample_and_noise(kind, teacher, x, u, **labels)[1] - sample_and_noise(kind, teacher, x, u, **without)[1]
        )

    first = eps(x, t)
    second = eps(a_s * (x / a_t + dr * first), s)
    return a_s * (x / a_t + 0.5 * dr * (first + second))


def reference(recipe, kind, made, batch):
    """(student's loss, discriminator's loss): Algorithm 4, with the weights by plain differentiation."""
    student, average, teacher = made.student.model, made.ema["student"].model, made.teacher.model
    x0, labels, n = batch.x, batch.conditioning, recipe.levels
    low, high = recipe.least ** (1 / 7), recipe.most ** (1 / 7)
    grid = torch.tensor([(high + i / (n - 1) * (low - high)) ** 7 for i in range(n)], dtype=torch.float64)
    times = time_of_ratio(kind[0], grid)
    most_steps, number, total = recipe.solver_steps or n - 1, batch.number(), 0.0
    for steps in range(1, most_steps + 1):
        total += steps / (most_steps * (most_steps + 1) / 2)
        if number < total:
            break
    first = [math.floor(u * (n - steps)) for u in batch.uniform().tolist()]
    to_u = [i + steps for i in first]
    to_s = [i + math.floor(u * (n - i)) for i, u in zip(to_u, batch.uniform().tolist(), strict=True)]
    assert all(0 <= i < j <= k < n for i, j, k in zip(first, to_u, to_s, strict=True))
    t, u, s, end = (times[i] for i in (first, to_u, to_s, [n - 1] * len(x0)))
    noise = batch.normal()
    x_t = wide(alpha(kind[0], t)) * x0 + wide(sigma(kind[0], t)) * noise
    with torch.no_grad():
        x_u = x_t
        for i in range(steps):
            here, there = (times[[f + j for f in first]] for j in (i, i + 1))
            x_u = heun(kind, teacher, x_u, here, there, labels)
        target = scaled_jump(kind, student, x_u, u, s, labels)[0]
        target = scaled_jump(kind, average, target, s, end, labels)[0]
    estimate = scaled_jump(kind, student, x_t, t, s, labels)[0]
    estimate = scaled_jump(kind, average, estimate, s, end, labels)[0]
    difference = (estimate - target).flatten(1)
    if recipe.distance == "l2":
        consistency = difference.square().mean()
    else:
        consistency = ((difference.square().mean(1) + 0.00054**2).sqrt() - 0.00054).mean()

    z, v = batch.gaussians(), batch.uniform()
    level = torch.where(torch.tensor([i % 2 == 0 for i in range(len(x0))]), torch.exp(-1.2 + 1.2 * z),
                        (high + 0.7 * v * (low - high)) ** 7).clamp(recipe.least, recipe.most)  # fmt: skip
    tau = time_of_ratio(kind[0], level)
    noisy = wide(alpha(kind[0], tau)) * x0 + wide(sigma(kind[0], tau)) * batch.normal()
    g = sample_and_noise(kind, student, noisy, tau, to=tau, **labels)[0]
    d = recipe.sigma_data
    denoising = (wide((level**2 + d**2) / (level * d) ** 2) * (g - x0) ** 2).mean()

    adversarial = batch.step >= recipe.gan_start and recipe.gan
    losses = [consistency] + [denoising] * (recipe.dsm > 0)
    weights = [1.0] + [recipe.dsm] * (recipe.dsm > 0)
    if adversarial:
        losses.append(-made.discriminator(estimate, **labels).mean())
        weights.append(recipe.gan)
    if recipe.adaptive:
        norms = [torch.autograd.grad(loss, student.last.weight, retain_graph=True)[0].norm() for loss in losses]
        for i in range(1, len(losses)):
            ratio = float(norms[0] / (norms[i] + 1e-4))
            weights[i] *= min(max(ratio, 0.01), 10.0) if adversarial and i == len(losses) - 1 else min(ratio, 1e4)
    of_student = sum(w * loss for w, loss in zip(weights, losses, strict=True))
    if not adversarial:
        return of_student, None
    real, fake = made.discriminator(x0, **labels), made.discriminator(estimate.detach(), **labels)
    return of_student, (1 - real).clamp_min(0).mean() + (1 + fake).clamp_min(0).mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({"gan_start": 5}, 4),
        ({"gan_start": 5}, 5),
        ({"gan_start": 0, "levels": 7, "solver_steps": 3, "dsm": 0.3, "gan": 0.2, "distance": "l2"}, 900),
        ({"gan_start": 0, "adaptive": False, "gan": 0.5, "dsm": 2.0, "most": 30.0, "least": 0.01}, 1),
        ({"gan": 0.0, "gan_start": 0, "dsm": 0.0}, 1),
        ({"gan_start": 0, "dsm": 0.0, "last_layer": "last"}, 2),
    ],
    ids=["before the discriminator", "with it", "few steps", "fixed weights", "soft consistency alone", "no denoising"],
)
def test_losses(kind, options, step):
    recipe, made = CTM(**options), kept(kind)
    mine, other = twice(step=step)
    found, expected = all_losses(recipe, made, mine), reference(recipe, kind, made, other)
    # sigma = √(1 − alpha²) of the reference has errors of 1e-16/sigma².
    rtol = 1e-8 if kind[0] == "flow" else 2e-6
    assert_agree(found["student"], expected[0], made.student, rtol=rtol)
    assert set(found) == {"student"} | ({"discriminator"} if expected[1] is not None else set())
    if expected[1] is not None:
        assert_agree(found["discriminator"], expected[1], made.discriminator, rtol=rtol)
        nobody = gradients(all_losses(recipe, made, twice(step=step)[0])["student"], made.discriminator)
        assert not any(g.any() for g in nobody)
    assert all(p.grad is None for n in (made.student.model, made.discriminator) for p in n.parameters())


def test_the_number_of_the_teachers_steps():
    most = 5
    counts = torch.zeros(most)
    for i in range(3000):
        counts[solver_steps((i + 0.5) / 3000, most) - 1] += 1
    assert counts.tolist() == [200, 400, 600, 800, 1000]
    assert [solver_steps(x, 4) for x in (0.0, 1 - 1e-16)] == [1, 4]


def test_levels_of_denoising():
    levels = denoising_levels(Batch(torch.zeros(4000, 1, dtype=torch.float64)), 0.002, 80.0, 7.0)
    usual, large = levels[::2].log(), levels[1::2]
    assert abs(float(usual.mean()) + 1.2) < 0.1
    assert abs(float(usual.std()) - 1.2) < 0.1
    root = large ** (1 / 7)
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    assert float(root.max()) < high
    assert float(root.min()) > high - 0.7 * (high - low)
    assert abs(float(root.mean()) - (high - 0.35 * (high - low))) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_a_jump_is_what_the_solver_does(kind):
    """Sampling with two deterministic steps is two jumps."""
    student = denoiser(kind, second_time=True)
    plan = CTM(gan=0.0).plan(student, 2)
    x, labels = data()
    sample = plan.sample(student, x, **labels)
    times = [torch.full((len(x),), t, dtype=torch.float64) for t in plan.times]
    assert float(sigma(kind[0], times[0])[0] / alpha(kind[0], times[0])[0]) <= 80.0 * (1 + 1e-9)
    y = wide(sigma(kind[0], times[0])) * x
    for t, s in pairwise(times):
        y = jump(student, y, t, s, labels)
    torch.testing.assert_close(sample, y, rtol=1e-9, atol=1e-9)
    there, g = scaled_jump(kind, student.model, x, times[0], times[1], labels)
    torch.testing.assert_close(jump(student, x, times[0], times[1], labels), there, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(jump(student, x, times[1], times[1], labels), x, rtol=1e-12, atol=1e-12)
    assert (
        float((g - sample_and_noise(kind, student.model, x, times[0], to=times[0], **labels)[0]).detach().abs().max())
        > 1e-3
    )


def test_gamma_is_the_solvers():
    student = denoiser(KINDS[0], second_time=True)
    assert CTM(gamma=0.5).plan(student, 2).options["gamma"] == 0.5
    assert not CTM().plan(student, 3).stochastic


def test_exact_jumps_have_no_loss():
    """For Gaussian data the flow map is known: with it as student and the exact score as teacher nothing is left."""
    mean, std, schedule = 0.4, 0.7, schedules.vp_cosine()

    class Exact(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Linear(1, 1, bias=False).double()
            nn.init.ones_(self.weight.weight)

        def forward(self, x, t, to=None):
            a_t, s_t = (wide(f("vp_cosine", t)) for f in (alpha, sigma))
            if to is None:  # E[x0 | x]
                g = mean + a_t * std**2 / (a_t**2 * std**2 + s_t**2) * (x - a_t * mean)
            else:  # g that the jump makes the exact map of, and E[x0 | x] in the limit
                a_s, s_s = (wide(f("vp_cosine", to)) for f in (alpha, sigma))
                there = (
                    a_s * mean
                    + (x - a_t * mean) * ((a_s * std) ** 2 + s_s**2).sqrt() / ((a_t * std) ** 2 + s_t**2).sqrt()
                )
                r = (s_s / a_s) / (s_t / a_t)
                limit = mean + a_t * std**2 / (a_t**2 * std**2 + s_t**2) * (x - a_t * mean)
                g = torch.where(r < 1 - 1e-9, (there / a_s - r * x / a_t) / (1 - r).clamp_min(1e-9), limit)
            return self.weight(g[..., None])[..., 0]

    exact = Denoiser(Exact(), schedule, "sample")
    made = networks(student=exact, teacher=exact, ema={"student": exact})
    x = mean + std * torch.randn(64, 3, 2, dtype=torch.float64)
    fine = float(
        all_losses(CTM(levels=160, solver_steps=1, dsm=0.0, gan=0.0, distance="l1"), made, Batch(x))["student"]
    )
    coarse = float(
        all_losses(CTM(levels=20, solver_steps=1, dsm=0.0, gan=0.0, distance="l1"), made, Batch(x))["student"]
    )
    assert fine < 1e-5
    assert coarse < 2e-3
    assert coarse > 20 * fine  # what is left is the error of Heun's steps
    t, zero = torch.full((64,), 0.8, dtype=torch.float64), torch.full((64,), 1e-4, dtype=torch.float64)
    found = jump(exact, x, t, zero, {})
    a, s = alpha("vp_cosine", t)[0], sigma("vp_cosine", t)[0]
    torch.testing.assert_close(found, gaussian_map(x, a, s, mean, std), rtol=1e-3, atol=1e-3)


def test_parts():
    in_parts(CTM(adaptive=False, gan_start=0), kept(KINDS[0]))


def test_networks():
    teacher = denoiser(KINDS[1], guidance=2.0)
    made = CTM().networks(teacher)
    assert set(made) == {"student", "discriminator", "teacher"}
    assert made["student"].guidance == 1.0
    assert made["student"].model.second_time
    assert made["teacher"].guidance == 2.0
    x, labels = data()
    critic = made["discriminator"].double()
    assert isinstance(critic, SampleCritic)
    told = torch.full((len(x),), critic.told, dtype=torch.float64)
    torch.testing.assert_close(critic(x, **labels), critic.critic(x, told, **labels)[1])
    assert float(sigma(KINDS[1][0], told)[0]) == pytest.approx(0.002, rel=1e-3)
    for name, p in critic.named_parameters():
        assert torch.autograd.grad(critic(x, **labels).sum(), p)[0] is not None, name
    mine = Judge()
    assert CTM().networks(teacher, mine)["discriminator"] is mine


class Movable(nn.Module):
    """E[x0 | x] for data of N(0.5, 0.1²) on the schedule ``flow``, plus something learned that is nothing at first."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 1)
        nn.init.zeros_(self.last.weight), nn.init.zeros_(self.last.bias)

    def add_second_time(self):
        pass

    def forward(self, x, t, to=None):
        t = t[:, None]
        exact = gaussian_sample(x, 1 - t, t, 0.5, 0.1)
        return exact + self.last(torch.tanh(self.first(torch.cat([x, t, t if to is None else to[:, None]], dim=1))))


class Numbers:
    """Data of N(1, 0.1²)."""

    shape, can_flip = (1,), False
    x = 1.0 + 0.1 * torch.randn(4096, 1, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.x)

    def at(self, index, flip=None):
        return self.x[index], {}


@pytest.mark.parametrize("gan", [1e-6, 20.0])
def test_the_student_follows_the_discriminator(gan, tmp_path):
    """The teacher's samples lie around 0.5, the data around 1: only the discriminator tells the student of those."""
    torch.manual_seed(0)
    teacher = Denoiser(Movable(), schedules.flow(), "sample")
    recipe = CTM(
        Optimizer(2e-3, "adam"), Optimizer(2e-2, "adam", betas=(0.5, 0.99)), levels=6, solver_steps=1, dsm=0.0,
        gan=gan, gan_start=20,
    )  # fmt: skip
    judge = nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 1), nn.Flatten(0))
    made = recipe.networks(teacher, judge)
    trainer = Trainer(recipe, made, Numbers(), TrainerConfig(300, 64, ema=(0.9,), bf16=False), tmp_path)
    trainer.fit(progress=False)
    student = trainer.denoiser()
    mean = float(recipe.plan(student, 1).sample(student, torch.randn(256, 1)).mean())
    if gan == 20.0:
        assert abs(mean - 1.0) < 0.2
        return
    assert abs(mean - 0.5) < 0.1
    with torch.no_grad():
        real, fake = judge(Numbers.x), judge(Numbers.x - 0.5)
    assert float((real > 0).float().mean()) > 0.95
    assert float((fake < 0).float().mean()) > 0.95


def test_a_critic_is_the_default_for_other_peoples_networks():
    with pytest.raises(ValueError, match="say it: width="):
        CTM().networks(Denoiser(nn.ModuleDict({"blocks": nn.ModuleList([nn.Identity()])}), schedules.flow(), "flow"))
    assert isinstance(CTM(bottleneck="hidden.0").networks(denoiser(KINDS[0]))["discriminator"].critic, Critic)
    assert (
        Small(0).hidden[0].out_features
        == CTM().networks(denoiser(KINDS[0]))["discriminator"].critic.head[1].in_features
    )


@pytest.mark.parametrize(
    "options",
    [{"levels": 1}, {"least": 0.0}, {"least": 90.0}, {"solver_steps": 18}, {"solver_steps": -1}],
)
def test_errors_of_the_grid(options):
    with pytest.raises(ValueError, match="ctm needs at least 2 levels"):
        CTM(**options)


@pytest.mark.parametrize(
    "options",
    [{"dsm": -1.0}, {"gan": -0.1}, {"gan_start": -1}, {"sigma_data": 0.0}, {"gamma": 1.1}, {"gamma": -0.1}],
)
def test_errors_of_the_weights(options):
    with pytest.raises(ValueError, match="ctm needs dsm, gan and gan_start"):
        CTM(**options)


def test_a_last_layer_that_is_not_called_once_is_to_be_named():
    made = kept(KINDS[0])
    made.student.model.unused = nn.Linear(2, 2)  # the last that is registered
    with pytest.raises(ValueError, match=r"Linear was called 0 times: .*last_layer='\.\.\.'"):
        all_losses(CTM(), made, twice()[0])
    all_losses(CTM(last_layer="last"), made, twice()[0])
