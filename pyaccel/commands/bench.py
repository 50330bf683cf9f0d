"""``pyaccel bench``: comparisons of solvers and of caches on the models of the zoo."""

from __future__ import annotations

import sys
from pathlib import Path

import click

MODELS = {"fashion-dit": ["fashion-dit"], "fashion-unet": ["fashion-unet"], "both": ["fashion-dit", "fashion-unet"]}


@click.group(short_help="Compare solvers, and caches, on the models of the zoo.")
def bench() -> None:
    """Compare solvers on the models of the zoo, and with what their papers say; and feature caches."""


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
        only=None if only is None else only.split(","),
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
@click.option("--progress/--no-progress", default=True, show_default=True)
def caching(
    model: str,
    solver: str,
    steps: int,
    count: int | None,
    only: str | None,
    out: Path,
    quick: bool,
    progress: bool,
) -> None:
    """Quality and speed of every feature cache, in pairs with the uncached run: the same noise and labels.

    Beside them stand solvers with as many full calls and no cache. Writes report.html, pictures and results.json.
    """
    from rich.console import Console

    from ..evaluation import cache_bench, rich_table

    names = None if only is None else [name.strip() for name in only.split(",")]
    results = cache_bench.run(
        out, model, solver=solver, steps=steps, count=count, only=names, quick=quick, progress=progress
    )
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(rich_table(results))
    for row in results["rows"]:
        if "note" in row:
            print(f"{row['name']}: {row['note']}")
    print(f"report: {out / 'report.html'}")


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise ValueError(f"--calls must be whole numbers with commas between, e.g. 4,8; got {text!r}") from None
