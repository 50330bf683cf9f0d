"""Noise schedules: x_t = alpha(t)·x_0 + sigma(t)·eps, for t from 1 (noise) down to 0 (data), and their SDEs.

What all of them offer is written at :class:`Schedule`; ``from_name(name, **parameters)`` rebuilds one.
"""

from __future__ import annotations

from collections.abc import Callable

from ..names import look_up
from .betas import cosine_betas, linear_betas, rescale_zero_terminal_snr, scaled_linear_betas
from .discrete import vp_discrete
from .flows import flow, shift_of_resolution, shift_of_tokens, trigflow
from .schedule import Schedule
from .variance_exploding import edm, ve
from .variance_preserving import sub_vp, vp_cosine, vp_linear

__all__ = [
    "SCHEDULES",
    "Schedule",
    "cosine_betas",
    "edm",
    "flow",
    "from_name",
    "linear_betas",
    "rescale_zero_terminal_snr",
    "scaled_linear_betas",
    "shift_of_resolution",
    "shift_of_tokens",
    "sub_vp",
    "trigflow",
    "ve",
    "vp_cosine",
    "vp_discrete",
    "vp_linear",
]

SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "flow": flow,
    "trigflow": trigflow,
    "vp_linear": vp_linear,
    "vp_cosine": vp_cosine,
    "vp_discrete": vp_discrete,
    "sub_vp": sub_vp,
    "edm": edm,
    "ve": ve,
}


def from_name(name: str, **parameters) -> Schedule:
    """The schedule called ``name``, as a saved plan or a model card names it."""
    return look_up("schedule", name, SCHEDULES)(**parameters)
