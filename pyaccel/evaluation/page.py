"""The HTML page of a report: one file, with its pictures inside, in light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from .columns import COLUMNS, Row, baseline_of, family
from .document import document, facts_line, figure

ARROWS = {"smaller": "↓", "larger": "↑", "": ""}


def page(
    results: Mapping,
    rows: Sequence[Row],
    opening: str,
    pictures: Mapping[str, Mapping[str, str]],
    more: Sequence[str] = (),
) -> str:
    """The page as text. ``pictures`` maps "samples" and "pareto" to {"light": base64 PNG, "dark": …} or to {}.

    ``more`` is HTML that comes before these pictures.
    """
    baseline = baseline_of(results)
    parts = [
        f'<p class="lead">{escape(opening)}</p>',
        facts_line(results),
        '<div class="card scroll">' + _table(rows, baseline) + "</div>",
        '<p class="hint" style="margin-top:10px">Marked: the best value of the column. '
        f"Small print: how many times the value of the baseline, {escape(baseline['name'])}.</p>",
        *more,
        figure("The same pictures by every method", "One column, one noise and one class.", pictures.get("samples"),
               "A row of samples for each method, all from the same noise"),
        figure("What speed costs", "Lower right is better. On the line: methods that no other one beats in both.",
               pictures.get("pareto"), "RMSE and FID of each method against its speed-up"),
        "<h2>What the columns say</h2>",
        _legend(results.get("explanations", {})),
    ]  # fmt: skip
    return document(str(results.get("title") or "pyaccel report"), parts)


def _table(rows: Sequence[Row], baseline: Row) -> str:
    head = "".join(
        f'<th scope="col" title="{escape(column.explanation)}">{escape(column.title)}&nbsp;{ARROWS[column.better]}</th>'
        for column in COLUMNS
    )
    best = {column.key: column.best(rows) for column in COLUMNS}
    body = []
    for row in rows:
        group = family(row, row is baseline)
        kind = group.partition(",")[0].replace(" ", "-")
        note = f'<span class="note">{escape(str(row["note"]))}</span>' if row.get("note") else ""
        cells = [f'<td><span class="dot {kind}"></span><span class="name">{escape(row["name"])}</span>{note}</td>']
        for column in COLUMNS:
            cell, ratio = column.cell(row), column.ratio(row, baseline)
            small = f'<span class="ratio">{ratio:.2f}×</span>' if row is not baseline and ratio is not None else ""
            marked = ' class="best"' if cell == best[column.key] else ""
            cells.append(f'<td{marked}><span class="value">{escape(cell)}</span>{small}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<table><thead><tr><th scope="col">Method</th>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(body)
        + "</tbody></table>"
    )


def _legend(explanations: Mapping[str, str]) -> str:
    entries = []
    for column in COLUMNS:
        direction = f"{column.better} is better" if column.better else ""
        text = explanations.get(column.key, column.explanation)
        entries.append(f"<dt>{escape(column.title)}<br><small>{direction}</small></dt><dd>{escape(text)}</dd>")
    return f"<dl>{''.join(entries)}</dl>"
