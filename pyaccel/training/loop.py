"""The loop of every training: progress, checkpoints, signals, a time limit. What a step does is the trainer's."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..progress import progress_bar


class Loop:
    """A training of ``total`` steps in ``folder``; who inherits has ``train_step``, ``save`` and ``load``.

    ``train_step`` returns the loss as a tensor, which is looked at every ``look_every`` steps, so that a GPU is not
    waited for at each.
    """

    look_every = 50

    def __init__(self, total: int, folder: Path, checkpoint_seconds: float = 120.0):
        self.total, self.folder, self.checkpoint_seconds = total, Path(folder), checkpoint_seconds
        self.step, self.seconds = 0, 0.0
        self.history: list[tuple[int, float]] = []
        self.stopped = 0  # the number of the signal that ended the last fit
        self.main = True  # whether this process shows and writes

    @property
    def checkpoint(self) -> Path:
        """Where the training state is kept."""
        return self.folder / "checkpoint.safetensors"

    def train_step(self) -> torch.Tensor:
        """One step; the loss, without dimensions."""
        raise NotImplementedError

    def save(self) -> None:
        """Writes the whole state to :attr:`checkpoint`, atomically."""
        raise NotImplementedError

    def load(self) -> None:
        """Goes on from :attr:`checkpoint`."""
        raise NotImplementedError

    def diverged(self, value: float) -> None:
        """Raises FloatingPointError for a loss that is not finite."""
        raise FloatingPointError(f"the loss became {value} at step {self.step}; try a lower learning rate")

    def after_step(self) -> None:
        """Called after each step."""

    def looked(self, value: float) -> None:
        """Called each time that the loss was looked at."""

    def agree(self, *flags: bool) -> list[bool]:
        """For each flag whether it is set in any process of the training."""
        return list(flags)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over all processes of the training."""
        return value

    def note(self, value: float) -> str:
        """What stands behind the progress bar."""
        return f"loss {value:.4f}"

    def fit(
        self,
        progress: bool = True,
        callback: Callable[[Loop], None] | None = None,
        seconds: float | None = None,
        steps: int | None = None,
    ) -> bool:
        """Trains to the last step; True when it got there, False when SIGINT or SIGTERM asked to stop.

        So too after so many ``seconds`` of this call, or so many ``steps`` of it. In any case the state is saved.
        ``callback(trainer)`` is called after every checkpoint.
        """
        self.stopped = 0
        if self.checkpoint.exists():
            self.load()
        begun = saved = time.monotonic()
        last = self.total if steps is None else min(self.total, self.step + steps)
        show = progress and self.main
        with _StopSignals() as signals, progress_bar(f"training {self.folder.name}", self.total, show) as bar:
            bar.advance(self.step)
            while self.step < last:
                started = time.monotonic()
                late = seconds is not None and started - begun > seconds
                stop, due = self.agree(late or signals.number > 0, started - saved > self.checkpoint_seconds)
                if stop:
                    break
                if due:
                    self.save()
                    saved = time.monotonic()
                    if callback is not None and self.main:
                        callback(self)
                value = self.train_step()
                if self.step % self.look_every == 0 or self.step == self.total:
                    value = float(self.mean(value))
                    if not math.isfinite(value):
                        self.diverged(value)
                    self.history.append((self.step, value))
                    self.looked(value)
                    bar.note(self.note(value))
                self.seconds += time.monotonic() - started  # with the wait for a GPU, when it was looked at
                self.after_step()
                bar.advance(1)
            if self.agree(signals.number > 0)[0]:
                self.stopped = signals.number or signal.SIGTERM
            self.save()
            if callback is not None and self.main:
                callback(self)
        return self.step >= self.total


def refuse_other_settings(path: Path, there: dict, mine: dict) -> None:
    """ValueError unless a checkpoint was made with the settings that this training has."""
    if there != mine:
        changed = [
            f"{k}: {there.get(k)!r} there, {mine.get(k)!r} now"
            for k in {**there, **mine}
            if mine.get(k) != there.get(k)
        ]
        raise ValueError(f"{path} was made with other settings ({'; '.join(changed)}); use another --out")


class _StopSignals:
    """While open, SIGINT and SIGTERM leave their ``number`` instead of interrupting; in the main thread only."""

    def __init__(self):
        self.number, self.previous = 0, {}

    def __enter__(self) -> _StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _) -> None:
        self.number = number

    def __exit__(self, *_) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
