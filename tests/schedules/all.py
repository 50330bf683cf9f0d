"""Every schedule that the tests run through, and the knots where a derivative jumps."""

import numpy as np

from pyaccel import schedules

BETAS = schedules.scaled_linear_betas()

ALL = {
    "flow": schedules.flow(),
    "flow, shifted": schedules.flow(shift=3.0),
    "trigflow": schedules.trigflow(),
    "vp_linear": schedules.vp_linear(),
    "vp_cosine": schedules.vp_cosine(),
    "vp_discrete": schedules.vp_discrete(schedules.linear_betas()),
    "vp_discrete, cosine": schedules.vp_discrete(schedules.cosine_betas(100)),
    "vp_discrete, rescaled": schedules.vp_discrete(schedules.rescale_zero_terminal_snr(BETAS)),
    "vp_discrete, 4 rescaled": schedules.vp_discrete(schedules.rescale_zero_terminal_snr([0.1, 0.2, 0.4, 0.5])),
    "sub_vp": schedules.sub_vp(),
    "edm": schedules.edm(),
    "ve": schedules.ve(),
}
PRESERVING = [name for name in ALL if name.startswith("vp_")]
PURE_NOISE = ["flow", "flow, shifted", "trigflow", "vp_cosine", "vp_discrete, rescaled", "vp_discrete, 4 rescaled"]
"""Those whose last time has no data at all: alpha(1) = 0."""


def knots(schedule: schedules.Schedule) -> np.ndarray:
    """Times between which the schedule is smooth, with 0 and 1."""
    count = len(schedule.parameters["betas"]) if "betas" in schedule.parameters else 1
    return np.arange(count + 1) / count
