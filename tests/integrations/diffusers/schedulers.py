"""Every scheduler class of diffusers with the options that it accepts, and trajectories of it with known noise."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import warnings

import pytest
import torch
from torch.overrides import TorchFunctionMode

diffusers = pytest.importorskip("diffusers", reason="the test extra has it")
diffusers.utils.logging.set_verbosity_error()

CLASSES = [
    "CMStochasticIterativeScheduler",
    "CogVideoXDDIMScheduler",
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "HeunDiscreteScheduler",
    "IPNDMScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "LTXEulerAncestralRFScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
]
"""Those whose steps are linear, and without Brownian noise, which has a test of its own."""

PREDICTIONS = ["epsilon", "sample", "v_prediction", "flow_prediction"]
SPACINGS = ["linspace", "leading", "trailing"]
SIGMAS = [None, "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas"]

# Other options that change the arithmetic, one at a time beside the defaults; a class is given those that it takes.
MORE = {
    "algorithm_type": ["dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "deis"],
    "solver_order": [1, 3],
    "solver_type": ["midpoint", "heun", "bh1", "bh2", "logrho"],
    "final_sigmas_type": ["zero", "sigma_min"],
    "lower_order_final": [False, True],
    "euler_at_final": [True],
    "predict_x0": [False],
    "thresholding": [True],
    "clip_sample": [False, True],
    "rescale_betas_zero_snr": [True],
    "set_alpha_to_one": [False],
    "skip_prk_steps": [True],
    "interpolation_type": ["log_linear"],
    "beta_schedule": ["scaled_linear", "squaredcos_cap_v2"],
    "variance_type": ["fixed_small_log", "fixed_large"],
    "shift": [3.0],
    "use_dynamic_shifting": [True],
    "invert_sigmas": [True],
    "stochastic_sampling": [True],
    "sigma_schedule": ["exponential"],
    "predictor_order": [1, 3],
    "corrector_order": [0, 1, 3],
    "disable_corrector": [[0, 1]],
    "eta": [0.5, 1.0],
    "scale_factors": [None],
}
STEP_OPTIONS = {
    "DDIMScheduler": [{"eta": 1.0}, {"eta": 0.3, "use_clipped_model_output": True}],
    "DDIMParallelScheduler": [{"eta": 1.0}],
    "EulerDiscreteScheduler": [{"s_churn": 2.0, "s_noise": 1.1}],
    "EDMEulerScheduler": [{"s_churn": 2.0, "s_tmin": 0.1}],
    "FlowMatchEulerDiscreteScheduler": [{"s_churn": 1.0}],
    "TCDScheduler": [{"eta": 0.0}, {"eta": 1.0}],
    "LMSDiscreteScheduler": [{"order": 2}],
}


def variants(name: str) -> list[tuple[dict, dict]]:
    """Options for the class and for its steps: all of prediction × spacing × sigmas, and the others one by one."""
    accepted = inspect.signature(getattr(diffusers, name).__init__).parameters

    def values(option, known):
        return known if option in accepted else [None]

    found = []
    for prediction, spacing, sigmas in itertools.product(
        values("prediction_type", PREDICTIONS), values("timestep_spacing", SPACINGS), SIGMAS
    ):
        if sigmas is not None and sigmas not in accepted:
            continue
        options = {"prediction_type": prediction, "timestep_spacing": spacing}
        found.append(({k: v for k, v in options.items() if v} | ({sigmas: True} if sigmas else {}), {}))
    for option, known in MORE.items():
        found += [({option: value}, {}) for value in known if option in accepted]
    if "thresholding" in accepted:
        found.append(({"thresholding": True, "sample_max_value": 1.5, "prediction_type": "sample"}, {}))
    return found + [({}, step) for step in STEP_OPTIONS.get(name, [])]


class KnownNoise(TorchFunctionMode):
    """Every ``torch.randn`` of the sample's shape takes the next of given float64 tensors."""

    def __init__(self, tensors: list[torch.Tensor]):
        super().__init__()
        self.left, self.shape = iter(tensors), tensors[0].shape

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.randn and args[0] == self.shape:
            return next(self.left).to((kwargs or {}).get("dtype") or torch.float32)
        return func(*args, **(kwargs or {}))


def network(x: torch.Tensor, t) -> torch.Tensor:
    """Any smooth, bounded function of a sample."""
    return torch.sin(2 * x.double() + float(t) / 150).to(x.dtype)


def trajectory(scheduler, x: torch.Tensor, steps: int, step_options: dict, noises: list[torch.Tensor], **timesteps):
    """The loop of a pipeline: the sample after each step."""
    found = []
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mu = {"mu": 0.7} if getattr(scheduler.config, "use_dynamic_shifting", False) else {}
        scheduler.set_timesteps(**(timesteps or {"num_inference_steps": steps}), **mu)
        x = x * torch.as_tensor(getattr(scheduler, "init_noise_sigma", 1.0), dtype=x.dtype)
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            with KnownNoise(noises[len(found) * 4 :]):
                x = scheduler.step(network(scaled, t), t, x, return_dict=False, **step_options)[0]
            found.append(x)
    return torch.stack(found)


@contextlib.contextmanager
def quiet():
    """Within, what a scheduler says about odd settings is not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
