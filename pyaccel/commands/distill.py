"""``pyaccel distill``: students that sample in one to four calls."""

from __future__ import annotations

import inspect
import re
import signal
import sys
from pathlib import Path

import click


@click.command(
    short_help="Train a student that samples in one to four calls.",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def distill(arguments: tuple[str, ...]) -> None:
    """Train a student of a model of the zoo by a recipe: pyaccel distill RECIPE --help lists its settings."""
    from ..distill import RECIPES
    from ..names import look_up

    if not arguments or arguments[0] in ("-h", "--help"):
        _print_recipes()
        return
    recipe, rest = arguments[0], list(arguments[1:])
    if recipe.startswith("-"):
        raise ValueError(f"the recipe comes first, then its settings: pyaccel distill meanflow {recipe} ...")
    look_up("recipe", recipe, RECIPES)
    _run(recipe, rest)


def _print_recipes() -> None:
    from rich.console import Console
    from rich.table import Table

    from ..distill import RECIPES

    print("Usage: pyaccel distill RECIPE [OPTIONS]\n")
    print("Train a student of a model of the zoo that samples in one to four calls. Each recipe has its own settings:")
    print("pyaccel distill RECIPE --help. Ctrl-C saves; the same command goes on to the same bits. Under torchrun the")
    print("batch is shared between the ranks. What each recipe does and costs: docs/distillation.md.\n")
    table = Table("recipe", "paper", box=None, pad_edge=False)
    for name, kind in sorted(RECIPES.items()):
        table.add_row(name, _readable(kind).split("\n")[0].rstrip(":."))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _readable(kind: type) -> str:
    """A class's docstring as text for a terminal."""
    text = inspect.cleandoc(kind.__doc__ or "")
    return re.sub(r":\w+:`[.~]*([^`]*)`", r"pyaccel.distill.\1", text).replace("``", "")


def _run(recipe: str, rest: list[str]) -> None:
    import dataclasses
    from typing import Annotated

    import tyro

    from ..evaluation.distilling import Distillation, default_run
    from ..evaluation.distilling import distill as run
    from ..training.record import from_yaml, to_yaml
    from ..training.trainer_config import TrainerConfig

    default = default_run(recipe)
    if "--config" in rest:  # before the others, which change what it says
        place = rest.index("--config")
        if place + 1 == len(rest):
            raise ValueError("--config needs a file: the config.yaml of a run, or what --dry-run printed")
        default = from_yaml(default, Path(rest[place + 1]))
        del rest[place : place + 2]
    dry = "--dry-run" in rest
    rest = [word for word in rest if word != "--dry-run"]
    kind = dataclasses.make_dataclass(
        "Job",
        [
            ("recipe", Annotated[type(default.recipe), tyro.conf.arg(name="")], dataclasses.field()),
            ("run", Annotated[TrainerConfig, tyro.conf.arg(name="")], dataclasses.field()),
        ],
        bases=(Distillation,),
        frozen=True,
    )
    kind.__doc__ = Distillation.__doc__
    values = {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}
    about = (
        f"{_readable(type(default.recipe))}\n\nAlso: --config FILE takes settings from YAML, such as the "
        "config.yaml of a run; --dry-run prints all settings as YAML and ends."
    )
    job = tyro.cli(kind, args=rest, default=kind(**values), prog=f"pyaccel distill {recipe}", description=about)
    job = Distillation(**{field.name: getattr(job, field.name) for field in dataclasses.fields(Distillation)})
    if dry:
        print(to_yaml(job), end="")
        return
    trainer = run(recipe, job)
    if trainer.step < trainer.total:
        print(f"stopped at step {trainer.step} of {trainer.total}; the same command goes on: {job.folder(recipe)}")
    if trainer.stopped == signal.SIGINT:
        sys.exit(130)
