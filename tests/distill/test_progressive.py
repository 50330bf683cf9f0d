import copy
import dataclasses

import pytest
import torch

from pyaccel import Denoiser, schedules, solvers
from pyaccel.distill import ProgressiveDistillation
from pyaccel.distill.progressive import ddim_step, truncated_snr_loss, two_step_target
from pyaccel.training.batch import Batch

from .. import mixture
from .references import (
    KINDS,
    all_losses,
    alpha,
    assert_agree,
    data,
    denoiser,
    in_parts,
    networks,
    sample_and_noise,
    sigma,
    twice,
    wide,
)


def reference_step(kind, network, x, t, s, labels):
    x0, noise = sample_and_noise(kind, network, x, t, **labels)
    return wide(alpha(kind[0], s)) * x0 + wide(sigma(kind[0], s)) * noise


def reference(kind, teacher, student, batch, steps, guidance=1.0):
    """Algorithm 2 of Salimans & Ho; teacher and student are networks."""
    first = 0.9946 if kind == ("vp_cosine", "epsilon") else 1.0
    t = torch.ceil(batch.uniform() * steps) / steps * first
    middle, s = t - 0.5 * first / steps, (t - first / steps).clamp_min(0)
    noise, labels = batch.normal(), batch.conditioning
    a, sig = wide(alpha(kind[0], t)), wide(sigma(kind[0], t))
    x = a * batch.x + sig * noise

    def guided(x, t, label):
        with_label, without = teacher(x, t, label=label), teacher(x, t, label=torch.full_like(label, 4))
        return guidance * with_label + (1 - guidance) * without

    with torch.no_grad():
        z = reference_step(kind, guided, x, t, middle, labels)
        z = reference_step(kind, guided, z, middle, s, labels)
        ratio = wide(sigma(kind[0], s)) / sig
        target = (z - ratio * x) / (wide(alpha(kind[0], s)) - ratio * a)
    sample, _ = sample_and_noise(kind, student, x, t, **labels)
    eps_target = (x - a * target) / sig
    x_mse = (sample - target).square().mean((1, 2))
    eps_mse = ((x - a * sample) / sig - eps_target).square().mean((1, 2))
    return torch.maximum(x_mse, eps_mse).mean()


@pytest.mark.parametrize("kind", [*KINDS, ("vp_cosine", "epsilon")])
@pytest.mark.parametrize("steps", [1, 4])
def test_loss(kind, steps):
    recipe = ProgressiveDistillation(start_steps=steps)
    student, teacher = denoiser(kind, 0), denoiser(kind, 1)
    mine, other = twice(step=5)
    loss = all_losses(recipe, networks(student=student, teacher=teacher), mine)["student"]
    expected = reference(kind, teacher.model, student.model, other, steps)
    # For alpha near 0 the factor alpha²/sigma² and 1 − alpha² lose digits in the reference.
    assert_agree(loss, expected, student, rtol=1e-7)
    assert all(p.grad is None for p in teacher.model.parameters())


def test_the_first_teacher_is_guided_and_the_next_ones_are_not():
    recipe = ProgressiveDistillation(start_steps=4, phase=10)
    kind = ("flow", "flow")
    student, teacher = denoiser(kind, 0), denoiser(kind, 1, guidance=2.5)
    made = recipe.networks(teacher)
    assert made["teacher"].guidance == 2.5
    assert made["student"].guidance == 1.0
    assert made["teacher"].model is not teacher.model  # it is overwritten later on
    for step, steps, guidance in [(9, 4, 2.5), (11, 2, 1.0)]:
        mine, other = twice(step=step)
        loss = all_losses(recipe, networks(student=student, teacher=teacher), mine)["student"]
        assert_agree(loss, reference(kind, teacher.model, student.model, other, steps, guidance), student)


def test_truncated_snr():
    sample, target = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    a, s = torch.tensor([0.9, 0.1, 0.6, 0.0]).double(), torch.tensor([0.1, 0.9, 0.8, 1.0]).double()
    by_hand = [max(1.0, float(x / y) ** 2) for x, y in zip(a, s, strict=True)]
    expected = sum(w * float((p - q).square().mean()) for w, p, q in zip(by_hand, sample, target, strict=True)) / 4
    assert float(truncated_snr_loss(sample, target, a, s)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", [("flow", "flow"), ("vp_linear", "epsilon"), ("vp_cosine", "v")])
def test_one_step_with_the_target_is_two_steps_of_ddim_of_the_exact_teacher(kind):
    schedule = schedules.from_name(kind[0])
    teacher = Denoiser(mixture.exact_denoiser(schedule, kind[1]), schedule, kind[1])
    plan = solvers.ddim(schedule, times=[0.9, 0.6, 0.3], prediction=kind[1])
    x = torch.randn(6, 1, dtype=torch.float64)
    t, middle, s = (torch.full((6,), u, dtype=torch.float64) for u in (0.9, 0.6, 0.3))
    there = plan.sample(teacher, x / schedule.sigma(0.9))
    target = two_step_target(teacher, x, t, middle, s, {})
    a, sig = (f(torch.tensor([0.9, 0.3], dtype=torch.float64)).tolist() for f in (schedule.alpha, schedule.sigma))
    torch.testing.assert_close(a[1] * target + sig[1] * (x - a[0] * target) / sig[0], there, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [("flow", "flow"), ("vp_linear", "epsilon")])
def test_ddim_step_is_exact_for_one_point_of_data(kind):
    """All data at 0.4: x0 is known from every x, and DDIM of any length follows the flow exactly."""
    schedule = schedules.from_name(kind[0])

    def model(x, t):
        a, s = (f(t)[:, None] for f in (schedule.alpha, schedule.sigma))
        eps = (x - 0.4 * a) / s
        return eps if kind[1] == "epsilon" else eps - 0.4

    noise = torch.randn(5, 1, dtype=torch.float64)
    t, s = torch.rand(2, 5, dtype=torch.float64).sort(0, descending=True).values * 0.8 + 0.1
    x_t, x_s = (schedule.alpha(u)[:, None] * 0.4 + schedule.sigma(u)[:, None] * noise for u in (t, s))
    torch.testing.assert_close(ddim_step(Denoiser(model, schedule, kind[1]), x_t, t, s, {}), x_s)


@pytest.mark.parametrize("kind", [*KINDS, ("edm", "sample"), ("vp_cosine", "epsilon")])
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_the_times_of_training_are_those_of_sampling(kind, steps):
    seen = []

    def spy(network):
        network.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[1].detach()))

    recipe = ProgressiveDistillation(start_steps=8)
    student, teacher = denoiser(kind, 0), denoiser(kind, 1)
    spy(student.model)
    x, labels = data(24)
    step = {8: 0, 4: 1000, 2: 2000, 1: 3000}[steps] + 1
    all_losses(recipe, networks(student=student, teacher=teacher), Batch(x, labels, step=step))
    plan = recipe.plan(student, steps)
    told = sorted({round(float(student.schedule.model_time(t)), 6) for t in plan.times[:-1]})
    assert sorted({round(u, 6) for u in seen[0].tolist()}) == told


def test_halving():
    recipe = ProgressiveDistillation(start_steps=8, end_steps=2, phase=100)
    assert [recipe.steps_at(s) for s in (0, 99, 100, 199, 200, 299, 300, 10_000)] == [8, 8, 4, 4, 2, 2, 2, 2]
    kind = ("flow", "flow")
    x, labels = data()

    def at(step):
        student, teacher, average = (denoiser(kind, seed) for seed in (0, 1, 2))
        before = copy.deepcopy((student.model.state_dict(), teacher.model.state_dict()))
        made = networks(student=student, teacher=teacher, ema={"student": average})
        all_losses(recipe, made, Batch(x, labels, step=step))
        now = [n.model.state_dict()["last.weight"] for n in (student, teacher, average)]
        return now, [b["last.weight"] for b in before]

    for step in (0, 1, 99, 150, 300, 400):  # nothing changes hands, also where there is no more halving
        (student, teacher, _), before = at(step)
        assert torch.equal(student, before[0])
        assert torch.equal(teacher, before[1])
    for step in (100, 200):
        (student, teacher, average), _ = at(step)
        assert torch.equal(student, average)
        assert torch.equal(teacher, average)


def test_parts():
    made = networks(student=denoiser(("vp_linear", "epsilon")), teacher=denoiser(("vp_linear", "epsilon"), 1))
    in_parts(ProgressiveDistillation(), made, step=7)


@pytest.mark.parametrize(("start", "end", "phase"), [(12, 1, 10), (8, 3, 10), (1, 2, 10), (8, 0, 10), (8, 1, 0)])
def test_errors(start, end, phase):
    with pytest.raises(ValueError, match=f"start_steps={start}, end_steps={end}, phase={phase}"):
        ProgressiveDistillation(start_steps=start, end_steps=end, phase=phase)


def test_kept():
    assert ProgressiveDistillation.kept == ("teacher",)
    assert dataclasses.replace(ProgressiveDistillation(), start_steps=2).steps_at(0) == 2
