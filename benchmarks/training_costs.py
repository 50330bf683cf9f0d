"""What a training step of each recipe costs in time and memory, as a multiple of a teacher's step and forward pass.

    python benchmarks/training_costs.py --device cuda
    python benchmarks/training_costs.py meanflow scm --batch-size 64     # two of them, on a CPU

All train students of the zoo's teacher with their settings for small models (pyaccel/distill/presets.py), as near the
end of a training, but for the batch, which is the same for all. The teacher's own step is that of ``pyaccel train``.
Contestants take turns of several steps, each judged by its best turn, in seconds of the processor, or of the wall clock
with a GPU. Memory is

- what stays between steps: parameters and buffers of all networks, averages, the optimizers' state, by counting;
- what a step adds at its peak, activations, gradients and temporaries, by PyTorch's own record of each allocation.

Written to benchmarks/results/costs-DEVICE-DATE.json; "networks" are their parameters over the teacher's.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import time
import traceback
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from preset_steps import at_the_end
from result_files import result_path
from torch import Tensor, nn

from pyaccel import zoo
from pyaccel.distill import RECIPES
from pyaccel.distill.presets import PRESETS
from pyaccel.files import write_atomically
from pyaccel.names import look_up
from pyaccel.progress import progress_bar
from pyaccel.training.base_models import BASE_MODELS
from pyaccel.training.datasets import ImageData
from pyaccel.training.datasets.pairs import Pairs
from pyaccel.training.parallel import Ranks
from pyaccel.training.recipe import Recipe
from pyaccel.training.record import machine_of
from pyaccel.training.teacher import TeacherData
from pyaccel.training.trainer import Trainer
from pyaccel.training.trainer_config import TrainerConfig

SAMPLES = 1024


def data_for(recipe: Recipe, batch_size: int):
    """Data of noise: what they show changes no cost."""
    count = max(SAMPLES, batch_size)
    label, shape = torch.arange(count) % 10, (count, 1, 28, 28)
    if recipe.pairs:
        return Pairs(TeacherData(torch.randn(shape), torch.rand(shape) * 2 - 1, {"label": label}))
    return ImageData(torch.randint(256, shape, dtype=torch.uint8), label)


def trainer_of(recipe: Recipe, config: TrainerConfig, a: argparse.Namespace, folder: Path) -> Trainer:
    """A trainer of the zoo's teacher's student."""
    config = dataclasses.replace(config, batch_size=a.batch_size, bf16=a.bf16, accumulate=1)
    networks = recipe.networks(zoo.load(a.teacher, device=a.device))
    ranks = Ranks(folder, device=a.device)
    return Trainer(recipe, networks, data_for(recipe, a.batch_size), config, folder, ranks=ranks)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Of the processor, where other programs count less; with a GPU of the clock, until it is done."""
    if device.type != "cuda":
        begun = time.process_time()
        work()
        return time.process_time() - begun
    torch.cuda.synchronize(device)
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def peak_of(work: Callable[[], object], device: torch.device) -> int:
    """The bytes of tensors that ``work`` adds at its peak to those that are there."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(0, *accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def bytes_of(*modules: nn.Module) -> int:
    """Of all parameters and buffers, each once."""
    tensors = {id(t): t for module in modules for t in module.state_dict().values()}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def state_of(trainer: Trainer) -> dict[str, int]:
    """Bytes of what stays between steps."""
    states = [value for o in trainer.optimizers.values() for state in o.state.values() for value in state.values()]
    return {
        "networks": bytes_of(*trainer.modules.values()),
        "averages": sum(bytes_of(*average.values()) for average in trainer._average),
        "optimizers": sum(v.numel() * v.element_size() for v in states if isinstance(v, Tensor)),
    }


class Contestant:
    """One trainer, measured in turns of ``steps``."""

    def __init__(self, trainer: Trainer, steps: int):
        self.trainer, self.steps, self.device = trainer, steps, trainer.ranks.device
        self.seconds: list[float] = []

    def work(self) -> None:
        """A turn's steps. No gradient stays behind: what a step needs for them is its own."""
        for _ in range(self.steps):
            self.trainer.train_step()
        for optimizer in self.trainer.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def turn(self) -> None:
        """Measures a turn."""
        self.seconds.append(seconds_of(self.work, self.device) / self.steps)

    def row(self, unit: int) -> dict:
        """What was found; networks by their parameters over ``unit``."""
        parameters = {name: sum(p.numel() for p in m.parameters()) for name, m in self.trainer.modules.items()}
        megabytes = {name: count / 2**20 for name, count in state_of(self.trainer).items()}
        return {
            "ms": 1e3 * min(self.seconds),
            "MB between steps": megabytes,
            "MB of a step": peak_of(self.work, self.device) / 2**20,
            "networks": {name: count / unit for name, count in parameters.items()},
            "averaged": list(self.trainer.recipe.averaged),
        }


def measure(a: argparse.Namespace) -> dict:
    """All recipes, and the teacher."""
    device, folder = torch.device(a.device), TemporaryDirectory()
    base = BASE_MODELS[a.teacher]
    jobs = {
        "teacher": (base.recipe, base.config),
        **{name: (at_the_end(*PRESETS[name]), PRESETS[name][1]) for name in a.recipes},
    }
    with folder, progress_bar("costs", (a.turns + 2) * len(jobs)) as bar:
        contestants = {}
        for name, job in jobs.items():
            bar.note(name)
            try:
                contestant = Contestant(trainer_of(*job, a, Path(folder.name)), a.steps)
                contestant.work()  # compiles, and makes the optimizers' state
                contestants[name] = contestant
            except Exception:
                traceback.print_exc()  # the others are measured
            bar.advance()
        forward = Forward(contestants["teacher"].trainer)
        for _ in range(a.turns):
            forward.turn()
            for name, contestant in contestants.items():
                bar.note(name)
                contestant.turn()
                bar.advance()
        unit, rows = sum(p.numel() for p in forward.model.parameters()), {}
        for name, contestant in contestants.items():
            rows[name] = contestant.row(unit)
            bar.advance()
    teacher = rows.pop("teacher")
    whole = sum(teacher["MB between steps"].values()) + teacher["MB of a step"]
    for row in rows.values():
        row["ms over the teacher's step"] = row["ms"] / teacher["ms"]
        row["ms over the teacher's forward pass"] = row["ms"] / forward.ms
        mine = sum(row["MB between steps"].values()) + row["MB of a step"]
        row["memory over the teacher's"] = mine / whole
    return {
        "teacher": a.teacher,
        "device": machine_of(device),
        "date": datetime.date.today().isoformat(),
        "batch": a.batch_size,
        "bf16": a.bf16,
        "teacher's forward pass, ms": forward.ms,
        "teacher's step": teacher,
        "recipes": rows,
    }


class Forward:
    """The teacher's forward pass of a batch, without a graph."""

    def __init__(self, trainer: Trainer):
        (batch,) = trainer.batches()
        self.model, self.device, self.bf16 = trainer.modules["model"], trainer.ranks.device, trainer.config.bf16
        self.inputs = batch.x, torch.full((len(batch),), 0.5, device=self.device), batch.conditioning["label"]
        self.seconds: list[float] = []
        self.work()

    @torch.no_grad()
    def work(self) -> None:
        """Ten of them."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            for _ in range(10):
                self.model(*self.inputs)

    def turn(self) -> None:
        """Measures a turn."""
        self.seconds.append(seconds_of(self.work, self.device) / 10)

    @property
    def ms(self) -> float:
        """Of the best turn."""
        return 1e3 * min(self.seconds)


def rounded(value):
    """Numbers to four digits, wherever they are."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("recipes", nargs="*", help=f"of {', '.join(RECIPES)}; all by default")
    add("--teacher", default="fashion-dit", choices=["fashion-dit", "fashion-unet"])
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--batch-size", type=int, default=128)
    add("--bf16", action=argparse.BooleanOptionalAction, default=True)
    add("--steps", type=int, default=10, help="of a turn; a multiple of the steps between a generator's")
    add("--turns", type=int, default=5)
    add("--out", type=Path, help="default: benchmarks/results/costs-DEVICE-DATE.json")
    a = parser.parse_args()
    a.recipes = a.recipes or list(PRESETS)
    for name in a.recipes:
        look_up("recipe", name, RECIPES)
    os.environ.setdefault("PYACCEL_NO_LOGS", "1")
    out, found = a.out or result_path("costs", a.device), rounded(measure(a))
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    write_atomically(out, lambda path: path.write_text(text))
    for name, row in {"teacher": found["teacher's step"], **found["recipes"]}.items():
        time_, memory = row.get("ms over the teacher's step", 1.0), row.get("memory over the teacher's", 1.0)
        print(f"{name}: a step {row['ms']:.3g} ms, {time_:.2f}× the teacher's; memory {memory:.2f}×")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
