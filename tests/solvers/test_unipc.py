import pytest
import torch

from pyaccel import schedules, solvers

from ..mixture import exact_denoiser, times
from . import loops
from .convergence import slope

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


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_order_of_convergence(variant, order):
    assert slope(solvers.unipc, S, order=order, variant=variant) >= order - 0.3


def test_corrector_adds_an_order():
    assert slope(solvers.unipc, S, order=2) > slope(solvers.unipc, S, order=2, corrector=False) + 0.5


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
    fine = solvers.unipc(schedule, 300, **options).sample(model, noise)
    coarse = solvers.unipc(schedule, 30, **options).sample(model, noise)
    assert torch.isfinite(coarse).all()
    assert float((fine - coarse).abs().mean()) < 0.05


@pytest.mark.parametrize("options", [{"order": 0}, {"order": 2.0}, {"variant": "bh3"}, {"corector": False}])
def test_bad_options(options):
    with pytest.raises(ValueError, match="unipc"):
        solvers.unipc(S, 4, **options)
