import dataclasses
import functools

import pytest
import torch
from torch import nn

from pyaccel import Denoiser, schedules
from pyaccel.distill.students import consistency_plan, copy_weights, per_sample, require_flow, student_of, teacher_of
from pyaccel.models import DiT, UNet

from .references import Small, denoiser


def tiny(kind):
    network = {
        "dit": functools.partial(DiT, size=8, patch=4, width=16, depth=2, heads=2, classes=3),
        "unet": functools.partial(UNet, size=8, width=8, multipliers=(1, 2), blocks=1, classes=3),
    }[kind]()
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(0.3 * torch.randn_like(p))
    return network.double()


@pytest.mark.parametrize("kind", ["dit", "unet"])
def test_a_second_time_leaves_the_output_as_it_was(kind):
    network = tiny(kind).float()
    teacher = Denoiser(network, schedules.flow(), "flow", guidance=3.0, unconditional={"label": 3})
    student = student_of(teacher, second_time=True)
    x, t, label = torch.randn(5, 1, 8, 8), torch.rand(5), torch.randint(0, 4, (5,))
    before = network(x, t, label).detach()
    assert float(before.abs().max()) > 0.1
    for to in (None, t, 0.5 * t, torch.zeros(5)):
        torch.testing.assert_close(student.model(x, t, label, to=to), before, rtol=0, atol=0)
    assert student.guidance == 1.0
    with pytest.raises(ValueError, match="one time"):
        network(x, t, label, to=t)


@pytest.mark.parametrize("kind", ["dit", "unet"])
def test_a_trained_second_time_counts_and_none_is_the_first(kind):
    network = tiny(kind)
    network.add_second_time()
    with torch.no_grad():
        for p in network.conditioning.interval.parameters():
            p.copy_(torch.randn_like(p))
    x, t = torch.randn(5, 1, 8, 8, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    torch.testing.assert_close(network(x, t), network(x, t, to=t), rtol=0, atol=0)
    assert float((network(x, t, to=0.5 * t) - network(x, t)).abs().max()) > 1e-3


def test_a_student_is_a_copy_in_float32_without_guidance():
    teacher = denoiser(("flow", "flow"), guidance=2.0, dtype=torch.bfloat16)
    student = student_of(teacher)
    assert student.guidance == 1.0
    assert student.dtype is None
    assert all(p.dtype is torch.float32 for p in student.model.parameters())
    assert all(p.dtype is torch.float64 for p in teacher.model.parameters())  # the teacher's stay
    with torch.no_grad():
        next(student.model.parameters()).zero_()
    assert float(next(teacher.model.parameters()).detach().abs().max()) > 0
    assert (student.schedule, student.prediction) == (teacher.schedule, teacher.prediction)
    kept = teacher_of(teacher)
    assert kept.model is teacher.model
    assert (kept.guidance, kept.dtype) == (2.0, None)


def test_errors():
    class OneTime(nn.Module):
        def forward(self, x, t):
            return x

    with pytest.raises(ValueError, match="OneTime takes one time"):
        student_of(Denoiser(OneTime(), schedules.flow(), "flow"), second_time=True)
    with pytest.raises(TypeError, match=r"an nn\.Module, got function"):
        student_of(Denoiser(lambda x, t: x, schedules.flow(), "flow"))
    require_flow("meanflow", denoiser(("flow", "flow")))
    for kind in [("vp_linear", "epsilon"), ("vp_cosine", "v"), ("flow", "v")]:
        with pytest.raises(ValueError, match=f"meanflow learns a flow map.*{kind[1]!r} on {kind[0]}"):
            require_flow("meanflow", denoiser(kind))


def test_copy_weights():
    source, target = Small(1), Small(2)
    copy_weights(source, target)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    with torch.no_grad():
        next(source.parameters()).zero_()
    assert float(next(target.parameters()).detach().abs().max()) > 0
    norms = [nn.BatchNorm1d(3) for _ in range(2)]
    norms[0](torch.randn(8, 3))
    copy_weights(*norms)
    assert torch.equal(norms[0].running_mean, norms[1].running_mean)


def test_per_sample():
    like = torch.zeros(3, 2, 4, 4, dtype=torch.float32)
    numbers = per_sample(torch.arange(3, dtype=torch.float64), like)
    assert numbers.shape == (3, 1, 1, 1)
    assert numbers.dtype is torch.float32


def test_consistency_plan_ends_in_data():
    student = dataclasses.replace(denoiser(("flow", "flow")))
    plan = consistency_plan(student, 3)
    assert plan.calls == 3
    assert plan.times[-1] == 0


@pytest.mark.parametrize("kind", ["dit", "unet"])
def test_random_weights_are_those_of_a_new_network(kind):
    """Zero where a new one is zero, of the same size elsewhere, and nothing is left of the teacher."""
    teacher = tiny(kind)
    student = student_of(Denoiser(teacher, schedules.flow(), "flow"), second_time=True, initial="random").model
    new = type(teacher)(**{
        "dit": {"size": 8, "patch": 4, "width": 16, "depth": 2, "heads": 2, "classes": 3},
        "unet": {"size": 8, "width": 8, "multipliers": (1, 2), "blocks": 1, "classes": 3},
    }[kind], second_time=True)  # fmt: skip
    learned = dict(teacher.named_parameters())
    for (name, mine), other in zip(student.named_parameters(), new.parameters(), strict=True):
        assert mine.any() == other.any(), name
        if mine.numel() > 200 and mine.any():
            assert 0.7 < float((mine.std() / other.std()).detach()) < 1.4, name
        assert name not in learned or not torch.isclose(mine, learned[name].float(), rtol=1e-6).all(), name
