"""What holds for all solvers: they end near the exact flow, from pure noise to data, on every schedule."""

import math

import pytest
import torch

from pyaccel import schedules, solvers

from ..mixture import exact_denoiser
from .convergence import truth

ODE = [
    (solvers.ddim, {}),
    (solvers.euler, {}),
    (solvers.dpmpp, {}),
    (solvers.dpmpp, {"order": 3}),
    (solvers.dpmpp, {"order": 3, "method": "singlestep"}),
    (solvers.dpm, {"order": 3}),
    (solvers.dpm, {"order": 2, "method": "multistep"}),
    (solvers.dpm_fast, {}),
    (solvers.dpmpp_sde, {"eta": 0.0}),
    (solvers.deis, {}),
    (solvers.deis, {"polynomial": "log_rho"}),
    (solvers.rho_ab, {}),
    (solvers.lms, {}),
    (solvers.ipndm, {}),
    (solvers.ipndm_v, {}),
    (solvers.pndm, {"warmup": "prk"}),
    (solvers.pndm, {"warmup": "plms"}),
    (solvers.heun, {}),
    (solvers.heun, {"ode": "time"}),
    (solvers.rk4, {}),
    (solvers.rho_rk, {"order": 3}),
    (solvers.epd, {}),
    (solvers.amed, {}),
    (solvers.unipc, {}),
    (solvers.unipc, {"form": "epsilon"}),
    (solvers.unipc, {"variant": "bh1", "form": "epsilon"}),
    (solvers.unipc, {"method": "singlestep"}),
    (solvers.unic, {"solver": "dpmpp"}),
    (solvers.unic, {"solver": "deis"}),
]
SDE = [
    (solvers.ddim, {"eta": 1.0}),
    (solvers.ddpm, {}),
    (solvers.ddpm, {"variance": "large"}),
    (solvers.euler_ancestral, {}),
    (solvers.dpmpp_sde, {}),
    (solvers.dpmpp_sde, {"order": 3}),
    (solvers.dpmpp_sde, {"method": "singlestep"}),
]
SCHEDULES = [
    schedules.flow(),
    schedules.flow(3.0),
    schedules.vp_linear(),
    schedules.vp_cosine(),
    schedules.edm(),
    schedules.ve(),
    schedules.trigflow(),
    schedules.sub_vp(),
    schedules.vp_discrete(schedules.scaled_linear_betas()),
    schedules.vp_discrete(schedules.rescale_zero_terminal_snr(schedules.scaled_linear_betas())),
]
# A grid on which so many steps are enough for every solver.
GRIDS = {"edm": "karras"}


def names(cases):
    return [f.__name__ + "".join(f"-{v}" for v in o.values()) for f, o in cases]


def model_of(schedule):
    """The exact denoiser, which is told the schedule's model time."""
    exact, betas = exact_denoiser(schedule), schedule.parameters.get("betas", [])
    time_of = {
        "flow": schedule.time_of_sigma,
        "edm": schedule.time_of_sigma,
        "ve": schedule.time_of_sigma,
        "trigflow": lambda angle: angle / (math.pi / 2),
        "vp_discrete": lambda n: (n + 1) / len(betas),
    }.get(schedule.name, lambda t: t)
    return lambda x, t: exact(x, time_of(t.double()))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=[f"{s.name}{i}" for i, s in enumerate(SCHEDULES)])
@pytest.mark.parametrize(("solver", "options"), ODE, ids=names(ODE))
def test_ends_where_the_exact_flow_does(solver, options, schedule):
    noise = torch.linspace(-2, 2, 21, dtype=torch.float64)
    plan = solver(schedule, 60, grid=GRIDS.get(schedule.name, "uniform"), prediction="sample", **options)
    got = plan.sample(model_of(schedule), noise)
    assert torch.isfinite(got).all()
    expected = truth(schedule, noise, 1.0, 0.0)
    assert float((got - expected).abs().mean()) < 0.06


@pytest.mark.parametrize("schedule", SCHEDULES, ids=[f"{s.name}{i}" for i, s in enumerate(SCHEDULES)])
@pytest.mark.parametrize(("solver", "options"), SDE, ids=names(SDE))
def test_ends_among_the_data(solver, options, schedule):
    noise = torch.randn(400, dtype=torch.float64)
    plan = solver(schedule, 40, grid=GRIDS.get(schedule.name, "uniform"), prediction="sample", **options)
    x = plan.sample(model_of(schedule), noise, seed=0)
    assert torch.isfinite(x).all()
    assert -2.3 < float(x.min()) < float(x.max()) < 1.7
    assert abs(float(x.mean()) - 0.12) < 4 * 0.77 / 20 + 0.05  # 0.77 is the mixture's standard deviation


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=[f"{s.name}{i}" for i, s in enumerate(SCHEDULES)])
@pytest.mark.parametrize(("solver", "options"), ODE + SDE, ids=names(ODE + SDE))
def test_few_steps_are_finite(solver, options, schedule, steps):
    plan = solver(schedule, steps, prediction="sample", **options)
    x = plan.sample(lambda x, t: torch.tanh(x), torch.randn(5, dtype=torch.float64), seed=0)
    assert torch.isfinite(x).all()


COSINE = schedules.vp_discrete(schedules.cosine_betas())


@pytest.mark.parametrize(
    ("solver", "schedule", "options"),
    [
        # Each fails in diffusers 0.42: NaN in the first, second and fifth case, a singular matrix in the third, an
        # IndexError in the fourth.
        pytest.param(solvers.unipc, schedules.vp_linear(), {"variant": "bh1"}, id="unipc-bh1-to-sigma-0"),
        pytest.param(solvers.unipc, schedules.vp_linear(), {"form": "epsilon"}, id="unipc-3-over-the-noise"),
        pytest.param(solvers.unipc, schedules.vp_linear(), {"lower_order_final": False}, id="unipc-3-not-lowered"),
        pytest.param(solvers.dpmpp, COSINE, {"grid": "karras"}, id="cosine-betas-karras"),
        pytest.param(solvers.euler_ancestral, COSINE, {}, id="euler-ancestral-cosine-betas"),
    ],
)
def test_what_fails_in_other_libraries(solver, schedule, options):
    noise = torch.linspace(-2, 2, 21, dtype=torch.float64)
    plan = solver(schedule, 40, prediction="sample", **options)
    assert plan.times[-1] == 0
    got = plan.sample(model_of(schedule), noise, seed=0 if plan.draws else None)
    assert torch.isfinite(got).all()
    assert -2.3 < float(got.min()) < float(got.max()) < 1.7
    if not plan.draws:
        expected = truth(schedule, noise, 1.0, 0.0)
        fine = solver(schedule, 160, prediction="sample", **options).sample(model_of(schedule), noise)
        coarse_error, fine_error = (float((x - expected).abs().mean()) for x in (got, fine))
        assert coarse_error < 0.06
        assert fine_error < 0.25 * coarse_error


def test_the_truth_is_a_solution():
    """The quantiles' map satisfies the ODE: its derivative by the end time is the flow's velocity."""
    schedule, noise = schedules.vp_linear(), torch.linspace(-2, 2, 9, dtype=torch.float64)
    h = 1e-4
    x = truth(schedule, noise, 1.0, 0.3)
    slope = (truth(schedule, noise, 1.0, 0.3 + h) - truth(schedule, noise, 1.0, 0.3 - h)) / (2 * h)
    alpha, sigma = schedule.alpha(0.3), schedule.sigma(0.3)
    x0 = exact_denoiser(schedule)(x, torch.tensor([0.3], dtype=torch.float64))
    score = (alpha * x0 - x) / sigma**2
    torch.testing.assert_close(slope, schedule.probability_flow(x, 0.3, score), rtol=1e-6, atol=1e-6)
