"""Presets for trainings of another length."""

from __future__ import annotations

import dataclasses

from pyaccel.training.recipe import Recipe, trained
from pyaccel.training.trainer_config import TrainerConfig

COUNTED = ("gan_start", "phase", "warmup")
"""The hyper-parameters of recipes that are numbers of training steps."""


def fitted(recipe: Recipe, run: TrainerConfig, steps: int) -> tuple[Recipe, TrainerConfig]:
    """Both for so many steps; what they and optimizers count in steps keeps its share, but is at least one."""
    share = steps / run.steps
    changes = {name: max(1, int(share * getattr(recipe, name))) for name in COUNTED if getattr(recipe, name, 0)}
    for name, optimizer in trained(recipe).items():
        own = {"warmup": max(1, int(share * optimizer.warmup))} if optimizer.warmup else {}
        if name == "student" and "phase" in changes:  # the learning rate begins anew in each
            own["cycle"] = changes["phase"]
        changes[name] = dataclasses.replace(optimizer, **own)
    return dataclasses.replace(recipe, **changes), dataclasses.replace(run, steps=steps)


def may_go_on(recipe: Recipe) -> bool:
    """Whether steps do not depend on how many there are: such a training may end at any of them."""
    return not recipe.depends_on_steps and not any(o.depends_on_steps or o.cycle for o in trained(recipe).values())


def at_the_end(recipe: Recipe, run: TrainerConfig) -> Recipe:
    """The recipe as it is near the end of its training, with everything begun: what its steps cost then."""
    return fitted(recipe, run, 1)[0]
