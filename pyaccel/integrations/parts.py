"""The parts of a pipeline, recognised by what they can do and not by a list of classes.

A scheduler has ``step`` and ``set_timesteps``. A denoiser is a module that is told the time: autoencoders, encoders of
text and images, adapters and safety checkers are not. A control network is told the time too; it gives itself away by
its ``conditioning_scale``.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

TIMES = {"t", "time", "timestep", "timesteps", "timestep_ratio", "sigma", "noise_labels"}


def components(pipe: Any) -> dict[str, Any]:
    """The parts of a pipeline by name."""
    found = getattr(pipe, "components", None)
    return dict(found) if isinstance(found, dict) else dict(getattr(pipe, "__dict__", {}))


def schedulers(pipe: Any) -> dict[str, Any]:
    """The schedulers among a pipeline's parts."""
    return {name: part for name, part in components(pipe).items() if is_scheduler(part)}


def is_scheduler(part: Any) -> bool:
    """Whether ``part`` has the interface of a scheduler of diffusers."""
    return all(callable(getattr(part, name, None)) for name in ("step", "set_timesteps"))


def is_pipeline(thing: Any) -> bool:
    """Whether ``thing`` has a scheduler and a module among its parts."""
    if isinstance(thing, (nn.Module, type)):
        return False
    return bool(schedulers(thing)) and any(isinstance(part, nn.Module) for part in components(thing).values())


def denoisers(pipe: Any) -> dict[str, nn.Module]:
    """The modules among a pipeline's parts that are called with a time, without its control networks.

    Where nothing but a control network is left, it is what denoises (ControlNet-XS has both in one module).
    """
    modules = {name: unwrapped(part) for name, part in components(pipe).items() if isinstance(part, nn.Module)}
    told = {name: m for name, m in modules.items() if parameters_of(m) & TIMES}
    return {name: m for name, m in told.items() if "conditioning_scale" not in parameters_of(m)} or told


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside of wrappers that pass every argument on: ``torch.compile``, peft, data parallel."""
    while not parameters_of(module):
        inner = [getattr(module, name, None) for name in ("_orig_mod", "module", "base_model", "model")]
        inner = [m for m in inner if isinstance(m, nn.Module)]
        if not inner:
            break
        module = inner[0]
    return module


def parameters_of(module: nn.Module) -> set[str]:
    """The names of the arguments that the class of ``module`` is called with; ``*args`` and ``**kwargs`` are none."""
    # The class', not the instance's: offload hooks and quantizers put a forward of their own there.
    try:
        parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return set()
    return {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
