"""A predicted branch of our own DiT: prediction, gate and residual in one pass, and the same as in three."""

import dataclasses

import pytest
import torch

from pyaccel import caching, ops
from pyaccel.denoiser import Run, StepContext, announce
from pyaccel.models import DiT


def outputs(model, gated: bool, memory) -> tuple[list[torch.Tensor], object]:
    sites = [dataclasses.replace(site, gated=gated) for site in caching.branches(model)]
    x, t = torch.randn(3, 1, 12, 12, generator=torch.Generator().manual_seed(0)), torch.ones(3)
    cache = caching.attach(
        "test", model, where=sites, when=caching.every(4, after=3), how=caching.taylor(2), memory=memory
    )
    results = []
    with cache:
        run = Run()
        for i in range(9):
            with announce(StepContext(run, i, 9, 1 - i / 9)):
                results.append(model(x * (1 - i / 20), t * (1 - i / 9), torch.tensor([0, 1, 2])))
    return results, cache.summary()


@pytest.fixture
def model():
    torch.manual_seed(0)
    dit = DiT(size=12, width=32, depth=3, heads=4)
    for p in dit.parameters():  # adaLN-zero would make every branch nothing
        torch.nn.init.normal_(p, std=0.2)
    return dit.requires_grad_(False)


@pytest.mark.parametrize("memory", [None, "int8", "bf16"])
def test_it_is_the_same_as_prediction_gate_and_residual(model, memory):
    # With fewer bits a prediction that is a tensor of its own is rounded to the branch's type first.
    tolerance = {None: 1e-5, "int8": 1e-3, "bf16": 1e-3}[memory]
    for got, expected in zip(outputs(model, True, memory)[0], outputs(model, False, memory)[0], strict=True):
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def test_it_is_one_pass(model, monkeypatch):
    """No tensor of the prediction alone is made."""
    passes, gated = [], ops.gated_combination

    def noticed(residual, gate, tensors, weights, **rest):
        passes.append((residual is not None, gate is not None, len(tensors)))
        return gated(residual, gate, tensors, weights, **rest)

    monkeypatch.setattr("pyaccel.caching.storage.ops.gated_combination", noticed)
    monkeypatch.setattr("pyaccel.caching.storage.ops.linear_combination", None)
    _, summary = outputs(model, True, None)
    assert len(passes) == (summary.calls - summary.full_calls) * 6 > 0
    assert all(residual and gate for residual, gate, _ in passes)
    assert max(count for *_, count in passes) == 3


def test_gradients_run_through_it(model):
    x = torch.randn(2, 1, 12, 12, requires_grad=True)
    with caching.attach("test", model, where=caching.branches(model), when=caching.every(3), how=caching.taylor(1)):
        run = Run()
        for i in range(2):
            with announce(StepContext(run, i, 4, 1 - i / 4)):
                y = model(x, torch.ones(2) * (1 - i / 4), torch.tensor([0, 1]))
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0
