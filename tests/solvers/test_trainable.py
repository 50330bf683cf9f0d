"""TrainablePlan: the plan that it starts from, gradients of each kind of parameter, and back to a plain plan."""

import pytest
import torch

from pyaccel import Denoiser, schedules, solvers
from pyaccel.solvers import Plan, TrainablePlan
from pyaccel.solvers.trainable import LEARNED
from tests.mixture import exact_denoiser

F64 = torch.float64
SCHEDULES = {"flow": schedules.flow(), "vp_linear": schedules.vp_linear(), "shifted": schedules.flow(3.0)}
MAKERS = {
    "dpmpp 3M": lambda s, n: solvers.dpmpp(s, n, order=3),
    "dpmpp 3M exact": lambda s, n: solvers.dpmpp(s, n, order=3, variant="exact", lower_order_final=False),
    "dpmpp 2M": lambda s, n: solvers.dpmpp(s, n, order=2),
    "unipc": lambda s, n: solvers.unipc(s, n),
    "unic": lambda s, n: solvers.unic(s, n, solver="heun"),
    "ddim": lambda s, n: solvers.ddim(s, n),
    "heun": lambda s, n: solvers.heun(s, n),
    "ipndm": lambda s, n: solvers.ipndm(s, n),
    "deis": lambda s, n: solvers.deis(s, n),
    "epd": lambda s, n: solvers.epd(s, n),
}


def model(x, t, **_):
    """Smooth, and different at each time."""
    return torch.tanh(0.7 * x) * torch.cos(t.view(-1, *[1] * (x.dim() - 1)).to(x)) + 0.1 * x


def perturbed(trainable, size=0.02, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in trainable.parameters():
            p += size * torch.randn(p.shape, generator=generator, dtype=F64)
    return trainable


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_untrained_it_is_the_plan(make, schedule):
    plan = make(schedule, 5)
    trainable = TrainablePlan(plan)
    for dtype, tolerance in ((F64, 1e-12), (torch.float32, 1e-6)):
        noise = torch.randn(3, 2, 4, dtype=dtype)
        expected = plan.sample(model, noise)
        scale = float(expected.abs().max())
        for result in (trainable(model, noise), trainable.plan().sample(model, noise)):
            torch.testing.assert_close(result, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_trained_it_is_the_plan_that_it_exports(make, tmp_path):
    trainable = perturbed(TrainablePlan(make(schedules.flow(), 5)))
    noise = torch.randn(3, 2, 4, dtype=F64)
    result = trainable(model, noise)
    assert (result - trainable.origin.sample(model, noise)).abs().max() > 1e-3
    plan = trainable.plan(method="test")
    plan.save(tmp_path / "plan.json")
    for exported in (plan, Plan.load(tmp_path / "plan.json")):
        torch.testing.assert_close(exported.sample(model, noise), result, rtol=1e-12, atol=1e-12)
    assert plan.options["method"] == "test"
    assert all(a > b for a, b in zip(plan.times, plan.times[1:], strict=False))


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("maker", ["dpmpp 3M", "unipc", "heun", "epd"])
def test_gradients_of_each_kind(maker, schedule, kind):
    trainable = perturbed(TrainablePlan(MAKERS[maker](schedule, 4), learn=[kind]))
    if kind == "times" and not trainable.learns_times:
        assert trainable.time_logits.numel() == 0
        return
    (parameter,) = (p for p in trainable.parameters() if p.requires_grad)
    noise = torch.randn(2, 3, dtype=F64)
    for checkpoint in (False, True):

        def f(_, checkpoint=checkpoint):
            return trainable(model, noise, checkpoint=checkpoint)

        assert torch.autograd.gradcheck(f, (parameter,))
    assert parameter.grad is None
    trainable(model, noise).sum().backward()
    assert parameter.grad.abs().max() > 0


def test_gradients_through_guidance_and_other_predictions():
    schedule = schedules.vp_linear()
    denoiser = Denoiser(
        lambda x, t, label: model(x, t) * (1 + label.view(-1, 1)), schedule, "v", 1.7, unconditional={"label": 0.0}
    )
    trainable = perturbed(TrainablePlan(solvers.dpmpp(schedule, 4, order=3)))
    noise, label = torch.randn(2, 3, dtype=F64), torch.tensor([0.2, 0.5], dtype=F64)
    torch.testing.assert_close(
        trainable(denoiser, noise, label=label), trainable.plan().sample(denoiser, noise, label=label), rtol=1e-10,
        atol=1e-12,
    )  # fmt: skip
    assert torch.autograd.gradcheck(lambda *_: trainable(denoiser, noise, label=label), tuple(trainable.parameters()))
    denoiser.guidance = torch.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match="one number"):
        trainable(denoiser, noise, label=label)


def test_gs_has_as_many_numbers_as_its_paper_says():
    for n in (3, 4, 6):
        trainable = TrainablePlan(solvers.dpmpp(schedules.flow(), n, order=3))
        assert sum(p.numel() for p in trainable.parameters()) == n * n + 3 * n - 1
    assert ("D2" in {name for _, name in trainable.coefficient_names}) is True


def test_a_traced_plan_keeps_its_times():
    diffusers = pytest.importorskip("diffusers")
    plan = Plan.trace(diffusers.UniPCMultistepScheduler(), 5)
    trainable = TrainablePlan(plan)
    assert trainable.form == "table"
    noise = torch.randn(2, 3, dtype=F64)
    torch.testing.assert_close(trainable(model, noise), plan.sample(model, noise), rtol=1e-10, atol=1e-10)
    perturbed(trainable)
    torch.testing.assert_close(trainable.plan().sample(model, noise), trainable(model, noise), rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match=r"is no solver of pyaccel.*form='table'"):
        TrainablePlan(plan, form="solver")


def test_frozen_parameters_get_no_gradient():
    trainable = TrainablePlan(solvers.dpmpp(schedules.flow(), 4, order=3), learn=["times", "shifts"])
    trainable(model, torch.randn(2, 3)).sum().backward()
    assert trainable.coefficients.grad is None
    assert trainable.states.grad is None
    assert trainable.time_logits.grad.abs().max() > 0


def test_it_runs_on_the_exact_model_of_the_mixture():
    schedule = schedules.vp_linear()
    denoiser = Denoiser(exact_denoiser(schedule, "epsilon"), schedule, "epsilon")
    plan = solvers.dpmpp(schedule, 4, order=3)
    noise = torch.randn(64, 1, dtype=F64)
    torch.testing.assert_close(TrainablePlan(plan)(denoiser, noise), plan.sample(denoiser, noise))


def test_errors():
    flow = schedules.flow()
    for plan, words in [
        (solvers.ddpm(flow, 4), "adds noise"),
        (solvers.ddim(flow, 4, threshold=1.0), "thresholds"),
        (solvers.ddim(flow, 4, inverse=True), "from data to noise"),
    ]:
        with pytest.raises(ValueError, match=words):
            TrainablePlan(plan)
    with pytest.raises(TypeError, match="wants a Plan"):
        TrainablePlan("unipc")
    plan = solvers.ddim(flow, 4)
    with pytest.raises(ValueError, match="form must be"):
        TrainablePlan(plan, form="gs")
    with pytest.raises(ValueError, match="got weights"):
        TrainablePlan(plan, learn=["weights"])
    with pytest.raises(ValueError, match="shape"):
        TrainablePlan(plan)(lambda x, t: x[:1], torch.randn(2, 3))


def test_a_denoiser_of_another_schedule_is_refused():
    plan = solvers.dpmpp(schedules.vp_linear(), 4, order=3)
    flow = schedules.flow()
    denoiser = Denoiser(exact_denoiser(flow, "flow"), flow, "flow")
    with pytest.raises(ValueError, match="the plan is for the schedule"):
        TrainablePlan(plan)(denoiser, torch.randn(2, 3))
