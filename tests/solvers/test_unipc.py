import itertools
import math

import pytest
import torch

from pyaccel import schedules, solvers

from ..mixture import at, exact_denoiser, times
from . import loops
from .agreement import STEPS, agrees, points
from .convergence import errors, in_log_snr, slope

S = schedules.vp_linear()


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", [1, 2, 5, 9])
@pytest.mark.parametrize("lower", [True, False])
def test_is_the_papers_algorithm(variant, order, steps, lower):
    noise, model = torch.randn(20, dtype=torch.float64), exact_denoiser(S)
    plan = solvers.unipc(
        S, times=times(steps), order=order, variant=variant, prediction="sample", lower_order_final=lower
    )
    expected = loops.unipc(S, times(steps), model, noise, order, variant, lower)
    torch.testing.assert_close(plan.sample(model, noise), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_order_of_bh1(order):
    assert order + 0.7 <= slope(solvers.unipc, S, grid=in_log_snr(S), order=order, variant="bh1") <= order + 1.5


def test_order_three_holds_few_registers():
    """The corrected sample's known part, two predictions and the network's input."""
    assert solvers.unipc(S, 20).registers == 4
    assert solvers.unipc(S, 20, corrector=False).registers == 3


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("schedule", [schedules.flow(), schedules.vp_cosine()], ids=lambda s: s.name)
def test_infinite_log_snr_at_both_ends(variant, lower, schedule):
    """Cases on which other libraries return NaN: bh1 with a final sigma of 0, order 3 with no lowering."""
    noise, model = torch.randn(30, dtype=torch.float64), exact_denoiser(schedule)
    options = {"variant": variant, "prediction": "sample", "lower_order_final": lower}
    fine = solvers.unipc(schedule, 150, **options).sample(model, noise)
    coarse = solvers.unipc(schedule, 30, **options).sample(model, noise)
    assert torch.isfinite(coarse).all()
    assert float((fine - coarse).abs().mean()) < 0.05


@pytest.mark.parametrize("options", [{"order": 0}, {"order": 2.0}, {"variant": "bh3"}, {"corector": False}])
def test_bad_options(options):
    with pytest.raises(ValueError, match="unipc"):
        solvers.unipc(S, 4, **options)


@pytest.mark.parametrize("corrector", [True, False])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", STEPS)
def test_over_the_noise_it_is_algorithms_7_and_8(variant, order, steps, corrector):
    noise, model = points(), exact_denoiser(S)
    options = {"order": order, "variant": variant, "form": "epsilon", "corrector": corrector}
    plan = solvers.unipc(S, times=times(steps), prediction="sample", **options)
    agrees(plan.sample(model, noise), loops.unipc(S, times(steps), model, noise, lower_order_final=True, **options))


@pytest.mark.parametrize("form", ["sample", "epsilon"])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", STEPS)
def test_unip_singlestep(form, variant, order, steps):
    noise, model = points(), exact_denoiser(S)
    options = {"order": order, "variant": variant, "form": form}
    plan = solvers.unipc(S, times=times(steps), prediction="sample", method="singlestep", corrector=False, **options)
    assert plan.calls == order * steps
    agrees(plan.sample(model, noise), loops.unip_singlestep(S, times(steps), model, noise, **options))


def dpmpp_2m(x, s, t, history):
    """Algorithm 2 of DPM-Solver++ as a step."""
    (_, m0), *older = history
    h = S.lam(t) - S.lam(s)
    d = m0
    if older and t != times(9)[-1]:
        r = (S.lam(s) - S.lam(older[0][0])) / h
        d = (1 + 1 / (2 * r)) * m0 - 1 / (2 * r) * older[0][1]
    return S.sigma(t) / S.sigma(s) * x - S.alpha(t) * math.expm1(-h) * d


def ddim(x, s, t, history):
    x0 = history[0][1]
    return S.alpha(t) * x0 + S.sigma(t) * (x - S.alpha(s) * x0) / S.sigma(s)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("name", "step"), [("ddim", ddim), ("euler", ddim), ("dpmpp", dpmpp_2m)])
def test_unic_corrects_any_solver(name, step, order, variant, steps):
    noise, model = points(), exact_denoiser(S)
    plan = solvers.unic(S, times=times(steps), prediction="sample", solver=name, order=order, variant=variant)
    assert plan.calls == steps
    agrees(plan.sample(model, noise), loops.unic(S, times(steps), model, noise, step, order, variant, True))


@pytest.mark.parametrize("form", ["sample", "epsilon"])
@pytest.mark.parametrize(("corrector", "order"), [(c, o) for c in (True, False) for o in (1, 2, 3, 4)])
def test_order_with_and_without_corrector(form, corrector, order):
    expected = order + corrector
    found = slope(solvers.unipc, S, grid=in_log_snr(S), order=order, form=form, corrector=corrector)
    assert expected - (0.3 if expected < 5 else 0.6) <= found <= expected + 0.5


@pytest.mark.parametrize("form", ["sample", "epsilon"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_order_of_unip_singlestep(form, order):
    options = {"order": order, "form": form, "method": "singlestep", "corrector": False}
    assert order - 0.3 <= slope(solvers.unipc, S, grid=in_log_snr(S), **options) <= order + 0.5


def test_singlestep_has_orders_up_to_three():
    """With points at equal parts, each reached by UniP from those before, a fourth would be of second order only."""
    with pytest.raises(ValueError, match="singlestep"):
        solvers.unipc(S, 4, order=4, method="singlestep")


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp", 2)])
def test_unic_adds_an_order(name, order):
    found = slope(solvers.unic, S, grid=in_log_snr(S), solver=name, order=order)
    assert order + 0.7 <= found <= order + 1.5


@pytest.mark.parametrize("name", ["deis", "lms", "rho_ab", "ipndm"])
def test_unic_on_solvers_over_the_noise(name):
    """Their predictions are read as noise; the corrector has to know."""
    found = errors(solvers.unic, S, counts=(40,), solver=name)
    alone = errors(solvers.from_name(name), S, counts=(40,))
    assert found[0] < 3 * alone[0]


@pytest.mark.parametrize("steps", STEPS)
def test_unic_on_a_solver_with_inner_calls(steps):
    """The call at the begin of a step corrects the one before; Heun's second call, at the same time, does not."""
    noise, model = points(), exact_denoiser(S)
    plan = solvers.unic(S, times=times(steps), prediction="sample", solver="heun", order=1)
    assert plan.calls == 2 * steps
    x, before = S.sigma(1.0) * noise, None
    for s, t in itertools.pairwise(times(steps)):
        eps = (x - S.alpha(s) * model(x, at(s))) / S.sigma(s)
        if before is not None:  # UniC-1 over the noise: half of (e^h − 1) for the difference to the new prediction
            r, y, old = before
            step = -S.sigma(s) * math.expm1(S.lam(s) - S.lam(r))
            x = S.alpha(s) / S.alpha(r) * y + step * old + 0.5 * step * (eps - old)
        before = (s, x, eps)
        rise = S.ratio(t) - S.ratio(s)
        ahead = S.alpha(t) * (x / S.alpha(s) + rise * eps)
        second = (ahead - S.alpha(t) * model(ahead, at(t))) / S.sigma(t)
        x = S.alpha(t) * (x / S.alpha(s) + rise * 0.5 * (eps + second))
    agrees(plan.sample(model, noise), x)


@pytest.mark.parametrize(
    ("name", "options"),
    [("pndm", {}), ("dpm", {}), ("dpmpp", {"method": "singlestep", "order": 3}), ("rk4", {}), ("rho_rk", {"order": 3}),
     ("epd", {})],
)  # fmt: skip
def test_unic_leaves_inner_calls_alone(name, options):
    found = errors(solvers.unic, S, counts=(40,), solver=name, order=3, solver_options=options)
    alone = errors(solvers.from_name(name), S, counts=(40,), **options)
    assert found != alone
    assert found[0] < max(3 * alone[0], 2e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"solver": "ddpm"}, "stochastic"), ({"solver": "unipc"}, "corrector of its own"), ({"solver": "dpm_v3"}, "own"),
     ({"solver": "dpm_adaptive"}, "no table"), ({"solver": "heun", "solver_options": {"ode": "time"}}, "'flow'"),
     ({"solver_options": {"oder": 3}}, "dpmpp has no option oder"), ({"polynomial": "rho"}, "unic has no option")],
)  # fmt: skip
def test_unic_refuses_what_it_cannot_correct(options, message):
    with pytest.raises(ValueError, match=message):
        solvers.unic(schedules.flow(), 4, **options)


def test_the_solver_under_unic_has_options_of_its_own():
    plan = solvers.unic(S, 6, solver="dpmpp", order=2, solver_options={"order": 3, "variant": "exact"})
    assert plan.options["solver_options"] == {"order": 3, "variant": "exact"}
    assert plan.stages != solvers.unic(S, 6, solver="dpmpp", order=2).stages
