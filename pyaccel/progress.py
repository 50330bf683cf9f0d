"""The progress bar of long work, drawn by rich: in place on a terminal, nothing elsewhere but lines now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bar:
    """One running bar: ``advance(n)`` moves it, ``note(text)`` writes behind it."""

    def __init__(self, progress: Progress | None, label: str, total: int):
        self._progress, self._label, self._total, self._done, self._text = progress, label, total, 0, ""
        self._task = progress.add_task(label, total=total, note="") if progress else None
        self._started = self._printed = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """``count`` more units are done."""
        self._done += count
        if self._progress is not None:
            self._progress.advance(self._task, count)
        elif time.monotonic() - self._printed > 30:
            self._printed = time.monotonic()
            elapsed = self._printed - self._started
            print(
                f"{self._label}: {self._done}/{self._total}, {elapsed:.0f} s {self._text}", file=sys.stderr, flush=True
            )

    def note(self, text: str) -> None:
        """Shows ``text`` behind the bar."""
        self._text = text
        if self._progress is not None:
            self._progress.update(self._task, note=text)


class _Silent:
    def advance(self, count: int = 1) -> None:
        """No bar was asked for."""

    def note(self, text: str) -> None:
        """No bar was asked for."""


@contextmanager
def progress_bar(label: str, total: int, enabled: bool = True) -> Iterator[Bar | _Silent]:
    """A bar of ``total`` units on standard error; without a terminal, a line every half minute."""
    if not enabled:
        yield _Silent()
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Bar(None, label, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console) as progress:
        yield Bar(progress, label, total)
