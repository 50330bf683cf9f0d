"""Plans beside the schedulers of diffusers that have the same solver, in float64 and with the same model outputs.

Where theirs lowers the order at the end it does so below 15 steps only, hence 10 and 20 steps.
"""

import functools
import math

import pytest
import torch

from pyaccel import schedules, solvers
from pyaccel.solvers import Threshold

from .agreement import agrees
from .schedulers import N, S, compare, diffusers, exact, in_float64, network, noises, sampler, trained, trajectory

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
partial = functools.partial
SHAPE = (2, 3, 4)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_ddim(monkeypatch, eta, prediction):
    theirs = {"v": "v_prediction"}.get(prediction, prediction)
    make = partial(solvers.ddim, eta=eta, prediction=prediction)
    options = {"clip_sample": False, "prediction_type": theirs, "step_options": {"eta": eta}}
    compare(monkeypatch, "DDIMScheduler", make, 10, stochastic=eta > 0, **options)


def test_ddim_with_clipped_samples(monkeypatch):
    """Theirs with use_clipped_model_output, which reads the noise off the clipped x0, as the paper's formula does."""
    options = {"clip_sample": True, "step_options": {"use_clipped_model_output": True}}
    compare(monkeypatch, "DDIMScheduler", partial(solvers.ddim, threshold=1.0), 10, **options)
    options |= {"clip_sample_range": 0.6}
    compare(monkeypatch, "DDIMScheduler", partial(solvers.ddim, threshold=0.6), 10, **options)


def test_ddim_with_dynamic_thresholding(monkeypatch):
    options = {"clip_sample": False, "thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}
    options |= {"step_options": {"use_clipped_model_output": True}}
    compare(monkeypatch, "DDIMScheduler", partial(solvers.ddim, threshold=Threshold(1.5, 0.9)), 10, **options)


def test_dpmpp_with_dynamic_thresholding(monkeypatch):
    options = {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 2.0}
    make = partial(solvers.dpmpp, threshold=Threshold(2.0, 0.8))
    compare(monkeypatch, "DPMSolverMultistepScheduler", make, 10, **options)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(monkeypatch, variance):
    options = {"clip_sample": False, "variance_type": f"fixed_{variance}", "stochastic": True}
    compare(monkeypatch, "DDPMScheduler", partial(solvers.ddpm, variance=variance), 10, **options)


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("correction", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [10, 20])
def test_dpmsolver_multistep(monkeypatch, order, correction, final, steps):
    make = partial(solvers.dpmpp, order=order, correction=correction, lower_order_final=steps < 15)
    options = {"solver_order": order, "solver_type": correction, "final_sigmas_type": final}
    compare(monkeypatch, "DPMSolverMultistepScheduler", make, steps, final, **options)


@pytest.mark.parametrize("correction", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpmsolver_over_the_noise(monkeypatch, order, correction):
    make = partial(solvers.dpm, order=order, correction=correction, method="multistep")
    options = {"solver_order": order, "solver_type": correction, "algorithm_type": "dpmsolver"}
    compare(monkeypatch, "DPMSolverMultistepScheduler", make, 10, "sigma_min", final_sigmas_type="sigma_min", **options)


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("correction", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [1, 2])
def test_sde_dpmsolver(monkeypatch, order, correction, final):
    make = partial(solvers.dpmpp_sde, order=order, correction=correction)
    options = {"solver_order": order, "solver_type": correction, "algorithm_type": "sde-dpmsolver++"}
    compare(
        monkeypatch, "DPMSolverMultistepScheduler", make, 10, final, stochastic=True, final_sigmas_type=final, **options
    )


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("correction", ["midpoint", "heun"])
def test_sde_dpmsolver_of_third_order(monkeypatch, correction, final):
    """Theirs weighs the second difference by (1 − e^(−H) − H)/H² − 1/2, H = 2h, where it is + 1/2: it misses 1.

    The weight must vanish with h, as −phi_3 does in k-diffusion. With what is missing added they agree.
    """
    theirs = diffusers.DPMSolverMultistepScheduler
    third = theirs.multistep_dpm_solver_third_order_update

    def mended(self, outputs, *args, sample, noise):
        ratios = self.sigmas[self.step_index - 2 : self.step_index + 2]
        lams = -torch.log(ratios)
        h, h_0, h_1 = lams[3] - lams[2], lams[2] - lams[1], lams[1] - lams[0]
        m0, m1, m2 = outputs[-1], outputs[-2], outputs[-3]
        second = ((m0 - m1) * h / h_0 - (m1 - m2) * h / h_1) / ((h_0 + h_1) / h)
        return third(self, outputs, sample=sample, noise=noise) + second / torch.sqrt(1 + ratios[3] ** 2)

    monkeypatch.setattr(theirs, "multistep_dpm_solver_third_order_update", mended)
    make = partial(solvers.dpmpp_sde, order=3, correction=correction)
    options = {"solver_order": 3, "solver_type": correction, "algorithm_type": "sde-dpmsolver++"}
    compare(monkeypatch, theirs.__name__, make, 10, final, stochastic=True, final_sigmas_type=final, **options)


@pytest.mark.parametrize(
    ("algorithm", "solver", "order", "correction", "variant"),
    [
        ("dpmsolver++", solvers.dpmpp, 2, "midpoint", "published"),
        ("dpmsolver++", solvers.dpmpp, 2, "heun", "published"),
        ("dpmsolver++", solvers.dpmpp, 3, "heun", "exact"),
        ("dpmsolver", solvers.dpm, 2, "midpoint", "published"),
        ("dpmsolver", solvers.dpm, 2, "heun", "published"),
        ("dpmsolver", solvers.dpm, 3, "heun", "exact"),
    ],
)
def test_dpmsolver_singlestep(monkeypatch, algorithm, solver, order, correction, variant):
    """Their inner points are points of the grid, ours lie at equal parts in log-SNR: the same on such a grid.

    Their third order with "midpoint" is neither the authors' "dpmsolver" nor "taylor": its second inner point is
    reached by the midpoint formula. It is left out.
    """
    steps, x = 4, noises(SHAPE, 1)[0]
    lams = torch.linspace(S.lam(1.0), S.lam(0.02), order * steps + 1, dtype=torch.float64).tolist()
    fine = [1.0, *(S.time_of_lam(lam) for lam in lams[1:-1]), 0.02]
    with in_float64(monkeypatch, diffusers.DPMSolverSinglestepScheduler):
        scheduler = trained(
            "DPMSolverSinglestepScheduler", solver_order=order, solver_type=correction, algorithm_type=algorithm,
            final_sigmas_type="sigma_min",
        )  # fmt: skip
        scheduler.set_timesteps(order * steps)
        exact(scheduler, fine)
        scheduler.timesteps = torch.tensor([t * N - 1 for t in fine[:-1]], dtype=torch.float64)
        scheduler.set_begin_index(0)
        expected = trajectory(scheduler, S.sigma(1.0) * x)
    plan = solver(
        S, times=fine[::order], order=order, method="singlestep", correction=correction, variant=variant,
        lower_order_final=False,
    )  # fmt: skip
    agrees(plan.sample(network, x), expected, 1e-9)


@pytest.mark.parametrize("steps", [10, 20])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(monkeypatch, order, steps):
    """Their solver_order counts predictions; they end at the smallest sigma of training."""
    make = partial(solvers.deis, order=order - 1, polynomial="log_rho", lower_order_final=steps < 15)
    compare(monkeypatch, "DEISMultistepScheduler", make, steps, "sigma_min", solver_order=order)


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("form", ["sample", "epsilon"])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(monkeypatch, order, variant, form, final):
    if final == "zero" and (variant == "bh1" or form == "epsilon"):
        pytest.skip("theirs multiplies infinity by 0 in the last step and returns NaN")
    make = partial(solvers.unipc, order=order, variant=variant, form=form)
    options = {"solver_order": order, "solver_type": variant, "predict_x0": form == "sample"}
    compare(monkeypatch, "UniPCMultistepScheduler", make, 10, final, final_sigmas_type=final, **options)


def in_sigma(monkeypatch, scheduler_class, make_plan, steps=10, stochastic=False, heun=False, prediction="epsilon"):
    """Schedulers that hold x/alpha: they start from sigma/alpha times the noise."""
    x = noises(SHAPE, 1)[0]
    drawn = noises(SHAPE) if stochastic else None
    with in_float64(monkeypatch, getattr(diffusers, scheduler_class), drawn):
        scheduler = trained(scheduler_class, timestep_spacing="trailing", prediction_type=prediction)
        scheduler.set_timesteps(steps)
        # With Heun all but the first stand twice.
        distinct = [scheduler.timesteps[0], *scheduler.timesteps[1::2]] if heun else scheduler.timesteps
        times = [(float(n) + 1) / N for n in distinct] + [0.0]
        ratios = torch.tensor([S.ratio(t) for t in times], dtype=torch.float64)
        scheduler.sigmas = torch.cat([ratios[:1], ratios[1:-1].repeat_interleave(2), ratios[-1:]]) if heun else ratios
        expected = trajectory(scheduler, S.ratio(times[0]) * x)
    prediction = {"v_prediction": "v"}.get(prediction, prediction)
    more = {"noise_sampler": sampler(drawn)} if stochastic else {}
    agrees(make_plan(S, times=times, prediction=prediction).sample(network, x, **more), expected, 1e-9)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_euler(monkeypatch, prediction):
    in_sigma(monkeypatch, "EulerDiscreteScheduler", solvers.euler, prediction=prediction)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_euler_ancestral(monkeypatch, prediction):
    in_sigma(
        monkeypatch, "EulerAncestralDiscreteScheduler", solvers.euler_ancestral, stochastic=True, prediction=prediction
    )


def test_heun(monkeypatch):
    in_sigma(monkeypatch, "HeunDiscreteScheduler", solvers.heun, heun=True)


def test_lms(monkeypatch):
    pytest.importorskip("scipy", reason="their LMS integrates with it")
    in_sigma(monkeypatch, "LMSDiscreteScheduler", solvers.lms)


@pytest.mark.parametrize("skip", [True, False])
def test_pndm(monkeypatch, skip):
    x, steps = noises(SHAPE, 1)[0], 10
    with in_float64(monkeypatch, diffusers.PNDMScheduler):
        scheduler = trained("PNDMScheduler", skip_prk_steps=skip, set_alpha_to_one=True)
        scheduler.set_timesteps(steps)
        grid = list(range(N - N // steps, -1, -N // steps))
        times = [(n + 1) / N for n in grid] + [0.0]
        exact(scheduler, times)
        expected = trajectory(scheduler, S.sigma(times[0]) * x)
    plan = solvers.pndm(S, times=times, warmup="plms" if skip else "prk")
    agrees(plan.sample(network, x), expected, 1e-9)


def test_ipndm(monkeypatch):
    """Its schedule is v-diffusion's: a quarter circle in which the sine is sin²(π/2·step), a grid of trigflow.

    Its first step, from alpha = 0, divides 0 by 1e-8 where x0 should be; so both start from the second.
    """
    x, steps = noises(SHAPE, 1)[0], 9
    with in_float64(monkeypatch, diffusers.IPNDMScheduler):
        scheduler = diffusers.IPNDMScheduler()
        scheduler.set_timesteps(steps)
        scheduler.betas = torch.sin(torch.linspace(1, 0, steps + 1, dtype=torch.float64) * math.pi / 2) ** 2
        scheduler.alphas = torch.sqrt(1 - scheduler.betas**2)
        scheduler.timesteps = (torch.atan2(scheduler.betas, scheduler.alphas) / math.pi * 2)[1:-1]
        scheduler.set_begin_index(1)
        expected = trajectory(scheduler, scheduler.betas[1] * x, lambda x, t: network(x, 1000 * t))
    plan = solvers.ipndm(schedules.trigflow(sigma_data=1.0), times=[*scheduler.timesteps.tolist(), 0.0], prediction="v")
    agrees(plan.sample(lambda x, t: network(x, 1000 * t[0] * 2 / math.pi), x), expected, 1e-9)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(
    ("scheduler_class", "solver"),
    [
        ("FlowMatchEulerDiscreteScheduler", solvers.euler),
        ("FlowMatchHeunDiscreteScheduler", partial(solvers.heun, ode="time")),
    ],
)
def test_flow_match(monkeypatch, scheduler_class, solver, shift):
    x = noises(SHAPE, 1)[0]
    with in_float64(monkeypatch, getattr(diffusers, scheduler_class)):
        scheduler = getattr(diffusers, scheduler_class)(shift=shift)
        scheduler.set_timesteps(8)
        expected, sigmas = x, scheduler.sigmas
        for t in scheduler.timesteps:  # these have no scale_model_input
            expected = scheduler.step(network(expected, t), t, expected).prev_sample
    levels = torch.unique(sigmas).flip(0).tolist()
    plan = solver(schedules.flow(), times=levels)
    agrees(plan.sample(lambda x, t: network(x, 1000 * t[0]), x), expected, 1e-9)


def denoised(scheduler, x, sigma):
    """EDM's preconditioning around the network (Karras et al. 2022, table 1)."""
    data = scheduler.config.sigma_data
    norm = sigma**2 + data**2
    output = network(x / math.sqrt(norm), 250 * math.log(sigma))
    return data**2 / norm * x + sigma * data / math.sqrt(norm) * output


def edm(monkeypatch, scheduler_class, make_plan, stochastic=False, **options):
    x, schedule = noises(SHAPE, 1)[0], schedules.edm()
    drawn = noises(SHAPE) if stochastic else None
    with in_float64(monkeypatch, getattr(diffusers, scheduler_class), drawn):
        scheduler = getattr(diffusers, scheduler_class)(**options)
        scheduler.set_timesteps(10)
        sigmas = scheduler.sigmas = scheduler.sigmas.double()
        scheduler.timesteps = 0.25 * torch.log(sigmas[:-1])
        scheduler.set_begin_index(0)
        expected = trajectory(scheduler, sigmas[0] * x, lambda x, t: network(x, 1000 * t))
    plan = make_plan(schedule, times=[float(s) / 80 for s in sigmas])
    more = {"noise_sampler": sampler(drawn)} if stochastic else {}
    got = plan.sample(lambda x, t: denoised(scheduler, x, float(t[0])), x, **more)
    agrees(got, expected, 1e-9)


def test_edm_euler(monkeypatch):
    edm(monkeypatch, "EDMEulerScheduler", solvers.euler)


@pytest.mark.parametrize("correction", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("stochastic", [False, True])
def test_edm_dpmsolver(monkeypatch, order, correction, stochastic):
    if stochastic and order == 3:
        pytest.skip("theirs has no third order of the SDE: x_t is unbound there")
    solver = solvers.dpmpp_sde if stochastic else solvers.dpmpp
    make = partial(solver, order=order, correction=correction)
    algorithm = "sde-dpmsolver++" if stochastic else "dpmsolver++"
    options = {"solver_order": order, "solver_type": correction, "algorithm_type": algorithm}
    edm(monkeypatch, "EDMDPMSolverMultistepScheduler", make, stochastic, **options)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_lcm(monkeypatch, steps):
    """With the boundary condition outside the network; the steps are spread over 50 of training."""
    make = partial(solvers.lcm, timestep_scaling=10.0)
    options = {"clip_sample": False, "original_inference_steps": 50, "timestep_scaling": 10.0}
    compare(monkeypatch, "LCMScheduler", make, steps, stochastic=steps > 1, tolerance=1e-6, **options)


@pytest.mark.parametrize(("gamma", "tolerance"), [(0.0, 1e-9), (0.3, 2e-2)])
def test_tcd(monkeypatch, gamma, tolerance):
    """Theirs ends at training step 0 and leads to whole steps, (1 - gamma)·n rounded down; ours to the time between."""
    options = {"clip_sample": False, "original_inference_steps": 50, "step_options": {"eta": gamma}}
    make = partial(solvers.tcd, gamma=gamma)
    compare(monkeypatch, "TCDScheduler", make, 5, "sigma_min", stochastic=gamma > 0, tolerance=tolerance, **options)
