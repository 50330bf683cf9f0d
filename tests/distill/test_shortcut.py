import dataclasses

import pytest
import torch
from torch import nn

from pyaccel import Denoiser, schedules
from pyaccel.distill import Shortcut
from pyaccel.distill.shortcut import shortcut_target
from pyaccel.training.batch import Batch
from pyaccel.training.trainer import Trainer, TrainerConfig

from .references import Small, all_losses, assert_agree, data, denoiser, gradients, in_parts, networks, twice

FLOW = ("flow", "flow")


def three(**options) -> dict:
    """A student, another network as its average, and a teacher."""
    student, average = (denoiser(FLOW, seed, second_time=True) for seed in (0, 2))
    return {"student": student, "ema": {"student": average}, "teacher": denoiser(FLOW, 1, **options)}


def reference(recipe, student, average, teacher, batch):
    """Algorithm 1 of Frans et al. sample by sample, in the paper's time: tau = 1 − t rises from noise to data."""
    x0, noise, tau_of = batch.x, batch.normal(), batch.uniform()
    drop = batch.uniform() if recipe.label_dropout else torch.ones(len(x0))
    sizes = [1 / 2**k for k in range(recipe.most_steps.bit_length())]
    errors = []
    for i in range(len(x0)):
        number = batch.step * len(x0) + i
        label = batch.conditioning["label"][i : i + 1]
        bootstrap = number % recipe.bootstrap_every == recipe.bootstrap_every - 1
        d = sizes[number // recipe.bootstrap_every % len(sizes)] if bootstrap else 0.0
        step = d or sizes[-1]
        tau = torch.floor(tau_of[i] / step) * step
        x = tau * x0[i] + (1 - tau) * noise[i]
        if not bootstrap:
            if drop[i] < recipe.label_dropout:
                label = torch.tensor([4])
            target = noise[i] - x0[i]
            if recipe.velocity == "teacher":
                given, none = (teacher(x[None], 1 - tau[None], k)[0] for k in (label, torch.tensor([4])))
                target = (2.0 * given - 1.0 * none).detach()
        else:
            halves, there, now = [], x, tau
            for _ in range(2):
                asked = 0.0 if d == sizes[-1] else d / 2

                def u(label, there=there, now=now, asked=asked):
                    t = 1 - now[None]
                    return average(there[None], t, label, to=t - asked)[0].detach()

                velocity = u(label)
                if asked == 0.0:
                    w = recipe.bootstrap_guidance
                    velocity = w * velocity + (1 - w) * u(torch.tensor([4]))
                halves.append(velocity)
                there = (there - d / 2 * velocity).clamp(-recipe.limit, recipe.limit)
                now = now + d / 2
            target = (sum(halves) / 2).clamp(-recipe.limit, recipe.limit)
        t = 1 - tau[None]
        errors.append((student(x[None], t, label, to=t - d)[0] - target).square().mean())
    return torch.stack(errors).mean()


@pytest.mark.parametrize("step", [0, 5])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_dropout": 0.0, "bootstrap_every": 2, "most_steps": 4},
        {"bootstrap_every": 2, "most_steps": 2, "bootstrap_guidance": 1.7, "label_dropout": 0.5},
        {"bootstrap_every": 3, "limit": 0.4, "most_steps": 4},
        {"velocity": "teacher", "bootstrap_every": 2, "most_steps": 8},
    ],
    ids=["paper", "often", "guided", "clamped", "teacher"],
)
def test_loss(options, step):
    recipe, made = Shortcut(**options), three(guidance=2.0)
    mine, other = twice(step=step)
    loss = all_losses(recipe, networks(**made), mine)["student"]
    student, average, teacher = made["student"], made["ema"]["student"], made["teacher"]
    expected = reference(recipe, student.model, average.model, teacher.model, other)
    assert_agree(loss, expected, student, rtol=1e-10)
    assert not any(g.any() for g in gradients(loss, average, teacher))


def test_sizes_share_the_batch_and_every_size_comes():
    student, x = denoiser(FLOW, second_time=True), data(16)
    seen = []
    student.model.register_forward_hook(
        lambda _module, inputs, named, _output: seen.append((inputs[1], inputs[1] - named["to"])), with_kwargs=True
    )
    made = networks(student=student, ema={"student": denoiser(FLOW, 1, second_time=True)})
    for step in range(4):
        all_losses(Shortcut(), made, Batch(*x, step=step))
    times, sizes = (torch.cat(column) for column in zip(*seen, strict=True))
    assert sorted(sizes[sizes > 0].tolist()) == [0.5**k for k in reversed(range(8))]
    assert len(sizes) == 64
    apart = sizes.clamp_min(1 / 128)
    places = (1 - times) / apart
    assert torch.equal(places, places.round())
    assert torch.all((times > 0) & (times <= 1) & (times >= sizes))


class Straight(nn.Module):
    """The flow whose velocity is ``speed`` everywhere: each shortcut is the velocity itself."""

    def __init__(self, speed):
        super().__init__()
        self.speed = nn.Parameter(torch.tensor(speed, dtype=torch.float64))

    def forward(self, x, t, to=None):
        return self.speed + 0 * x


def test_two_steps_of_a_known_flow():
    """For dx/dt = x the average of Euler's two half steps is x·(1 − d/4), for a straight flow the speed."""

    class Growth(nn.Module):
        def forward(self, x, t, to=None):
            return x

    x, d = torch.full((3, 1), 1.5, dtype=torch.float64), torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    t = torch.ones(3, dtype=torch.float64)
    for network, expected in [(Growth(), x * (1 - d[:, None] / 4)), (Straight(0.7), torch.full_like(x, 0.7))]:
        made = Denoiser(network, schedules.flow(), "flow")
        torch.testing.assert_close(shortcut_target(made, x, t, d, 0.25, {}).detach(), expected)
    made = Denoiser(Straight(9.0), schedules.flow(), "flow")
    assert torch.all(shortcut_target(made, x, t, d, 0.25, {}) == 4.0)


def test_parts():
    in_parts(Shortcut(bootstrap_every=4, most_steps=4), networks(**three()), count=4)  # some without any step
    in_parts(Shortcut(bootstrap_every=2, most_steps=2, bootstrap_guidance=2.0), networks(**three()), step=3)


def test_labels_are_not_needed():
    made, (x, _) = three(), data()
    losses = [
        all_losses(Shortcut(bootstrap_every=2, bootstrap_guidance=w), networks(**made), Batch(x))["student"]
        for w in (1.0, 3.0)
    ]
    assert torch.isfinite(losses[0])
    made["ema"]["student"] = dataclasses.replace(made["ema"]["student"], unconditional={})
    x, label = data()
    losses = [
        all_losses(Shortcut(bootstrap_every=2, bootstrap_guidance=w), networks(**made), Batch(x, label))["student"]
        for w in (1.0, 3.0)
    ]
    torch.testing.assert_close(*losses)


def test_networks_and_errors():
    teacher = denoiser(FLOW)
    scratch, kept = (Shortcut(initial=i).networks(teacher)["student"].model for i in ("random", "teacher"))
    assert scratch.second_time
    assert torch.equal(kept.last.weight, teacher.model.last.weight.float())
    assert not torch.isclose(scratch.last.weight, teacher.model.last.weight.float()).any()
    assert set(Shortcut(velocity="teacher").networks(teacher)) == {"student", "teacher"}
    with pytest.raises(ValueError, match="shortcut learns a flow map"):
        Shortcut().networks(denoiser(("vp_cosine", "v")))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"most_steps": 96}, "power of two above 1, got 96"),
        ({"most_steps": 1}, "power of two"),
        ({"bootstrap_every": 1}, "bootstrap_every of at least 2"),
        ({"label_dropout": 1.0}, "label_dropout in"),
        ({"limit": 0.0}, "limit > 0"),
        ({"bootstrap_guidance": float("nan")}, "finite bootstrap_guidance"),
    ],
)
def test_settings(options, text):
    with pytest.raises(ValueError, match=text):
        Shortcut(**options)


def test_what_is_trained_is_what_is_sampled():
    """The plan's steps are the sizes of the training: x − d·u(x, t, to = t − d)."""
    student, network = denoiser(FLOW, second_time=True), Small(0, second_time=True)
    x = noise = torch.randn(3, 3, 2, dtype=torch.float64)
    plan = Shortcut().plan(student, 4)
    for t in (1.0, 0.75, 0.5, 0.25):
        now = torch.full((3,), t).double()
        x = x - 0.25 * network(x, now, to=now - 0.25)
    torch.testing.assert_close(plan.sample(student, noise).detach(), x.detach())


class Points:
    """Two points in one dimension, as data."""

    shape, can_flip = (1,), False

    def __len__(self):
        return 4096

    def at(self, index, flip=None):
        return torch.where(index[:, None] % 2 == 0, -1.0, 1.0), {}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 1))

    def add_second_time(self):
        pass

    def forward(self, x, t, to):
        return self.layers(torch.cat([x, t[:, None], (t - to)[:, None], (t - to)[:, None].sqrt()], dim=1))


def test_a_student_of_two_points_learns_one_step(tmp_path):
    """From random weights and data alone; the one step of plain flow matching leads to the mean of both, 0."""
    torch.manual_seed(0)
    recipe = Shortcut(dataclasses.replace(Shortcut().student, learning_rate=5e-3, decay="cosine"), most_steps=8)
    start = Denoiser(Net(), schedules.flow(), "flow")
    config = TrainerConfig(steps=400, batch_size=512, ema=(0.95,), bf16=False)
    trainer = Trainer(recipe, recipe.networks(start), Points(), config, tmp_path, checkpoint_seconds=1e9)
    trainer.fit(progress=False)
    student, noise = trainer.denoiser(), torch.randn(1000, 1, generator=torch.Generator().manual_seed(1))
    sample = recipe.plan(student, 1).sample(student, noise)
    assert float((sample.abs() - 1).abs().mean()) < 0.4  # the mean of both is 1 away
    assert float((sample * noise > 0).float().mean()) > 0.9


def test_guidance_needs_a_teacher_without_condition():
    teacher = dataclasses.replace(denoiser(FLOW), unconditional={})
    with pytest.raises(ValueError, match=r"bootstrap_guidance=1.5 guides its velocities"):
        Shortcut(bootstrap_guidance=1.5).networks(teacher)
    Shortcut().networks(teacher)
