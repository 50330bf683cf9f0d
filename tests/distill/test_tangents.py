import math

import pytest
import torch

from pyaccel import Denoiser, schedules
from pyaccel.distill.scm import trig_velocity
from pyaccel.distill.tangents import directional_derivative, trajectory_derivative
from pyaccel.models import DiT, UNet

from .references import Small, denoiser


def network(kind):
    """Of random weights, so that no branch is closed, in float64 with a second time."""
    if kind == "dit":
        made = DiT(size=4, patch=2, width=16, depth=2, heads=2, classes=3, second_time=True)
    else:
        made = UNet(size=4, width=8, multipliers=(1, 2), blocks=1, classes=3, second_time=True)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(0.2 * torch.randn_like(p))
        # The waves of t are fast, up to 1000·t: of like weight, their slope would hide every other one.
        made.conditioning.time[0].weight.mul_(1e-3)
    return made.double()


def inputs(count=3):
    x, dx = torch.randn(2, count, 1, 4, 4, dtype=torch.float64)
    return x, dx, 0.2 + 0.6 * torch.rand(count, dtype=torch.float64), torch.randint(0, 3, (count,))


def central(f, primals, tangents, h=1e-5):
    """Of fourth order: (8·(f(h) − f(−h)) − (f(2h) − f(−2h)))/12h."""

    @torch.no_grad()
    def at(step):
        return f(*(p + step * d for p, d in zip(primals, tangents, strict=True)))

    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


@pytest.mark.parametrize("kind", ["dit", "unet"])
def test_forward_mode_through_networks_with_two_times(kind):
    model = network(kind)
    x, v, t, label = inputs()
    r = 0.5 * t

    def u(x, t):
        return model(x, t, label, to=r)

    value, slope = directional_derivative(u, (x, t), (v, torch.ones_like(t)))
    expected = central(u, (x, t), (v, torch.ones_like(t)))
    size = float(expected.abs().max())
    assert size > 1e-2
    torch.testing.assert_close(value, u(x, t).detach())
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-5 * size)
    assert not slope.requires_grad
    assert not value.requires_grad
    # What is easily done wrong: v or dt left out, and r moved along. Each is another number.
    wrong = [
        (lambda x, t: model(x, t, label, to=r), (torch.zeros_like(v), torch.ones_like(t))),
        (lambda x, t: model(x, t, label, to=r), (v, torch.zeros_like(t))),
        (lambda x, t: model(x, t, label, to=r + (t - t.detach())), (v, torch.ones_like(t))),
    ]
    for f, tangents in wrong[:2]:
        assert float((directional_derivative(f, (x, t), tangents)[1] - expected).abs().max()) > 1e-2 * size
    moved = directional_derivative(lambda x, t, r: model(x, t, label, to=r), (x, t, r), (v, t / t, r / r))[1]
    assert float((moved - expected).abs().max()) > 1e-2 * size


@pytest.mark.parametrize("kind", ["dit", "unet"])
@pytest.mark.parametrize("schedule", [("flow", "flow"), ("vp_linear", "epsilon"), ("vp_cosine", "v")])
def test_forward_mode_of_trig_velocity(kind, schedule):
    student = Denoiser(network(kind), schedules.from_name(schedule[0]), schedule[1])
    x, dx, t, label = inputs()
    angle = t * math.pi / 2

    def velocity(x, u):
        return trig_velocity(student, x, u, 0.5, {"label": label})

    value, slope = directional_derivative(velocity, (x, angle), (dx, torch.ones_like(t)))
    expected = central(velocity, (x, angle), (dx, torch.ones_like(t)))
    size = float(expected.abs().max())
    assert size > 1e-2
    torch.testing.assert_close(value, velocity(x, angle).detach())
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-5 * size)
    for tangents in [(torch.zeros_like(dx), torch.ones_like(t)), (dx, torch.zeros_like(t))]:
        other = directional_derivative(velocity, (x, angle), tangents)[1]
        assert float((other - expected).abs().max()) > 1e-2 * size


def test_finite_differences():
    """(f(+h) − f(−h))/2h and the mean of both, by hand; their error falls as h²."""
    model = Small(second_time=True)
    x, v, t = torch.randn(3, 3, 2).double(), torch.randn(3, 3, 2).double(), torch.rand(3).double()

    def f(x, t):
        return model(x, t)

    exact = directional_derivative(f, (x, t), (v, torch.ones_like(t)))[1]
    errors = []
    for h in (0.02, 0.01):
        value, slope = directional_derivative(f, (x, t), (v, torch.ones_like(t)), "finite", h)
        above, below = f(x + h * v, t + h).detach(), f(x - h * v, t - h).detach()
        torch.testing.assert_close(value, (above + below) / 2)
        torch.testing.assert_close(slope, (above - below) / (2 * h))
        assert not slope.requires_grad
        errors.append(float((slope - exact).abs().max()))
    assert 1.8 < math.log2(errors[0] / errors[1]) < 2.2


def test_fast_waves_are_smoothed():
    """sin(1000·t) has slopes of 1000 and goes nowhere; over ±h what is left of them is at most 1/h."""
    t = torch.rand(64, dtype=torch.float64)
    ones, h = torch.ones_like(t), 0.02
    slow = directional_derivative(lambda t: torch.sin(1000 * t) + 3 * t, (t,), (ones,), "finite", h)[1]
    fast = directional_derivative(lambda t: torch.sin(1000 * t) + 3 * t, (t,), (ones,))[1]
    assert float((slow - 3).abs().max()) <= 1 / h
    assert float((fast - 3).abs().max()) > 500


def test_unknown():
    with pytest.raises(ValueError, match="'forward' or 'finite', got 'backward'"):
        directional_derivative(torch.sin, (torch.zeros(1),), (torch.ones(1),), "backward")


def test_bfloat16_autocast_keeps_the_tangent_close():
    student = denoiser(("flow", "flow")).model.float()
    x, v, t = torch.randn(8, 3, 2), torch.randn(8, 3, 2), torch.rand(8)
    exact = directional_derivative(student, (x, t), (v, torch.ones_like(t)))[1]
    with torch.autocast("cpu", torch.bfloat16):
        slope = directional_derivative(student, (x, t), (v, torch.ones_like(t)))[1]
    assert float((slope.float() - exact).abs().max()) < 0.05 * float(exact.abs().max())


def test_a_derivative_along_a_trajectory_never_asks_for_times_beyond_the_ends():
    """Exact for what is quadratic in time, at the point of the trajectory that is nearest with h to both sides."""
    t = torch.tensor([0.0, 0.004, 0.3, 0.995, 1.0], dtype=torch.float64)
    x, v = torch.randn(2, 5, 3, dtype=torch.float64)
    seen = []

    def f(x, t):
        seen.append(t)
        return x * t[:, None] + t[:, None] ** 2

    middle = t.clamp(0.01, 0.99)[:, None]
    slope = trajectory_derivative(f, x, t, v, "finite", 0.01)
    torch.testing.assert_close(slope, v * middle + x + (middle - t[:, None]) * v + 2 * middle)
    assert torch.stack(seen).min() >= 0
    assert torch.stack(seen).max() <= 1
    slope = trajectory_derivative(f, x, t, v)
    torch.testing.assert_close(slope, v * t[:, None] + x + 2 * t[:, None])
