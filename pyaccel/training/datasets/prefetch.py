"""The batches of the next steps, made while the present one is trained on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """``get(step)`` is ``fetch(step)``, of which those of the ``ahead`` next steps are made in a thread meanwhile.

    ``fetch`` must depend on the step alone and leave the global random generator as it is; then nothing changes by
    its being called early, in another thread, or for a step that is never asked for. It is called by one thread, for
    rising steps. Used with ``with``, or closed by :meth:`close`; a process that forgets to ends all the same.
    """

    def __init__(self, fetch: Callable[[int], T], ahead: int = 2):
        if ahead < 0:
            raise ValueError(f"a prefetcher needs ahead >= 0, got {ahead}")
        self._fetch, self._ahead = fetch, ahead
        self._made: dict[int, Future[T]] = {}
        # An executor's thread is joined when the interpreter ends, after the few steps that wait for it; a daemon
        # thread would be cut down amid native code.
        self._thread: ThreadPoolExecutor | None = ThreadPoolExecutor(1, "pyaccel-prefetch")

    def get(self, step: int) -> T:
        """What ``fetch(step)`` returns; what it raises is raised here.

        A step other than the next (after a resume, or asked for twice) starts anew from there.
        """
        if self._thread is None:
            raise RuntimeError(f"step {step} was asked of a prefetcher that is closed; make a new one")
        if step not in self._made:
            self._forget()
        for number in range(step, step + self._ahead + 1):
            if number not in self._made:
                self._made[number] = self._thread.submit(self._fetch, number)
        return self._made.pop(step).result()

    def close(self) -> None:
        """Ends the thread, after the step that it is at; may be called twice."""
        if self._thread is not None:
            self._forget()
            self._thread.shutdown(cancel_futures=True)
            self._thread = None

    def _forget(self) -> None:
        for future in self._made.values():
            future.cancel()
        self._made.clear()

    def __enter__(self) -> Prefetcher[T]:
        return self

    def __exit__(self, *_) -> None:
        self.close()
