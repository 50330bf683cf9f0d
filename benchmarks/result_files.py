"""The JSON files of benchmarks/results: KIND-DEVICE-DATE.json."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def result_path(kind: str, device: str) -> Path:
    """Where what is measured today on a device (cpu, cuda, cuda:1) belongs."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else f"cpu-{torch.get_num_threads()}-threads"
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()
    return RESULTS / f"{kind}-{slug}-{datetime.date.today().isoformat()}.json"


def results_of(kind: str) -> list[tuple[str, dict]]:
    """(name, content) of the files of a kind, the oldest first."""
    found = [(path.name, json.loads(path.read_text())) for path in RESULTS.glob(f"{kind}-*.json")]
    return sorted(found, key=lambda entry: (entry[0].removesuffix(".json")[-10:], entry[0]))  # by date
