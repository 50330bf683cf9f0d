import pytest
import torch

from pyaccel import schedules, solvers
from pyaccel.solvers.builder import Builder

from ..mixture import exact_denoiser, times
from .agreement import Path, agrees, points

S = schedules.vp_linear()


def build(function, steps=4):
    b = Builder(S, times(steps), "sample")
    return b.plan(function(b))


@pytest.mark.parametrize(
    ("solver", "options", "registers"),
    [
        (solvers.ddim, {}, 1),  # the sample
        (solvers.dpmpp, {"order": 2}, 2),  # and one prediction
        (solvers.dpmpp, {"order": 3}, 3),
        (solvers.dpmpp_sde, {"order": 2}, 2),
        (solvers.dpmpp_sde, {"order": 2, "method": "singlestep"}, 2),  # the sample and the inner sample
        (solvers.dpmpp, {"order": 2, "method": "singlestep"}, 2),  # what is known of the step, and the inner sample
        (solvers.heun, {}, 2),
        (solvers.unipc, {"order": 2}, 3),  # the network's input, the corrected sample's known part, one prediction
        (solvers.unipc, {"order": 3}, 4),
        (solvers.lms, {"order": 4}, 4),
        (solvers.rk4, {}, 3),  # the sample, what is known of the step and the inner sample
    ],
)
def test_registers_are_few(solver, options, registers):
    assert solver(S, times=times(20), **options).registers == registers


def test_a_register_is_used_again_when_its_value_is_dead():
    def solver(b):
        x = b.noise()
        for s, t in b.intervals():
            old = x
            x = b.exponential_step(x, b.predict(x, s), s, t) + 0.1 * old
        return x

    plan = build(solver, 30)
    assert plan.registers == 1
    assert all(row.target == 0 for stage in plan.stages for row in stage.rows)


def test_rows_of_a_stage_see_the_registers_as_they_were():
    def swap(b):
        a, c = b.noise(), 2 * b.noise()
        for s, _ in b.intervals():
            m = b.predict(a, s)
            a, c = c + 0 * m, a + 0 * m
        return a + 10 * c

    noise = points()
    x = S.sigma(1.0) * noise
    agrees(build(swap, 1).sample(exact_denoiser(S), noise), 2 * x + 10 * x)
    agrees(build(swap, 2).sample(exact_denoiser(S), noise), x + 20 * x)


def test_a_draw_is_no_register_and_may_be_used_in_later_stages():
    def solver(b):
        x = b.noise()
        (s, t), (_, u) = list(b.intervals())[:2]
        z = b.gaussian(s, u)
        x = b.exponential_step(x, b.predict(x, s), s, t) + z
        x = b.exponential_step(x, b.predict(x, t), t, u) - z
        return x + 0.5 * z

    plan, noise, path, model = build(solver), points(), Path(20), exact_denoiser(S)
    assert plan.registers == 1
    assert len(plan.draws) == 1
    assert [stage.draws for stage in plan.stages] == [[0], [0]]
    calls = []

    def once(a, b):
        calls.append((a, b))
        return path.draw(a, b)

    got = plan.sample(model, noise, noise_sampler=once)
    assert len(calls) == 1  # drawn once, kept until its last use
    grid, z = times(4), path.draw(*calls[0])

    def step(x, s, t):
        m = model(x, torch.tensor([s], dtype=torch.float64))
        ratio = S.sigma(t) / S.sigma(s)
        return ratio * x + (S.alpha(t) - S.alpha(s) * ratio) * m

    x = step(S.sigma(1.0) * noise, grid[0], grid[1]) + z
    agrees(got, step(x, grid[1], grid[2]) - z + 0.5 * z)


def test_noise_may_be_in_the_first_sample():
    def solver(b):
        s, t = b.points[0], b.points[1]
        x = b.noise() + 3.0 * b.gaussian(s, t)
        return b.predict(x, s)

    noise, z = points(), points()
    got = build(solver).sample(lambda x, t: 2 * x, noise, noise_sampler=lambda a, b: z)
    agrees(got, 2 * (S.sigma(1.0) * noise + 3 * z))


def test_learned_times_give_the_same_table():
    """Coefficients from tensors, as a student that learns its times makes them."""
    grid = torch.tensor(times(5), dtype=torch.float64, requires_grad=True)
    learned = solvers.unipc.function(Builder(S, list(grid), "sample"))
    assert all(isinstance(c, torch.Tensor) for c in learned.terms.values())
    (gradient,) = torch.autograd.grad(sum(c for c in learned.terms.values()), grid)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0
    b = Builder(S, times(5), "sample")
    plain = solvers.unipc.function(b)
    for a, c in zip(learned.terms.values(), plain.terms.values(), strict=True):
        assert float(a) == pytest.approx(float(c), rel=1e-9)


WEIGHTS = torch.tensor([1.0, 2.0, 3.0])


def test_coefficients_for_each_element_are_tensors_of_the_plan():
    def solver(b):
        x = b.noise()
        m = b.predict(x, b.points[0])
        return WEIGHTS * x + 2.0 * m

    plan, noise = build(solver), torch.randn(4, 3, dtype=torch.float64)
    assert len(plan.tensors) == 1
    x = S.sigma(1.0) * noise
    agrees(plan.sample(lambda x, t: x**2, noise), WEIGHTS.double() * x + 2 * x**2)


def test_the_first_sample_may_be_weighted_for_each_element():
    def solver(b):
        return b.predict(WEIGHTS.double() * b.noise(), b.points[0])

    noise = torch.randn(4, 3, dtype=torch.float64)
    agrees(build(solver).sample(lambda x, t: x**2, noise), (WEIGHTS.double() * S.sigma(1.0) * noise) ** 2)


def test_a_bias_is_added():
    def solver(b):
        x = b.noise()
        m = b.predict(x, b.points[0])
        return m + 0.5 * b.one + WEIGHTS * b.one

    noise = torch.randn(4, 3, dtype=torch.float64)
    agrees(build(solver).sample(lambda x, t: x, noise), S.sigma(1.0) * noise + 0.5 + WEIGHTS.double())
