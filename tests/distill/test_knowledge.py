import pytest
import torch

from pyaccel.distill import KnowledgeDistillation
from pyaccel.distill.knowledge import knowledge_loss
from pyaccel.training.batch import Batch
from pyaccel.training.distances import l1

from .references import (
    KINDS,
    Small,
    all_losses,
    assert_agree,
    data,
    denoiser,
    in_parts,
    networks,
    sample_and_noise,
    sigma,
    wide,
)


def expected(kind, network, noise, x, labels, start, distance):
    t = torch.full((len(x),), start, dtype=torch.float64)
    sample, _ = sample_and_noise(kind, network, wide(sigma(kind[0], t)) * noise, t, **labels)
    return 0.5 * distance(sample - x)


# Epsilon and v: with alpha(1) = 0 a prediction of eps says nothing of x0, but alpha of vp_linear is 0.0066 there.
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["l2", "l1"])
def test_loss(kind, name):
    x, labels = data()
    noise, student = torch.randn_like(x), denoiser(kind)
    recipe = KnowledgeDistillation(distance=name)
    loss = all_losses(recipe, networks(student=student), Batch(x, labels, noise=noise))["student"]
    distance = {"l2": lambda d: d.square().mean(), "l1": lambda d: d.abs().mean()}[name]
    assert_agree(loss, expected(kind, student.model, noise, x, labels, 1.0, distance), student)
    if name == "l1":
        torch.testing.assert_close(knowledge_loss(student, noise, x, l1, labels), loss)


def test_where_alpha_is_zero_the_first_time_of_an_epsilon_is_below_one():
    kind = ("vp_cosine", "epsilon")
    x, labels = data()
    noise, student = torch.randn_like(x), denoiser(kind)
    start = KnowledgeDistillation().plan(student, 1).times[0]
    assert start < 1
    loss = all_losses(KnowledgeDistillation(), networks(student=student), Batch(x, labels, noise=noise))["student"]
    assert torch.isfinite(loss)
    reference = expected(kind, student.model, noise, x, labels, start, lambda d: d.square().mean())
    assert_agree(loss, reference, student, rtol=1e-7)


def test_what_is_trained_is_what_is_sampled():
    x, labels = data()
    noise, student = torch.randn_like(x), denoiser(("flow", "flow"))
    recipe = KnowledgeDistillation()
    sample = recipe.plan(student, 1).sample(student, noise, seed=list(range(len(x))), **labels)
    loss = all_losses(recipe, networks(student=student), Batch(sample.detach(), labels, noise=noise))["student"]
    assert float(loss.detach()) < 1e-20


def test_parts():
    noise = torch.randn(12, 3, 2, dtype=torch.float64)
    in_parts(KnowledgeDistillation(), networks(student=denoiser(("flow", "flow"))), noise=noise)


def test_it_learns_pairs():
    x = torch.randn(64, 3, 2, dtype=torch.float64)
    student = denoiser(("flow", "flow"))
    recipe, all_networks = KnowledgeDistillation(), networks(student=student)
    optimizer = torch.optim.Adam(student.model.parameters(), 0.02)
    before = None
    for step in range(60):
        batch = Batch(0.5 * x + 0.2, {}, noise=x, step=step)
        loss = all_losses(recipe, all_networks, batch)["student"]
        before = float(loss.detach()) if before is None else before
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5 * before


def test_networks_and_pairs():
    assert KnowledgeDistillation.pairs
    teacher = denoiser(("flow", "flow"), guidance=2.0)
    made = KnowledgeDistillation().networks(teacher)
    assert set(made) == {"student"}
    assert made["student"].model is not teacher.model
    assert isinstance(made["student"].model, Small)
    assert made["student"].guidance == 1.0
