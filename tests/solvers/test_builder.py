import pytest
import torch

from pyaccel import schedules, solvers
from pyaccel.solvers.builder import Builder

from ..mixture import at, exact_denoiser, times

S = schedules.vp_linear()


def build(function, steps=4, schedule=S):
    b = Builder(schedule, times(steps), "sample")
    return b.plan(function(b))


def heun(b):
    """Two calls a step: the second prediction belongs to the end of the step (EDM, Algorithm 1, over x0)."""
    x = b.noise()
    for s, t in b.intervals():
        m = b.predict(x, s)
        guess = b.exponential_step(x, m, s, t)
        x = b.exponential_step(x, 0.5 * (m + b.predict(guess, t)), s, t)
    return x


def heun_loop(noise, steps):
    x, model = S.sigma(1.0) * noise, exact_denoiser(S)

    def step(x, m, s, t):
        ratio = S.sigma(t) / S.sigma(s)
        return ratio * x + (S.alpha(t) - S.alpha(s) * ratio) * m

    for s, t in zip(times(steps), times(steps)[1:], strict=False):
        m = model(x, at(s))
        x = step(x, 0.5 * (m + model(step(x, m, s, t), at(t))), s, t)
    return x


def test_several_calls_a_step():
    noise = torch.randn(10, dtype=torch.float64)
    plan = build(heun)
    assert plan.calls == 8
    torch.testing.assert_close(plan.sample(exact_denoiser(S), noise), heun_loop(noise, 4), rtol=0, atol=1e-12)


def test_a_value_is_born_when_it_was_created():
    """Sums made before a call are one register, however many terms they have."""

    def solver(b):
        x, history = b.noise(), []
        for s, t in b.intervals():
            m = b.predict(x, s)
            history.append(m)
            x = b.exponential_step(x, m, s, t)
        return x + sum(history[1:], history[0]) - history[-1] * 1.0

    assert build(solver).registers == 4  # x and three predictions; the fourth is added as it comes

    def running(b):
        x, total = b.noise(), None
        for s, t in b.intervals():
            m = b.predict(x, s)
            total = m if total is None else total + m
            x = b.exponential_step(x, m, s, t)
        return x + total

    assert build(running).registers == 2  # x and the running sum
    noise = torch.randn(10, dtype=torch.float64)
    a, b = (build(f).sample(exact_denoiser(S), noise) for f in (solver, running))
    assert not torch.allclose(a, b)  # the first leaves the last prediction out


def test_terms_with_factor_zero_are_kept():
    def solver(b):
        x = b.noise()
        for s, t in b.intervals():
            before = x
            x = b.exponential_step(x, b.predict(x, s), s, t) + 0.0 * before
        return x

    for stage in build(solver).stages:
        assert stage.calls[0].input in stage.rows[0].reads


def test_what_nobody_needs_is_not_computed():
    def solver(b):
        x = b.noise()
        for s, t in b.intervals():
            m = b.predict(x, s)
            _ = 3 * m + x
            x = b.exponential_step(x, m, s, t)
        return x

    assert all(len(stage.rows) == 1 for stage in build(solver).stages)


def test_the_networks_input_may_be_an_old_register():
    def solver(b):
        x = b.noise()
        first = b.predict(x, b.points[0])
        second = b.predict(x, b.points[0])  # the same input again
        return b.exponential_step(x, 0.5 * (first + second), b.points[0], b.points[1])

    noise, model = torch.randn(6, dtype=torch.float64), exact_denoiser(S)
    b = Builder(S, times(1), "sample")
    expected = solvers.ddim(S, times=times(1), prediction="sample").sample(model, noise)
    torch.testing.assert_close(b.plan(solver(b)).sample(model, noise), expected)


def test_subtraction_negation_and_division():
    def solver(b):
        x = b.noise()
        m = b.predict(x, b.points[0])
        return -(x - m) / 2.0

    noise, model = torch.randn(6, dtype=torch.float64), exact_denoiser(S)
    x = S.sigma(1.0) * noise
    expected = -(x - model(x, torch.tensor([1.0]))) / 2
    torch.testing.assert_close(build(solver, 1).sample(model, noise), expected)


def test_a_solver_without_a_call_is_refused():
    with pytest.raises(ValueError, match="at least once"):
        build(lambda b: b.noise())


def test_reading_as_epsilon_gives_the_same_samples():
    def in_noise(b):
        x = b.noise()
        for s, t in b.intervals():
            eps = b.predict(x, s, form="epsilon")
            x = (t.alpha / s.alpha) * x + (t.sigma - s.sigma * t.alpha / s.alpha) * eps
        return x

    noise, model = torch.randn(10, dtype=torch.float64), exact_denoiser(S)
    expected = solvers.ddim(S, times=times(4), prediction="sample").sample(model, noise)
    torch.testing.assert_close(build(in_noise).sample(model, noise), expected, rtol=0, atol=1e-12)
