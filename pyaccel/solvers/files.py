"""Plans as files: JSON, and a safetensors file beside it where a plan has tensors. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import safetensors.torch

from ..files import write_atomically
from .plan import Call, Draw, Plan, Row, Stage, Threshold

SCHEMA = 2


def save(plan: Plan, path: str | os.PathLike) -> None:
    """See :meth:`Plan.save`."""
    data = to_data(plan)
    if plan.tensors:
        data["tensors"] = sorted(plan.tensors)
        tensors = {name: tensor.contiguous() for name, tensor in plan.tensors.items()}
        write_atomically(_beside(path), lambda temporary: safetensors.torch.save_file(tensors, temporary))
    write_atomically(path, lambda temporary: Path(temporary).write_text(json.dumps(data, indent=1)))


def to_data(plan: Plan) -> dict:
    """The plan as JSON has it, without its tensors."""
    data = asdict(replace(plan, tensors={}))
    del data["tensors"]
    return {"schema": SCHEMA, "kind": "pyaccel plan", **data}


def load(path: str | os.PathLike) -> Plan:
    """See :meth:`Plan.load`."""
    text = Path(path).read_text()
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a whole JSON file ({error}); save the plan again") from None
    plan = from_data(data, path)
    names = data.get("tensors", [])
    if names:
        if not _beside(path).exists():
            raise ValueError(f"{path} needs the tensors in {_beside(path)}, which is missing")
        try:
            tensors = safetensors.torch.load_file(_beside(path))
        except safetensors.SafetensorError as error:
            raise ValueError(f"{_beside(path)} is damaged ({error}); save the plan again") from None
        if set(tensors) != set(names):
            raise ValueError(f"{_beside(path)} does not belong to {path}: it holds other tensors; save the plan again")
        plan = replace(plan, tensors=tensors)
    return plan


def from_data(data, source="the data") -> Plan:
    """The plan of :func:`to_data`; ValueError that names ``source`` when there is none in it."""
    if not isinstance(data, dict) or data.get("kind") != "pyaccel plan":
        raise ValueError(f"{source} is not a plan of pyaccel")
    schema = data.get("schema")
    if schema != SCHEMA:
        advice = "update pyaccel to read it" if isinstance(schema, int) and schema > SCHEMA else "make the plan anew"
        raise ValueError(f"{source} has schema {schema!r}, this version reads {SCHEMA}; {advice}")
    try:
        plan = _plan(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{source} is damaged ({type(error).__name__}: {error}); save the plan again") from None
    _check(plan, source)
    return plan


def _beside(path: str | os.PathLike) -> Path:
    return Path(path).with_suffix(".safetensors")


def _plan(data: dict) -> Plan:
    def coefficient(c) -> float | str:
        return c if isinstance(c, str) else float(c)

    def row(r: dict) -> Row:
        return Row(
            int(r["target"]),
            {int(k): coefficient(c) for k, c in r["reads"].items()},
            tuple(coefficient(c) for c in r["new"]),
            {int(k): float(c) for k, c in r["noise"].items()},
            coefficient(r["bias"]),
        )

    def call(c: dict) -> Call:
        numbers = {key: float(c[key]) for key in ("t", "alpha", "sigma", "model_time")}
        to = None if c["to"] is None else float(c["to"])
        return Call(**numbers, form=str(c["form"]), input=int(c["input"]), to=to)

    name, parameters = data["schedule"]
    first, last = data["ends"]
    threshold = data["threshold"]
    return Plan(
        start=tuple(row(r) for r in data["start"]),
        stages=tuple(Stage(tuple(map(call, s["calls"])), tuple(map(row, s["rows"]))) for s in data["stages"]),
        output=int(data["output"]),
        prediction=str(data["prediction"]),
        schedule=(str(name), dict(parameters)),
        times=tuple(float(t) for t in data["times"]),
        ends=((float(first[0]), float(first[1])), (float(last[0]), float(last[1]))),
        draws=tuple(Draw(*map(float, d)) for d in data["draws"]),
        threshold=None if threshold is None else Threshold(*map(float, threshold)),
        solver=str(data["solver"]),
        options=dict(data["options"]),
    )


def _check(plan: Plan, source) -> None:
    """Every register is written before it is read: a file that was edited by hand fails here, not in the middle."""
    held: set[int] = {row.target for row in plan.start}
    for i, stage in enumerate(plan.stages):
        wanted = set(stage.reads)
        if not stage.calls or any(len(row.new) != len(stage.calls) for row in stage.rows):
            raise ValueError(f"{source}: the rows of stage {i} do not fit its {len(stage.calls)} calls")
        if not wanted <= held:
            raise ValueError(f"{source}: stage {i} reads registers {sorted(wanted - held)} that nothing has written")
        if any(d not in range(len(plan.draws)) for d in stage.draws):
            raise ValueError(f"{source}: stage {i} adds noise that is not among the plan's {len(plan.draws)} draws")
        held |= {row.target for row in stage.rows}
    if plan.output not in held or not plan.stages:
        raise ValueError(f"{source}: the result, register {plan.output}, is never written")
