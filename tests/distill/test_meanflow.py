import pytest
import torch
from torch import nn

from pyaccel import Denoiser, schedules
from pyaccel.distill import MeanFlow
from pyaccel.distill.meanflow import adaptive_loss, meanflow_target
from pyaccel.distill.tangents import directional_derivative
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


def apart(equal, count):
    """Which samples of a batch have r < t: floor((i + 1)·(1 − equal)) − floor(i·(1 − equal))."""
    p = 1 - equal
    return torch.tensor([int((i + 1) * p) - int(i * p) for i in range(count)]).bool()


def reference(recipe, student, teacher, batch):
    """Algorithm 1 of Geng et al., with the guidance of their appendix."""
    x0, noise = batch.x, batch.normal()
    first, second = (torch.sigmoid(recipe.mean + recipe.std * batch.gaussians()) for _ in range(2))
    t, r = torch.maximum(first, second), torch.minimum(first, second)
    r = torch.where(apart(recipe.equal, len(x0)), r, t)
    label = batch.conditioning["label"]
    if recipe.label_dropout:
        label = torch.where(batch.uniform() < recipe.label_dropout, 4, label)
    x, v = wide(1 - t) * x0 + wide(t) * noise, noise - x0
    none = torch.full_like(label, 4)
    with torch.no_grad():
        if recipe.velocity == "teacher":
            v = 2.0 * teacher(x, t, label) - 1.0 * teacher(x, t, none)
        elif (recipe.omega, recipe.kappa) != (1.0, 0.0):
            without, given = student(x, t, none, to=t), student(x, t, label, to=t)
            guided = recipe.omega * v + recipe.kappa * given + (1 - recipe.omega - recipe.kappa) * without
            v = torch.where(wide(label == 4), v, guided)
        target = v - wide(t - r) * slope(lambda x, t: student(x, t, label, to=r), x, t, v)
    squared = (student(x, t, label, to=r) - target).square().sum((1, 2))
    return (squared / (squared.detach() + recipe.eps) ** recipe.power).mean()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"equal": 0.0, "power": 0.75, "eps": 1e-3, "mean": 0.2, "std": 1.3},
        {"equal": 1.0},
        {"velocity": "teacher", "equal": 0.4},
        {"equal": 0.5, "omega": 1.6},
        {"equal": 0.5, "omega": 0.2, "kappa": 0.92, "label_dropout": 0.4},
    ],
    ids=["paper", "apart", "equal", "teacher", "omega", "kappa"],
)
def test_loss(options):
    recipe = MeanFlow(**options)
    student, teacher = denoiser(FLOW, 0, second_time=True), denoiser(FLOW, 1, guidance=2.0)
    mine, other = twice(step=4)
    loss = all_losses(recipe, networks(student=student, teacher=teacher), mine)["student"]
    # Differences of step 1e-4 have 1e-12 of rounding, over 1e-4.
    assert_agree(loss, reference(recipe, student.model, teacher.model, other), student, rtol=1e-6)
    assert not any(g.any() for g in gradients(loss, teacher))


def test_exact_tangent_to_the_last_digits():
    """With the derivative of our own, which test_tangents.py checks, everything else agrees to 1e-10."""
    student = denoiser(FLOW, second_time=True).model
    x, labels = data()
    v, t = torch.randn_like(x), torch.rand(7, dtype=torch.float64)
    r = 0.3 * t
    target = meanflow_target(student, x, v, t, r, labels)
    jacobian = torch.func.jacrev(lambda x, t: student(x, t, to=r, **labels), argnums=(0, 1))(x, t)
    by_hand = torch.einsum("bijckl,ckl->bij", jacobian[0], v) + jacobian[1].sum(-1)
    torch.testing.assert_close(target, v - wide(t - r) * by_hand, rtol=1e-10, atol=1e-12)
    assert not target.requires_grad
    finite = meanflow_target(student, x, v, t, r, labels, "finite", 1e-3)
    torch.testing.assert_close(finite, target, rtol=1e-3, atol=1e-4)


class AverageVelocity(nn.Module):
    """u of data N(mean, std²): (x_t − x_r)/(t − r) along the flow; ``wrong`` bends it."""

    mean, std = 0.3, 0.5

    def __init__(self, wrong=0.0):
        super().__init__()
        self.wrong = nn.Parameter(torch.tensor(wrong, dtype=torch.float64))

    def forward(self, x, t, to=None):
        m, s = self.mean, self.std
        t, r = t[:, None, None], to[:, None, None]

        def spread(t):
            return ((1 - t) ** 2 * s**2 + t**2).sqrt()

        there = (1 - r) * m + spread(r) / spread(t) * (x - (1 - t) * m)
        apart = torch.where(t - r > 1e-9, t - r, 1.0)
        a = 1 - t
        x0 = m + a * s**2 / spread(t) ** 2 * (x - a * m)
        now = (x - a * x0) / t - x0
        return torch.where(t - r > 1e-9, (x - there) / apart, now) + self.wrong * (t - r) * x


def test_the_exact_average_velocity_of_a_gaussian_is_its_own_target():
    x = 0.3 + 0.5 * torch.randn(16, 3, 2, dtype=torch.float64)
    teacher = AverageVelocity()

    class Velocity(nn.Module):
        def forward(self, x, t):
            return teacher(x, t, to=t)

    # What it leads to at r = 0 is the map that is known.
    t, r = torch.full((16,), 0.8, dtype=torch.float64), torch.zeros(16, dtype=torch.float64)
    a, s = 1 - t[:, None, None], t[:, None, None]
    torch.testing.assert_close(x - s * teacher(x, t, to=r), gaussian_map(x, a, s, 0.3, 0.5))

    def loss(wrong):
        made = networks(
            student=Denoiser(AverageVelocity(wrong), schedules.flow(), "flow"),
            teacher=Denoiser(Velocity(), schedules.flow(), "flow"),
        )
        recipe = MeanFlow(equal=0.3, velocity="teacher", power=0.0)
        found = all_losses(recipe, made, Batch(x))["student"]
        return float(found.detach()), float(gradients(found, made.student)[0].abs())

    assert loss(0.0)[0] < 1e-20
    assert loss(0.0)[1] < 1e-10
    assert loss(0.1)[0] > 1e-4
    assert loss(0.1)[1] > 1e-3


def test_a_wrong_tangent_is_no_target_of_the_exact_average_velocity():
    """The paper's table of wrong tangents: (v, 0, 0), (v, 1, 1) and (0, 0, 1) in place of (v, dr = 0, dt = 1)."""
    network = AverageVelocity()
    x = torch.randn(8, 3, 2, dtype=torch.float64)
    t = 0.5 + 0.4 * torch.rand(8, dtype=torch.float64)
    r, zero, one = 0.4 * t, torch.zeros_like(t), torch.ones_like(t)
    v, u = network(x, t, to=t).detach(), network(x, t, to=r).detach()

    def f(x, r, t):
        return network(x, t, to=r)

    def off(tangents):
        slope = directional_derivative(f, (x, r, t), tangents)[1]
        return float((v - wide(t - r) * slope - u).abs().max())

    assert off((v, zero, one)) < 1e-12
    torch.testing.assert_close(meanflow_target(network, x, v, t, r, {}), u)
    for wrong in [(v, zero, zero), (v, one, one), (v, one, zero), (torch.zeros_like(v), zero, one)]:
        assert off(wrong) > 1e-2


def test_adaptive_loss():
    error = torch.randn(5, 3, 2, dtype=torch.float64, requires_grad=True)
    loss = adaptive_loss(error, 0.75, 1e-3)
    squared = error.detach().square().sum((1, 2))
    assert float(loss.detach()) == pytest.approx(float((squared * (squared + 1e-3) ** -0.75).mean()), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, error)  # the weight has none
    torch.testing.assert_close(gradient, 2 * error.detach() * wide((squared + 1e-3) ** -0.75) / 5)


def test_how_many_pairs_are_equal():
    seen = []
    student = denoiser(FLOW, second_time=True)
    student.model.register_forward_hook(
        lambda _module, inputs, kwargs_, _output=None: seen.append((inputs[1], kwargs_["to"])), with_kwargs=True
    )
    x, labels = data(16)
    for equal, count in [(0.75, 12), (0.25, 4), (1.0, 16), (0.0, 0)]:
        seen.clear()
        all_losses(MeanFlow(equal=equal), networks(student=student), Batch(x, labels))
        t, r = seen[-1]
        assert int((t == r).sum()) == count
        assert torch.all(r <= t)


def test_parts():
    made = networks(student=denoiser(FLOW, second_time=True), teacher=denoiser(FLOW, 1))
    in_parts(MeanFlow(equal=0.6), made)
    in_parts(MeanFlow(equal=0.75, omega=1.5, kappa=0.2, label_dropout=0.5), made, count=4)


def test_without_labels_there_is_nothing_to_guide():
    student, (x, _) = denoiser(FLOW, second_time=True), data()
    plain, guided = (all_losses(r, networks(student=student), Batch(x))["student"] for r in (
        MeanFlow(), MeanFlow(omega=2.0)))  # fmt: skip
    torch.testing.assert_close(plain, guided)


def test_networks_and_errors():
    teacher = denoiser(FLOW)
    assert set(MeanFlow().networks(teacher)) == {"student"}
    made = MeanFlow(velocity="teacher").networks(teacher)
    assert set(made) == {"student", "teacher"}
    assert made["student"].model.second_time
    for kind in [("vp_linear", "epsilon"), ("flow", "v"), ("vp_cosine", "flow")]:
        with pytest.raises(ValueError, match="needs a teacher that predicts a flow"):
            MeanFlow().networks(denoiser(kind))

    class OneTime(nn.Module):
        def forward(self, x, t):
            return x

    with pytest.raises(ValueError, match="OneTime takes one time"):
        MeanFlow().networks(Denoiser(OneTime(), schedules.flow(), "flow"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"equal": 1.2}, "equal in"),
        ({"label_dropout": 1.0}, "label_dropout in"),
        ({"h": 0.0}, "h > 0"),
        ({"std": 0.0}, "std > 0"),
        ({"omega": 2.0, "velocity": "teacher"}, "the teacher's has the teacher's guidance"),
        ({"kappa": 1.0}, r"kappa in \[0, 1\)"),
        ({"kappa": -0.1}, r"kappa in \[0, 1\)"),
    ],
)
def test_settings(options, text):
    with pytest.raises(ValueError, match=text):
        MeanFlow(**options)


def test_the_papers_guidance_is_allowed():
    """Table 4 of the paper has omega = 0.2 and kappa = 0.92, and their code's default is 1 and 0.5."""
    for omega, kappa in [(0.2, 0.92), (1.0, 0.5), (2.0, 0.0)]:
        MeanFlow(omega=omega, kappa=kappa)


def test_what_is_trained_is_what_is_sampled():
    """A step of the plan from t to r is x − (t − r)·u(x, t, to = r)."""
    student = denoiser(FLOW, second_time=True)
    noise = torch.randn(3, 3, 2, dtype=torch.float64)
    plan = MeanFlow().plan(student, 2)
    network, x = Small(0, second_time=True), noise
    for t, r in zip(plan.times[:-1], plan.times[1:], strict=True):
        x = x - (t - r) * network(x, torch.full((3,), t).double(), to=torch.full((3,), r).double())
    torch.testing.assert_close(plan.sample(student, noise).detach(), x.detach())
