"""What a cache has done: per call, per step and per site, and the memory that it held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.table import Table

from .where import Site


@dataclass(frozen=True)
class Summary:
    """Counts since a cache was made.

    Attributes:
        method: the cache.
        calls: model calls.
        full_calls: those in which every site was computed.
        branches: how many sites there are.
        peak_bytes: the most memory that was held for one run and pass, on the device of the model.
        host_bytes: the same in pinned host memory, with ``offload``.
        kinds: how many sites of each kind.
        recomputed: calls that were done again in full, because a prediction was refused or was not finite.
        saved: the share of the model's weights that did not have to be multiplied, over all calls.
        sites: names of the sites.
        computed, predicted: for each step, how often each site was computed and predicted there.
    """

    method: str
    calls: int
    full_calls: int
    branches: int
    peak_bytes: int
    kinds: dict[str, int] = field(default_factory=dict)
    recomputed: int = 0
    saved: float = 0.0
    sites: tuple[str, ...] = ()
    computed: tuple[tuple[int, ...], ...] = ()
    predicted: tuple[tuple[int, ...], ...] = ()
    host_bytes: int = 0

    def __str__(self) -> str:
        share = f", {self.full_calls / self.calls:.0%} of them" if self.calls else ""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
        kinds = f" ({kinds})" if kinds else ""
        host = f", and {self.host_bytes / 2**20:.1f} MiB in host memory" if self.host_bytes else ""
        again = f", {self.recomputed} of them after a refused prediction" if self.recomputed else ""
        return (
            f"{self.method}: {self.calls} model calls, {self.full_calls} in full{share}{again}; {self.branches} "
            f"branches{kinds}; {self.saved:.0%} of the work left out; at most {self.peak_bytes / 2**20:.1f} MiB of "
            f"features held{host}"
        )

    def __rich__(self) -> Table:
        """A row for each site: how often it was computed and predicted."""
        table = Table(title=str(self), title_justify="left", box=None, pad_edge=False, header_style="bold")
        table.add_column("site")
        table.add_column("computed", justify="right")
        table.add_column("predicted", justify="right")
        table.add_column("steps: █ computed, · predicted", no_wrap=True)
        for index, name in enumerate(self.sites):
            columns = [(c[index], p[index]) for c, p in zip(self.computed, self.predicted, strict=True)]
            marks = "".join(" " if not c + p else "█" if not p else "·" if not c else "▒" for c, p in columns)
            table.add_row(name, str(sum(c for c, _ in columns)), str(sum(p for _, p in columns)), marks)
        return table


class Statistics:
    """Counts while a cache works."""

    def __init__(self, sites: Sequence[Site], weights: Sequence[float]):
        self._sites, self._weights = sites, weights
        self.calls = self.full_calls = self.recomputed = self.peak_bytes = self.host_bytes = 0
        self._saved = 0.0
        self._computed: list[list[int]] = []
        self._predicted: list[list[int]] = []

    def count(self, step: int, computed: list[int], predicted: list[int], full: bool) -> None:
        """One model call is over: which sites were computed and which were predicted."""
        self.calls += 1
        self.full_calls += full
        while len(self._computed) <= min(step, _MOST_STEPS):
            self._computed.append([0] * len(self._sites))
            self._predicted.append([0] * len(self._sites))
        if step <= _MOST_STEPS:
            for rows, indices in ((self._computed, computed), (self._predicted, predicted)):
                row = rows[step]
                for index in indices:
                    row[index] += 1
        self._saved += sum([self._weights[index] for index in set(predicted)])

    def summary(self, method: str) -> Summary:
        """The counts so far."""
        return Summary(
            method,
            self.calls,
            self.full_calls,
            len(self._sites),
            self.peak_bytes,
            dict(Counter(site.kind for site in self._sites)),
            self.recomputed,
            self._saved / self.calls if self.calls else 0.0,
            tuple(site.name for site in self._sites),
            tuple(map(tuple, self._computed)),
            tuple(map(tuple, self._predicted)),
            self.host_bytes,
        )


_MOST_STEPS = 2000  # of which sites are counted apart


def weights_of(model, sites: Sequence[Site]) -> list[float]:
    """For each site its share of the model's weights (matrices alone), which is about that of its work."""
    total = _numel([model]) or 1
    return [min(1.0, _numel([site.module, *site.feeds]) / total) for site in sites]


def _numel(modules) -> int:
    found = {id(p): p.numel() for m in modules for p in m.parameters() if p.dim() >= 2}
    return sum(found.values())
