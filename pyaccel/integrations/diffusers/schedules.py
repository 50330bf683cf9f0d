"""What a scheduler of diffusers says about its model: the noise schedule and the prediction, in our terms."""

from __future__ import annotations

from ... import schedules
from ...solvers.tracing.composing import PREDICTIONS, is_flow


def schedule_of(scheduler) -> schedules.Schedule:
    """The schedule that the scheduler's model was trained with: ``flow`` with its shift, or ``vp_discrete``.

    Raises ValueError for a scheduler that knows neither betas nor flow sigmas.
    """
    config = scheduler.config
    if is_flow(scheduler):
        shift = 1.0 if config.get("use_dynamic_shifting") else config.get("shift") or config.get("flow_shift") or 1.0
        return schedules.flow(float(shift))
    if getattr(scheduler, "betas", None) is not None and hasattr(scheduler, "alphas_cumprod"):
        return schedules.vp_discrete(scheduler.betas.double().tolist())
    raise ValueError(f"{type(scheduler).__name__} has neither betas nor flow sigmas: say which schedule its model has")


def prediction_of(scheduler) -> str:
    """What its model predicts: ``epsilon``, ``sample``, ``v`` or ``flow``."""
    return PREDICTIONS.get(scheduler.config.get("prediction_type"), "flow" if is_flow(scheduler) else "epsilon")
