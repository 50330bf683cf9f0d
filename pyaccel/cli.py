"""The command ``pyaccel``. A wrong call prints one line and exits with 2; an interruption exits with 130."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from . import __version__
from .commands.bench import bench
from .commands.calibrate import calibrate
from .commands.distill import distill
from .commands.plan import plan
from .commands.sample import sample
from .commands.solvers import solvers
from .commands.teacher import teacher
from .commands.tune_solver import tune_solver

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=_HELP, invoke_without_command=True)
@click.version_option(__version__, prog_name="pyaccel")
@click.pass_context
def cli(context: click.Context) -> None:
    """Make diffusion models sample faster: fewer steps, cheaper steps, and both measured."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@cli.command(short_help="What runs here, and why something is missing.")
def info() -> None:
    """What runs here: backends, instruction sets, threads, and why something is missing."""
    from rich.console import Console
    from rich.table import Table

    from .ops.backend import describe

    table = Table("part", "what runs here", title=f"pyaccel {__version__}", title_justify="left")
    for name, text in describe():
        table.add_row(name, text)
    Console().print(table)


@cli.command(short_help="Measure solvers and caches on a trained model; write a report.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("pyaccel-demo"), show_default=True)
@click.option("--quick", is_flag=True, help="200 images a row instead of 1000: under a minute.")
@click.option(
    "--full", is_flag=True, help="Also the SDE with 250 steps, where the way to few steps began: ~10 minutes, not 3."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--progress/--no-progress", default=True, show_default=True)
def demo(out: Path, quick: bool, full: bool, seed: int, progress: bool) -> None:
    """Measure solvers and caches on a trained model and write a report (HTML, pictures, JSON)."""
    from rich.console import Console

    from .evaluation import demo as experiment
    from .evaluation import rich_table

    results = experiment.run(out, quick=quick, full=full, seed=seed, progress=progress)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(rich_table(results))
    print(f"report: {out / 'report.html'}")


@cli.command(short_help="List the zoo, with the figures of its cards.")
def models() -> None:
    """List the zoo, with the figures of its cards."""
    from rich.console import Console
    from rich.table import Table

    from . import zoo

    table = Table("model", "what", "parameters", "trained", "figures")
    for card in zoo.cards():
        training = card["training"]
        figures = ", ".join(f"{k} {v}" for k, v in card["figures"].items() if not k.startswith("interval"))
        what = f"{card['architecture']}, {card['prediction']}" if "prediction" in card else card["architecture"]
        trained = f"{training['steps']} steps, {training['minutes']} min"
        table.add_row(card["name"], what, f"{card['parameters'] / 1e6:.2f} M", trained, figures)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    if not zoo.plan_names():
        return
    plans = Table("trained plan", "for", "numbers", "trained", "figures")
    for name in zoo.plan_names():
        card = zoo.plan_card(*name.split("/"))
        figures = ", ".join(f"{key} {value}" for key, value in card["figures"].items())
        training = card["training"]
        trained = f"{training['steps']} steps, {training['seconds']} s"
        plans.add_row(card["name"], card["model"], str(card["numbers"]), trained, figures)
    console.print(plans)


@cli.command(short_help="Train a model of the zoo anew.")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run; default: runs/NAME.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder with Fashion-MNIST's four idx files.")
@click.option("--steps", type=int, help="Training steps; default: the recipe's.")
@click.option("--batch-size", type=int, help="Default: the recipe's.")
@click.option("--seed", type=int, help="Default: the recipe's, 0.")
@click.option("--checkpoint-every", type=float, default=120.0, show_default=True, help="Seconds.")
def train(
    name: str,
    out: Path | None,
    data: Path | None,
    steps: int | None,
    batch_size: int | None,
    seed: int | None,
    checkpoint_every: float,
) -> None:
    """Train a model of the zoo anew: fashion-dit, fashion-unet or fashion-classifier.

    Ctrl-C saves the state; the same command goes on from there. The result, weights and card, lies in the run's folder.
    """
    from .evaluation.cards import train_model

    changes = {"steps": steps, "batch_size": batch_size, "seed": seed}
    folder = out or Path("runs") / name
    stopped = train_model(name, folder, data, {k: v for k, v in changes.items() if v is not None}, checkpoint_every)
    print(f"stopped; the same command goes on: {folder}" if stopped else f"finished: {folder / name}.safetensors")
    if stopped == signal.SIGINT:
        sys.exit(130)


for command in (bench, calibrate, distill, plan, sample, solvers, teacher, tune_solver):
    cli.add_command(command)


def main() -> None:
    """Entry point of the command."""
    try:
        result = cli(standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except click.ClickException as error:
        print(f"pyaccel: {error.format_message()}", file=sys.stderr)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        print("pyaccel: interrupted", file=sys.stderr)
        sys.exit(130)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"pyaccel: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
