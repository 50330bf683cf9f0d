"""``Plan.capture`` without a GPU: operations are taped as a graph records them, and run again on the same memory."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyaccel import Denoiser, caching, schedules, solvers, zoo
from pyaccel.denoiser import current_context
from pyaccel.solvers.capturing import CapturedPlan
from tests.mixture import exact_denoiser

FLOW, VP = schedules.flow(), schedules.vp_linear()


class Tape(TorchDispatchMode):
    """Remembers every operation with the tensors that it had, and makes it again into those that it gave."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.made.append((func, args, kwargs or {}, tree_leaves(out)))
        return out

    def replay(self):
        for func, args, kwargs, out in self.made:
            for old, new in zip(out, tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Tapes:
    def __init__(self):
        self.count = 0

    def warm_up(self, work):
        work()

    def record(self, work):
        self.count += 1
        tape = Tape()
        with tape:
            work()
        return tape.replay


def captured(plan, denoiser, noise, **conditioning):
    return CapturedPlan(plan, denoiser, torch.ones_like(noise), conditioning, Tapes())


PLANS = [
    (solvers.euler(FLOW, steps=9), 3),
    (solvers.dpmpp(VP, steps=9), 5),
    (solvers.dpmpp(VP, steps=9, order=3), 7),
    (solvers.unipc(VP, steps=9, order=3), 7),
    (solvers.heun(FLOW, steps=5), 6),
    (solvers.dpmpp(VP, steps=9, order=3, method="singlestep"), 8),
    (solvers.dpmpp_sde(VP, steps=9), 5),
    (solvers.sa_solver(VP, steps=9), 8),
    (solvers.ddpm(VP, steps=9), 4),
    (solvers.epd(FLOW, steps=4), 6),  # parallel calls: each step by itself
    (solvers.dpmpp(VP, steps=6, threshold=1.5), 6),
]


@pytest.mark.parametrize(("plan", "most"), PLANS, ids=lambda v: v.solver if isinstance(v, solvers.Plan) else None)
def test_samples_of_the_plan(plan, most):
    schedule = FLOW if plan.schedule[0] == "flow" else VP
    model = exact_denoiser(schedule, plan.prediction)
    seeds = {"seed": 7} if plan.stochastic else {}
    for dtype in (torch.float32, torch.float64):
        noise = torch.randn(3, 5, dtype=dtype)
        run = captured(plan, model, noise)
        assert run.graphs <= most < 10
        for _ in range(2):
            torch.testing.assert_close(run(noise, **seeds), plan.sample(model, noise, **seeds), rtol=1e-5, atol=1e-5)
            noise = torch.randn(3, 5, dtype=dtype)


def test_longer_runs_take_no_more_graphs():
    model = exact_denoiser(VP, "epsilon")
    counts = [captured(solvers.unipc(VP, steps=n, order=3), model, torch.randn(2, 3)).graphs for n in (12, 40)]
    assert counts[0] == counts[1]


def test_a_network_of_another_dtype_and_guidance():
    model = torch.nn.Linear(5, 5).bfloat16()

    def network(x, t, shift):
        assert x.dtype is torch.bfloat16
        return model(x) * 0.3 + shift.to(x.dtype) + t[:, None].to(x.dtype)

    plan, noise, shift = solvers.dpmpp(FLOW, steps=7), torch.randn(4, 5), torch.randn(4, 1)
    for guidance in (1.0, 3.0, torch.tensor([1.0, 2.0, 3.0, 4.0])):
        denoiser = Denoiser(network, FLOW, "flow", guidance, {"shift": 0.0}, dtype=torch.bfloat16)
        run = captured(plan, denoiser, noise, shift=torch.zeros(4, 1))
        assert run.shared is not isinstance(guidance, torch.Tensor)
        with torch.no_grad():
            expected = plan.sample(denoiser, noise, shift=shift)
        torch.testing.assert_close(run(noise, shift=shift), expected, rtol=1e-2, atol=1e-2)


def test_callbacks_see_and_replace_the_sample():
    plan, model, noise = solvers.unipc(VP, steps=6), exact_denoiser(VP, "epsilon"), torch.randn(2, 3)

    def halve(step, t, x):
        seen.append((step, t, x.clone()))
        return x / 2 if step == 2 else None

    runs = []
    for sample in (captured(plan, model, noise), lambda *a, **k: plan.sample(model, *a, **k)):
        seen = []
        runs.append((sample(noise, callback=halve), seen))
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-5)


def test_a_model_that_asks_for_its_step_has_each_recorded():
    plan, noise = solvers.euler(FLOW, steps=6), torch.randn(2, 3)

    def model(x, t):
        return x * (0.1 + current_context().run.__class__.__name__.count("R") * current_context().step)

    run = captured(plan, model, noise)
    assert run.graphs == 6
    torch.testing.assert_close(run(noise), plan.sample(model, noise), rtol=1e-5, atol=1e-5)


def test_feature_caches():
    denoiser, noise = zoo.load("fashion-dit"), torch.randn(2, 1, 28, 28)
    plan, label = solvers.euler(denoiser.schedule, steps=7), torch.tensor([3, 5])
    with caching.taylorseer(denoiser.model, interval=3, order=1, warmup=1), torch.no_grad():
        run = captured(plan, denoiser, noise, label=label)
        found, other = run(noise), run(-noise)
        expected = plan.sample(denoiser, noise, label=label)
    assert run.graphs == 7
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert (other - found).abs().max() > 0.1


def test_what_does_not_fit():
    plan, model, noise = solvers.euler(FLOW, steps=3), exact_denoiser(FLOW, "flow"), torch.randn(2, 3)
    run = captured(plan, model, noise)
    with pytest.raises(ValueError, match="captured for"):
        run(torch.randn(3, 3))
    with pytest.raises(ValueError, match="was not there"):
        run(noise, label=torch.zeros(2))
    with pytest.raises(FloatingPointError, match="NaN"):
        run(noise * float("nan"))
    with pytest.raises(ValueError, match="pass seed"):
        captured(solvers.ddpm(VP, steps=3), exact_denoiser(VP, "epsilon"), noise)(noise)

    def labelled(x, t, label, power):
        return x * label[:, None] ** power

    run = captured(plan, labelled, noise, label=torch.ones(2), power=2)
    recorded = run(noise)
    assert not torch.equal(run(noise, label=torch.full((2,), 0.5)), recorded)
    assert torch.equal(run(noise), recorded)  # what is left out is what was recorded, not what came last
    for wrong in ({"label": torch.ones(3)}, {"label": 1}, {"power": 3}):
        with pytest.raises(ValueError, match="captured as"):
            run(noise, **wrong)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no GPU"):
            plan.capture(model, noise)
