import copy

import pytest
import torch
from torch import nn

from pyaccel import Denoiser, schedules
from pyaccel.distill import ADD
from pyaccel.distill.add import distillation_loss
from pyaccel.distill.feature_networks import FeatureNetwork
from pyaccel.models import DiT

from .adversarial import (
    assert_a_discriminator_that_diverged_is_named,
    assert_a_penalty_that_counts_nothing_is_left_out,
    assert_each_loss_leaves_the_other_network,
    assert_losses,
    made_of,
)
from .references import (
    KINDS,
    Exact,
    Shifted,
    all_losses,
    alpha,
    denoiser,
    discriminator_by_hand,
    in_parts,
    networks,
    played,
    sample_and_noise,
    sigma,
    twice,
    wide,
)


class Eyes(nn.Module):
    """What sees samples of six numbers: two linear layers."""

    def __init__(self, numbers=6):
        super().__init__()
        self.one, self.two = nn.Linear(numbers, 16), nn.Linear(16, 8)

    def forward(self, x):
        return self.two(torch.tanh(self.one(x.flatten(1))))


def eyes(numbers=6, seed=4):
    torch.manual_seed(seed)
    return FeatureNetwork(Eyes(numbers), ["one", "two"])


def reference(recipe, kind, made, batch):
    """(the student's loss, the discriminator's): sections 3.2 and 3.3."""
    labels, x0, n = batch.conditioning, batch.x, len(recipe.times)
    place = (batch.uniform() * n).floor().long()
    t = torch.tensor(recipe.times, dtype=torch.float64)[place]
    noise = batch.normal()
    a = torch.where(place == 0, 0.0, alpha(kind[0], t))
    x_t = wide(a) * x0 + wide(sigma(kind[0], t)) * noise
    sample = sample_and_noise(kind, made.student.model, x_t, t, **labels)[0]
    network, given = made.features.network, dict(labels)

    def seen(x):
        first = x.flatten(1) @ network.one.weight.T + network.one.bias
        return [first, torch.tanh(first) @ network.two.weight.T + network.two.bias]

    if recipe.image:
        given["image"] = seen(x0)[1] * (place > 0)[:, None]
    told = [x.detach() for x in (x0, sample)]
    of_student = -sum(d.mean() for d in discriminator_by_hand(made.discriminator, seen(sample), None, given)[0])
    if recipe.distillation:
        noise, s = batch.normal(), batch.uniform()
        a, x = wide(alpha(kind[0], s)), sample.detach()
        noisy = a * x + wide(sigma(kind[0], s)) * noise
        guided = 2.0 * made.teacher.model(noisy, s, **labels)
        guided = guided - made.teacher.model(noisy, s, torch.full_like(labels["label"], 4))
        with torch.no_grad():
            target = sample_and_noise(kind, lambda *_, **__: guided, noisy, s)[0]
        of_student = of_student + recipe.distillation * (a * (sample - target) ** 2).mean()
    real, penalty = discriminator_by_hand(made.discriminator, seen(told[0]), None, given, real=len(x0))
    fake, _ = discriminator_by_hand(made.discriminator, seen(told[1]), None, given)
    hinge = sum((1 - d).clamp_min(0).mean() for d in real) + sum((1 + d).clamp_min(0).mean() for d in fake)
    return of_student, hinge + recipe.r1 * penalty


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{"r1": 0.3}, {"times": (1.0, 0.4), "image": False, "distillation": 0.7, "r1": 0.01}, {"distillation": 0.0}],
    ids=["four times", "two times, no image", "no teacher"],
)
def test_losses(kind, options):
    recipe = ADD(**options)
    made = made_of(recipe, kind, eyes().double())
    assert_losses(recipe, made, lambda batch: reference(recipe, kind, made, batch))


def test_each_loss_leaves_the_other_network():
    assert_each_loss_leaves_the_other_network(ADD(), made_of(ADD(), KINDS[0], eyes().double()))


def test_every_parameter_of_the_discriminator_has_a_gradient():
    """Also without labels in the data: replicas that share gradients wait for each."""
    made = made_of(ADD(), KINDS[0], eyes().double())
    batch = twice()[0]
    made.teacher.guidance, batch.conditioning = 1.0, {}
    loss = all_losses(ADD(r1=0.0), made, batch)["discriminator"]
    found = torch.autograd.grad(loss, list(made.discriminator.parameters()), allow_unused=True)
    assert all(g is not None for g in found)


def test_the_distance_to_a_teacher_that_agrees_is_nothing():
    """Data that are one point: whatever the noise, the exact teacher says that point."""

    class Point(nn.Module):
        def forward(self, x, t):  # x0 = 0.7 as a flow
            return (x - 0.7) / t[:, None, None]

    teacher, s = Denoiser(Point(), schedules.flow(), "flow"), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    sample, noise = torch.full((5, 3, 2), 0.7, dtype=torch.float64), torch.randn(5, 3, 2, dtype=torch.float64)
    assert float(distillation_loss(teacher, sample, noise, s, {})) < 1e-20
    away = (sample + 0.5).requires_grad_()
    loss = distillation_loss(teacher, away, noise, s, {})
    assert float(loss.detach()) == pytest.approx(0.25 * 0.5)  # (1/2)² times the mean of alpha
    (gradient,) = torch.autograd.grad(loss, away)
    torch.testing.assert_close(gradient, (wide(1 - s) * 2 * 0.5 / 30).expand_as(gradient))


def test_parts():
    in_parts(ADD(), made_of(ADD(), KINDS[0], eyes().double()))


def test_the_discriminator_learns_and_the_student_follows_it():
    student = Denoiser(Shifted(), schedules.flow(), "flow")
    teacher = Denoiser(Exact(lambda: 0.0), student.schedule, "flow")
    recipe = ADD(distillation=0.0, r1=1e-3)
    made = {**recipe.networks(teacher, eyes(4)), "student": student}
    features, discriminator = made["features"], made["discriminator"]

    @torch.no_grad()
    def apart():
        image = torch.zeros(64, 8)
        real, fake = (discriminator(features(m + torch.randn(64, 4)), image=image)[0] for m in (2.0, 0.0))
        return float(real[0].mean() - fake[0].mean())

    shifts, apart = zip(*played(recipe, networks(**made), apart), strict=True)
    assert max(apart[:30]) > 0.5
    assert sum(shifts[-40:]) / 40 == pytest.approx(2.0, abs=0.6)


def test_the_teacher_alone_draws_samples_to_its_own():
    """The distillation loss, where the discriminator learns nothing: from mean 0 to the teacher's 2."""
    student = Denoiser(Shifted(), schedules.flow(), "flow")
    teacher = Denoiser(Exact(lambda: 2.0), student.schedule, "flow")
    recipe = ADD(distillation=50.0)
    made = networks(**{**recipe.networks(teacher, eyes(4)), "student": student})
    shifts = [shift for shift, _ in played(recipe, made, lambda: None, rates=(0.06, 1e-9))]
    assert sum(shifts[-20:]) / 20 == pytest.approx(2.0, abs=0.25)


def test_networks():
    teacher = Denoiser(DiT(size=8, patch=4, width=16, depth=2, heads=2, classes=3), schedules.flow(), "flow")
    made = ADD(features="fashion-classifier").networks(teacher)
    assert set(made) == {"student", "discriminator", "features", "teacher"}
    assert made["discriminator"].label.num_embeddings == 4
    assert [head.first.in_channels for head in made["discriminator"].heads] == [32, 32, 64, 64, 128]
    assert made["discriminator"].projections["image"].in_features == 128
    of_text = ADD(features="fashion-classifier", image=False, text="text", text_width=5, classes=7).networks(teacher)
    assert of_text["discriminator"].given == ("text",)
    assert of_text["discriminator"].label.num_embeddings == 8


def test_a_feature_network_of_other_channels_is_refused_before_the_training():
    teacher = Denoiser(DiT(size=8, patch=4, channels=4, width=16, depth=2, heads=2), schedules.flow(), "flow")
    with pytest.raises(ValueError, match="Classifier sees images of 1 channels"):
        ADD(features="fashion-classifier").networks(teacher)


@pytest.mark.parametrize(
    "options", [{"distillation": -1.0}, {"r1": -1e-9}, {"classes": -1}, {"text": "text"}, {"text_width": 4}]
)
def test_errors(options):
    with pytest.raises(ValueError, match="add needs weights and classes"):
        ADD(**options)


def test_times_are_checked():
    with pytest.raises(ValueError, match="add needs times"):
        ADD(times=(0.9, 0.5))


def test_a_discriminator_that_diverged_is_named(tmp_path):
    assert_a_discriminator_that_diverged_is_named(ADD(r1=1e39), tmp_path, copy.deepcopy(eyes()))  # infinite in float32


def test_the_distance_to_the_teacher_is_finite_where_there_is_nothing_but_noise():
    """On vp_cosine x0 of a predicted noise is infinite at 1, and on any schedule useless at 0."""
    teacher, s = denoiser(("vp_cosine", "epsilon")), torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    sample, noise = torch.randn(3, 3, 2, dtype=torch.float64), torch.randn(3, 3, 2, dtype=torch.float64)
    label = torch.tensor([0, 1, 2])
    loss = distillation_loss(teacher, sample, noise, s, {"label": label})
    inside = s.clamp(teacher.schedule.t_min, teacher.schedule.t_max)
    assert 0 < float(loss) < 1e4
    torch.testing.assert_close(loss, distillation_loss(teacher, sample, noise, inside, {"label": label}))


def test_without_r1_nothing_is_differentiated_twice(monkeypatch):
    made = made_of(ADD(), KINDS[0], eyes().double())
    assert_a_penalty_that_counts_nothing_is_left_out(ADD, made, monkeypatch)


def test_a_teacher_that_does_not_say_its_size():
    """The feature network knows it, or the widths are said."""
    teacher, eye = denoiser(KINDS[0]), nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 7, 3))

    def heads(recipe=ADD(), **options):  # noqa: B008
        made = recipe.networks(teacher, FeatureNetwork(eye, ["0", "1"], **options))
        return [head.first.in_channels for head in made["discriminator"].heads]

    assert heads(size=8, channels=3) == [5, 7]
    with pytest.raises(ValueError, match=r"widths=\(\.\.\.\)"):
        heads()
    assert heads(ADD(widths=(5, 7))) == [5, 7]
    with pytest.raises(ValueError, match=r"a width for each of 2 blocks of features, got \(5,\)"):
        heads(ADD(widths=(5,)))
