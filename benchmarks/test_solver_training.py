"""What a step of a solver's training costs beside the network: table, combinations, their gradients, the optimizer.

Beside it the same in plain PyTorch: coefficients as tensors by autograd, combinations as sums of products.
"""

import time

import pytest
import torch

from pyaccel import solvers, zoo
from pyaccel.solvers import TrainablePlan
from pyaccel.training.distances import l2

BATCH, CALLS = 24, 4


class Trivial:
    """A model that costs nothing, as far as that is possible, with the form of the real one."""

    def __init__(self, denoiser):
        self.prediction, self.weights, self.dtype = denoiser.prediction, denoiser.weights, None

    def branches(self, x, t, label=None):
        return [x]


def step(trainable, denoiser, optimizer, noise, label, target):
    optimizer.zero_grad()
    l2(trainable(denoiser, noise, label=label), target).mean().backward()
    torch.nn.utils.clip_grad_norm_(trainable.parameters(), 1.0)
    optimizer.step()


def plain_step(logits, coefficients, states, optimizer, noise, target):
    """GS for flow matching in eager PyTorch, of first order with weights of all predictions and samples."""
    optimizer.zero_grad()
    inner = torch.cumprod(torch.sigmoid(logits), 0)
    times = torch.cat([torch.ones(1), inner, torch.zeros(1)])
    x, xs, ms = noise, [], []
    for i in range(CALLS):
        s, t = times[i], times[i + 1]
        m = x - s * x
        xs.append(x)
        ms.append(m)
        x = t / s * x + (1 - t / s) * m
        for j in range(i + 1):
            x = x + coefficients[i, j] * ms[j] + states[i, j] * xs[j]
    (x - target).square().mean().backward()
    optimizer.step()


def seconds(f, count: int) -> float:
    """The best of five turns."""
    f()
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(count):
            f()
        best = min(best, (time.perf_counter() - begun) / count)
    return best


@pytest.mark.parametrize("model", ["fashion-dit", "fashion-unet"])
def test_arithmetic_beside_the_network(model, benchmark):
    denoiser = zoo.load(model)
    noise, target, label = torch.randn(BATCH, 1, 28, 28), torch.randn(BATCH, 1, 28, 28), torch.arange(BATCH) % 10
    trainable = TrainablePlan(solvers.dpmpp(denoiser.schedule, CALLS, order=3))
    optimizer = torch.optim.Adam(trainable.parameters(), lr=1e-5)
    trivial = Trivial(denoiser)
    alone = seconds(lambda: step(trainable, trivial, optimizer, noise, label, target), 20)
    whole = seconds(lambda: step(trainable, denoiser, optimizer, noise, label, target), 1)
    parameters = [torch.zeros(CALLS - 1), torch.zeros(CALLS, CALLS), torch.zeros(CALLS, CALLS)]
    parameters = [p.requires_grad_() for p in parameters]
    plain_optimizer = torch.optim.Adam(parameters, lr=1e-5)
    plain = seconds(lambda: plain_step(*parameters, plain_optimizer, noise, target), 20)
    benchmark.extra_info |= {
        "arithmetic ms": round(alone * 1e3, 3),
        "plain PyTorch ms": round(plain * 1e3, 3),
        "whole step ms": round(whole * 1e3, 1),
        "share": f"{100 * alone / whole:.2f} %",
    }
    print(model, benchmark.extra_info)
    benchmark(lambda: step(trainable, trivial, optimizer, noise, label, target))
