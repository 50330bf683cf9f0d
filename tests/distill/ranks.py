"""What a process of test_ranks.py does: a few steps of some recipes; the students' weights go into a file.

torchrun --nproc_per_node N -m tests.distill.ranks ddp,fsdp FOLDER
"""

import os
import sys
from pathlib import Path

import torch

from pyaccel import Denoiser, schedules
from pyaccel.distill import (
    ADD,
    CTM,
    DMD,
    DMD2,
    LADD,
    LCM,
    AlignYourFlow,
    Consistency,
    ConsistencyFM,
    ContinuousConsistency,
    MeanFlow,
    ProgressiveDistillation,
    Shortcut,
)  # fmt: skip
from pyaccel.models import DiT
from pyaccel.training.optimizers import Optimizer
from pyaccel.training.parallel import Ranks
from pyaccel.training.trainer import Trainer, TrainerConfig

RECIPES = {
    "a critic without a head's loss, and calls without a backward pass": DMD2(gan=0.0, gan_critic=0.0, calls=2),
    "a critic": DMD2(ratio=1),
    "a discriminator's penalty, of a second order": LADD(warmup=2, distillation=1.0),
    "a frozen network between": ADD(features="fashion-classifier", r1=1e-3),
    "a score that is asked without gradients before it is trained": DMD(),
    "a target that lags behind": Consistency(source="data", target_rate=0.9, levels=4, most_levels=4),
    "adapters": LCM(Optimizer(1e-4), lora_rank=2, lora_layers=("qkv",), timestep_scaling=1e4),
    "an average that makes targets for some": Shortcut(bootstrap_every=4, most_steps=2, bootstrap_guidance=1.5),
    "a neighbour on the teacher's trajectory": ConsistencyFM(boundary=0.0, source="teacher"),
    "a tangent at the end of a map": AlignYourFlow(Optimizer(1e-4, "adam"), objective="lmd", warmup=2),
    "some pairs of equal times": MeanFlow(equal=0.6, label_dropout=0.3),
    "two networks of one loss": ContinuousConsistency(),
    "weights by gradients": CTM(Optimizer(1e-4, "adam"), levels=6, gan_start=1),
    "a teacher that is replaced": ProgressiveDistillation(start_steps=4, phase=1),
}


class Images:
    """Random images with labels, as pairs too."""

    shape, can_flip = (1, 8, 8), False

    def __init__(self):
        self.x = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(3))

    def __len__(self):
        return 24

    def at(self, index, flip=None):
        return self.x[index], {"label": index % 3}

    def noise_at(self, index):
        return self.x[index].flip(1, 2, 3)


def teacher() -> Denoiser:
    torch.manual_seed(0)
    model = DiT(size=8, patch=4, width=16, depth=2, heads=2, classes=3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return Denoiser(model, schedules.flow(), "flow", guidance=1.5, unconditional={"label": 3})


def main() -> None:
    torch.set_num_threads(1)
    os.environ["PYACCEL_NO_LOGS"] = "1"
    for sharding in sys.argv[1].split(","):
        steps(sharding, Path(sys.argv[2]) / sharding)


def steps(sharding: str, folder: Path) -> None:
    ranks, found = Ranks(folder, sharding, "cpu"), {}
    for number, (name, recipe) in enumerate(RECIPES.items()):
        parts = 1 if isinstance(recipe, CTM) else 2  # there, each part has weights of its own
        config = TrainerConfig(steps=3, batch_size=8, accumulate=parts, ema=(0.5,), bf16=False)
        of_teacher = teacher()
        torch.manual_seed(ranks.rank)  # what begins at random differs, and rank 0's counts
        trainer = Trainer(recipe, recipe.networks(of_teacher), Images(), config, folder / str(number), ranks=ranks)
        if not ranks.sharded:  # averages and targets, too, which no gradients hold together
            modules = (*trainer.modules.values(), trainer.average())
            sums = torch.stack([p.detach().double().sum().float() for m in modules for p in m.parameters()])
            assert torch.equal(ranks.mean(sums), sums), name
        trainer.fit(progress=False)
        found[name] = torch.cat([p.flatten() for p in trainer.average().parameters()])
    if ranks.main:
        torch.save(found, folder / "found.pt")


if __name__ == "__main__":
    main()
