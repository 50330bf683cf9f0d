"""The rows of a comparison, all from the same noise and labels, each kept in a file as soon as it is measured."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from ..training.checkpoints import load_tensors, save_tensors
from .frechet import frechet_distance
from .paired import bootstrap, paired_change
from .quality import classify, judge, rmse
from .report import write_results
from .sampling import Samples, columns_of, fashion_reference

SHOWN = 20


@dataclass(frozen=True)
class Measured:
    """What a row is made of: samples, what its note says beside the change of FID, and tensors to keep."""

    samples: Samples
    note: str = ""
    more: dict[str, torch.Tensor] = field(default_factory=dict)


class PairedTable:
    """The rows so far. The first is the baseline; each other one stands in pairs with an earlier one.

    ``results`` is what :func:`.report.write_report` takes; its rows are filled here, and results.json in ``folder`` is
    written after each. ``folder/rows`` keeps each row with its tensors. With ``resume``, rows that are there and were
    measured with the same settings are taken from there. ``bar`` is advanced by ``count`` for these.
    """

    def __init__(self, folder: Path, results: dict[str, Any], count: int, bar, resume: bool = False):
        self._folder, self._results, self._count, self._bar = Path(folder), results, count, bar
        self._kept = self._folder / "rows"
        if not resume:
            shutil.rmtree(self._kept, ignore_errors=True)
        self.rows: list[dict] = results.setdefault("rows", [])
        self.pictures: dict[str, torch.Tensor] = {}
        self.more: dict[str, dict[str, torch.Tensor]] = {}
        self._features: dict[str, torch.Tensor] = {}
        self._known: dict[str, str] = {}
        self._base = torch.empty(0)
        self._classifier, self._reference = fashion_reference()

    def add(
        self,
        name: str,
        make: Callable[[], Measured],
        *,
        against: str | None = None,
        facts: Any = None,
        follows: bool = True,
        **columns: Any,
    ) -> dict[str, Any]:
        """A row of the samples that ``make`` gives, with further ``columns``; returns it.

        Args:
            against: the row that the change of FID is to, by default the first.
            facts: beside the settings what decides the row, as JSON can hold it.
            follows: whether the samples have an RMSE to the first row's.
        """
        path = self._kept / f"{quote(name, safe=' ')}.safetensors"
        if self.rows and against is None:
            against = self.rows[0]["name"]
        # A row with its pairs is another one when the first or its other half is.
        others = [self._known[other] for other in (self._results["baseline"], against) if other in self._known]
        known = json.dumps([self._results["settings"], against, facts, columns, others], sort_keys=True, default=str)
        self._known[name] = hashlib.sha256(known.encode()).hexdigest()
        found = self._earlier(path, known)
        if found is None:
            self._bar.note(name)
            row, tensors = self._measured(make(), against, follows)
            row = {"name": name, **columns, **row}
            save_tensors(path, tensors, {"known": known, "row": json.dumps(row)})
        else:
            row, tensors = found
            self._bar.advance(self._count)
        if not self.rows:
            self._base = tensors["images"]
        self._features[name], self.pictures[name] = tensors["features"], tensors["pictures"]
        self.more[name] = {key: t for key, t in tensors.items() if key not in ("features", "pictures", "images")}
        self.rows.append(row)
        row["speedup"] = self.rows[0]["seconds"] / row["seconds"]
        write_results(self._folder, self._results)
        return row

    def _earlier(self, path: Path, known: str) -> tuple[dict, dict[str, torch.Tensor]] | None:
        try:
            tensors, metadata = load_tensors(path)
        except (FileNotFoundError, ValueError):
            return None
        return (json.loads(metadata["row"]), tensors) if metadata.get("known") == known else None

    def _measured(self, measured: Measured, against: str | None, follows: bool) -> tuple[dict, dict]:
        images, real = measured.samples.images, self._reference.moments
        features, logits = classify(self._classifier, images)
        row = columns_of(measured.samples, judge(features, logits, measured.samples.labels, self._reference))
        row["interval"] = list(bootstrap(lambda drawn: frechet_distance(features[drawn], real), len(features))[1:])
        tensors = {"features": features, "pictures": images[:SHOWN].clone(), **measured.more}
        if not self.rows:
            tensors["images"] = images
        else:
            change = paired_change(features, self._features[against], real)
            row["change"] = {"against": against, "fid": list(change)}
            row["note"] = f"FID {change} against {against}{measured.note}"
        base = self._base if self.rows else images
        return row | {"rmse": rmse(images, base) if follows else None}, tensors
