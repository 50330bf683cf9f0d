import dataclasses
import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pyaccel import Denoiser, schedules, solvers
from pyaccel.distill import AlignYourFlow
from pyaccel.training.batch import Batch

from .references import (
    Small,
    all_losses,
    assert_agree,
    data,
    denoiser,
    gaussian_map,
    gradients,
    in_parts,
    networks,
    slope,
    twice,
    wide,
)

FLOW = ("flow", "flow")


class Guided(Small):
    """A student that is told the strength of guidance."""

    def forward(self, x, t, label=None, to=None, guidance=None):
        return super().forward(x + 0.1 * guidance[:, None, None], t, label, to)


def reference(recipe, student, teacher, weak, batch):
    """Gradients of Theorems 3.2 and 3.3 of Sabour et al., as the loss −w·F·g/elements, and the value of the loss."""
    x0, noise, label = batch.x, batch.normal(), batch.conditioning["label"]
    length = 1 / (1 + torch.exp(-(recipe.mean + recipe.std * batch.gaussians())))
    s = batch.uniform() * (1 - length)
    t, told = s + length, {}
    if weak is not None:
        low, high = recipe.lambdas
        strength = torch.full_like(t, (low + high) / 2)
        if isinstance(student, Guided):
            strength = low + (high - low) * batch.uniform()
            told = {"guidance": strength}

    def v(x, t):
        none = torch.full_like(label, 4)
        strong = 2.0 * teacher(x, t, label) - teacher(x, t, none)
        return strong if weak is None else wide(strength) * strong + wide(1 - strength) * weak(x, t, label)

    def big_f(x, t, s):
        return student(x, t, label, to=s, **told)

    x, gap = wide(1 - t) * x0 + wide(t) * noise, wide(s - t)
    r = min(recipe.most_warmup, batch.step / recipe.warmup)
    with torch.no_grad():
        now = big_f(x, t, s)
        if recipe.objective == "emd":  # df/dt = (v − F) + (s − t) dF/dt
            velocity = v(x, t)
            g = velocity - now + r * gap * slope(lambda x, t: big_f(x, t, s), x, t, velocity)
        else:  # −(df/ds − v(f, s)) = v − F − (s − t) dF/ds
            move = slope(lambda _, s: big_f(x, t, s), x, s, torch.zeros_like(x))
            g = v(x + gap * now, s) - now - r * gap * move
        g = g / (wide(g.square().mean((1, 2)).sqrt()) + recipe.c)
    value = g.square().mean()
    return value - 2 * ((big_f(x, t, s) - now) * g).mean()


@pytest.mark.parametrize("guidance", ["none", "fixed", "told"])
@pytest.mark.parametrize("objective", ["emd", "lmd"])
def test_loss(objective, guidance):
    recipe = AlignYourFlow(objective=objective, warmup=40, lambdas=(1.2, 2.7))
    student, teacher = denoiser(FLOW, 0, second_time=True), denoiser(FLOW, 1, guidance=2.0)
    made, weak = {"student": student, "teacher": teacher}, None
    if guidance == "told":
        made["student"] = student = dataclasses.replace(student, model=Guided(0, second_time=True))
    if guidance != "none":
        made["weak"] = denoiser(FLOW, 5)
        weak = made["weak"].model
    for step in (7, 400):  # r = 7/40, and 0.99
        mine, other = twice(step=step)
        loss = all_losses(recipe, networks(**made), mine)["student"]
        expected = reference(recipe, student.model, teacher.model, weak, other)
        assert_agree(loss, expected, student, rtol=1e-6)
        assert not any(g.any() for g in gradients(loss, teacher))


@pytest.mark.parametrize("objective", ["emd", "lmd"])
def test_differences_are_near_the_exact_tangent(objective):
    """Also at the ends, and all calls are within them: times near 0 and 1 are those of a wide distribution."""
    student, seen = denoiser(FLOW, second_time=True), []
    student.model.register_forward_hook(
        lambda _module, inputs, named, _output: seen.append(torch.stack([inputs[1], named["to"]])), with_kwargs=True
    )
    made = networks(student=student, teacher=denoiser(FLOW, 1))

    def found(**options):
        recipe = AlignYourFlow(objective=objective, std=6.0, warmup=0, **options)
        loss = all_losses(recipe, made, Batch(*data(64)))["student"]
        return torch.cat([g.flatten() for g in gradients(loss, student)])

    exact, near, far = found(), found(tangent="finite", h=1e-3), found(tangent="finite", h=0.2)
    times = torch.stack(seen[1:])
    assert times.min() >= 0
    assert times.max() <= 1
    assert float((near - exact).norm() / exact.norm()) < 0.01
    assert float((far - exact).norm()) > 5 * float((near - exact).norm())


class Map(nn.Module):
    """F of data N(mean, std²): (f − x)/(s − t) along the flow; ``wrong`` bends it."""

    mean, std = 0.3, 0.5

    def __init__(self, wrong=0.0):
        super().__init__()
        self.wrong = nn.Parameter(torch.tensor(wrong, dtype=torch.float64))

    def spread(self, t):
        return ((1 - t) ** 2 * self.std**2 + t**2).sqrt()

    def forward(self, x, t, to=None):
        t, s = t[:, None, None], to[:, None, None]
        there = (1 - s) * self.mean + self.spread(s) / self.spread(t) * (x - (1 - t) * self.mean)
        return (there - x) / (s - t) + self.wrong * (s - t) * x


class Velocity(Map):
    def forward(self, x, t):
        a, t = 1 - t[:, None, None], t[:, None, None]
        x0 = self.mean + a * self.std**2 / self.spread(t) ** 2 * (x - a * self.mean)
        return (x - a * x0) / t - x0


@pytest.mark.parametrize("objective", ["emd", "lmd"])
def test_the_exact_flow_map_of_a_gaussian_has_no_tangent(objective):
    x = 0.3 + 0.5 * torch.randn(16, 3, 2, dtype=torch.float64)
    t, zero = torch.full((16,), 0.8, dtype=torch.float64), torch.zeros(16, dtype=torch.float64)
    a, sigma = wide(1 - t), wide(t)
    torch.testing.assert_close(x - sigma * Map()(x, t, to=zero), gaussian_map(x, a, sigma, 0.3, 0.5))

    def loss(wrong):
        made = {"student": Map(wrong), "teacher": Velocity()}
        made = networks(**{name: Denoiser(n, schedules.flow(), "flow") for name, n in made.items()})
        recipe = AlignYourFlow(objective=objective, warmup=0, most_warmup=1.0)
        found = all_losses(recipe, made, Batch(x))["student"]
        return float(found.detach()), gradients(found, made.student)[0]

    assert loss(0.0)[0] < 1e-20
    for wrong in (0.1, -0.1):
        value, gradient = loss(wrong)
        assert value > 1e-3
        assert math.copysign(1, wrong) * float(gradient) > 1e-3  # descent leads back to 0


def test_parts():
    made = networks(student=denoiser(FLOW, second_time=True), teacher=denoiser(FLOW, 1), weak=denoiser(FLOW, 2))
    in_parts(AlignYourFlow(), made, step=100)
    in_parts(AlignYourFlow(objective="lmd", tangent="finite"), made, count=4, step=100)


def test_networks_and_errors(tmp_path):
    teacher = denoiser(FLOW)
    made = AlignYourFlow().networks(teacher)
    assert set(made) == {"student", "teacher"}
    assert made["student"].model.second_time
    save_file(Small(7).state_dict(), tmp_path / "weak.safetensors")
    made = AlignYourFlow(weak=str(tmp_path / "weak.safetensors")).networks(teacher)
    torch.testing.assert_close(made["weak"].model.last.weight, Small(7).last.weight.float())
    assert made["teacher"].model is teacher.model
    with pytest.raises(FileNotFoundError, match="nothing"):
        AlignYourFlow(weak="nothing.safetensors").networks(teacher)
    with pytest.raises(ValueError, match="ayf learns a flow map"):
        AlignYourFlow().networks(denoiser(("vp_cosine", "v")))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"std": 0.0}, "std, c and h above 0"),
        ({"c": 0.0}, "std, c and h above 0"),
        ({"h": 0.0}, "std, c and h above 0"),
        ({"warmup": -1}, "warmup of at least 0"),
        ({"most_warmup": 1.1}, r"most_warmup in \[0, 1\]"),
        ({"lambdas": (3.0, 1.0)}, "two rising lambdas"),
    ],
)
def test_settings(options, text):
    with pytest.raises(ValueError, match=text):
        AlignYourFlow(**options)


def test_what_is_trained_is_what_is_sampled():
    """A step of the plan from t to s is x + (s − t)·F(x, t, s), as is one of ``solvers.ctm`` with gamma 0."""
    student, noise = denoiser(FLOW, second_time=True), torch.randn(3, 3, 2, dtype=torch.float64)
    plan = AlignYourFlow().plan(student, 2)
    network, x = Small(0, second_time=True), noise
    for t, s in zip(plan.times[:-1], plan.times[1:], strict=True):
        x = x + (s - t) * network(x, torch.full((3,), t).double(), to=torch.full((3,), s).double())
    torch.testing.assert_close(plan.sample(student, noise).detach(), x.detach())
    same = solvers.ctm(student.schedule, 2, prediction="flow")
    torch.testing.assert_close(same.sample(student, noise).detach(), x.detach())
