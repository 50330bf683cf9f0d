"""What a recipe is: which networks there are, and how one batch becomes losses. The Trainer does all the rest.

A recipe is a frozen dataclass of hyper-parameters. For each network that it trains it has a field of that name which
is an :class:`~.optimizers.Optimizer`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

from torch import Tensor, nn

from ..denoiser import Denoiser
from .batch import Batch
from .optimizers import Optimizer

Network = nn.Module | Denoiser
"""A Denoiser is a network together with its schedule and what it predicts."""

Losses = Iterator[tuple[str | tuple[str, ...], Tensor]]


class Networks(SimpleNamespace):
    """The networks of a recipe by name, and in ``ema`` by name the averages of some, by the first of the rates.

    They are what ``recipe.networks`` gave; a Denoiser's model is wrapped where gradients are shared between ranks.
    """

    ema: dict[str, Network]


class Recipe:
    """What recipes inherit: these defaults, and nothing else.

    ``output`` names the network that a training is for; ``averaged`` those that have an EMA. ``kept`` names networks
    that are not trained and change nevertheless, so that checkpoints hold them. ``pairs`` says that the data must be a
    teacher's samples with their noise. ``depends_on_steps`` says that what a step does depends on how many there are; a
    run of such a recipe cannot be made longer. ``grid`` is that of the student's solver, for its card, where it is not
    the solver's own: a name or the few times that the student knows.
    """

    output = "student"
    averaged = ("student",)
    kept = ()
    pairs = False
    depends_on_steps = False
    grid = None

    def networks(self, teacher: Denoiser) -> dict[str, Network]:
        """All networks, those that are trained and those that are not."""
        raise NotImplementedError

    def losses(self, networks: Networks, batch: Batch) -> Losses:
        """A generator of (name, loss), or (names, loss): each time one optimizer takes one step, in this order.

        What comes after a ``yield`` sees the networks after that step; what comes after the last one is done once a
        step, also where the batch is cut into parts. A loss is a tensor without dimensions; it reaches only the
        networks that it is yielded for, what it leaves in others is thrown away.
        """
        raise NotImplementedError


def trained(recipe: Recipe) -> dict[str, Optimizer]:
    """The optimizers of a recipe by the name of their network."""
    values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    return {name: value for name, value in values.items() if isinstance(value, Optimizer)}


def module_of(network: Network) -> nn.Module:
    """The network itself, without its schedule."""
    return network.model if isinstance(network, Denoiser) else network


def with_module(network: Network, module: nn.Module) -> Network:
    """The same with another module in its place."""
    return dataclasses.replace(network, model=module) if isinstance(network, Denoiser) else module


def unwrapped(network: Network) -> Network:
    """The network without the wrapper that shares gradients between ranks; for calls that need no gradients of it."""
    module = module_of(network)
    return with_module(network, module.module) if isinstance(module, nn.parallel.DistributedDataParallel) else network


@contextmanager
def frozen(network: Network) -> Iterator[Network]:
    """``with frozen(network) as f``: calls of f give gradients to their inputs and none to the network's parameters."""
    bare = unwrapped(network)
    parameters = [p for p in module_of(bare).parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield bare
    finally:
        for p in parameters:
            p.requires_grad_(True)
