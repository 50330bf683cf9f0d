import pytest
import torch
from torch import nn

from pyaccel import caching
from pyaccel.caching.features import History, stub
from pyaccel.caching.how import taylor

from .architectures import numbers


class Block(nn.Module):
    """``after`` gets what the site returns, and may write into it."""

    def __init__(self, after, part):
        super().__init__()
        self.part, self.after = part, after

    def forward(self, x):
        return x + self.after(self.part(x))


class Model(nn.Module):
    def __init__(self, after, part=None):
        super().__init__()
        torch.manual_seed(0)
        parts = [part() if part else nn.Linear(8, 8) for _ in range(2)]
        self.blocks = nn.ModuleList(Block(after, p) for p in parts)

    def forward(self, x, t):
        for block in self.blocks:
            x = block(x)
        return x


def run(model, order=1, xs=None, mode=torch.no_grad):
    sites = [caching.Site(f"blocks.{i}.part", b.part) for i, b in enumerate(model.blocks)]
    with mode(), caching.taylorseer(model, interval=3, order=order, warmup=2, where=sites):
        xs = xs or [numbers(2, 4, 8, seed=i) for i in range(9)]
        return [model(x.clone(), 1 - i / 9).clone() for i, x in enumerate(xs)]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("order", [0, 2])
def test_a_model_that_writes_into_the_feature(order, mode):
    """It is noticed at the next full step, before anything is predicted, and copies are kept from then on."""
    expected = run(Model(lambda h: h * 2), order)
    got = run(Model(lambda h: h.mul_(2)), order, mode=mode)
    plain = [Model(lambda h: h * 2)(numbers(2, 4, 8, seed=i), 0) for i in range(9)]
    for i in (0, 1, 4, 7):  # full steps are exact whatever was predicted before
        torch.testing.assert_close(got[i], plain[i])
    # In inference mode nothing tells of writing, so copies are kept from the start.
    if mode is torch.inference_mode or order == 0:
        torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got[8], expected[8])


class Pair(nn.Module):
    def __init__(self, container):
        super().__init__()
        self.linear, self.container = nn.Linear(8, 16), container

    def forward(self, x):
        a, b = self.linear(x).chunk(2, dim=-1)
        return self.container(a, b)


@pytest.mark.parametrize(
    ("container", "total"),
    [
        (lambda a, b: (a, b, None), lambda h: h[0] - h[1]),
        (lambda a, b: [a, b], lambda h: h[0] - h[1]),
        (lambda a, b: {"a": a, "b": (b,)}, lambda h: h["a"] - h["b"][0]),
    ],
    ids=["tuple", "list", "dict"],
)
def test_nested_features(container, total):
    expected = run(Model(lambda h: h, lambda: nn.Sequential(Pair(lambda a, b: a - b))))
    assert all(
        torch.allclose(a, b, atol=1e-5)
        for a, b in zip(run(Model(total, lambda: Pair(container))), expected, strict=True)
    )


def test_a_view_does_not_keep_its_parent_alive():
    parent, history = torch.randn(100, 8), History()
    history.push(0, 0, parent[:2], taylor(0))
    assert history.storage.features[0][0].untyped_storage().nbytes() == 2 * 8 * 4
    history.push(1, 1, whole := torch.randn(4, 6).t(), taylor(0))
    assert history.storage.features[0][0] is whole


def test_another_resolution_inside_of_a_run_computes_in_full():
    class Growing(Model):
        def forward(self, x, t):
            return super().forward(x.repeat(1, 2, 1) if t < 0.75 else x, t)

    model, plain = Growing(lambda h: h), Growing(lambda h: h)
    xs = [numbers(2, 4, 8, seed=i) for i in range(9)]
    got = run(model, order=2, xs=xs)
    assert torch.equal(got[3], plain(xs[3], 1 - 3 / 9))  # a step that would have been predicted
    assert [y.shape[1] for y in got] == [4] * 3 + [8] * 6


def test_stub():
    tensor, none, (inner,) = stub((torch.randn(2, 3, 4), None, [torch.randn(5)]))
    assert tensor.shape == (2, 3, 0)
    assert none is None
    assert inner.shape == (0,)
