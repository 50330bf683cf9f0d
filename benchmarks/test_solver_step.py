"""One solver step on a 1×4×64×64 latent beside the peers' step, and on a 64 MB latent beside the machine's memory.

A whole run of STEPS steps is timed with a model that returns the same tensor at no cost, and divided by STEPS: what is
left is conversion, update, history and bookkeeping, on both sides in float32. The schedulers of ``diffusers`` are set
up before; the samplers of ``k-diffusion`` are called as a whole, as ours are. "host" is the step less its own launch.
"""

import pytest
import torch
from harness import in_turns

from pyaccel import schedules, solvers
from pyaccel.ops import backend
from tests.k_diffusion import sampling

STEPS, SHAPE = 20, (1, 4, 64, 64)
LARGE = (1, 4, 2048, 2048)
BETAS = schedules.scaled_linear_betas()
CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

DIFFUSERS = {
    "ddim": ("ddim", {}, "DDIMScheduler", {"clip_sample": False}),
    "euler": ("euler", {}, "EulerDiscreteScheduler", {}),
    "dpmpp 2M": ("dpmpp", {"order": 2}, "DPMSolverMultistepScheduler", {"solver_order": 2}),
    "dpmpp 3M": ("dpmpp", {"order": 3}, "DPMSolverMultistepScheduler", {"solver_order": 3}),
    "unipc 3": ("unipc", {"order": 3}, "UniPCMultistepScheduler", {"solver_order": 3}),
    "deis 3": ("deis", {"order": 2, "polynomial": "log_rho"}, "DEISMultistepScheduler", {"solver_order": 3}),
    "lms 4": ("lms", {}, "LMSDiscreteScheduler", {}),
    "dpmpp_sde 2M": ("dpmpp_sde", {}, "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "euler_ancestral": ("euler_ancestral", {}, "EulerAncestralDiscreteScheduler", {}),
    "sa_solver": ("sa_solver", {}, "SASolverScheduler", {}),
}

K_DIFFUSION = {
    "euler": ("euler", {}, "sample_euler"),
    "dpmpp 2M": ("dpmpp", {"order": 2}, "sample_dpmpp_2m"),
    "heun": ("heun", {}, "sample_heun"),
    "lms 4": ("lms", {}, "sample_lms"),
    "euler_ancestral": ("euler_ancestral", {}, "sample_euler_ancestral"),
}


def launches(plan, noise, output):
    """The plan's own launches, one after the other, and nothing else."""
    _, stages = next(iter(plan._bound.values()))
    registers = [torch.randn_like(noise) for _ in range(plan.registers + 2)]
    outs = [torch.empty_like(noise) for _ in range(4)]
    calls = [(step.rows.prepared, [*registers[: len(step.reads)], output], outs[: len(step.writes)]) for step in stages]

    def run():
        for prepared, tensors, new in calls:
            prepared(tensors, new, [0])

    return run


def measured(report, benchmark, case, plan, peer, theirs):
    noise, output = torch.randn(SHAPE), torch.randn(SHAPE)
    more = {"seed": 0} if plan.stochastic else {}

    def ours():
        return plan.sample(lambda x, t: output, noise, **more)

    with torch.no_grad():
        ours()
        seconds = in_turns({"ours": ours, "theirs": theirs, "launches": launches(plan, noise, output)})
        benchmark.pedantic(ours, rounds=20, iterations=2)
    per = 1e6 / plan.steps
    report(
        f"one solver step, 1×4×64×64 float32, beside {peer}",
        case=case,
        **{
            "ours, µs": seconds["ours"] * per,
            f"{peer}, µs": seconds["theirs"] * per,
            f"× {peer}": seconds["theirs"] / seconds["ours"],
            "host, µs": (seconds["ours"] - seconds["launches"]) * per,
        },
    )


@pytest.mark.parametrize("case", DIFFUSERS)
def test_step_beside_diffusers(benchmark, report, case):
    diffusers = pytest.importorskip("diffusers")
    name, options, theirs, config = DIFFUSERS[case]
    plan = solvers.from_name(name)(schedules.vp_discrete(BETAS), STEPS, **options)
    scheduler = getattr(diffusers, theirs)(**CONFIG, **config)
    noise, output = torch.randn(SHAPE), torch.randn(SHAPE)
    scheduler.set_timesteps(STEPS)
    timesteps = list(scheduler.timesteps)
    fresh = dict(scheduler.__dict__)

    def run():
        # What set_timesteps resets, without its cost.
        scheduler.__dict__.update(fresh)
        for history in ("model_outputs", "timestep_list"):
            if hasattr(scheduler, history):
                setattr(scheduler, history, [None] * len(getattr(scheduler, history)))
        if hasattr(scheduler, "derivatives"):
            scheduler.derivatives = []
        x = noise
        for t in timesteps:
            x = scheduler.step(output, t, x, return_dict=False)[0]
        return x

    measured(report, benchmark, case, plan, "diffusers", run)


@pytest.mark.parametrize("case", K_DIFFUSION)
def test_step_beside_k_diffusion(benchmark, report, case):
    peer = sampling()
    if peer is None:
        pytest.skip("k-diffusion or scipy is not installed")
    name, options, theirs = K_DIFFUSION[case]
    schedule = schedules.edm()
    plan = solvers.from_name(name)(schedule, STEPS, grid="karras", **options)
    sigmas = torch.as_tensor([float(schedule.sigma(t)) for t in plan.times], dtype=torch.float32)
    noise, output = torch.randn(SHAPE), torch.randn(SHAPE)
    sampler = getattr(peer, theirs)

    def run():
        return sampler(lambda x, sigma, **_: output, noise * sigmas[0], sigmas, disable=True)

    measured(report, benchmark, case, plan, "k-diffusion", run)


NO_TABLE = ("dpm_adaptive",)
STABLE_DIFFUSION = schedules.vp_discrete(schedules.scaled_linear_betas())
WIDE = {name: (name, {}) for name in solvers.SOLVERS if name not in (*NO_TABLE, "flow_map")} | {
    "dpmpp 3": ("dpmpp", {"order": 3}),
    "dpmpp 2S": ("dpmpp", {"method": "singlestep"}),
    "dpmpp_sde singlestep": ("dpmpp_sde", {"method": "singlestep"}),
    "unipc 2 singlestep": ("unipc", {"order": 2, "method": "singlestep"}),
    "ddim eta 1": ("ddim", {"eta": 1.0}),
}


@pytest.mark.skipif(backend._native is None, reason=backend.native_missing or "built")
@pytest.mark.parametrize("case", WIDE)
def test_bandwidth_of_a_step(benchmark, report, case):
    """GB/s over the bytes of the plan's own table, from the difference of a longer and a shorter run."""
    name, options = WIDE[case]
    schedule = schedules.vp_linear()
    long, short = (solvers.from_name(name)(schedule, n, **options) for n in (16, 8))
    noise, output = torch.randn(LARGE), torch.randn(LARGE)
    more = {"seed": 0} if long.stochastic else {}
    streams = [torch.randn(LARGE) for _ in range(3)]
    size = noise.numel() * 4
    pointers, out = [t.data_ptr() for t in streams], torch.empty(size // 4 + 16)
    place = out.data_ptr() + -out.data_ptr() % 64
    ceiling = backend._native.read_write_ceiling

    def run(plan):
        return lambda: plan.sample(lambda x, t, **_: output, noise, **more)

    with torch.no_grad():
        seconds = in_turns(
            {
                "long": run(long),
                "short": run(short),
                "regular": lambda: ceiling(pointers, place, size, False),
                "streaming": lambda: ceiling(pointers, place, size, True),
            },
            fewest=5,
        )
        benchmark.pedantic(run(short), rounds=2, iterations=1)
    moved = long.cost(LARGE).bytes - short.cost(LARGE).bytes
    speed = moved / (seconds["long"] - seconds["short"]) / 1e9
    best = 4 * size / min(seconds["regular"], seconds["streaming"]) / 1e9
    report(
        "one solver step, 64 MB float32 latent",
        case=case,
        **{"GB/s of its table": speed, "of the ceiling, %": 100 * speed / best, "ceiling GB/s": best},
    )


@pytest.mark.parametrize("schedule", [schedules.vp_linear(), STABLE_DIFFUSION], ids=lambda s: s.name)
@pytest.mark.parametrize("case", WIDE)
def test_building(benchmark, report, case, schedule):
    """Milliseconds to build a plan of 1000 steps."""
    name, options = WIDE[case]

    def build():
        return solvers.from_name(name)(schedule, 1000, **options)

    seconds = in_turns({"build": build}, seconds=0.5, fewest=3)["build"]
    benchmark.pedantic(build, rounds=1, iterations=1)
    report("a plan of 1000 steps", case=case, schedule=schedule.name, milliseconds=seconds * 1e3)
