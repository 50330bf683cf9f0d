"""The whole state of networks and optimizers as named tensors, and back; of shards, all of them put together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .checkpoints import flatten, flatten_optimizer, load_optimizer, unflatten

Holder = nn.Module | torch.optim.Optimizer


def gather(holders: dict[str, Holder]) -> dict[str, Tensor]:
    """All state on the CPU, as ``holder/name``; every rank must ask for it where some is in shards."""
    tensors: dict[str, Tensor] = {}
    for name, holder in holders.items():
        if isinstance(holder, nn.Module):
            tensors |= flatten(name, holder.state_dict())
        else:
            tensors |= flatten_optimizer(name, holder)
    return whole(tensors)


def scatter(tensors: dict[str, Tensor], holders: dict[str, Holder]) -> None:
    """The inverse: each rank keeps its shards."""
    for name, holder in holders.items():
        if isinstance(holder, nn.Module):
            holder.load_state_dict(spread(unflatten(name, tensors), holder.state_dict()))
            continue
        parameters = [p for group in holder.param_groups for p in group["params"]]
        mine = {key: t for key, t in tensors.items() if key.startswith(f"{name}/")}
        places = {key: int(key.removeprefix(f"{name}/").split("/")[0]) for key in mine}
        like = {key: parameters[places[key]] for key, t in mine.items() if t.dim()}
        load_optimizer(name, holder, spread(mine, like))


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU; of sharded ones all shards, so every rank must ask for them."""
    return {name: (t.full_tensor() if hasattr(t, "full_tensor") else t).cpu() for name, t in tensors.items()}


def spread(tensors: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of :func:`whole`: each tensor sharded as the one of its name in ``like`` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    result = {}
    for name, t in tensors.items():
        other = like.get(name)
        if isinstance(other, DTensor):
            t = distribute_tensor(t.to(other.device), other.device_mesh, other.placements)
        result[name] = t
    return result
