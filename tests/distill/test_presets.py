"""The recipes as a whole: their register, their settings for small models, and one step of the Trainer with each."""

import dataclasses
import warnings

import pytest
import torch
from torch import nn

from pyaccel import Denoiser, schedules
from pyaccel.distill import DMD2, RECIPES, Consistency, KnowledgeDistillation, ProgressiveDistillation
from pyaccel.distill.presets import PRESETS
from pyaccel.models import DiT, UNet
from pyaccel.names import look_up
from pyaccel.training.recipe import trained
from pyaccel.training.trainer import Trainer, TrainerConfig


def test_each_recipe_has_a_preset_of_its_own_kind():
    assert set(PRESETS) == set(RECIPES)
    for name, (recipe, config) in PRESETS.items():
        assert type(recipe) is RECIPES[name]
        assert isinstance(config, TrainerConfig)
        assert recipe.output in trained(recipe)
    for recipe, config in PRESETS.values():
        assert not (recipe.pairs and config.flip)  # a mirrored sample has no noise of its own


def test_presets_that_know_their_length_are_trained_so_long():
    recipe, config = PRESETS["progressive"]
    assert recipe.student.cycle == recipe.phase
    halvings = (recipe.start_steps // recipe.end_steps).bit_length()
    assert config.steps == recipe.phase * halvings


def test_unknown_recipe():
    with pytest.raises(ValueError, match=r"unknown recipe 'meanflwo'.*meanflow"):
        look_up("recipe", "meanflwo", RECIPES)


class Images:
    """Random images with labels, as pairs too."""

    shape, can_flip = (1, 8, 8), False

    def __init__(self, channels=1, size=8, classes=3):
        self.x, self.noise = torch.randn(2, 24, channels, size, size)
        self.label = torch.arange(24) % classes

    def __len__(self):
        return 24

    def at(self, index, flip=None):
        return self.x[index], {"label": self.label[index]}

    def noise_at(self, index):
        return self.noise[index]


def dit():
    return DiT(size=8, patch=4, width=16, depth=2, heads=2, classes=3)


def unet():
    return UNet(size=8, width=8, multipliers=(1, 2), blocks=1, classes=3)


def preset(name):
    """Its recipe, with what comes late in a training from the beginning."""
    recipe = PRESETS[name][0]
    return dataclasses.replace(recipe, gan_start=0) if hasattr(recipe, "gan_start") else recipe


def short(recipe, folder, teacher, data, **changes) -> Trainer:
    made = recipe.networks(teacher)
    config = TrainerConfig(**{"steps": 3, "batch_size": 8, "bf16": False, "flip": False, **changes})
    trainer = Trainer(recipe, made, data, config, folder)
    before = {name: [p.detach().clone() for p in trainer.modules[name].parameters()] for name in trained(recipe)}
    trainer.fit(progress=False)
    for name, parameters in before.items():
        now = trainer.modules[name].parameters()
        assert any(not torch.equal(a, b) for a, b in zip(parameters, now, strict=True)), name
    return trainer


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("make", [dit, unet])
@pytest.mark.parametrize("name", RECIPES)
def test_a_few_steps_of_each_preset(name, make, bf16, tmp_path):
    model = make()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    teacher = Denoiser(model, schedules.flow(), "flow", guidance=1.5, unconditional={"label": 3})
    recipe = preset(name)
    trainer = short(recipe, tmp_path, teacher, Images(), bf16=bf16, accumulate=2)
    student = trainer.denoiser()
    noise = torch.randn(2, 1, 8, 8)
    for steps in (1, 2):
        plan = recipe.plan(student, steps)
        seeds = [1, 2] if plan.stochastic else None
        sample = plan.sample(student, noise, seed=seeds, label=torch.tensor([0, 3]))
        assert torch.isfinite(sample).all()
        assert plan.calls == steps


@pytest.mark.parametrize("name", ["consistency", "ctm", "dmd", "dmd2", "lcm", "progressive", "scm"])
def test_a_few_steps_with_a_teacher_of_epsilons(name, tmp_path):
    teacher = Denoiser(unet(), schedules.vp_linear(), "epsilon", unconditional={"label": 3})
    short(preset(name), tmp_path, teacher, Images())


def test_a_lagging_target_is_resumed_to_the_same_bits(tmp_path):
    recipe = Consistency(source="data", target_rate=0.9, levels=4, most_levels=4)
    teacher = Denoiser(dit(), schedules.flow(), "flow")
    config = TrainerConfig(steps=4, batch_size=8, bf16=False, flip=False, accumulate=2)
    data = Images()

    def trainer(folder):
        return Trainer(recipe, recipe.networks(teacher), data, config, tmp_path / folder)

    whole, cut = trainer("whole"), trainer("cut")
    whole.fit(progress=False)
    assert not cut.fit(progress=False, steps=2)
    again = trainer("cut")
    assert again.fit(progress=False)
    for name in ("student", "target"):
        pairs = zip(whole.modules[name].parameters(), again.modules[name].parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    student, target = (whole.modules[n].state_dict()["head.weight"] for n in ("student", "target"))
    assert not torch.equal(student, target)


class OfDiffusers(nn.Module):
    """``(x, t, label)`` of a transformer of diffusers, which is told n and gives an object."""

    def __init__(self):
        super().__init__()
        diffusers = pytest.importorskip("diffusers")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.transformer = diffusers.DiTTransformer2DModel(
                num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
                norm_num_groups=2, sample_size=4, num_embeds_ada_norm=3,
            )  # fmt: skip

    def forward(self, x, t, label):
        return self.transformer(x, t, class_labels=label).sample


@pytest.mark.parametrize(
    "recipe",
    [
        KnowledgeDistillation(),
        ProgressiveDistillation(start_steps=4),
        Consistency(levels=4, most_levels=4),
        DMD2(width=16, bottleneck="transformer.transformer_blocks.1"),
        DMD2(width=16, calls=2),
    ],
    ids=["kd", "progressive", "consistency", "dmd2", "dmd2, found"],
)
def test_a_transformer_of_diffusers_is_teacher_and_student(recipe, tmp_path):
    """With Stable Diffusion's schedule, and a second half of the output that predicts the variance."""
    schedule = schedules.vp_discrete(schedules.scaled_linear_betas())
    teacher = Denoiser(
        OfDiffusers(), schedule, "epsilon", guidance=2.0, unconditional={"label": 3}, learned_variance=True
    )
    trainer = short(recipe, tmp_path, teacher, Images(channels=4, size=4))
    student = trainer.denoiser()
    plan = recipe.plan(student, 1)
    seeds = [1, 2] if plan.stochastic else None
    sample = plan.sample(student, torch.randn(2, 4, 4, 4), seed=seeds, label=torch.tensor([0, 1]))
    assert sample.shape == (2, 4, 4, 4)
    assert torch.isfinite(sample).all()


def test_the_critics_width_has_to_be_told_for_other_peoples_networks():
    teacher = Denoiser(OfDiffusers(), schedules.vp_linear(), "epsilon")
    with pytest.raises(ValueError, match="say it: width="):
        DMD2().networks(teacher)


def test_recipes_are_data():
    for kind in RECIPES.values():
        assert dataclasses.is_dataclass(kind)
        assert dataclasses.replace(kind()) == kind()
