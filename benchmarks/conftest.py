"""The table at the end of a benchmark run: what each row measured, as ratios to its peers and to the machine."""

import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]  # the harness, and tests.k_diffusion

TABLES = {}


@pytest.fixture
def report(benchmark):
    """``report(table, **columns)`` adds a row to a printed table and to the benchmark's ``extra_info``."""

    def add(table: str, **columns):
        TABLES.setdefault(table, []).append(columns)
        benchmark.extra_info.update(columns)

    return add


def pytest_terminal_summary(terminalreporter):
    if not TABLES:
        return
    from rich.console import Console
    from rich.table import Table

    from pyaccel.ops import backend

    console = Console(file=terminalreporter._tw._file, width=max(terminalreporter._tw.fullwidth, 120))
    for title, rows in TABLES.items():
        table = Table(title=title)
        for name in rows[0]:
            table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
        for row in rows:
            table.add_row(*(v if isinstance(v, str) else f"{v:.2f}" for v in row.values()))
        console.print(table)
    chosen = backend._native.instruction_set() if backend._native else "no native kernels"
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {chosen}; best of many turns.")
