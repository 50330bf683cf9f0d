"""``pyaccel tune-solver``: train a solver for a model of the zoo."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from .options import parse_options


@click.command(short_help="Train a solver: few calls with the quality of many.")
@click.option("--model", required=True, help="A model of the zoo; see: pyaccel models.")
@click.option("--steps", type=click.IntRange(1), required=True, help="Of the solver; most make one model call in each.")
@click.option(
    "--method", default="gs", show_default=True, help="gs, gas, ld3, s4s, s4s-alt, bns, amed; gits, dmn, search."
)
@click.option("--objective", help="l1, l2, pseudo-huber, psnr, lpips or features; default: the method's, mostly l2.")
@click.option(
    "--solver", default="", help="That it starts from; see: pyaccel solvers; default: dpmpp, amed, or a student's."
)
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="Of it; default: order=3 of dpmpp.")
@click.option("--grid", help="Of it: uniform, log_snr, ...; default: its own.")
@click.option("--guidance", type=float, default=1.0, show_default=True)
@click.option("--teacher", type=click.Path(path_type=Path), help="Folder of pyaccel teacher; default: OUT/teacher.")
@click.option(
    "--count", type=click.IntRange(8), default=1400, show_default=True, help="Teacher samples to use or make."
)
@click.option("--held-out", type=click.IntRange(4), default=200, show_default=True, help="Of them, for validation.")
@click.option("--iterations", type=click.IntRange(1), help="Training steps; default: 2000.")
@click.option("--batch-size", type=click.IntRange(1), help="Default: 24.")
@click.option("--learning-rate", type=float, help="Default: 0.005.")
@click.option("--validate-every", type=click.IntRange(1), help="Training steps; default: 100.")
@click.option("--adversarial", type=float, help="Weight of the relativistic loss of gas; default: 0.1.")
@click.option("--seed", type=click.IntRange(0), help="Of the training; default: 0.")
@click.option("--seconds", type=float, help="Stop the training after so long; the same command goes on.")
@click.option("--checkpoint/--no-checkpoint", help="Make model calls again in the backward pass: less memory, slower.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; default: runs/MODEL-METHOD-STEPS.")
@click.option("--progress/--no-progress", default=True, show_default=True)
def tune_solver(
    model: str,
    steps: int,
    method: str,
    objective: str | None,
    solver: str,
    options: tuple[str, ...],
    grid: str | None,
    guidance: float,
    teacher: Path | None,
    count: int,
    held_out: int,
    iterations: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    validate_every: int | None,
    adversarial: float | None,
    seed: int | None,
    seconds: float | None,
    checkpoint: bool,
    dtype: str,
    device: str,
    out: Path | None,
    progress: bool,
) -> None:
    """Train the times and coefficients of a solver for a model, so that few calls give what a teacher needs many for.

    Writes plan.json (pyaccel sample --plan OUT/plan.json), card.json and figure.png. Ctrl-C saves; the same command
    goes on to the same bits. gits, dmn and search choose times and train nothing. Of a student its own sampler is
    tuned, to the samples of its teacher; one that adds noise on its way by search alone, which looks at the FID. What
    each method does: docs/trained-solvers.md.
    """
    import torch

    from .. import zoo
    from ..evaluation.teaching import facts_of, make_teacher, teacher_spec
    from ..evaluation.tuning import CHOSEN, Job, scores_of, tune, with_chosen_times, zoo_denoiser
    from ..progress import progress_bar
    from ..training.distances import distance_of
    from ..training.teacher import load_teacher

    changes = {
        "steps": iterations, "batch_size": batch_size, "learning_rate": learning_rate, "objective": objective,
        "validate_every": validate_every, "adversarial": adversarial, "seed": seed, "checkpoint": checkpoint or None,
    }  # fmt: skip
    job = Job(model, steps, method, solver, parse_options(options), grid, guidance, changes)
    folder = out or Path("runs") / f"{Path(model).stem}-{method}-{steps}"
    if method in CHOSEN:
        denoiser = zoo_denoiser(model, device, guidance, getattr(torch, dtype))
        with progress_bar("search", scores_of(steps), progress and method == "search") as bar:
            plan = with_chosen_times(job, denoiser, bar=bar)
        plan.save(folder / "plan.json")
        print(f"times {', '.join(f'{t:.4g}' for t in plan.times)}: {folder / 'plan.json'}")
        return
    distance_of(job.config().objective, features=lambda x: x)
    if held_out >= count:
        raise ValueError(f"--held-out {held_out} leaves nothing of --count {count} to train on")
    denoiser = zoo_denoiser(model, device, guidance, getattr(torch, dtype))
    job.plan(denoiser)
    of_data = zoo.card(model).get("teacher", model)
    if teacher is None:
        teacher, asked_for = folder / "teacher", (device, guidance, getattr(torch, dtype))
        maker = denoiser if of_data == model else zoo_denoiser(of_data, *asked_for)
        spec = teacher_spec(of_data, maker, count)
        with progress_bar("teacher data", count, progress) as bar:
            make_teacher(teacher, maker, spec, progress=bar.advance)
    data, spec = load_teacher(teacher, model=of_data, **facts_of(denoiser))
    asked = click.get_current_context().get_parameter_source("count") is click.core.ParameterSource.COMMANDLINE
    if asked and len(data) < count:
        raise ValueError(f"{teacher} holds {len(data)} samples, and --count is {count}")
    data = data.head(count).to(device)
    trainer, plan = tune(
        job, folder, data, spec, denoiser, seconds=seconds, held_out=held_out, progress=progress,
    )  # fmt: skip
    first = trainer.validations[0][1]
    print(
        f"{plan.calls} calls: validation {first:.5f} -> {trainer.best_score:.5f}, step {trainer.best_step} of "
        f"{trainer.step}"
    )
    print(f"plan: {folder / 'plan.json'}, card: {folder / 'card.json'}, figure: {folder / 'figure.png'}")
    if trainer.step < trainer.total:
        print(f"stopped before step {trainer.total}; the same command goes on: {folder}")
    if trainer.stopped == signal.SIGINT:
        sys.exit(130)
