import pytest
import torch
from torch import nn

from pyaccel import Denoiser, schedules
from pyaccel.distill import ConsistencyFM
from pyaccel.training.batch import Batch
from pyaccel.training.optimizers import Optimizer
from pyaccel.training.trainer import Trainer, TrainerConfig

from .references import all_losses, assert_agree, denoiser, gradients, in_parts, networks, twice

FLOW = ("flow", "flow")


def reference(recipe, student, teacher, batch):
    """Their loss sample by sample in the paper's time, tau = 1 − t, with the velocity data − noise."""
    data, noise, t_of = batch.x, batch.normal(), batch.uniform()
    ends = [(k + 1) / recipe.segments for k in range(recipe.segments)]
    losses = []
    for i in range(len(data)):
        label = batch.conditioning["label"][i : i + 1]

        def v(x, tau, label=label):
            return -student(x[None], torch.atleast_1d(1 - tau), label)[0]

        def line(tau, i=i):
            return tau * data[i] + (1 - tau) * noise[i]

        tau = 1 - t_of[i]
        after = torch.clamp(tau + recipe.delta, max=1.0)
        end = next(e for e in ends if tau <= e)
        x, x_after = line(tau), line(after)
        if recipe.source == "teacher":
            given, none = (teacher(x[None], 1 - tau[None], k)[0] for k in (label, torch.tensor([4])))
            x_after = (x - (after - tau) * (2.0 * given - none)).detach()
        v_after = v(x_after, after).detach()
        limit = 1 - recipe.boundary
        target = x_after + (end - after) * v_after if after < limit or limit == 1 else line(end)
        loss = (x + (end - tau) * v(x, tau) - target).square().mean()
        if tau < limit and end - tau > 1.01 * recipe.delta:
            loss = loss + recipe.alpha * (v(x, tau) - v_after).square().mean()
        losses.append(loss)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"boundary": 0.5, "delta": 0.3, "alpha": 0.7, "segments": 1},
        {"boundary": 1.0},
        {"boundary": 0.0, "segments": 1, "delta": 0.2, "alpha": 0.3},
        {"boundary": 0.0, "segments": 3, "delta": 0.2, "alpha": 0.5, "source": "teacher"},
    ],
    ids=["paper", "boundary", "flow matching", "one segment", "teacher"],
)
def test_loss(options, seed):
    recipe = ConsistencyFM(**options)
    student, teacher = denoiser(FLOW, 0), denoiser(FLOW, 1, guidance=2.0)
    mine, other = twice(seed=seed)
    loss = all_losses(recipe, networks(student=student, teacher=teacher), mine)["student"]
    expected = reference(recipe, student.model, teacher.model, other)
    assert_agree(loss, expected, student, rtol=1e-9)
    assert not any(g.any() for g in gradients(loss, teacher))


class Straight(nn.Module):
    """The velocity to the end of the segment of data N(mean, std²), where the flow leads to a known point."""

    mean, std, segments = 0.3, 0.5, 2

    def __init__(self, wrong=0.0):
        super().__init__()
        self.wrong = nn.Parameter(torch.tensor(wrong, dtype=torch.float64))

    def spread(self, t):
        return ((1 - t) ** 2 * self.std**2 + t**2).sqrt()

    def at(self, x, t, s):
        """The flow from t to s."""
        return (1 - s) * self.mean + self.spread(s) / self.spread(t) * (x - (1 - t) * self.mean)

    def forward(self, x, t):
        t = t[:, None, None]
        end = torch.floor(t * self.segments) / self.segments
        return (x - self.at(x, t, end)) / (t - end) + self.wrong * x


class Instantaneous(Straight):
    """The flow's velocity itself."""

    def forward(self, x, t):
        t, h = t[:, None, None], 1e-5
        return (self.at(x, t, t + h) - self.at(x, t, t - h)) / (2 * h)


def test_the_straight_velocity_of_a_gaussian_is_its_own_target():
    """Along the teacher's trajectories; the steps of Euler and the ends of segments leave errors of delta²."""
    x = 0.3 + 0.5 * torch.randn(64, 3, 2, dtype=torch.float64)

    def loss(wrong, recipe):
        made = {"student": Straight(wrong), "teacher": Instantaneous()}
        made = networks(**{name: Denoiser(n, schedules.flow(), "flow") for name, n in made.items()})
        found = all_losses(recipe, made, Batch(x))["student"]
        return float(found.detach()), float(gradients(found, made.student)[0].abs())

    recipe = ConsistencyFM(source="teacher", boundary=0.0, delta=1e-4, alpha=0.0)
    right, wrong = loss(0.0, recipe), loss(0.1, recipe)
    assert right[0] < 1e-13
    assert right[1] < 0.05 * wrong[1]


def test_parts():
    made = networks(student=denoiser(FLOW), teacher=denoiser(FLOW, 1))
    in_parts(ConsistencyFM(), made)
    in_parts(ConsistencyFM(source="teacher", boundary=0.0, delta=0.1), made, count=4)


def test_networks_and_errors():
    teacher = denoiser(FLOW)
    assert set(ConsistencyFM().networks(teacher)) == {"student"}
    made = ConsistencyFM(boundary=0.0, source="teacher").networks(teacher)
    assert set(made) == {"student", "teacher"}
    assert not made["student"].model.second_time
    with pytest.raises(ValueError, match="consistency-fm learns a flow map"):
        ConsistencyFM().networks(denoiser(("vp_cosine", "v")))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"segments": 0}, "segments of at least 1"),
        ({"delta": 0.5}, "delta between 0 and 1/segments"),
        ({"delta": 0.0}, "delta between 0"),
        ({"alpha": -1.0}, "alpha of at least 0"),
        ({"boundary": 1.1}, r"boundary in \[0, 1\]"),
        ({"source": "teacher"}, "take boundary=0"),
    ],
)
def test_settings(options, text):
    with pytest.raises(ValueError, match=text):
        ConsistencyFM(**options)


def test_sampling_is_one_step_a_segment():
    student, noise = denoiser(FLOW), torch.randn(3, 3, 2, dtype=torch.float64)
    plan = ConsistencyFM().plan(student, 2)
    assert plan.times == (1.0, 0.5, 0.0)
    x = noise
    for t in (1.0, 0.5):
        x = x - 0.5 * student.model(x, torch.full((3,), t).double())
    torch.testing.assert_close(plan.sample(student, noise).detach(), x.detach())


class Line:
    """The data: N(0.3, 0.5²) in one dimension."""

    shape, can_flip = (1,), False
    x = 0.3 + 0.5 * torch.randn(4096, 1, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return 4096

    def at(self, index, flip=None):
        return self.x[index], {}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 1))

    def forward(self, x, t):
        return self.layers(torch.cat([x, t[:, None]], dim=1))


def test_a_student_learns_the_map_of_a_gaussian_from_data(tmp_path):
    """One step, whose straight flow leads from z to 0.3 + 0.5·z; flow matching leads to the mean, 0.3, for all z."""
    torch.manual_seed(0)
    recipe = ConsistencyFM(Optimizer(1e-2, "adam", decay="cosine"), segments=1, delta=0.05, boundary=0.1)
    start = Denoiser(Net(), schedules.flow(), "flow")
    config = TrainerConfig(steps=500, batch_size=512, ema=(0.95,), bf16=False)
    trainer = Trainer(recipe, recipe.networks(start), Line(), config, tmp_path, checkpoint_seconds=1e9)
    trainer.fit(progress=False)
    student, z = trainer.denoiser(), torch.linspace(-1.5, 1.5, 21)[:, None]
    sample = recipe.plan(student, 1).sample(student, z)
    assert float((sample - (0.3 + 0.5 * z)).abs().max()) < 0.2
