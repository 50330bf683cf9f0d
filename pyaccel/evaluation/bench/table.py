"""The bench's table: a row for each solver, a column for each number of calls, the best of each column marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text


def cell(error: float | None) -> str:
    """An RMSE as the tables show it, "–" where there is none."""
    return "–" if error is None else f"{error:.4f}" if error < 10 else f"{error:.3g}"


def best_cells(calls: Sequence[int], rows: Sequence[Mapping]) -> list[str | None]:
    """The smallest value of each column as text; None where nothing can be compared."""
    columns = [[row["rmse"][i] for row in rows if row["rmse"][i] is not None] for i in range(len(calls))]
    return [cell(min(column)) if len(column) > 1 else None for column in columns]


def html_table(calls: Sequence[int], rows: Sequence[Mapping]) -> str:
    """The table as HTML; in small print how many calls a solver made where they are fewer than it might have."""
    best = best_cells(calls, rows)
    head = "".join(f'<th scope="col">{budget} calls</th>' for budget in calls)
    body = []
    for row in rows:
        note = f'<span class="note">{escape(row["note"])}</span>' if row.get("note") else ""
        cells = [f'<td><span class="name">{escape(row["name"])}</span>{note}</td>', f"<td>{escape(row['kind'])}</td>"]
        for budget, made, error, top in zip(calls, row["calls"], row["rmse"], best, strict=True):
            text = cell(error)
            small = f'<span class="ratio">{made} calls</span>' if made not in (None, budget) else ""
            marked = ' class="best"' if text == top else ""
            cells.append(f'<td{marked}><span class="value">{text}</span>{small}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<table><thead><tr><th scope="col">Solver</th><th scope="col">Kind</th>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(body)
        + "</tbody></table>"
    )


def rich_table(calls: Sequence[int], rows: Sequence[Mapping], title: str) -> Table:
    """The table for the terminal, the best value of each column in green."""
    table = Table(
        title=Text(title, style="bold"), title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=0
    )
    table.add_column("RMSE ↓ within … calls", overflow="fold", min_width=12)
    for budget in calls:
        table.add_column(str(budget), justify="right", no_wrap=True)
    best = best_cells(calls, rows)
    for row in rows:
        texts = [cell(error) for error in row["rmse"]]
        marked = [Text(text, style="bold green" if text == top else "") for text, top in zip(texts, best, strict=True)]
        table.add_row(Text(row["name"]), *marked)
    return table
