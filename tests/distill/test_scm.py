import math

import pytest
import torch
from torch import nn

from pyaccel import Denoiser, schedules
from pyaccel.distill import ContinuousConsistency
from pyaccel.distill.scm import LossWeight, normalised, scm_loss, scm_tangent, trig_velocity
from pyaccel.distill.tangents import directional_derivative
from pyaccel.training.batch import Batch

from .references import (
    KINDS,
    all_losses,
    alpha,
    assert_agree,
    data,
    denoiser,
    gaussian_map,
    gradients,
    in_parts,
    networks,
    sample_and_noise,
    slope,
    time_of_ratio,
    twice,
    wide,
)


def velocity_by_hand(kind, network, x, u, sigma_data, labels):
    """sigma_data·F: of x0 and eps that the network finds at the same sigma/alpha, cos·sigma_data·eps − sin·x0."""
    t = time_of_ratio(kind[0], sigma_data * torch.tan(u))
    scaled = x * wide(alpha(kind[0], t) / torch.cos(u))
    x0, eps = sample_and_noise(kind, network, scaled, t, **labels)
    return wide(torch.cos(u)) * sigma_data * eps - wide(torch.sin(u)) * x0


def reference(recipe, kind, student, teacher, weight, batch):
    """Algorithm 1 of Lu & Song, F without sigma_data as it is there."""
    d, z = recipe.sigma_data, recipe.sigma_data * batch.normal()
    u = torch.atan(torch.exp(recipe.mean + recipe.std * batch.gaussians()) / d)
    cos, sin, labels = wide(torch.cos(u)), wide(torch.sin(u)), batch.conditioning
    x = cos * batch.x + sin * z
    with torch.no_grad():
        dx = cos * z - sin * batch.x
        if recipe.source == "teacher":
            dx = velocity_by_hand(kind, teacher, x, u, d, labels)

        def of_student(x, u):
            return velocity_by_hand(kind, student, x, u, d, labels)

        f, df = of_student(x, u), slope(of_student, x, u, dx)
        r = min(1.0, batch.step / recipe.warmup) if recipe.warmup else 1.0
        g = -(cos**2) * (f - dx) - r * cos * sin * (x + df)
        g = g / (g.square().mean((1, 2), keepdim=True).sqrt() + recipe.c)
    phi = weight(u)
    error = velocity_by_hand(kind, student, x, u, d, labels) / d - f / d - g
    return (phi.exp() * error.square().mean((1, 2)) - phi).mean()


def weights():
    weight = LossWeight().double()
    with torch.no_grad():
        for p in weight.parameters():
            p.copy_(0.1 * torch.randn_like(p))
    return weight


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"source": "data", "sigma_data": 0.8, "mean": -0.4, "std": 0.9, "c": 0.5}, {"warmup": 0, "sigma_data": 1.3}],
    ids=["sCD", "sCT", "no warm-up"],
)
def test_loss(kind, options):
    recipe = ContinuousConsistency(**{"warmup": 100, **options})
    student, teacher, weight = denoiser(kind, 0), denoiser(kind, 1), weights()
    mine, other = twice(step=40)
    made = networks(student=student, teacher=teacher, weight=weight)
    ((names, loss),) = recipe.losses(made, mine)
    assert names == ("student", "weight")
    assert_agree(loss, reference(recipe, kind, student.model, teacher.model, weight, other), student, weight, rtol=1e-6)
    assert not any(g.any() for g in gradients(all_losses(recipe, made, mine)[names], teacher))


@pytest.mark.parametrize("kind", [*KINDS, ("vp_cosine", "epsilon"), ("flow", "sample")])
def test_trig_velocity(kind):
    """At x = cos(u)·x0 + sin(u)·d·eps a network that knows x0 and eps has the velocity dx/du."""
    schedule, d = schedules.from_name(kind[0]), 0.6
    x0, eps = torch.randn(2, 5, 3, 2, dtype=torch.float64)
    # From nearly no noise to nearly nothing else.
    u = torch.tensor([1e-3, 0.2, 0.8, 1.4, math.pi / 2 - 5e-3], dtype=torch.float64)

    def model(x, t):
        a, s = (wide(f(t)) for f in (schedule.alpha, schedule.sigma))
        torch.testing.assert_close(x, a * x0 + s * eps)  # it is asked on its own schedule
        return {"flow": eps - x0, "epsilon": eps, "v": a * eps - s * x0, "sample": x0}[kind[1]]

    x = wide(torch.cos(u)) * x0 + wide(torch.sin(u)) * d * eps
    velocity = trig_velocity(Denoiser(model, schedule, kind[1]), x, u, d, {})
    expected = wide(torch.cos(u)) * d * eps - wide(torch.sin(u)) * x0
    torch.testing.assert_close(velocity, expected, rtol=1e-7, atol=1e-7)


def test_the_tangent_is_that_of_the_consistency_function():
    """cos(u)·d/du of cos(u)·x − sin(u)·F(x, u) along dx/du, by central differences."""
    student, (x, labels) = denoiser(("flow", "flow")), data()
    u = 0.2 + torch.rand(7, dtype=torch.float64)
    dx = torch.randn_like(x)

    @torch.no_grad()
    def velocity(x, u):
        return trig_velocity(student, x, u, 0.5, labels)

    @torch.no_grad()
    def function(x, u):
        return wide(torch.cos(u)) * x - wide(torch.sin(u)) * velocity(x, u)

    f, df = directional_derivative(velocity, (x, u), (dx, torch.ones_like(u)))
    expected = wide(torch.cos(u)) * slope(function, x, u, dx)
    torch.testing.assert_close(scm_tangent(f, df, x, dx, u, 1.0), expected, rtol=1e-7, atol=1e-8)
    cold = -(wide(torch.cos(u)) ** 2) * (f - dx)
    torch.testing.assert_close(scm_tangent(f, df, x, dx, u, 0.0), cold)
    for wrong in [(torch.zeros_like(dx), torch.ones_like(u)), (dx, torch.zeros_like(u))]:
        df = directional_derivative(velocity, (x, u), wrong)[1]
        assert float((scm_tangent(f, df, x, dx, u, 1.0) - expected).abs().max()) > 1e-2


MEAN, STD = 0.3, 0.5


class Student(nn.Module):
    """A flow whose x0 is the consistency function of data N(MEAN, STD²); ``wrong`` bends it."""

    def __init__(self, wrong=0.0):
        super().__init__()
        self.wrong = nn.Parameter(torch.tensor(wrong, dtype=torch.float64))

    def forward(self, x, t):
        a, s = 1 - t[:, None, None], t[:, None, None]
        return (x - gaussian_map(x, a, s, MEAN, STD)) / s + self.wrong * s * x


class Velocity(nn.Module):
    """The flow of the same data."""

    def forward(self, x, t):
        a, s = 1 - t[:, None, None], t[:, None, None]
        x0 = MEAN + a * STD**2 / (a**2 * STD**2 + s**2) * (x - a * MEAN)
        return (x - a * x0) / s - x0


def test_the_exact_consistency_function_of_a_gaussian_has_no_tangent():
    x = MEAN + STD * torch.randn(32, 3, 2, dtype=torch.float64)

    def loss(wrong):
        made = networks(
            student=Denoiser(Student(wrong), schedules.flow(), "flow"),
            teacher=Denoiser(Velocity(), schedules.flow(), "flow"),
            weight=LossWeight(),
        )
        recipe = ContinuousConsistency(warmup=0, c=1.0)
        found = all_losses(recipe, made, Batch(x))["student", "weight"]
        return float(found.detach()), float(gradients(found, made.student)[0].abs())

    assert loss(0.0)[0] < 1e-16
    assert loss(0.0)[1] < 1e-8
    assert loss(0.1)[0] > 1e-6
    assert loss(0.1)[1] > 1e-4


def test_a_gradient_step_goes_towards_the_exact_function():
    """The sign: the gradient by the factor of what is wrong has the sign of the factor."""
    x = MEAN + STD * torch.randn(256, 3, 2, dtype=torch.float64)
    for wrong in (-0.2, 0.2):
        student = Denoiser(Student(wrong), schedules.flow(), "flow")
        made = networks(student=student, teacher=Denoiser(Velocity(), schedules.flow(), "flow"), weight=LossWeight())
        found = all_losses(ContinuousConsistency(warmup=0), made, Batch(x))["student", "weight"]
        assert float(gradients(found, student)[0]) * wrong > 0


def test_normalised():
    tangent = torch.randn(4, 3, 2, dtype=torch.float64) * wide(torch.tensor([1e-3, 1.0, 10.0, 0.0]))
    result = normalised(tangent, 0.1)
    for mine, given in zip(result, tangent, strict=True):
        norm = math.sqrt(float(given.square().sum()) / 6)
        torch.testing.assert_close(mine, given / (norm + 0.1))


def test_loss_and_its_best_weight():
    """e^phi·q − phi is least at phi = −log q, where it is 1 + log q."""
    f, f_minus, g = torch.randn(3, 5, 3, 2, dtype=torch.float64)
    q = (f - f_minus - g).square().mean((1, 2))
    phi = (-q.log()).requires_grad_()
    loss = scm_loss(f, f_minus, g, phi)
    torch.testing.assert_close(loss.detach(), (1 + q.log()).mean())
    assert float(torch.autograd.grad(loss, phi)[0].abs().max()) < 1e-12
    f_minus.requires_grad_()
    assert not scm_loss(f, f_minus, g, phi.detach()).requires_grad


def test_loss_weight_begins_at_one():
    u = torch.rand(6) * math.pi / 2
    weight = LossWeight()
    assert torch.equal(weight(u), torch.zeros(6))
    with torch.no_grad():
        weight.net[-1].weight.normal_()
    assert float(weight(u).detach().std()) > 1e-2


@pytest.mark.parametrize("kind", [("flow", "flow"), ("vp_linear", "epsilon"), ("vp_cosine", "epsilon")])
@pytest.mark.parametrize("tangent", ["forward", "finite"])
def test_every_angle_is_within_the_schedule(kind, tangent):
    """Also in the tails of the distribution, and where differences reach to both sides."""
    recipe = ContinuousConsistency(std=6.0, tangent=tangent, h=0.02, source="data")
    told = []
    student = denoiser(kind)
    student.model.register_forward_hook(lambda _module, inputs, _output: told.append(inputs[1].detach()))
    x, labels = data(256)
    for dtype in (torch.float64, torch.float32):
        student.model.to(dtype)
        made = networks(student=student, weight=LossWeight())
        loss = all_losses(recipe, made, Batch(x.to(dtype), labels))["student", "weight"]
        assert torch.isfinite(loss)
        assert all(torch.isfinite(g).all() for g in gradients(loss, student))
    assert min(float(t.min()) for t in told) >= 0
    assert max(float(t.max()) for t in told) <= 1 + 1e-6


def test_stable_diffusions_schedule_has_an_end():
    schedule = schedules.vp_discrete(schedules.scaled_linear_betas())
    recipe = ContinuousConsistency(mean=3.0, source="data")
    angles = recipe._angles(schedule, torch.randn(1000, dtype=torch.float64))
    assert float(schedule.time_of_ratio(0.5 * torch.tan(angles)).max()) <= 1 + 1e-9


def test_parts():
    kind = ("vp_linear", "epsilon")
    made = networks(student=denoiser(kind), teacher=denoiser(kind, 1), weight=weights())
    in_parts(ContinuousConsistency(warmup=10), made, step=5)
    in_parts(ContinuousConsistency(source="data", tangent="finite"), made, step=5)


def test_networks():
    teacher = denoiser(("vp_cosine", "v"), guidance=2.0)
    assert set(ContinuousConsistency().networks(teacher)) == {"student", "teacher", "weight"}
    made = ContinuousConsistency(source="data").networks(teacher)
    assert set(made) == {"student", "weight"}
    assert ContinuousConsistency().networks(teacher)["teacher"].guidance == 2.0


@pytest.mark.parametrize("options", [{"sigma_data": 0.0}, {"std": 0.0}, {"c": 0.0}, {"warmup": -1}, {"h": 0.0}])
def test_errors(options):
    with pytest.raises(ValueError, match="scm needs sigma_data"):
        ContinuousConsistency(**options)
