"""``pyaccel distill``: from a teacher of the zoo and a recipe to a student, its card and its pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from .. import zoo
from ..denoiser import Denoiser
from ..distill.presets import PRESETS
from ..names import look_up
from ..schedules import Schedule
from ..solvers import Plan
from ..solvers.family import make_plan
from ..training.checkpoints import load_tensors
from ..training.datasets import open_dataset
from ..training.datasets.pairs import Pairs
from ..training.parallel import Ranks
from ..training.recipe import Recipe
from ..training.record import machine_of, versions, write_record
from ..training.teacher import load_teacher
from ..training.trainer import Trainer
from ..training.trainer_config import TrainerConfig
from .figures import image_grid
from .sampling import fashion_quality, fashion_reference, generate
from .students import student_figures
from .teaching import facts_of

SHOWN = 64


@dataclass(frozen=True)
class Distillation:
    """One run of ``pyaccel distill``; ``run`` and ``recipe`` decide the student, the rest where and how long.

    Attributes:
        teacher: A model of the zoo, also the student's beginning.
        start: Another beginning of the student: one of the zoo's students or a run's NAME.safetensors.
        guidance: The teacher's classifier-free guidance; 1 is none.
        data: fashion-mnist, a folder of images, or shards; or a folder that pyaccel teacher made, as dmd and kd need.
        recipe: The recipe's hyper-parameters.
        run: Steps, batches, averages.
        minutes: End after so many, and write the student that there is then.
        validate_every: Steps between looks at the student, with FID and pictures; 0 is only at the end.
        validate_count: Images for that FID.
        count: Images for the figures on the card.
        checkpoint_every: Seconds between checkpoints.
        sharding: How networks lie on several ranks: a copy on each, or cut into shards.
        device: cpu, cuda, cuda:1; by default what is there.
        out: Folder of the run; default runs/TEACHER-RECIPE.
        name: Of the student; default TEACHER-RECIPE.
    """

    recipe: Recipe
    run: TrainerConfig
    teacher: str = "fashion-dit"
    start: str | None = None
    guidance: float = 1.0
    data: str = "fashion-mnist"
    minutes: float | None = None
    validate_every: int = 500
    validate_count: int = 1000
    count: int = 10_000
    checkpoint_every: float = 120.0
    sharding: Literal["ddp", "fsdp"] = "ddp"
    device: str | None = None
    out: Path | None = None
    name: str | None = None

    def folder(self, recipe: str) -> Path:
        """Where the run is."""
        return self.out or Path("runs") / self.student(recipe)

    def student(self, recipe: str) -> str:
        """What the student is called."""
        return self.name or f"{self.teacher}-{recipe}"


def default_run(recipe: str) -> Distillation:
    """The settings of a recipe for the zoo's teachers; ValueError, with the nearest name, for an unknown one."""
    settings, run = look_up("recipe", recipe, PRESETS)
    return Distillation(settings, run)


def distill(recipe: str, job: Distillation, progress: bool = True) -> Trainer:
    """Trains a student in its folder, going on where an earlier run stood, and writes it with its card and pictures.

    Where the training was asked to stop by a signal, nothing is written but the checkpoint.
    """
    trainer = make_trainer(recipe, job)
    if trainer.checkpoint.exists():
        trainer.load()  # before the record of a run with other settings is overwritten
    if trainer.main:
        write_record(trainer.folder, job)
    trainer.fit(progress=progress, seconds=None if job.minutes is None else 60 * job.minutes)
    if not trainer.stopped:
        student = trainer.denoiser()  # of shards, all ranks have a part
        if trainer.main:
            write_student(recipe, job, trainer, student, progress)
        trainer.ranks.wait()
    trainer.ranks.close()
    return trainer


def make_trainer(recipe: str, job: Distillation) -> Trainer:
    """The trainer of a job, in its folder; nothing is trained yet."""
    folder = job.folder(recipe)
    ranks = Ranks(folder, job.sharding, job.device)
    fashion_reference()[0].to(ranks.device)  # for the figures
    teacher = zoo.load(job.teacher, guidance=job.guidance, device=ranks.device)
    data = _data(job, teacher)
    validate = _validation(job.recipe, folder, job.validate_count) if job.validate_count else None
    with torch.random.fork_rng([ranks.device] if ranks.device.type == "cuda" else []):
        torch.manual_seed(job.run.seed)  # new parts of networks, discriminators, critics
        networks = job.recipe.networks(teacher)
    if job.start is not None:
        for name in {job.recipe.output, "target"} & set(networks):
            _start(networks[name], job.start)
    return Trainer(
        job.recipe, networks, data, job.run, folder, facts=_facts(job), ranks=ranks, validate=validate,
        validate_every=job.validate_every, checkpoint_seconds=job.checkpoint_every,
    )  # fmt: skip


def _facts(job: Distillation) -> dict[str, Any]:
    """What decides the student beside ``recipe`` and ``run``; some recipes have a guidance of their own."""
    return {"teacher": job.teacher, "teacher_guidance": job.guidance, "start": job.start, "data": str(job.data)}


def _start(student: Denoiser, start: str) -> None:
    """Loads the student's weights from a model of the zoo or a file; what is new in the student stays as it is."""
    tensors = load_tensors(start)[0] if start.endswith(".safetensors") else zoo.load_model(start).state_dict()
    mine = student.model.state_dict()
    wrong = [name for name, t in tensors.items() if name not in mine or mine[name].shape != t.shape]
    missing = [name for name in mine if name not in tensors and not {"interval", "strength"} & set(name.split("."))]
    if wrong or missing:
        raise ValueError(f"the student cannot begin with {start}: {(wrong + missing)[0]} does not fit the teacher's")
    student.model.load_state_dict({name: t.float() for name, t in tensors.items()}, strict=False)


def _data(job: Distillation, teacher: Denoiser):
    made_by_teacher = (Path(job.data) / "teacher.json").exists()
    if not job.recipe.pairs and not made_by_teacher:
        return open_dataset(job.data, size=teacher.model.size, channels=teacher.model.channels)
    if not Path(job.data).is_dir():
        raise ValueError(
            f"this recipe learns from a teacher's samples and their noise; make them with pyaccel teacher --model "
            f"{job.teacher} --out FOLDER, and say --data FOLDER"
        )
    pairs, _ = load_teacher(job.data, model=job.teacher, **facts_of(teacher))
    return Pairs(pairs)


def _validation(recipe: Recipe, folder: Path, count: int) -> Callable[[Denoiser, int], dict[str, float]]:
    """FID with one and two calls, and a picture of what one call gives."""

    def validate(student: Denoiser, step: int) -> dict[str, float]:
        values = {}
        for calls in (1, 2):
            samples = generate(student, recipe.plan(student, calls), count)
            values[f"fid {calls}"] = fashion_quality(samples).fid
            if calls == 1:
                image_grid(folder / "samples" / f"step-{step:06d}.png", samples.images[:SHOWN])
        return values

    return validate


def write_student(recipe: str, job: Distillation, trainer: Trainer, student: Denoiser, progress: bool) -> None:
    """Writes the weights, the card and samples.png into the folder of the run."""
    folder, name = job.folder(recipe), job.student(recipe)
    figures, pictures = student_figures(student, lambda calls: job.recipe.plan(student, calls), job.count, progress)
    image_grid(folder / "samples.png", pictures)
    zoo.save(student.model, student_card(recipe, job, trainer, student, figures), folder)
    print(f"student: {folder / name}.safetensors")


def _sampler_options(recipe: Recipe, plan: Plan, schedule: Schedule) -> dict[str, Any]:
    """What the student's solver is told, and at which times, for a student that has not seen all of them."""
    usual = make_plan(plan.solver, schedule, 1, prediction=plan.prediction)
    options = {name: value for name, value in plan.options.items() if value != usual.options.get(name)}
    grid = {} if recipe.grid is None else {"grid": recipe.grid}
    return options | grid | ({} if plan.times[0] == usual.times[0] else {"start": plan.times[0]})


def student_card(
    recipe: str, job: Distillation, trainer: Trainer, student: Denoiser, figures: dict[str, Any]
) -> dict[str, Any]:
    """What is known of a student."""
    of_teacher, schedule = zoo.card(job.teacher), student.schedule
    plan, made_by = job.recipe.plan(student, 1), versions()
    told = {"second_time": "interval", "guided": "strength"}  # options of the network by what it then has
    told = {option: True for option, part in told.items() if getattr(student.model.conditioning, part) is not None}
    options = of_teacher["options"] | told
    return {
        "name": job.student(recipe),
        "architecture": of_teacher["architecture"],
        "options": options,
        "parameters": sum(p.numel() for p in student.model.parameters()),
        "data": of_teacher["data"],
        "classes": of_teacher["classes"],
        "schedule": {"name": schedule.name, "parameters": schedule.parameters},
        "prediction": student.prediction,
        "teacher": job.teacher,
        "guidance": job.guidance,
        "recipe": recipe,
        "paper": (type(job.recipe).__doc__ or "").strip().split("\n")[0],
        "sampler": {"solver": plan.solver, "steps": 1, "options": _sampler_options(job.recipe, plan, schedule)},
        "training": {
            "command": made_by["command"],
            "steps": trainer.step,
            "minutes": round(trainer.seconds / 60, 1),
            "machine": machine_of(trainer.ranks.device),
            "pyaccel": made_by["pyaccel"],
            "config": trainer.all_settings(),
        },
        "figures": figures,
        "figures measured": f"{job.count} samples, seed 0, float32; features of fashion-classifier; 95 % intervals",
    }
