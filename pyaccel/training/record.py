"""What stands beside the weights of a run: its configuration as YAML, the versions, the state of the sources."""

from __future__ import annotations

import dataclasses
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

import torch

from .. import __version__
from ..files import write_atomically
from ..names import look_up

T = TypeVar("T")


def to_yaml(config: Any) -> str:
    """A dataclass as YAML, nested ones as mappings."""
    import yaml

    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)


def from_yaml(default: T, path: Path) -> T:
    """``default`` with the fields that the YAML file names; ValueError for fields that are not there."""
    import yaml

    try:
        given = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"there is no configuration {path}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    return _replaced(default, given or {}, str(path))


def versions() -> dict[str, str]:
    """Of pyaccel, Python and torch, the machine, and the commit of the sources where they are a git checkout."""
    facts = {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "pyaccel": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "machine": machine_of(),
    }
    commit = _git("rev-parse", "HEAD")
    if commit:
        changed = _git("status", "--porcelain", "--untracked-files=no")
        facts["git"] = f"{commit}{' with changes' if changed else ''}"
    return facts


def machine_of(device: torch.device | None = None) -> str:
    """The machine for a card or a report: processor, GPU or threads, torch; of the GPU, if there is one, by default."""
    kind = device.type if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name(device) if kind == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{platform.machine()}, {name}, torch {torch.__version__}"


def write_record(folder: Path, config: Any) -> None:
    """Writes config.yaml and versions.yaml into the folder of a run."""
    import yaml

    texts = {"config.yaml": to_yaml(config), "versions.yaml": yaml.safe_dump(versions(), sort_keys=False)}
    for name, text in texts.items():
        write_atomically(folder / name, lambda path, text=text: path.write_text(text))


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _replaced(default: T, given: Any, where: str) -> T:
    if not isinstance(given, dict):
        raise ValueError(f"{where} must hold a mapping of settings, got {type(given).__name__}")
    known = {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}
    changes = {}
    for name, value in given.items():
        now = look_up(f"setting in {where}", name, {n: n for n in known}) and known[name]
        if dataclasses.is_dataclass(now):
            changes[name] = _replaced(now, value, f"{where}: {name}")
        else:
            changes[name] = tuple(value) if isinstance(value, list) else value
    return dataclasses.replace(default, **changes)
