"""What the tests of a student with a discriminator on frozen features have in common: those of ADD and LADD."""

import pytest
import torch

from pyaccel.distill import discriminators
from pyaccel.training.trainer import Trainer, TrainerConfig

from .references import KINDS, all_losses, assert_agree, denoiser, gradients, networks, twice


class Lines:
    """Data of [3, 2] without noise."""

    can_flip = False

    def __len__(self):
        return 8

    def at(self, index, flip=None):
        return torch.randn(len(index), 3, 2), {"label": index % 4}


def made_of(recipe, kind, *features, **options):
    """The networks of a recipe, in float64; the teacher's guidance is 2."""
    made = recipe.networks(denoiser(kind, 1, guidance=2.0), *features)
    for p in made["discriminator"].double().parameters():
        p.data.normal_(std=0.4, generator=torch.Generator().manual_seed(p.numel()))
    return networks(**{**made, "student": denoiser(kind, 0), **options})


def assert_losses(recipe, made, reference):
    """Both losses and their gradients are those of ``reference(batch)``."""
    mine, other = twice(step=1, seed=6)
    found = list(recipe.losses(made, mine))
    assert [name for name, _ in found] == ["student", "discriminator"]
    of_student, of_discriminator = reference(other)
    assert_agree(found[0][1], of_student, made.student, rtol=1e-6)
    assert_agree(found[1][1], of_discriminator, made.discriminator, rtol=1e-7)


def assert_each_loss_leaves_the_other_network(recipe, made):
    found = all_losses(recipe, made, twice()[0])
    assert not any(g.any() for g in gradients(found["student"], made.discriminator))
    assert not any(g.any() for g in gradients(found["discriminator"], made.student))
    assert all(p.requires_grad for p in made.discriminator.parameters())


def assert_a_penalty_that_counts_nothing_is_left_out(kind, made, monkeypatch):
    """``kind`` is the recipe's class: without R1 nothing is differentiated twice, and the gradients are the same."""
    with_zero = all_losses(kind(r1=1e-300), made, twice()[0])["discriminator"]
    monkeypatch.setattr(discriminators, "gradient_penalty", lambda *_: pytest.fail("a penalty that counts nothing"))
    without = all_losses(kind(r1=0.0), made, twice()[0])["discriminator"]
    assert_agree(without, with_zero, made.discriminator, rtol=1e-12)


def assert_a_discriminator_that_diverged_is_named(recipe, folder, *features):
    teacher = denoiser(KINDS[0])
    teacher.model.float()
    config = TrainerConfig(steps=2, batch_size=4, bf16=False, flip=False)
    run = Trainer(recipe, recipe.networks(teacher, *features), Lines(), config, folder)
    with pytest.raises(FloatingPointError, match="the loss of discriminator became inf at step 1"):
        run.fit(progress=False)
