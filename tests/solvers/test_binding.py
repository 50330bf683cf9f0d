import pytest
import torch

from pyaccel import Denoiser, schedules, solvers
from pyaccel.solvers import Threshold

from ..mixture import exact_denoiser, times
from .agreement import Path, agrees

S = schedules.vp_linear()
GRID = times(6)
EVERY = [
    (solvers.ddim, {"eta": 0.5}),
    (solvers.heun, {}),
    (solvers.epd, {"points": 2}),
    (solvers.dpmpp_sde, {"method": "singlestep"}),
    (solvers.deis, {}),
    (solvers.unipc, {"form": "epsilon"}),
    (solvers.unipc, {}),
]
IDS = [f.__name__ + "".join(map(str, o.values())) for f, o in EVERY]


def network(x, t, shift):
    """A flow, a little different for each label."""
    return exact_denoiser(S, "flow")(x, t) + 0.1 * shift.view(-1, *[1] * (x.dim() - 1)).to(x.dtype)


def sample(plan, denoiser, noise, **conditioning):
    return plan.sample(denoiser, noise, noise_sampler=Path(*noise.shape).draw if plan.draws else None, **conditioning)


@pytest.mark.parametrize("threshold", [None, 0.9, Threshold(1.2, 0.6)], ids=str)
@pytest.mark.parametrize("prediction", ["epsilon", "v", "flow"])
@pytest.mark.parametrize(("solver", "options"), EVERY, ids=IDS)
def test_one_table_for_every_prediction(solver, options, prediction, threshold):
    noise = torch.randn(3, 5, dtype=torch.float64)
    plan = solver(S, times=GRID, threshold=threshold, **options)
    expected = sample(plan, Denoiser(exact_denoiser(S), S, "sample"), noise)
    agrees(sample(plan, Denoiser(exact_denoiser(S, prediction), S, prediction), noise), expected, 1e-8)


@pytest.mark.parametrize("threshold", [None, 0.9], ids=str)
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("w", [1.5, torch.tensor([1.5, 0.5, 3.0], dtype=torch.float64)], ids=["all", "each"])
@pytest.mark.parametrize(("solver", "options"), EVERY, ids=IDS)
def test_guidance_is_folded_into_every_solver(solver, options, w, batched, threshold):
    noise, shift = torch.randn(3, 5, dtype=torch.float64), torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)

    def guided(x, t, shift):
        factor = w if isinstance(w, float) else w.repeat(len(x) // 3).view(-1, 1)  # parallel calls repeat the batch
        return factor * network(x, t, shift) + (1 - factor) * network(x, t, torch.zeros_like(shift))

    plan = solver(S, times=GRID, prediction="flow", threshold=threshold, **options)
    denoiser = Denoiser(network, S, "flow", w, {"shift": 0.0}, batched)
    agrees(sample(plan, denoiser, noise, shift=shift), sample(plan, guided, noise, shift=shift), 1e-9)


def test_a_sample_does_not_depend_on_its_batch():
    noise, shift = torch.randn(3, 5, dtype=torch.float64), torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)
    w = torch.tensor([1.5, 0.5, 3.0], dtype=torch.float64)
    plan = solvers.unipc(S, times=GRID)
    together = plan.sample(Denoiser(network, S, "flow", w, {"shift": 0.0}), noise, shift=shift)
    for i in range(3):
        alone = Denoiser(network, S, "flow", float(w[i]), {"shift": 0.0})
        agrees(together[i : i + 1], plan.sample(alone, noise[i : i + 1], shift=shift[i : i + 1]), 1e-12)


@pytest.mark.parametrize(("solver", "options"), EVERY, ids=IDS)
def test_a_network_in_half_precision_does_not_round_the_state(solver, options):
    noise = torch.randn(4, 8)
    plan = solver(S, times=GRID, prediction="epsilon", **options)

    def half(x, t):
        return (torch.tanh(x.float()) + 0.1).to(x.dtype)

    got = sample(plan, Denoiser(half, S, "epsilon", dtype=torch.bfloat16), noise)
    expected = sample(plan, lambda x, t: half(x.bfloat16(), t).to(x.dtype), noise)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=2e-4, atol=2e-4)


def test_bound_rows_are_kept_for_the_next_run():
    plan, noise = solvers.unipc(S, times=GRID, prediction="sample"), torch.randn(3, dtype=torch.float64)
    first = plan.sample(exact_denoiser(S), noise)
    known = dict(plan._bound)
    assert torch.equal(plan.sample(exact_denoiser(S), noise), first)
    assert plan._bound.keys() == known.keys()
    assert all(plan._bound[key] is known[key] for key in known)
