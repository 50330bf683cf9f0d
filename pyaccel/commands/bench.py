"""``pyaccel bench``: comparisons of solvers, of caches and of students on the models of the zoo."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .options import parse_options

MODELS = {"fashion-dit": ["fashion-dit"], "fashion-unet": ["fashion-unet"], "both": ["fashion-dit", "fashion-unet"]}


@click.group(short_help="Compare solvers, caches and students on the models of the zoo.")
def bench() -> None:
    """Compare solvers on the models of the zoo, and with what their papers say; feature caches; and students."""


@bench.command(short_help="Error against model calls, for every deterministic solver.")
@click.option("--model", type=click.Choice(list(MODELS)), default="fashion-dit", show_default=True)
@click.option("--calls", help="Numbers of model calls; default: 4,5,6,8,10,20.")
@click.option("--count", type=click.IntRange(1), help="Images; default: 64.")
@click.option("--grid", default="uniform", show_default=True, help="Time grid of every solver.")
@click.option("--solvers", "only", help="Only these, e.g. ddim,unipc,'DEIS-tAB3'; default: all.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("pyaccel-bench"), show_default=True)
@click.option("--quick", is_flag=True, help="16 images, 4, 6 and 10 calls, a reference of 100 steps: under a minute.")
@click.option("--resume", is_flag=True, help="Keep what an interrupted run with the same settings has measured.")
@click.option("--progress/--no-progress", default=True, show_default=True)
def solvers(
    model: str,
    calls: str | None,
    count: int | None,
    grid: str,
    only: str | None,
    out: Path,
    quick: bool,
    resume: bool,
    progress: bool,
) -> None:
    """Error of every deterministic solver against its model calls; writes report.html, pictures and results.json.

    The error is the root mean square difference per pixel to the solution of the same ODE from the same noise. The
    network computes in float32. A model takes about 8 minutes on two cores.
    """
    from rich.console import Console

    from ..evaluation.bench import claims, rich_table, run

    results = run(
        out,
        MODELS[model],
        calls=_numbers(calls),
        count=count,
        grid=grid,
        only=_names(only),
        quick=quick,
        resume=resume,
        progress=progress,
    )
    console = Console(width=None if sys.stdout.isatty() else 140)
    for name, entry in results["models"].items():
        console.print(rich_table(results["calls"], claims.ranking(results["calls"], entry["rows"]), name))
        for verdict in claims.verdicts(results["calls"], entry["rows"]):
            print(f"{verdict.word}: {verdict.claim} {verdict.detail}")
    print(f"report: {out / 'report.html'}")


@bench.command(short_help="Quality against speed, for every feature cache.")
@click.option("--model", type=click.Choice(MODELS["both"]), default="fashion-dit", show_default=True)
@click.option("--solver", default="euler", show_default=True, help="Of the uncached run and of every cache.")
@click.option("--steps", type=click.IntRange(2), default=50, show_default=True)
@click.option("--count", type=click.IntRange(4), help="Images of each row; default: 2000.")
@click.option("--caches", "only", help="Only these, e.g. taylorseer,fora; default: all.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("pyaccel-caches"), show_default=True)
@click.option("--quick", is_flag=True, help="100 images a row: four minutes instead of an hour.")
@click.option("--resume", is_flag=True, help="Keep the rows that an interrupted run with the same settings measured.")
@click.option("--progress/--no-progress", default=True, show_default=True)
def caching(
    model: str,
    solver: str,
    steps: int,
    count: int | None,
    only: str | None,
    out: Path,
    quick: bool,
    resume: bool,
    progress: bool,
) -> None:
    """Quality and speed of every feature cache, in pairs with the uncached run: the same noise and labels.

    Beside them stand solvers with as many full calls and no cache. Writes report.html, pictures and results.json.
    """
    from ..evaluation import cache_bench

    results = cache_bench.run(
        out,
        model,
        solver=solver,
        steps=steps,
        count=count,
        only=_names(only),
        quick=quick,
        resume=resume,
        progress=progress,
    )
    _show(results, out)


@bench.command(short_help="Quality against model calls: the teacher, its solvers, its students.")
@click.option("--model", type=click.Choice(MODELS["both"]), default="fashion-dit", show_default=True, help="Teacher.")
@click.option("--calls", default="1,2,3,4,6,8", show_default=True, help="Of the teacher's solvers.")
@click.option("--solvers", "only", help="Of the teacher, e.g. ddim,'UniPC-3 (B2)', or all; default: five.")
@click.option("--students", help="Of the zoo or NAME.safetensors with its card; default: all of the zoo's.")
@click.option("--plan", "plans", multiple=True, metavar="STUDENT=FILE.json",
              help="A tuned solver of a student, see pyaccel tune-solver; may be given several times.")  # fmt: skip
@click.option("--cache", default="taylorseer", show_default=True, help="Of students, or none; see: docs/caching.md.")
@click.option("-c", "--cache-option", "cache_options", multiple=True, metavar="KEY=VALUE",
              help="Of it; default of taylorseer: interval=2, order=1, warmup=1.")  # fmt: skip
@click.option("--cache-calls", default="8", show_default=True, help="Calls of the students with it.")
@click.option("--teacher-steps", type=click.IntRange(1), default=20, show_default=True, help="UniPC's, the baseline.")
@click.option("--count", type=click.IntRange(4), help="Images of each row; default: 2000.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--out", type=click.Path(path_type=Path), default=Path("pyaccel-students"), show_default=True)
@click.option("--quick", is_flag=True, help="100 images a row.")
@click.option("--resume", is_flag=True, help="Keep the rows that an earlier run with the same settings has measured.")
@click.option("--progress/--no-progress", default=True, show_default=True)
def students(
    model: str,
    calls: str,
    only: str | None,
    students: str | None,
    plans: tuple[str, ...],
    cache: str,
    cache_options: tuple[str, ...],
    cache_calls: str,
    teacher_steps: int,
    count: int | None,
    device: str,
    out: Path,
    quick: bool,
    resume: bool,
    progress: bool,
) -> None:
    """Quality of students with few calls beside the teacher's solvers, with tuned solvers, and with a cache.

    All from the same noise and labels, with intervals, and with paired changes of the FID: to the teacher with many
    calls, and of a student with a tuned solver or a cache to itself without. Writes report.html, pictures and
    results.json.
    """
    from ..evaluation import student_bench
    from ..evaluation.student_bench.variants import CacheChoice

    of_students: dict[str, list[str]] = {}
    for text in plans:
        name, sign, file = text.partition("=")
        if not sign:
            raise ValueError(f"--plan is written as STUDENT=FILE.json, got {text!r}")
        of_students.setdefault(name, []).append(file)
    chosen = None
    if cache != "none":
        options = {"options": parse_options(cache_options)} if cache_options or cache != "taylorseer" else {}
        chosen = CacheChoice(cache, tuple(_numbers(cache_calls, "--cache-calls")), **options)
    results = student_bench.run(
        out, model, calls=_numbers(calls), only=_names(only), students=_names(students), plans=of_students,
        cache=chosen, teacher_steps=teacher_steps, count=count, device=device, quick=quick, resume=resume,
        progress=progress,
    )  # fmt: skip
    _show(results, out)


def _show(results: dict, out: Path) -> None:
    """The table and the notes of a report."""
    from rich.console import Console

    from ..evaluation import rich_table

    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(rich_table(results))
    for row in results["rows"]:
        if "note" in row:
            print(f"{row['name']}: {row['note']}")
    print(f"report: {out / 'report.html'}")


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _numbers(text: str | None, option: str = "--calls") -> list[int] | None:
    if text is None:
        return None
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise ValueError(f"{option} must be whole numbers with commas between, e.g. 4,8; got {text!r}") from None
