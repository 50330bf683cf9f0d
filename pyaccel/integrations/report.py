"""What an acceleration has done, as a small table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .parts import is_scheduler
from .record import Record


@dataclass(frozen=True)
class Row:
    """One part of a pipeline: what was put in its place or inside of it, and what that has done."""

    part: str
    what: str
    done: str


@dataclass(frozen=True)
class Report:
    """The rows of a summary; ``print(report)`` shows the table, ``rich.print(report)`` shows it in colours."""

    title: str
    rows: tuple[Row, ...]

    def __rich__(self) -> Table:
        table = Table(title=self.title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for heading in ("part", "what", "done"):
            table.add_column(heading, overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(words) for words in (row.part, row.what, row.done)))  # Text: no markup in them
        return table

    def __str__(self) -> str:
        # Nothing of the terminal: the same text everywhere, without escapes.
        console = Console(width=120, color_system=None, force_terminal=False, legacy_windows=False, _environ={})
        with console.capture() as capture:
            console.print(self)
        return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def report(thing: Any, record: Record) -> Report:
    """The summary of ``thing``, which has this record."""
    rows = [_scheduler_row(thing, name, fused) for name, (_, fused) in record.schedulers.items()]
    for name, blocks in record.blocks.items():
        rows += [Row(name or type(thing).__name__, what, done) for what, done in blocks.rows()]
    rows += [_cache_row(name or type(thing).__name__, made) for name, made in record.caches.items()]
    rows += [
        Row(name, "not fused" if is_scheduler(getattr(thing, name, None)) else "no cache", why)
        for name, why in record.refused.items()
    ]
    return Report(f"{type(thing).__name__}, accelerated", tuple(rows))


def _scheduler_row(thing: Any, name: str, fused: Any) -> Row:
    present = getattr(thing, name, None)
    if present is not fused:
        why = "assigned after accelerate(): restore and accelerate again to fuse it"
        return Row(name, f"{type(present).__name__}, not fused", why)
    _, _, done = fused.pyaccel_summary().partition(": ")
    return Row(name, f"{type(fused).__name__}, fused", done)


def _cache_row(name: str, made: Any) -> Row:
    method, _, done = str(made.summary()).partition(": ")
    return Row(name, method, done)
