"""Trains students by many recipes side by side, each for as long, and measures them: for minutes of a GPU.

    python benchmarks/train_students.py --device cuda --minutes 4 --jobs 12       # all recipes
    python benchmarks/train_students.py meanflow dmd2 --minutes 30 --jobs 1       # two of them, on a CPU
    python benchmarks/train_students.py dmd2 --config dmd2=dmd2.yaml              # with settings of your own

Each recipe is trained in a process of its own, from a teacher of the zoo, with its settings for small models
(pyaccel/distill/presets.py). How many steps fit is found by a few seconds of steps that all recipes make at the same
time; settings that are counted in steps follow. A recipe whose steps and rates do not depend on their number goes on
until its time is used; others (with a cosine, or phases) end after the steps that were counted, so earlier where the
load has fallen since: a student's "minutes" are its own. Then FID and accuracy of samples in one, two and four calls.
Recipes that learn from a teacher's pairs wait until these are made.

``--work`` holds a folder for each student: weights, card, samples.png, log.txt. ``--out`` is one JSON file, written
after each student:

    {"teacher", "device", "date", "minutes", "jobs", "samples", "batch", "pairs", "config": {RECIPE: text},
     "students": {RECIPE: {"calls": {"1": {"fid", "interval": [low, high], "accuracy"}, "2": ..., "4": ...},
                           "steps", "batch", "minutes", "weights"} or {"failed": why}}}

The same command goes on where a run was cut off: students that are in the file stay as they are, trainings go on from
their checkpoints, and what failed is tried again. Both files refuse other settings.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from multiprocessing.connection import wait
from pathlib import Path

import torch
from preset_steps import at_the_end, fitted, may_go_on
from result_files import result_path

from pyaccel import zoo
from pyaccel.distill import RECIPES
from pyaccel.distill.presets import PRESETS
from pyaccel.evaluation.distilling import Distillation, default_run, make_trainer, write_student
from pyaccel.evaluation.teaching import make_teacher, teacher_spec
from pyaccel.files import write_atomically
from pyaccel.names import look_up
from pyaccel.training.record import from_yaml, machine_of, write_record

MORE = 20  # times the steps that were counted, where the time alone ends a training
WARM_UP, PROBE = 10, 8.0  # steps that compile what has to be, seconds in which steps are counted
PATIENCE = 120.0  # seconds for which recipes wait for each other
CALLS = ("1 call", "2 calls", "4 calls")


def job_of(name: str, a: argparse.Namespace) -> Distillation:
    """What is trained by a recipe, but for the number of steps."""
    job = default_run(name)
    if name in a.config:
        job = from_yaml(job, a.config[name])
    run = dataclasses.replace(job.run, batch_size=a.batch_size or job.run.batch_size)
    return dataclasses.replace(
        job, run=run, teacher=a.teacher, data=str(a.work / "pairs") if job.recipe.pairs else a.data, device=a.device,
        out=a.work / name, name=f"{a.teacher}-{name}", count=a.count, validate_count=0, checkpoint_every=60.0,
    )  # fmt: skip


def steps_within(name: str, job: Distillation, seconds: float, ready) -> int:
    """How many steps can be made in as many seconds beside all that runs now."""
    folder = job.folder(name) / "probe"
    shutil.rmtree(folder, ignore_errors=True)
    # The dearest steps: else a discriminator that comes later would take the time of the last steps.
    probe = dataclasses.replace(job, recipe=at_the_end(job.recipe, job.run), out=folder, checkpoint_every=math.inf)
    trainer = make_trainer(name, probe)
    trainer.fit(progress=False, steps=WARM_UP)
    together(ready)
    begun, first = trainer.seconds, trainer.step  # without what checkpoints take
    trainer.fit(progress=False, seconds=min(PROBE, 0.1 * seconds))
    _end_if_stopped(trainer)
    each = (trainer.seconds - begun) / max(1, trainer.step - first)
    trainer.ranks.close()
    shutil.rmtree(folder)
    return max(WARM_UP, int(seconds / each))


def asked(name: str, a: argparse.Namespace) -> dict:
    """What decides how many steps are made."""
    job, cuda = job_of(name, a), a.device.startswith("cuda")
    facts = {
        "minutes": a.minutes, "device": torch.cuda.get_device_name(a.device) if cuda else a.device,
        "teacher": a.teacher, "recipe": dataclasses.asdict(job.recipe), "run": dataclasses.asdict(job.run),
    }  # fmt: skip
    return json.loads(json.dumps(facts))  # as a file has them


def refuse_others(path: Path, there: dict, mine: dict, option: str) -> None:
    """ValueError that says which of these facts the file has otherwise."""
    other = [key for key in mine if there.get(key) != mine[key]]
    if other:
        raise ValueError(f"{path} was made with another {' and '.join(other)}; use another {option}")


def together(ready) -> None:
    """Waits until all of the first recipes are here, or one of them failed."""
    if ready is not None:
        try:
            ready.wait(PATIENCE)
        except threading.BrokenBarrierError:
            print("not all recipes are here")


def train(name: str, a: argparse.Namespace, ready) -> None:
    """One student, in a process of its own."""
    with _logged(a.work / name / "log.txt"):
        try:
            _train(name, a, ready)
        except BaseException:
            if ready is not None:
                ready.abort()
            raise


def _train(name: str, a: argparse.Namespace, ready) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // a.jobs))
    job, seconds = job_of(name, a), 60 * a.minutes
    known = a.work / name / "steps.json"
    if known.exists():
        there = json.loads(known.read_text())
        refuse_others(known, there, asked(name, a), "--work")
        steps = there["steps"]
        together(ready)
    else:
        steps = steps_within(name, job, seconds, ready)
        text = json.dumps({"steps": steps, **asked(name, a)}, indent=1)
        write_atomically(known, lambda path: path.write_text(text))
    recipe, run = fitted(job.recipe, job.run, steps)
    if may_go_on(recipe):
        run = dataclasses.replace(run, steps=MORE * steps)
    job = dataclasses.replace(job, recipe=recipe, run=run)
    trainer = make_trainer(name, job)
    write_record(trainer.folder, job)
    if trainer.checkpoint.exists():
        trainer.load()
        seconds -= trainer.seconds
    trainer.fit(seconds=seconds)
    _end_if_stopped(trainer)
    write_student(name, job, trainer, trainer.denoiser(), progress=True)


def _end_if_stopped(trainer) -> None:
    if trainer.stopped:
        sys.exit(128 + trainer.stopped)


def make_pairs(a: argparse.Namespace) -> None:
    """The teacher's samples with their noise, in ``a.work / "pairs"``."""
    with _logged(a.work / "pairs.txt"):
        denoiser = zoo.load(a.teacher, device=a.device)
        make_teacher(a.work / "pairs", denoiser, teacher_spec(a.teacher, denoiser, a.pairs, shard=1000))


def row_of(name: str, a: argparse.Namespace) -> dict:
    """What the results say of a student, from its card."""
    facts = json.loads((a.work / name / f"{a.teacher}-{name}.json").read_text())
    figures, training = facts["figures"], facts["training"]
    if any(math.isnan(figures[f"fid, {calls}"]) for calls in CALLS):
        return {"failed": "samples with NaN"}
    return {
        "calls": {
            calls.split()[0]: {key: figures[f"{key}, {calls}"] for key in ("fid", "interval", "accuracy")}
            for calls in CALLS
        },
        "steps": training["steps"],
        "batch": training["config"]["batch_size"],
        "minutes": training["minutes"],
        "weights": str(a.work / name / f"{a.teacher}-{name}.safetensors"),
    }


class Results:
    """The JSON file: what an earlier run with the same settings has measured, and what this one adds."""

    def __init__(self, a: argparse.Namespace):
        self.path = a.out
        self.facts = {
            "teacher": a.teacher, "device": machine_of(torch.device(a.device)),
            "date": datetime.date.today().isoformat(), "minutes": a.minutes, "jobs": a.jobs, "samples": a.count,
            "batch": a.batch_size, "pairs": a.pairs,
            "config": {name: path.read_text() for name, path in a.config.items()},
        }  # fmt: skip
        self.students: dict[str, dict] = {}
        if self.path.exists():
            there = json.loads(self.path.read_text())
            mine = {key: value for key, value in self.facts.items() if key not in ("date", "jobs")}
            refuse_others(self.path, there, mine, "--out")
            self.students = there["students"]

    def add(self, name: str, row: dict) -> None:
        """Writes the file with one more student."""
        self.students[name] = row
        ordered = dict(sorted(self.students.items()))
        text = json.dumps(self.facts | {"students": ordered}, indent=1, ensure_ascii=False) + "\n"
        write_atomically(self.path, lambda path: path.write_text(text))


def at_first(jobs: int, pairs: bool, waiting: int) -> int:
    """How many recipes begin at once, and wait for each other: all slots but the one in which pairs are made."""
    return max(1, min(jobs - pairs, waiting))


def run(a: argparse.Namespace) -> dict[str, dict]:
    """Trains and measures all that is missing; returns the rows by recipe."""
    results, begun = Results(a), time.monotonic()
    missing = [name for name in a.recipes if "calls" not in results.students.get(name, {})]
    of_pairs = [name for name in missing if job_of(name, a).recipe.pairs]
    waiting = [name for name in missing if name not in of_pairs]
    context = multiprocessing.get_context("spawn")
    first, running = at_first(a.jobs, bool(of_pairs), len(waiting)), {}
    ready = context.Barrier(first) if first > 1 else None

    def start(name: str, target, *arguments) -> None:
        process = context.Process(target=target, args=arguments, name=name)
        process.start()
        running[process.sentinel] = process

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:5.0f} s] {text}", flush=True)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if of_pairs:
            start("pairs", make_pairs, a)
        while waiting or running:
            while waiting and len(running) < a.jobs:
                start(waiting[0], train, waiting[0], a, ready if first > 0 else None)
                first -= 1
                del waiting[0]
            for sentinel in wait(list(running)):
                process = running.pop(sentinel)
                process.join()
                name, failed = process.name, process.exitcode != 0
                if name == "pairs":
                    say("the pairs could not be made" if failed else f"{a.pairs} pairs of noise and sample")
                    for other in of_pairs:
                        if failed:
                            results.add(other, {"failed": f"the teacher's pairs: {_last_line(a.work / 'pairs.txt')}"})
                        else:
                            waiting.append(other)
                    continue
                row = {"failed": _last_line(a.work / name / "log.txt")} if failed else row_of(name, a)
                results.add(name, row)
                say(f"{name}: {_told(row)}")
    finally:
        for process in running.values():
            process.terminate()  # it writes a checkpoint
        for process in running.values():
            process.join()
    return {name: results.students[name] for name in a.recipes}


def _told(row: dict) -> str:
    if "failed" in row:
        return f"failed: {row['failed']}"
    fids = ", ".join(f"{found['fid']:.3g} with {calls}" for calls, found in row["calls"].items())
    return f"FID {fids} calls; {row['steps']} steps of {row['batch']}"


def _last_line(path: Path) -> str:
    lines = path.read_text().strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "it ended without a word"


class _logged:
    """What this process writes goes to a file."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a")

    def __enter__(self) -> None:
        sys.stdout.flush(), sys.stderr.flush()
        for number in (1, 2):
            os.dup2(self.file.fileno(), number)

    def __exit__(self, kind, value, traceback) -> None:
        sys.stdout.flush(), sys.stderr.flush()


def _named_file(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    return look_up("recipe", name, RECIPES) and name, Path(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("recipes", nargs="*", help=f"of {', '.join(RECIPES)}; all by default")
    add("--teacher", default="fashion-dit")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--minutes", type=float, default=4.0, help="of training, for each")
    add("--jobs", type=int, default=len(RECIPES), help="trainings at the same time")
    add("--count", type=int, default=10_000, help="samples for each figure")
    add("--pairs", type=int, default=20_000, help="of the teacher, for recipes that learn from them")
    add("--batch-size", type=int, help="of all recipes; default: each one's own")
    add("--data", default="fashion-mnist", help="or Fashion-MNIST's folder, which PYACCEL_FASHION_MNIST may name, too")
    add("--config", type=_named_file, nargs="+", default=[], metavar="RECIPE=FILE",
        help="settings from YAML, as pyaccel distill RECIPE --dry-run prints them")  # fmt: skip
    add("--work", type=Path, default=Path("runs/students"), help="folder of the students")
    add("--out", type=Path, help="default: benchmarks/results/students-DEVICE-DATE.json")
    a = parser.parse_args()
    a.recipes, a.config = a.recipes or list(PRESETS), dict(a.config)
    for name in a.recipes:
        look_up("recipe", name, RECIPES)
    if a.jobs < 1 or not a.minutes > 0:
        parser.error(f"--jobs must be at least 1 and --minutes above 0, got {a.jobs} and {a.minutes}")
    os.environ.setdefault("PYACCEL_NO_LOGS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // a.jobs)))
    a.out = a.out or result_path("students", a.device)
    rows = run(a)
    failed = [name for name, row in rows.items() if "failed" in row]
    print(f"{len(rows) - len(failed)} of {len(rows)} students: {a.out}, {a.work}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
