"""The 1-D yardstick of recipes: a mixture .3·N(−.5, .1) + .7·N(1, .2), an MLP of 4×64, 1000 steps of batches of 2048.

    python benchmarks/yardstick.py                    # every recipe, five seeds
    python benchmarks/yardstick.py meanflow scm-data --seeds 3

One-step (and two-step) samples of each student against the exact density: Jensen–Shannon divergence in nats over 200
bins of [−2, 3], and Wasserstein-1. Beside them stand the teacher's own samples with as many steps, and the figures of
other code where there are any.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from pyaccel import Denoiser, distill, schedules, solvers
from pyaccel.distill.feature_networks import FeatureNetwork
from pyaccel.progress import progress_bar
from pyaccel.seeding import sample_noise, step_generator
from pyaccel.training.losses import Denoising
from pyaccel.training.optimizers import Optimizer
from pyaccel.training.trainer import Trainer
from pyaccel.training.trainer_config import TrainerConfig

MEANS, STDS, WEIGHTS = (np.array(v) for v in ((-0.5, 1.0), (0.1, 0.2), (0.3, 0.7)))
STEPS, BATCH, COUNT = 1000, 2048, 100_000
BINS = np.linspace(-2.0, 3.0, 201)


class MLP(nn.Module):
    """``forward(x, t, to=None)``: x [B, 1], t [B] -> [B, 1]; four hidden layers of 64."""

    def __init__(self, width: int = 64, depth: int = 4):
        super().__init__()
        sizes = [2, *[width] * depth]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.last = nn.Linear(width, 1)
        self.gap: nn.Linear | None = None

    def add_second_time(self) -> None:
        """Makes it take ``to``; its output stays as it is."""
        self.gap = nn.Linear(1, self.hidden[0].out_features, bias=False)
        nn.init.zeros_(self.gap.weight)

    def forward(self, x: Tensor, t: Tensor, to: Tensor | None = None) -> Tensor:
        h = self.hidden[0](torch.cat([x, t[:, None]], dim=1))
        if self.gap is not None and to is not None:
            h = h + self.gap((t - to)[:, None])
        h = nn.functional.silu(h)
        for layer in self.hidden[1:]:
            h = nn.functional.silu(layer(h))
        return self.last(h)


class Waves(nn.Module):
    """Frozen random features of numbers: what ADD's discriminator sees them by, as there is no network of the world."""

    def __init__(self, width: int = 64):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.first, self.second = nn.Linear(1, width), nn.Linear(width, width)
        for layer, size in ((self.first, 6.0), (self.second, 1.5 / width**0.5)):
            nn.init.normal_(layer.weight, std=size, generator=generator)
            nn.init.uniform_(layer.bias, -3.2, 3.2, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.sin(self.first(x)))


class Mixture:
    """The data, drawn once."""

    shape, can_flip = (1,), False

    def __init__(self, seed: int, count: int = 200_000):
        g = step_generator(seed, 0, stream=99)
        which = (torch.rand(count, generator=g) < WEIGHTS[1]).long()
        means, stds = torch.tensor(MEANS), torch.tensor(STDS)
        self.x = (means[which] + stds[which] * torch.randn(count, generator=g).double()).float()[:, None]

    def __len__(self) -> int:
        return len(self.x)

    def at(self, index: Tensor, flip=None) -> tuple[Tensor, dict]:
        return self.x[index], {}


class Pairs(Mixture):
    """A teacher's samples with their noise."""

    def __init__(self, teacher: Denoiser, seed: int, count: int = 200_000):
        self.noise = torch.randn(count, 1, generator=step_generator(seed, 0, stream=98))
        with torch.no_grad():
            self.x = solvers.unipc(teacher.schedule, 50).sample(teacher, self.noise)

    def noise_at(self, index: Tensor) -> Tensor:
        return self.noise[index]


def divergences(samples: np.ndarray) -> tuple[float, float]:
    """(Jensen–Shannon divergence, Wasserstein-1) to the mixture."""
    from scipy.stats import norm

    exact = np.diff(sum(w * norm.cdf(BINS, m, s) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True)))
    found = np.histogram(np.clip(samples, BINS[0], BINS[-1]), BINS)[0] / len(samples)
    middle = 0.5 * (exact + found)
    kl = [float(np.sum(p * np.log(np.where(p > 0, p / np.maximum(middle, 1e-300), 1.0)))) for p in (exact, found)]
    grid = np.linspace(-3, 4, 20_001)
    cdf = sum(w * norm.cdf(grid, m, s) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True))
    empirical = np.searchsorted(np.sort(samples), grid, side="right") / len(samples)
    return 0.5 * sum(kl), float(np.trapezoid(np.abs(cdf - empirical), grid))


def new_denoiser(seed: int) -> Denoiser:
    """An untrained network."""
    torch.manual_seed(seed)
    return Denoiser(MLP(), schedules.flow(), "flow")


RATE = Optimizer(2e-3, "adam", decay="cosine", warmup=20)
FAST = Optimizer(5e-3, "adam", decay="cosine", warmup=20)
FASTEST = replace(FAST, learning_rate=1e-2)
GAN_RATE = Optimizer(1e-3, "adam", betas=(0.0, 0.99), clip=10.0, warmup=20, decay="cosine")  # two against each other
TEACHER = Denoising(RATE, "uniform", label_dropout=0.0)
# name: (recipe, whether it starts from a trained teacher, figures of other code: one-step JS)
RECIPES = {
    "kd": (distill.KnowledgeDistillation(FASTEST), True, ""),
    "progressive": (
        distill.ProgressiveDistillation(Optimizer(1e-3, "adam", decay="linear", cycle=200), 16, 1, 200), True, ""),
    "consistency (distilled)": (
        distill.Consistency(RATE, levels=18, most_levels=80, least=0.002), True, ""),
    "consistency (two segments)": (
        distill.Consistency(RATE, levels=18, most_levels=80, segments=2), True, ""),
    "consistency (iCT)": (
        distill.Consistency(RATE, "data", "grid", levels=10, most_levels=160), False, ""),
    "consistency (ECT)": (
        distill.Consistency(RATE, "data", "ect", mean=0.0, std=1.5), False, "0.040-0.057"),
    "consistency-fm (data)": (distill.ConsistencyFM(FASTEST, segments=1), False, "0.007-0.029"),
    "consistency-fm (teacher)": (
        distill.ConsistencyFM(FASTEST, delta=0.01, boundary=0.0, source="teacher"), True, ""),
    "ayf": (distill.AlignYourFlow(FASTEST, warmup=200), True, "0.006-0.011"),
    "ayf (lmd)": (distill.AlignYourFlow(FASTEST, objective="lmd", warmup=200), True, ""),
    "scm (distilled)": (distill.ContinuousConsistency(RATE, source="teacher", sigma_data=1.0, warmup=200), True, ""),
    "scm (data)": (
        distill.ContinuousConsistency(RATE, source="data", sigma_data=1.0, warmup=200), False, "0.012-0.023"),
    "lcm": (
        distill.LCM(FAST, least_guidance=1.0, most_guidance=1.0, timestep_scaling=1e4, target_rate=0.0), True, ""),
    "meanflow (data)": (distill.MeanFlow(RATE), False, "0.056-0.091"),
    "meanflow (teacher)": (distill.MeanFlow(RATE, equal=0.25, velocity="teacher"), True, ""),
    "shortcut (data)": (distill.Shortcut(FASTEST, bootstrap_every=2), False, "0.0065-0.024"),
    "shortcut (teacher)": (
        distill.Shortcut(
            FASTEST, most_steps=32, bootstrap_every=2, initial="teacher", velocity="teacher"), True, ""),
    "ctm": (distill.CTM(FAST, gan=0.0, dsm=0.1, adaptive=False, solver_steps=3), True, ""),
    # In one dimension the mean of what is possible, which ADD's teacher names, is far from all of it.
    "add": (distill.ADD(GAN_RATE, GAN_RATE, distillation=0.1), True, ""),
    "ladd": (
        distill.LADD(
            GAN_RATE, replace(GAN_RATE, learning_rate=2e-3), warmup=0, mean=-1.0, r1=0.01, blocks=("hidden.2",)
        ), True, ""),
    # One number has a heavy tail of 1/|x - x0|: the pairs count for more.
    "dmd": (
        distill.DMD(
            Optimizer(5e-3, "adam", decay="cosine", warmup=20, clip=10.0), Optimizer(2e-3, "adam"),
            regression=20.0, sigma_data=0.7,
        ), True, ""),
    "dmd2": (
        distill.DMD2(Optimizer(1e-3, "adam"), Optimizer(1e-3, "adam"), ratio=2, gan=0.0, gan_critic=0.0), True, ""),
}  # fmt: skip


def train(recipe, teacher: Denoiser, data, seed: int) -> Denoiser:
    """The student."""
    own = [FeatureNetwork(Waves(), ("first", "second"))] if isinstance(recipe, distill.ADD) else []
    networks = recipe.networks(copy.deepcopy(teacher), *own)
    config = TrainerConfig(steps=STEPS, batch_size=BATCH, ema=(0.99,), bf16=False, seed=seed)
    with TemporaryDirectory() as folder:
        trainer = Trainer(recipe, networks, data, config, Path(folder), checkpoint_seconds=1e9)
        trainer.fit(progress=False)
        return trainer.denoiser()


@torch.no_grad()
def judge(student: Denoiser, plan, seed: int) -> tuple[float, float]:
    noise = sample_noise(1000 + seed, range(COUNT), (1,))
    seeds = list(range(COUNT)) if plan.stochastic else None
    return divergences(plan.sample(student, noise, seed=seeds).flatten().double().numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help=f"of {', '.join(RECIPES)}; also a part of a name")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    chosen = [n for n in RECIPES if not arguments.recipes or any(part in n for part in arguments.recipes)]
    if not chosen:
        parser.error(f"no recipe is called {' or '.join(arguments.recipes)}; there are: {', '.join(RECIPES)}")
    rows: dict[str, list] = {"teacher": [], **{name: [] for name in chosen}}
    with progress_bar("yardstick", arguments.seeds * (1 + len(chosen))) as bar:
        for seed in range(arguments.seeds):
            data = Mixture(seed)
            start = time.perf_counter()
            teacher = train(TEACHER, new_denoiser(seed), data, seed)
            spent = time.perf_counter() - start
            plans = [solvers.euler(teacher.schedule, n) for n in (1, 2)]
            rows["teacher"].append([*(judge(teacher, plan, seed) for plan in plans), spent])
            bar.advance()
            for name in chosen:
                recipe, from_teacher, _ = RECIPES[name]
                bar.note(name)
                start = time.perf_counter()
                student = train(
                    recipe, teacher if from_teacher else new_denoiser(seed),
                    Pairs(teacher, seed) if recipe.pairs else data, seed,
                )  # fmt: skip
                spent = time.perf_counter() - start
                found = [judge(student, recipe.plan(student, n), seed) for n in (1, 2)]
                rows[name].append([*found, spent])
                bar.advance()
    show(rows)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


def show(rows: dict[str, list]) -> None:
    """The table: least to most over the seeds."""
    table = Table(
        "recipe", "JS, 1 call", "W1, 1 call", "JS, 2 calls", "W1, 2 calls", "other code: JS, 1 call", "seconds"
    )
    for name, seeds in rows.items():
        columns = [[run[i][j] for run in seeds] for i in (0, 1) for j in (0, 1)]
        spans = [f"{min(c):.4f}-{max(c):.4f}" for c in columns]
        other = RECIPES[name][2] if name in RECIPES else "0.344-0.370"
        table.add_row(name, *spans, other, f"{np.mean([run[2] for run in seeds]):.0f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
