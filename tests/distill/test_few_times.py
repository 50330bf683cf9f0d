import pytest
import torch

from pyaccel import schedules
from pyaccel.distill.few_times import (
    TIMES,
    check_shares,
    check_times,
    drawn_times,
    few_step_plan,
    student_times,
    with_noise,
)

from .references import KINDS, alpha, data, denoiser, sample_and_noise, sigma, wide


def test_drawn_times_have_their_shares():
    u = (torch.arange(1000) + 0.5) / 1000
    for shares in ((0.25,) * 4, (0.0, 0.0, 0.5, 0.5), (0.7, 0.1, 0.1, 0.1)):
        t, pure = drawn_times(u, TIMES, shares)
        found = [int((t == time).sum()) for time in TIMES]
        assert found == pytest.approx([1000 * s for s in shares], abs=1)
        assert torch.equal(pure, t == 1.0)
    t, pure = drawn_times(u, [0.9], [1.0])
    assert bool(pure.all())
    assert torch.equal(t, torch.full_like(u, 0.9))


@pytest.mark.parametrize("kind", KINDS)
def test_noise(kind):
    """Pure noise has nothing of the data, although vp_linear keeps a rest of it at its last time."""
    (x, _), t = data(), torch.tensor([1.0, 0.75, 0.5, 0.25, 1.0, 0.5, 0.25], dtype=torch.float64)
    noise, schedule = torch.randn_like(x), schedules.from_name(kind[0])
    found = with_noise(schedule, x, noise, t, t == 1.0)
    expected = wide(alpha(kind[0], t)) * x + wide(sigma(kind[0], t)) * noise
    expected = torch.where(wide(t) == 1, wide(sigma(kind[0], t)) * noise, expected)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_plan_calls_the_student_at_its_own_times():
    student = denoiser(("flow", "flow"))
    for calls, times in {1: [1.0], 2: [1.0, 0.6], 3: [1.0, 0.9, 0.6], 4: [1.0, 0.9, 0.6, 0.1]}.items():
        plan = few_step_plan(student, (1.0, 0.9, 0.6, 0.1), calls)
        assert plan.times == (*times, 0.0)
        assert plan.calls == calls
    assert few_step_plan(student, TIMES, 8).calls == 8


def test_sampling_with_two_calls():
    kind = ("flow", "flow")
    student, (x, labels) = denoiser(kind), data()
    plan = few_step_plan(student, (1.0, 0.7), 2)
    seen = []

    def model(x, t, **conditioning):
        seen.append((x, t))
        return student.model(x, t, **conditioning)

    sample = plan.sample(model, x, seed=list(range(7)), **labels)
    (first, one), (second, half) = seen
    torch.testing.assert_close(first, x)
    assert one.tolist() == [1.0] * 7
    assert half.tolist() == [0.7] * 7
    clean = sample_and_noise(kind, student.model, first, one, **labels)[0]
    noise = (second - 0.3 * clean) / 0.7
    assert 0.5 < float(noise.detach().std()) < 1.5
    torch.testing.assert_close(sample, sample_and_noise(kind, student.model, second, half, **labels)[0])


def test_the_first_time_is_below_one_where_there_is_no_data_left():
    """A prediction of the noise says nothing of the data where alpha is 0."""
    student = denoiser(("vp_cosine", "epsilon"))
    first, *others = student_times(student, TIMES)
    assert 0.9 < first < 1
    assert others == [0.75, 0.5, 0.25]
    assert few_step_plan(student, TIMES, 2).times == (first, 0.5, 0.0)
    assert student_times(denoiser(("vp_cosine", "v")), TIMES) == list(TIMES)


@pytest.mark.parametrize("times", [(), (0.9, 0.5), (1.0, 1.0), (1.0, 0.2, 0.4), (1.0, 0.0)])
def test_times_that_do_not_fall_from_one(times):
    with pytest.raises(ValueError, match="add needs times that begin with 1"):
        check_times("add", times)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 0.5, 0.5, 0.5), (1.5, -0.5, 0.0, 0.0)])
def test_shares_that_are_none(shares):
    with pytest.raises(ValueError, match="ladd needs a share for each of 4 times"):
        check_shares("ladd", TIMES, shares)
