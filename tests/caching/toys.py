"""Small models and runs on which a method is compared with its paper's rule, written out plainly."""

from __future__ import annotations

import torch
from torch import nn

from pyaccel.denoiser import Run, StepContext, announce
from pyaccel.models import DiT, UNet

STEPS = 12
LABEL = torch.arange(2)


def dit(depth: int = 5) -> DiT:
    torch.manual_seed(3)
    model = DiT(size=8, patch=4, width=16, depth=depth, heads=2).eval().requires_grad_(False)
    for layer in (*(b.modulation for b in model.blocks), model.modulation, model.head):
        nn.init.normal_(layer.weight, std=0.3)  # adaLN-zero would hide what a cache does
    return model


def unet() -> UNet:
    torch.manual_seed(3)
    model = UNet(size=8, width=8, multipliers=(1, 2), blocks=2).eval().requires_grad_(False)
    for p in model.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.2)
    return model


def inputs(steps: int = STEPS) -> list[torch.Tensor]:
    """Samples that move on a smooth way, as in a run."""
    a, b = (torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2))
    return [a + 0.2 * (i / steps) ** 2 * b for i in range(steps)]


def drive(call, xs: list[torch.Tensor]) -> list[torch.Tensor]:
    """``call(x, t, label)`` at each step of one announced run."""
    run, found = Run(), []
    for i, x in enumerate(xs):
        t = 0.5 - 0.004 * (i / len(xs)) ** 2
        with torch.no_grad(), announce(StepContext(run, i, len(xs), t)):
            found.append(call(x, torch.full((2,), t), LABEL))
    return found


class WithTrunk:
    """A DiT whose blocks are replaced by ``trunk(h, c)``."""

    def __init__(self, model: DiT, trunk):
        class Trunk(nn.Module):
            def forward(self, h, c):
                return trunk(h, c)

        self.model = DiT(size=8, patch=4, width=16, depth=1, heads=2).eval().requires_grad_(False)
        for name in ("embed", "conditioning", "norm", "modulation", "head"):
            setattr(self.model, name, getattr(model, name))
        self.model.position = model.position
        self.model.blocks = nn.ModuleList([Trunk()])

    def __call__(self, *args):
        return self.model(*args)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).abs().sum() / b.double().abs().sum())


def through(blocks, h, c):
    for block in blocks:
        h = block(h, c)
    return h


def equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5, msg=lambda text, i=i: f"step {i}: {text}")
