import pytest
import torch

from pyaccel import schedules, solvers
from pyaccel.solvers.recycling import LARGE, Recycler

FLOW = schedules.flow()
SHAPE = (1, 4, 256, LARGE // 4096)  # just large enough


def network(x, t):
    return torch.tanh(x)


def test_memory_is_used_again():
    seen = []

    def model(x, t):
        seen.append(x.data_ptr())
        return torch.tanh(x)

    solvers.ddim(FLOW, 12).sample(model, torch.randn(SHAPE))
    assert len(set(seen)) <= 4


@pytest.mark.parametrize("keep", [lambda x: x, lambda x: x[:, :1], lambda x: x.numpy(), lambda x: x.detach()])
@pytest.mark.parametrize("name", ["ddim", "unipc", "heun"])
def test_what_somebody_kept_does_not_change(name, keep):
    kept = []

    def model(x, t):
        view = keep(x)
        kept.append((view, torch.as_tensor(view).clone()))
        return torch.tanh(x)

    plan, noise = solvers.from_name(name)(FLOW, 5), torch.randn(SHAPE)
    result = plan.sample(model, noise)
    for view, copy in kept:
        assert torch.equal(torch.as_tensor(view), copy)
    assert torch.equal(result, plan.sample(network, noise))


def test_the_result_and_the_noise_are_not_taken():
    plan, noise = solvers.dpmpp(FLOW, 4), torch.randn(SHAPE)
    copy = noise.clone()
    first = plan.sample(network, noise)
    value = first.clone()
    plan.sample(network, noise)
    assert torch.equal(first, value)
    assert torch.equal(noise, copy)


def test_only_what_nobody_else_holds_is_taken_back():
    recycler = Recycler(torch.empty(LARGE))
    assert recycler.active
    own = torch.empty(LARGE)
    place = own.data_ptr()
    other = own
    recycler.offer(own)
    assert recycler.new(own, own.dtype).data_ptr() != place
    del other
    recycler.offer(own)
    assert recycler.new(own, own.dtype).data_ptr() == place
    assert not Recycler(torch.empty(10)).active
