"""From where, when and how to a cache: :func:`attach`, of which every method's file is a call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from ..names import look_up
from .engine import Cache
from .how import How
from .moment import When
from .where import Site


def attach(
    method: str,
    model: nn.Module,
    *,
    where: Iterable[Site | str],
    when: When,
    how: How,
    steps: int | None = None,
    memory: str | None = None,
    offload: bool | int = False,
    coordinate: str | Callable[[float], float] = "step",
    group: Any = None,
) -> Cache:
    """A :class:`Cache` of these three parts on ``model``, to be entered with ``with``.

    Args:
        method: what it is called in the summary and in errors.
        model: one call of it is one model call; its ``forward`` is replaced while the cache is attached.
        where: the sites, as :func:`branches` finds them or as you describe them; a string is the name of a module.
        when: which steps are computed in full.
        how: how a feature is predicted.
        steps: the number of steps of a run, for use without a StepContext on a model whose times say nothing.
        memory: None keeps features as they are; "int8" or "fp8" keep the newest in bfloat16 and differences to older
            ones in 8 bits; "bf16" keeps all in bfloat16.
        offload: True keeps features in pinned host memory, and on the device a few buffers through which they pass.
            Those of a site are fetched while the sites before it run, beside the computation; a number says how many
            sites ahead (True: 2), and there are so many buffers and one more. It is for sites that are many and large.
            Predictions are the same to the bit, but no gradient flows through them. On a CPU it changes nothing.
        coordinate: in which features are predicted: "step", "time", or a function of time such as
            ``schedule.log_snr``. Where the time is not known it is the step.
        group: a process group whose ranks decide alike.

    Raises TypeError when ``where`` holds anything but :class:`Site` and names, ValueError for a name or a setting that
    there is not.
    """
    modules = dict(model.named_modules())
    where = [Site(s, look_up("module", s, modules)) if isinstance(s, str) else s for s in where]
    wrong = [site for site in where if not isinstance(site, Site)]
    if wrong:
        raise TypeError(f"where= must be a list of caching.Site, got {type(wrong[0]).__name__}")
    settings = {"steps": steps, "memory": memory, "offload": offload, "coordinate": coordinate, "group": group}
    return Cache(method, model, where, when, how, **settings)
