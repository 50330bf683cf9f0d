"""Named tensors in safetensors files, written atomically."""

from __future__ import annotations

import os

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..files import write_atomically


def save_tensors(path: str | os.PathLike, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Writes tensors and metadata (strings) to a safetensors file, atomically."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: save_file(contiguous, temporary, metadata))


def load_tensors(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file; ValueError when it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def flatten(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, named ``prefix/name``."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def flatten_optimizer(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The state of all parameters, named ``prefix/number/name``."""
    tensors = {}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= flatten(f"{prefix}/{number}", values)
    return tensors


def load_optimizer(prefix: str, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """The state that :func:`flatten_optimizer` named so, into an optimizer of the same parameters."""
    state = optimizer.state_dict()
    count = sum(len(group["params"]) for group in state["param_groups"])
    found = {number: unflatten(f"{prefix}/{number}", tensors) for number in range(count)}
    optimizer.load_state_dict({**state, "state": {number: values for number, values in found.items() if values}})


def unflatten(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those tensors that are named ``prefix/name``, without the prefix."""
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}
