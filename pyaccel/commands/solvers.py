"""``pyaccel solvers``: the list of all solvers."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import click

GROUPS = ("solvers of the ODE", "solvers of the SDE", "few-step students")


@click.command(short_help="List the solvers: order, calls a step, noise, paper.")
@click.option("--json", "as_json", is_flag=True, help="A list of objects instead of a table.")
def solvers(as_json: bool) -> None:
    """List the solvers: what each is, its order, its model calls a step, whether it adds noise, its paper.

    A solver with noise "with eta" is of the ODE unless its option eta is set; see: pyaccel plan NAME.
    """
    from ..solvers import SOLVERS

    rows = [facts(solver.about) for solver in SOLVERS.values()]
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("solver", no_wrap=True)
    table.add_column("what it is", overflow="fold", ratio=3, min_width=24)
    for title in ("order", "calls a step", "noise"):
        table.add_column(title, overflow="fold")
    table.add_column("paper", overflow="fold", ratio=2, min_width=14)
    for group in GROUPS:
        table.add_section()
        table.add_row(Text(group, style="bold"))
        for row in rows:
            if group_of(row) == group:
                noise = {True: "yes", False: "no"}.get(row["stochastic"], _when(row["options"]))
                cells = row["name"], row["summary"], row["order"], row["calls_per_step"], noise, row["paper"]
                table.add_row(*map(Text, cells))
    # Into a pipe a solver is one line, however long.
    Console(width=None if sys.stdout.isatty() else 500).print(table)


def facts(about: Any) -> dict[str, Any]:
    """What ``--json`` prints of a solver, from its :class:`pyaccel.solvers.About`."""
    return {
        "name": about.name,
        "summary": _without_markup(about.summary),
        "order": about.order,
        "calls_per_step": about.calls,
        "stochastic": about.stochastic,
        "students": about.students,
        "paper": about.paper,
        "options": list(about.options),
    }


def group_of(row: dict[str, Any]) -> str:
    """The group of ``GROUPS`` that a solver is listed in."""
    return GROUPS[2] if row["students"] else GROUPS[1] if row["stochastic"] else GROUPS[0]


def _when(options: list[str]) -> str:
    return "with eta" if "eta" in options else "depends"


def _without_markup(text: str) -> str:
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("``", "")
