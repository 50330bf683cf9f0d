"""What the tests of distillation share: a small smooth network, and the formulas of schedules and predictions by hand.

Nothing here calls pyaccel's schedules, predictions or losses: it is what they are compared with, in float64.
"""

import math

import torch
from torch import nn

from pyaccel import Denoiser, schedules
from pyaccel.training.batch import Batch
from pyaccel.training.recipe import Networks

KINDS = [("flow", "flow"), ("vp_linear", "epsilon"), ("vp_cosine", "v")]


class Small(nn.Module):
    """``forward(x, t, label=None, to=None)`` for x [b, 3, 2] of float64; smooth; ``hidden`` is a list of layers."""

    classes = 4

    def __init__(self, seed: int = 0, width: int = 8, second_time: bool = False):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.hidden = nn.ModuleList([nn.Linear(9, width), nn.Linear(width, width)])
        self.last, self.label = nn.Linear(width, 6), nn.Embedding(self.classes + 1, width)
        self.double()
        self.second_time = second_time
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64))

    def add_second_time(self):
        self.second_time = True

    def forward(self, x, t, label=None, to=None):
        if to is not None and not self.second_time:
            raise ValueError("one time only")
        h = torch.cat([x.flatten(1), t[:, None], (t if to is None else to)[:, None], (t * t)[:, None]], dim=1)
        h = self.hidden[0](h)
        if label is not None:
            h = h + self.label(label)
        return self.last(torch.tanh(self.hidden[1](torch.sin(h)))).view(x.shape)


def data(count: int = 7, seed: int = 1, labels: bool = True) -> tuple[torch.Tensor, dict]:
    """x [count, 3, 2] and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.7 * torch.randn(count, 3, 2, generator=generator, dtype=torch.float64) + 0.3
    return x, {"label": torch.randint(0, 4, (count,), generator=generator)} if labels else {}


def denoiser(kind: tuple[str, str], seed: int = 0, **options) -> Denoiser:
    """A Denoiser of a :class:`Small` network."""
    network = Small(seed, second_time=options.pop("second_time", False))
    return Denoiser(network, schedules.from_name(kind[0]), kind[1], unconditional={"label": 4}, **options)


def networks(**named) -> Networks:
    """As a recipe is given them, by default without averages."""
    return Networks(**{"ema": {}, **named})


def twice(**settings) -> tuple[Batch, Batch]:
    """Two batches with the same random numbers: one for the recipe, one for the reference."""
    x, labels = data()
    settings = {"steps": 1000, **settings}
    return Batch(x, labels, **settings), Batch(x, labels, **settings)


def wide(numbers: torch.Tensor) -> torch.Tensor:
    """[b] as [b, 1, 1]."""
    return numbers[:, None, None]


def alpha(schedule: str, t: torch.Tensor) -> torch.Tensor:
    if schedule == "flow":
        return 1 - t
    if schedule == "vp_linear":  # exp(−½∫beta), beta from 0.1 to 20
        return torch.exp(-0.5 * (0.1 * t + 0.5 * 19.9 * t * t))
    return torch.cos(math.pi / 2 * (t + 0.008) / 1.008) / math.cos(math.pi / 2 * 0.008 / 1.008)


def sigma(schedule: str, t: torch.Tensor) -> torch.Tensor:
    return t if schedule == "flow" else torch.sqrt(1 - alpha(schedule, t) ** 2)


def time_of_ratio(schedule: str, ratio: torch.Tensor) -> torch.Tensor:
    """The time with sigma/alpha = ratio [b], by bisection."""
    low, high = torch.zeros_like(ratio), torch.ones_like(ratio)
    for _ in range(80):
        middle = 0.5 * (low + high)
        less = sigma(schedule, middle) < ratio * alpha(schedule, middle)
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    return 0.5 * (low + high)


def sample_and_noise(kind: tuple[str, str], network, x, t, **conditioning) -> tuple[torch.Tensor, torch.Tensor]:
    """(x0, eps) that a network says of x [b, 3, 2] at t [b]."""
    schedule, prediction = kind
    a, s, output = wide(alpha(schedule, t)), wide(sigma(schedule, t)), network(x, t, **conditioning)
    if prediction == "flow":  # x = (1 − t)·x0 + t·eps, output eps − x0
        return x - s * output, x + a * output
    if prediction == "epsilon":
        return (x - s * output) / a, output
    return a * x - s * output, s * x + a * output


def gradients(loss: torch.Tensor, *networks_) -> list[torch.Tensor]:
    """Of a loss by all parameters."""
    parameters = [p for n in networks_ for p in getattr(n, "model", n).parameters()]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def assert_agree(loss, expected, *networks_, rtol: float = 1e-8) -> None:
    """Value and gradients are the same, and the gradients are not nothing."""
    torch.testing.assert_close(loss, expected, rtol=rtol, atol=1e-12)
    mine, theirs = gradients(loss, *networks_), gradients(expected, *networks_)
    size = max(float(g.abs().max()) for g in theirs)
    assert size > 1e-6
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * size)


def slope(f, x, t, v, h: float = 1e-4) -> torch.Tensor:
    """df(x + ε·v, t + ε)/dε at 0 by central differences of the sixth order."""
    total = torch.zeros_like(x)
    for factor, k in ((45, 1), (-9, 2), (1, 3)):
        total = total + factor * (f(x + k * h * v, t + k * h) - f(x - k * h * v, t - k * h))
    return total / (60 * h)


def all_losses(recipe, networks_, batch) -> dict:
    """The losses by name."""
    return dict(recipe.losses(networks_, batch))


def in_parts(recipe, networks_, *, count: int = 3, step: int = 0, size: int = 12, noise=None) -> None:
    """Asserts that a batch cut into parts, as ranks have them, has the losses and gradients of the whole."""
    x, labels = data(size)
    modules = [getattr(n, "model", n) for n in vars(networks_).values() if not isinstance(n, dict)]

    def run(places):
        part = slice(places.start, places.stop)
        some = {name: value[part] for name, value in labels.items()}
        given = None if noise is None else noise[part]
        batch = Batch(x[part], some, step=step, steps=1000, seed=3, places=places, size=size, noise=given)
        return [(loss.detach(), gradients(loss, *modules)) for _, loss in recipe.losses(networks_, batch)]

    whole = run(range(size))
    n = size // count
    parts = [run(range(i * n, (i + 1) * n)) for i in range(count)]
    for number, (loss, grads) in enumerate(whole):
        torch.testing.assert_close(torch.stack([p[number][0] for p in parts]).mean(), loss, rtol=1e-10, atol=1e-12)
        for place, gradient in enumerate(grads):
            mean = torch.stack([p[number][1][place] for p in parts]).mean(0)
            torch.testing.assert_close(mean, gradient, rtol=1e-9, atol=1e-11)


def gaussian_sample(x, alpha_t, sigma_t, mean: float, std: float):
    """E[x0 | x] for Gaussian data N(mean, std²)."""
    variance = alpha_t**2 * std**2 + sigma_t**2
    return mean + alpha_t * std**2 / variance * (x - alpha_t * mean)


def gaussian_map(x, alpha_t, sigma_t, mean: float, std: float):
    """Where the probability flow from x leads for Gaussian data: standardised, x stays what it is."""
    return mean + std * (x - alpha_t * mean) / (alpha_t**2 * std**2 + sigma_t**2) ** 0.5


def by_hand(head, features, c):
    """The logits [b, places] of a head of a discriminator."""
    if features.dim() == 2:
        x = features[:, :, None, None]
    elif features.dim() == 3:
        side = round(features.shape[1] ** 0.5)
        rows, columns = (side, side) if side**2 == features.shape[1] else (1, features.shape[1])
        x = features.permute(0, 2, 1).reshape(len(features), -1, rows, columns)
    else:
        x = features

    def normed(h, norm):
        grouped = h.reshape(len(h), norm.num_groups, -1)
        mean, variance = grouped.mean(-1, keepdim=True), grouped.var(-1, keepdim=True, correction=0)
        grouped = ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(h.shape)
        h = grouped * norm.weight[:, None, None] + norm.bias[:, None, None]
        return torch.maximum(h, 0.2 * h)

    def convolved(h, conv):  # with a frame of zeros
        n, (_, _, rows, columns) = conv.weight.shape[-1], h.shape
        framed = h.new_zeros(*h.shape[:2], rows + n - 1, columns + n - 1)
        framed[:, :, n // 2 : n // 2 + rows, n // 2 : n // 2 + columns] = h
        total = conv.bias[None, :, None, None].expand(len(h), -1, rows, columns)
        for i in range(n):
            for j in range(n):
                part = framed[:, :, i : i + rows, j : j + columns]
                total = total + torch.einsum("oc,bchw->bohw", conv.weight[:, :, i, j], part)
        return total

    h = normed(convolved(x, head.first), head.first_norm)
    h = (h + normed(convolved(h, head.second), head.second_norm)) / 2**0.5
    logits = (h * head.score.weight[0]).sum(1) + head.score.bias
    if c is not None:
        projected = c @ head.project.weight.T + head.project.bias
        logits = logits + (h * projected[:, :, None, None]).sum(1) / h.shape[1] ** 0.5
    return logits.flatten(1)


def discriminator_by_hand(made, features, t, conditioning, real: int = 0):
    """(logits of each head, the sum over heads of mean ‖∇ Σ logits‖² at the first ``real`` samples)."""
    c = 0.0
    if made.label is not None:
        c = c + made.label.weight[conditioning["label"]]
    for name in made.given:
        value = conditioning[name]
        value = value if value.dim() == 2 else value.mean(1)
        c = c + value @ made.projections[name].weight.T + made.projections[name].bias
    if made.time is not None:
        angles = 1000 * t[:, None] * 10_000.0 ** (-torch.arange(32, dtype=t.dtype) / 32)
        first, _, last = made.time
        h = torch.cat([angles.cos(), angles.sin()], 1) @ first.weight.T + first.bias
        c = c + (h * torch.sigmoid(h)) @ last.weight.T + last.bias
    c = c if isinstance(c, torch.Tensor) else None
    logits, penalty = [], 0.0
    for head, f in zip(made.heads, features, strict=True):
        f = f if f.requires_grad else f.detach().clone().requires_grad_()
        logits.append(by_hand(head, f, c))
        for i in range(real):
            (gradient,) = torch.autograd.grad(logits[-1][i].sum(), f, create_graph=True)
            penalty = penalty + gradient[i].square().sum() / real
    return logits, penalty


class Shifted(nn.Module):
    """From pure noise one number more than it: x0 = eps + shift, as a flow; [b, 4] or any shape."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.0))

    def forward(self, x, t):
        return -self.shift.expand_as(x) * torch.ones_like(t)[:, None]


class Exact(nn.Module):
    """The flow of data N(mean(), 1) of [b, 4]; with features for a discriminator that it does not use itself."""

    def __init__(self, mean):
        super().__init__()
        self.mean = mean
        self.hidden = nn.ModuleList([nn.Linear(5, 16), nn.Linear(16, 16)])

    def forward(self, x, t):
        self.hidden[1](torch.tanh(self.hidden[0](torch.cat([x, t[:, None]], 1))))
        a, s = 1 - t[:, None], t[:, None]
        x0 = gaussian_sample(x, a, s, self.mean(), 1.0)
        return (x - a * x0) / s - x0


def played(recipe, networks_, told, *, steps: int = 90, rates: tuple[float, float] = (0.06, 0.02)):
    """(the student's shift, ``told()``) after each step of a training on data N(2, 1) of [64, 4]."""
    first_two = [(name, network) for name, network in vars(networks_).items() if name != "ema"][:2]
    optimizers = {
        name: torch.optim.Adam(getattr(network, "model", network).parameters(), rate, betas=(0.5, 0.9))
        for (name, network), rate in zip(first_two, rates, strict=True)
    }
    for step in range(steps):
        generator = torch.Generator().manual_seed(1000 + step)
        for name, loss in recipe.losses(networks_, Batch(2 + torch.randn(64, 4, generator=generator), step=step)):
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            if loss.requires_grad:
                loss.backward()
                optimizers[name].step()
        yield float(networks_.student.model.shift.detach()), told()
