"""``accelerate``, ``restore`` and ``summary``: one line for the pipelines and models that people already have."""

from __future__ import annotations

import contextlib
import difflib
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from .. import caching
from ..names import look_up
from . import parts
from .fusing import FusedBlocks, recipe_of
from .record import LikeCache, Link, Position, Record, erase, record_of, write
from .report import Report, report

T = TypeVar("T")
_FOR_MODELS = "auto"


def accelerate(
    pipe_or_model: T,
    *,
    cache: str | caching.Cache | Callable[..., caching.Cache] | None = None,
    scheduler: bool = True,
    fuse: bool = False,
    **cache_options,
) -> T:
    """Makes a pipeline of diffusers, or a model, sample faster, in place, until :func:`restore`.

    Args:
        pipe_or_model: a pipeline: its schedulers are replaced by fused ones
            (:func:`pyaccel.integrations.diffusers.fuse`), with which images are the same to float tolerance; with
            ``cache``, each of its denoising models gets a feature cache that follows the scheduler. Or a bare
            ``torch.nn.Module``, which gets a cache.
        cache: a name in :data:`pyaccel.caching.CACHES`, a Cache made for the model, or a function from a model and
            ``cache_options`` to a Cache. A pipeline has none by default; a bare model has ``"auto"``, or none where
            its blocks are fused.
        scheduler: whether schedulers are fused.
        fuse: whether the norms, modulations and gates of the transformer blocks of diffusers that are known (those of
            DiT, PixArt, SD3, FLUX and Wan) are done in one pass each; the result is the same to rounding.
        cache_options: of the cache, such as ``interval=4``.

    Returns ``pipe_or_model`` itself.

    Raises ValueError for what is accelerated already, for a cache that is not known, for models in which it finds no
    place, and where ``fuse`` finds no block of a class that is known; TypeError for options that a cache does not have
    and for anything but pipelines and modules. Then nothing has been changed.
    """
    if record_of(pipe_or_model) is not None:
        raise ValueError(
            f"this {_name(pipe_or_model)} is accelerated already; call pyaccel.restore(...) on it first, then "
            "pyaccel.accelerate(...) with the new options"
        )
    is_pipeline = parts.is_pipeline(pipe_or_model)
    if not is_pipeline and not isinstance(pipe_or_model, nn.Module):
        raise TypeError(
            f"expected a pipeline (an object with a scheduler, which has step and set_timesteps, and with models) or "
            f"a torch.nn.Module, got {_name(pipe_or_model)}"
        )
    if not is_pipeline and cache is None and not fuse:
        cache = _FOR_MODELS
    if cache is None and cache_options:
        raise TypeError(
            f"{', '.join(cache_options)}: options of a cache, but there is none; name it, as in cache='{_FOR_MODELS}'"
        )
    if cache is None and not scheduler and not fuse:
        raise ValueError("nothing to do: scheduler=False, fuse=False, and no cache is named")

    owner = Link(pipe_or_model)
    record = Record(owner, is_pipeline)
    models = parts.denoisers(pipe_or_model) if is_pipeline else {"": parts.unwrapped(pipe_or_model)}
    if cache is not None:
        record.caches, record.makers, record.refused = _made(cache, cache_options, models)
    if fuse:
        record.blocks = _fusable(models)
    schedulers = parts.schedulers(pipe_or_model) if is_pipeline else {}
    if schedulers and scheduler:
        from .diffusers import fuse as fuse_scheduler

        for name, original in schedulers.items():
            try:
                fused = fuse_scheduler(original)
            except TypeError as error:  # its step has another interface
                if cache is None and len(schedulers) == 1:
                    raise
                record.refused[name] = str(error)
                continue
            if fused is not original:
                record.schedulers[name] = original, fused
    if is_pipeline:
        record.position = Position(owner, tuple(schedulers))
    with contextlib.ExitStack() as undo:
        record.attach()
        undo.callback(record.detach)
        for name, (original, fused) in record.schedulers.items():
            setattr(pipe_or_model, name, fused)
            undo.callback(setattr, pipe_or_model, name, original)
        write(pipe_or_model, record)
        undo.pop_all()
    return pipe_or_model


def restore(pipe_or_model: T) -> T:
    """Takes back all that :func:`accelerate` has done and returns the same object.

    A scheduler that was assigned after ``accelerate`` stays. Raises ValueError for what is not accelerated.
    """
    record = _needed(pipe_or_model)
    record.detach()
    for name, (original, fused) in record.schedulers.items():
        if getattr(pipe_or_model, name, None) is fused:
            setattr(pipe_or_model, name, original)
    erase(pipe_or_model)
    return pipe_or_model


def summary(pipe_or_model: Any) -> Report:
    """What acceleration has done so far: steps that ran fused or not, and why; model calls, full ones, memory.

    ``print`` it, or read its rows. Raises ValueError for what is not accelerated.
    """
    return report(pipe_or_model, _needed(pipe_or_model))


def _needed(thing: Any) -> Record:
    record = record_of(thing)
    if record is None:
        raise ValueError(
            f"this {_name(thing)} is not accelerated: pyaccel.accelerate(...) has to be called on it first. (Another "
            "pipeline may share its parts; then it is that one's acceleration.)"
        )
    return record


def _made(cache: Any, options: dict, models: dict[str, nn.Module]) -> tuple[dict, dict, dict[str, str]]:
    """The caches by name of their model, what makes them, and why a model has none."""
    if not models:
        raise ValueError(
            "none of the pipeline's models takes a time, so it is not known which one denoises; make a cache for it "
            "and hand it over: cache=pyaccel.caching.NAME(model, ...)"
        )
    if isinstance(cache, caching.Cache):
        if options:
            raise TypeError(f"{', '.join(options)}: options belong where this cache was made, not here")
        name = _place(cache, models)
        return {name: cache}, {name: LikeCache(cache, tuple(cache.where))}, {}
    if isinstance(cache, str):
        make = look_up("cache", cache, caching.CACHES)
        _check_options(cache, make, options)
    elif callable(cache):
        make = cache
    else:
        raise TypeError(f"cache must be a name, a Cache or a function from a model to a Cache, got {cache!r}")
    make = functools.partial(make, **options)
    caches, refused, errors = {}, {}, []
    for name, model in models.items():
        try:
            caches[name] = make(model)
        except ValueError as error:
            refused[name] = str(error)
            errors.append(error)
            continue
        if not isinstance(caches[name], caching.Cache):
            raise TypeError(f"cache={make.func!r} must return a pyaccel.caching.Cache, got {caches[name]!r}")
    if not caches:
        raise errors[0]
    return caches, dict.fromkeys(caches, make), refused


def _fusable(models: dict[str, nn.Module]) -> dict[str, FusedBlocks]:
    """The blocks of those models that have any of a class that is known; if none has, those of all, which then tell."""
    known = {name: model for name, model in models.items() if any(map(recipe_of, model.modules()))}
    return {name: FusedBlocks(model) for name, model in (known or models).items()}


def _place(cache: caching.Cache, models: dict[str, nn.Module]) -> str:
    """The name of the model that a cache was made for."""
    for name, model in models.items():
        if any(module is cache.model for module in model.modules()):
            return name
    there = ", ".join(name for name in models if name) or "the model itself"
    raise ValueError(
        f"this cache was made for another {_name(cache.model)} than those that are here ({there}); make it for one of "
        "them, or name the method"
    )


def _check_options(name: str, make: Callable, options: dict) -> None:
    valid = caching.options_of(make) or options
    for option in options:
        if option not in valid:
            close = difflib.get_close_matches(option, valid, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"{name} has no option {option!r}; it has: {', '.join(valid)}{hint}")


def _name(thing: Any) -> str:
    return type(thing).__name__
