"""``fuse``: a scheduler of diffusers whose ``step`` is one launch, and which is otherwise the scheduler that it was.

The fused scheduler has a class of its own below the original's, so it *is* an instance of it, with the same methods,
signatures, configuration and files. Its attributes are at all times what the original's would be: each step's table
(:mod:`pyaccel.solvers.tracing`) says what becomes of them. So whoever reads or copies them, and the original's step,
which takes over wherever there is no table, finds what it expects.

Tables belong to states of a scheduler, and are probed when a step is first taken from a state. A state is recognised
again in every later run with the same configuration and timesteps, in every copy of the scheduler.
"""

from __future__ import annotations

import functools
import inspect
import types

import torch

from ...solvers.tracing import NotLinear
from . import compiled
from .arguments import Binder, bind
from .track import UNKNOWN_ARGUMENTS, WRITTEN_TO, Track


class FusedScheduler:
    """What fused schedulers have beside what their class has; made by :func:`fuse`."""

    __slots__ = ()

    def __new__(cls, *args, **kwargs):
        self = object.__new__(cls)
        _begin(self, None)
        return self

    def __reduce_ex__(self, protocol):
        return _rebuilt, (type(self)._pyaccel_class, dict(vars(self)), self._pyaccel.original)

    @property
    def pyaccel_original(self):
        """The scheduler that this one was made from."""
        return self._pyaccel.original

    def pyaccel_position(self):
        """The StepContext of the model call that is under way, or None outside of a run."""
        return self._pyaccel.position(self)

    def pyaccel_summary(self) -> str:
        """How many steps were fused, how many were the original's, and why."""
        return self._pyaccel.summary(type(self).__name__)


def fuse(scheduler):
    """A :class:`FusedScheduler` that behaves as ``scheduler``, an object with the interface of diffusers' schedulers.

    Steps are one launch each, with sums in float32 whatever the dtype (float64 for float64). Steps that are not linear
    in their tensors (learned variances, random numbers other than Gaussian ones, attributes of unknown kinds) are the
    original's own; ``pyaccel_summary()`` says which and why. Clamping and dynamic thresholding are fused.

    ``scheduler`` itself is left as it is, its state is copied; a scheduler that is fused already is returned.

    Raises TypeError for an object without ``step`` and ``set_timesteps``.
    """
    if hasattr(scheduler, "pyaccel_position"):  # fused already, or a PlanScheduler
        return scheduler
    missing = [name for name in ("step", "set_timesteps") if not hasattr(scheduler, name)]
    parameters = [] if missing else list(inspect.signature(type(scheduler).step).parameters)
    missing += [
        f"step(..., {name}, ...)" for name in ("model_output", "sample") if parameters and name not in parameters
    ]
    if missing:
        raise TypeError(
            f"{type(scheduler).__name__} is not a scheduler with the interface of diffusers: it has no "
            + " and no ".join(missing)
        )
    return _rebuilt(type(scheduler), dict(vars(scheduler)), scheduler)


def _rebuilt(scheduler_class: type, attributes: dict, original):
    fused = object.__new__(fused_class(scheduler_class))
    vars(fused).update({k: list(v) if type(v) is list else v for k, v in attributes.items()})
    _begin(fused, original)
    return fused


def _begin(fused, original) -> None:
    # In slots, so that whoever copies the attributes does not copy these.
    object.__setattr__(fused, "_pyaccel", Track(original))
    object.__setattr__(fused, "_pyaccel_number", compiled.register(fused))


@functools.cache
def fused_class(scheduler_class: type) -> type:
    """The class of fused schedulers below ``scheduler_class``, with its name: what is saved can be loaded by anyone."""
    names = tuple(inspect.signature(scheduler_class.step).parameters)[1:]
    binder = Binder(names)
    members = {
        "__slots__": ("_pyaccel", "_pyaccel_number"),
        "__module__": scheduler_class.__module__,
        "__qualname__": scheduler_class.__qualname__,
        "__doc__": scheduler_class.__doc__,
        "_pyaccel_class": scheduler_class,
        "_pyaccel_names": names,
        "_pyaccel_binder": binder,
        "step": functools.wraps(scheduler_class.step)(_step(scheduler_class, binder)),
    }
    for name in dir(scheduler_class):
        method = inspect.getattr_static(scheduler_class, name)
        if name.startswith("set_") and isinstance(method, types.FunctionType):
            members[name] = _beginning(method, anew=name == "set_timesteps")
    if hasattr(scheduler_class, "scale_model_input"):
        members["scale_model_input"] = _scaling(scheduler_class.scale_model_input)
    return type(scheduler_class.__name__, (FusedScheduler, scheduler_class), members)


def _beginning(method, anew: bool):
    """``set_timesteps``, ``set_begin_index`` and their like: another run begins."""

    @functools.wraps(method)
    def begin(self, *args, **kwargs):
        with self._pyaccel.beginning:
            self._pyaccel.begin(self, anew)
            return method(self, *args, **kwargs)

    return begin


def _scaling(method):
    """``scale_model_input``, which looks its step up among the timesteps; a compiler shall not see that."""

    @functools.wraps(method)
    def scale_model_input(self, sample, *args, **kwargs):
        if torch.compiler.is_compiling() and len(args) + len(kwargs) == 1:
            return compiled.scale(self, sample, *args, *kwargs.values())
        return method(self, sample, *args, **kwargs)

    return scale_model_input


def _step(scheduler_class: type, binder: Binder):
    original = scheduler_class.step
    is_compiling = torch.compiler.is_compiling

    def step(self, *args, **kwargs):
        if is_compiling():
            return compiled.step(self, args, kwargs)
        track = self._pyaccel
        track.enter()
        try:
            if track.refused is not None:
                return track.by_the_original(original(self, *args, **kwargs), track.refused)
            if track.state is None:
                track.look(self)
            elif not track.untouched(self):
                track.warn(scheduler_class)
                return track.by_the_original(original(self, *args, **kwargs), WRITTEN_TO)
            form = binder.form(args, kwargs)
            bound = bind(form, (*args, *kwargs.values()), track.times)
            if bound is None or not track.fits(bound):
                track.refused = UNKNOWN_ARGUMENTS
                return track.by_the_original(original(self, *args, **kwargs), UNKNOWN_ARGUMENTS)
            state = track.state
            table = state.steps.get(bound.key) or state.step(bound.key, lambda: form.arguments(bound.key))
            return track.run(self, table, form, bound)
        except NotLinear as refusal:  # nothing has been drawn or written yet
            track.refused = str(refusal)
            return track.by_the_original(original(self, *args, **kwargs), track.refused)
        finally:
            track.leave()

    return step
