"""``pyaccel tune-solver``: from a model and a number of calls to a trained plan, its card and its figure."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import __version__, solvers, zoo
from ..denoiser import Denoiser
from ..files import write_atomically
from ..names import look_up
from ..progress import Bar
from ..seeding import sample_noise
from ..solvers import Plan, TrainablePlan
from ..solvers.family import make_plan
from ..training.adversarial import Discriminator
from ..training.distances import Distance, distance_of
from ..training.record import machine_of
from ..training.solver_config import SolverConfig
from ..training.solver_methods import METHODS
from ..training.solver_trainer import SolverTrainer
from ..training.teacher import TeacherData, TeacherSpec
from .figures import image_grid
from .frechet import frechet_distance, moments
from .quality import classify
from .sampling import fashion_quality, fashion_reference, generate
from .searching import EVALUATIONS, searched_times
from .teaching import TEACHER_SEED, class_labels, dtype_name, sample_shape
from .training_figure import training_figure

SHOWN = 64
CHOSEN = ("gits", "dmn", "search")
"""Methods that choose times and train nothing."""
SEARCH_SEED = 30_000  # apart from the seeds that figures are measured with


@dataclass(frozen=True)
class Job:
    """One training: of which plan, by which method.

    ``model`` is a name of the zoo, a student's file, or a name of your own for any other denoiser. ``solver``,
    ``options`` and ``grid`` make the plan that it starts from, by default the method's own, and for a student its
    sampler; ``changes`` are settings of :class:`SolverConfig` that replace the method's.
    """

    model: str
    steps: int
    method: str
    solver: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    grid: str | list[float] | None = None
    guidance: float = 1.0
    changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        own = METHODS[self.method].solver if self.method in METHODS else ""
        if own and self.solver not in ("", own):
            raise ValueError(f"{self.method} trains the solver {own}, got {self.solver}; for that take gs")
        sampler = (zoo.sampler(self.model) if zoo.knows(self.model) else None) or ("dpmpp", 0, {})
        solver = self.solver or own or sampler[0]
        object.__setattr__(self, "solver", solver)
        if solver == sampler[0]:
            options = {**sampler[2], **self.options}
            grid = options.pop("grid", None)
            object.__setattr__(self, "grid", self.grid or grid)
            object.__setattr__(self, "options", options)
        if solver == "dpmpp":
            object.__setattr__(self, "options", {"order": 3, **self.options})

    def plan(self, denoiser: Denoiser) -> Plan:
        """The plan before training; ValueError for fewer steps than the solver's order, and for noise on its way."""
        order = self.options.get("order", 1)
        if isinstance(order, int) and self.steps < order:
            raise ValueError(
                f"{self.solver} of order {order} needs at least {order} steps to show it, got {self.steps}; "
                f"take more steps or a lower order (-o order={max(1, self.steps)})"
            )
        plan = make_plan(
            self.solver, denoiser.schedule, self.steps, grid=self.grid, prediction=denoiser.prediction, **self.options
        )
        if plan.stochastic and self.method not in CHOSEN:
            raise ValueError(
                f"{self.solver} adds noise on its way, so its samples are not the teacher's one by one and "
                f"{self.method} cannot train it; --method search chooses its times"
            )
        return plan

    def config(self) -> SolverConfig:
        """The method's settings with the changes."""
        method = look_up("method", self.method, METHODS)
        settings = {**method.settings, **{k: v for k, v in self.changes.items() if v is not None}}
        known = {f.name: f for f in dataclasses.fields(SolverConfig)}
        for key in settings:
            look_up("setting of the training", key, known)
        return SolverConfig(**settings)


def make_trainer(
    job: Job,
    denoiser: Denoiser,
    data: TeacherData,
    folder: Path,
    *,
    held_out: int = 200,
    distance: Distance | None = None,
    discriminator: torch.nn.Module | None = None,
    report: Callable[[int, dict[str, float]], None] | None = None,
    start: dict[str, torch.Tensor] | None = None,
    teacher: TeacherSpec | None = None,
) -> SolverTrainer:
    """The trainer of a job; ``data`` on the device of the denoiser. ``start`` are parameters to begin with.

    A ``distance`` of your own replaces the objective of that name. The embedded classifier, a discriminator, and a
    validation by features are there for models of the zoo; others bring theirs, and are validated by the RMSE.
    """
    config, device, of_zoo = job.config(), data.noise.device, zoo.knows(job.model)
    train, held = data.split(held_out)
    trainable = TrainablePlan(job.plan(denoiser))
    if start is not None:
        trainable.load_state_dict(start)
    if distance is None:
        features = fashion_reference()[0].to(device).features if of_zoo and config.objective == "features" else None
        distance = distance_of(config.objective, device, features, config.pixels)
    if config.adversarial and discriminator is None and of_zoo:
        torch.manual_seed(config.seed)
        discriminator = Discriminator(denoiser.model.channels, classes=denoiser.model.classes)
    if discriminator is not None:
        discriminator = discriminator.to(device)
    validate = feature_validation(denoiser, held) if config.adversarial and of_zoo else None
    return SolverTrainer(
        trainable, denoiser, train, held, distance, config, folder,
        discriminator=discriminator, validate=validate, report=report,
        facts={
            "model": job.model, "guidance": job.guidance, "dtype": str(denoiser.dtype),
            "teacher": None if teacher is None else dataclasses.asdict(teacher),
        },
    )  # fmt: skip


def feature_validation(denoiser: Denoiser, held: TeacherData) -> Callable[[torch.nn.Module], float]:
    """The Fréchet distance of a plan's samples to the teacher's from the same noise, in the classifier's features."""
    classifier, _ = fashion_reference()
    classifier = classifier.to(held.noise.device)
    wanted = moments(classify(classifier, held.samples)[0])

    @torch.no_grad()
    def validate(plan: torch.nn.Module) -> float:
        samples = torch.cat([plan(denoiser, noise, **given) for noise, _, given in held.batches(250)])
        if not torch.isfinite(samples).all():
            return float("nan")
        return frechet_distance(classify(classifier, samples)[0], wanted)

    return validate


def with_chosen_times(
    job: Job, denoiser: Denoiser, samples: int = 64, searched: int = 1000, bar: Bar | None = None
) -> Plan:
    """The job's solver on the times that ``gits`` or ``dmn`` choose, or a ``search`` by the FID of samples."""
    start = job.plan(denoiser)
    if job.method == "dmn":
        times = solvers.dmn_times(start)
    elif job.method == "search":
        if not zoo.knows(job.model):
            raise ValueError(f"search measures the FID of models of the zoo and their students, got {job.model}")

        def fid(times: list[float]) -> float:
            found = fashion_quality(generate(denoiser, _on_times(job, denoiser, times), searched, seed=SEARCH_SEED)).fid
            if bar is not None:
                bar.advance()
            return math.inf if math.isnan(found) else found

        times, _ = searched_times(start.times, fid, sweeps=sweeps_of(job.steps))
    else:
        device = next(denoiser.model.parameters()).device
        noise = sample_noise(TEACHER_SEED, range(samples), sample_shape(denoiser)).to(device)
        label = class_labels(denoiser)(range(samples))["label"].to(device)
        times = solvers.gits_times(
            denoiser, denoiser.schedule, job.steps, noise, grid=job.grid, prediction=denoiser.prediction, label=label
        )
    return _on_times(job, denoiser, times)


def _on_times(job: Job, denoiser: Denoiser, times: list[float]) -> Plan:
    make = solvers.from_name(job.solver)
    options = {name: value for name, value in job.options.items() if name not in ("start", "end", "final")}
    return make(denoiser.schedule, times=times, prediction=denoiser.prediction, **options)


def sweeps_of(steps: int) -> int:
    """How often a search goes over the inner times: one time alone is found at once."""
    return min(2, steps - 1)


def scores_of(steps: int) -> int:
    """How often a search asks for the FID, at most."""
    return 1 + sweeps_of(steps) * EVALUATIONS * (steps - 1)


def write_result(job: Job, trainer: SolverTrainer, folder: Path, figures: dict[str, Any], teacher: TeacherSpec) -> Plan:
    """Writes plan.json, card.json and figure.png of the best plan; returns it."""
    plan = trainer.best.plan(job.method, method=job.method, model=job.model)
    plan.save(folder / "plan.json")
    facts = card(job, trainer, figures, teacher)
    text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / "card.json", lambda path: path.write_text(text))
    training_figure(folder / "figure.png", trainer.trainable.origin, plan, trainer.validations)
    return plan


def card(job: Job, trainer: SolverTrainer, figures: dict[str, Any], teacher: TeacherSpec) -> dict[str, Any]:
    """What is known of a trained plan."""
    return {
        "name": f"{job.method}-{job.steps}",
        "model": job.model,
        "guidance": job.guidance,
        "dtype": dtype_name(trainer.denoiser),
        "method": job.method,
        "paper": METHODS[job.method].paper,
        "starts from": {"solver": job.solver, "options": job.options, "grid": job.grid or "uniform"},
        "numbers": trainer.trainable.learned_numbers,
        "teacher": dataclasses.asdict(teacher),
        "training": {
            "config": dataclasses.asdict(trainer.config),
            "steps": trainer.step,
            "best step": trainer.best_step,
            "seconds": round(trainer.seconds, 1),
            "machine": machine_of(trainer.device),
            "pyaccel": __version__,
        },
        "validation": {
            "samples": len(trainer.held_out),
            "start": trainer.validations[0][1],
            "best": trainer.best_score,
        },
        "figures": figures,
    }


def tune(
    job: Job,
    folder: Path,
    data: TeacherData,
    spec: TeacherSpec,
    denoiser: Denoiser,
    *,
    seconds: float | None = None,
    held_out: int = 200,
    distance: Distance | None = None,
    discriminator: torch.nn.Module | None = None,
    progress: bool = True,
) -> tuple[SolverTrainer, Plan]:
    """Trains a job in ``folder`` and writes its results; a run that was stopped goes on from its checkpoint.

    Logs for TensorBoard go to ``folder/logs`` where it is installed; a grid of samples that are pictures is drawn at
    each checkpoint. ``distance`` and ``discriminator`` as for :func:`make_trainer`.
    """
    folder = Path(folder)
    writer = _writer(folder / "logs")

    def report(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    trainer = make_trainer(
        job, denoiser, data, folder, held_out=held_out, distance=distance, discriminator=discriminator,
        report=None if writer is None else report, teacher=spec,
    )  # fmt: skip

    def pictures(trainer: SolverTrainer) -> None:
        noise, targets, given = trainer.held_out.at(slice(SHOWN))
        if targets.dim() != 4 or targets.shape[1] not in (1, 3):
            return
        with torch.no_grad():
            samples = trainer.ema(denoiser, noise, **given)
        image_grid(folder / "samples" / f"step-{trainer.step:06d}.png", samples)

    trainer.fit(progress=progress, callback=pictures, seconds=seconds)
    if trainer.validations[-1][0] != trainer.step:  # for the result alone: a run that goes on does not know of it
        score = float(trainer.validate(trainer.ema))
        if score < trainer.best_score:
            trainer.best_score, trainer.best_step = score, trainer.step
            trainer.best.load_state_dict(trainer.ema.state_dict())
    figures = {"rmse to the teacher, held out": round(_rmse_of_best(trainer), 5)}
    plan = write_result(job, trainer, folder, figures, spec)
    if writer is not None:
        writer.close()
    return trainer, plan


def _rmse_of_best(trainer: SolverTrainer) -> float:
    return trainer.validation_rmse(trainer.best)


def _writer(folder: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


def zoo_denoiser(model: str, device: str, guidance: float = 1.0, dtype: torch.dtype = torch.float32) -> Denoiser:
    """A model of the zoo on a device; ValueError for one that is not there."""
    try:
        at = torch.device(device)
        torch.empty(0, device=at)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from None
    return zoo.load(model, guidance=guidance, dtype=dtype, device=at)
