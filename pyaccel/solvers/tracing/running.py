"""Running the table of a step on real tensors: one launch, with the dtypes that the scheduler itself would give.

Which dtype each result has, and which results are the very tensors that came in, is found by one step of the scheduler
on random tensors of the present dtypes. Sums are in float32 whatever the dtype (in float64 for float64).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ... import ops
from .capture import Clamp, NoiseDraw, NotLinear
from .probing import ClampRow, StepTable, perform

_empty_like = torch.empty_like
_grad_enabled = torch.is_grad_enabled


class Combination(NamedTuple):
    """Rows over the tensors of ``columns`` (None for all of them), prepared, with the dtypes of the results."""

    columns: list[int] | None
    rows: list[list[float]]
    prepared: ops.Prepared
    dtypes: list[torch.dtype]

    def __call__(self, tensors: list[torch.Tensor], like: torch.Tensor) -> list[torch.Tensor]:
        inputs = tensors if self.columns is None else [tensors[c] for c in self.columns]
        if _grad_enabled() and any(t.requires_grad for t in inputs):
            return ops.linear_combination(inputs, self.rows, dtype=self.dtypes)
        dtype = like.dtype
        return self.prepared(
            inputs, [_empty_like(like) if d is dtype else _empty_like(like, dtype=d) for d in self.dtypes]
        )


class Ready(NamedTuple):
    """A table for columns of ``dtypes``. ``order`` are draws and clamps; ``places`` says where each result is: a column
    that came in, or, as −1 − i, output i of the combination."""

    dtypes: list[torch.dtype]
    order: list[NoiseDraw | tuple[Combination, ClampRow]]
    combination: Combination | None
    places: list[int]
    result_dtypes: list[torch.dtype]


def run_step(
    table: StepTable, columns: list[torch.Tensor], draw: Callable[[NoiseDraw], torch.Tensor]
) -> list[torch.Tensor]:
    """The results of a step whose registers and tensors are ``columns``, which grows by draws and clamps."""
    dtypes = [t.dtype for t in columns]
    ready = table.ready
    if ready is None or ready.dtypes != dtypes:
        ready = table.ready = made_ready(table, dtypes)
    like = columns[table.sample]
    for item in ready.order:
        if type(item) is NoiseDraw:
            columns.append(draw(item))
        else:
            combination, clamp = item
            (value,) = combination(columns, like)
            columns.append(ops.threshold(value, clamp.threshold.limit, clamp.threshold.ratio))
    if ready.combination is None:
        return [columns[p] for p in ready.places]
    outputs = ready.combination(columns, like)
    return [columns[p] if p >= 0 else outputs[-1 - p] for p in ready.places]


def made_ready(table: StepTable, dtypes: list[torch.dtype]) -> Ready:
    """The table for registers and tensors of ``dtypes``; NotLinear where the operations do not serve these."""
    made: dict[int, torch.Tensor] = {}
    values = torch.randn((table.columns, 1, 1, 4, 1), generator=torch.Generator().manual_seed(0))

    def random(column: int, dtype=None) -> torch.Tensor:
        if column not in made:
            made[column] = values[column].to(dtype or dtypes[column], copy=True)
        return made[column]

    if not all(d in ops.DTYPES for d in dtypes):
        raise NotLinear(f"tensors of {', '.join(sorted({str(d) for d in dtypes}))}")
    try:
        done = perform(table.taken_from, table.arguments, torch.Size((1, 1, 4, 1)), random)
    except NotLinear:
        raise
    except Exception as error:  # the scheduler's own: the real step will raise it where it is due
        raise NotLinear(f"its step raises {type(error).__name__}: {error}") from None
    column_dtypes, order = list(dtypes), []
    for item, known in zip(done.capture.order, table.order, strict=True):
        if isinstance(item, Clamp):
            order.append((_combination([known.row], [item.value.dtype], column_dtypes), known))
            column_dtypes.append(item.value.dtype)
        else:
            order.append(item)
            column_dtypes.append(item.dtype)
    known_at = {id(tensor): column for column, tensor in made.items() if id(tensor) not in done.rewritten}
    rows, out_dtypes, places = [], [], []
    for row, tensor in zip(table.results, done.tensors, strict=True):
        if id(tensor) not in known_at:
            rows.append(row)
            out_dtypes.append(tensor.dtype)
            known_at[id(tensor)] = -len(rows)
        places.append(known_at[id(tensor)])
    combination = _combination(rows, out_dtypes, column_dtypes) if rows else None
    return Ready(dtypes, order, combination, places, [t.dtype for t in done.tensors])


def _combination(rows, out_dtypes, column_dtypes) -> Combination:
    used = [c for c in range(len(rows[0])) if any(row[c] != 0.0 for row in rows)] or [0]
    matrix = [[row[c] for c in used] for row in rows]
    prepared = ops.prepare(matrix, [column_dtypes[c] for c in used], out_dtypes)
    return Combination(None if len(used) == len(column_dtypes) else used, matrix, prepared, out_dtypes)
