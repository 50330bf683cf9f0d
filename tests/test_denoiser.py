import math

import pytest
import torch

from pyaccel import Denoiser, schedules
from pyaccel.denoiser import Run, StepContext, announce, current_context

FLOW = schedules.flow()


def network(x, t, label):
    return x * label.view(-1, 1).to(x.dtype) + t.view(-1, 1).to(x.dtype)


def test_guided_call_is_the_weighted_sum():
    x, t, label = torch.randn(3, 4), torch.rand(3), torch.tensor([1, 2, 3])
    null = torch.full_like(label, 7)
    expected = 2.5 * network(x, t, label) - 1.5 * network(x, t, null)
    for batched in (True, False):
        denoiser = Denoiser(network, FLOW, "flow", 2.5, {"label": 7}, batched)
        torch.testing.assert_close(denoiser(x, t, label=label), expected)
    w = torch.tensor([1.0, 2.0, 0.0])
    per_sample = w[:, None] * network(x, t, label) + (1 - w[:, None]) * network(x, t, null)
    torch.testing.assert_close(Denoiser(network, FLOW, "flow", w, {"label": 7})(x, t, label=label), per_sample)


def test_without_guidance_there_is_one_pass():
    calls = []

    def model(x, t, label):
        calls.append(len(x))
        return network(x, t, label)

    Denoiser(model, FLOW, "flow")(torch.randn(3, 4), torch.rand(3), label=torch.ones(3))
    assert calls == [3]


def test_branches_are_announced_when_made_one_after_the_other():
    seen = []

    def model(x, t, label):
        seen.append(current_context().branch)
        return network(x, t, label)

    denoiser = Denoiser(model, FLOW, "flow", 2.0, {"label": 7}, batched=False)
    with announce(StepContext(Run(), 0, 1, 1.0)):
        denoiser(torch.randn(2, 4), torch.rand(2), label=torch.ones(2))
    assert seen == ["cond", "uncond"]


def test_dtype_is_that_of_the_networks_input():
    seen = []
    denoiser = Denoiser(lambda x, t: seen.append(x.dtype) or x, FLOW, "flow", dtype=torch.bfloat16)
    denoiser(torch.randn(2, 4), torch.rand(2))
    assert seen == [torch.bfloat16]


def test_what_has_no_batch_is_handed_on():
    def model(x, t, label, scale, name):
        assert (scale, name) == (2.0, "a")
        return network(x, t, label) * scale

    x, t, label = torch.randn(3, 4), torch.rand(3), torch.tensor([1, 2, 3])
    one, other = (
        Denoiser(model, FLOW, "flow", 2.5, {"label": 7}, batched)(x, t, label=label, scale=2.0, name="a")
        for batched in (True, False)
    )
    torch.testing.assert_close(one, other)


def test_an_unconditional_value_of_each_sample_serves_several_calls_at_once():
    null = torch.tensor([7, 8])
    x, t, label = torch.randn(4, 3), torch.rand(4), torch.tensor([1, 2, 1, 2])
    got = Denoiser(network, FLOW, "flow", 2.5, {"label": null})(x, t, label=label)
    torch.testing.assert_close(got, 2.5 * network(x, t, label) - 1.5 * network(x, t, null.repeat(2)))


def test_errors():
    x, t, label = torch.randn(3, 4), torch.rand(3), torch.tensor([1, 2, 3])
    with pytest.raises(ValueError, match="given for 2 samples, x has 3"):
        Denoiser(network, FLOW, "flow", torch.ones(2), {"label": 7})(x, t, label=label)
    with pytest.raises(ValueError, match=r"batched=False"):
        Denoiser(network, FLOW, "flow", 2.0, {"label": 7})(x, t, label=5)
    with pytest.raises(ValueError, match=r"unconditional\['label'\] of shape \[2\] does not expand"):
        Denoiser(network, FLOW, "flow", 2.0, {"label": torch.ones(2)})(x, t, label=label)
    with pytest.raises(ValueError, match="velocity"):
        Denoiser(network, FLOW, "velocity")
    with pytest.raises(ValueError, match="unconditional"):
        Denoiser(network, FLOW, "flow", 2.0)
    with pytest.raises(ValueError, match="finite"):
        Denoiser(network, FLOW, "flow", math.nan, {"label": 7})
    with pytest.raises(ValueError, match="guidance tensor"):
        Denoiser(network, FLOW, "flow", torch.ones(2, 2), {"label": 7})
    with pytest.raises(ValueError, match="label"):
        Denoiser(network, FLOW, "flow", 2.0, {"label": 7})(torch.randn(2, 4), torch.rand(2))


def test_a_learned_variance_is_split_off():
    def model(x, t):
        return torch.cat([2 * x, 100 + x], dim=1)

    x, t = torch.randn(2, 3, 4), torch.rand(2)
    denoiser = Denoiser(model, schedules.vp_linear(), "epsilon", learned_variance=True)
    assert torch.equal(denoiser(x, t), 2 * x)
    single = Denoiser(lambda x, t: x, schedules.vp_linear(), "epsilon", learned_variance=True)
    with pytest.raises(ValueError, match="twice the channels"):
        single(x, t)
