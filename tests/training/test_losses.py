import pytest
import torch
from torch import nn

from pyaccel import schedules
from pyaccel.seeding import step_generator
from pyaccel.training import losses


class Oracle(nn.Module):
    """Knows the images, and so the target, from x and t."""

    classes = 10

    def __init__(self, images, schedule, prediction):
        super().__init__()
        self.images, self.schedule, self.prediction, self.labels = images, schedule, prediction, None

    def forward(self, x, t, label):
        self.labels = label
        alpha, sigma = (f(t).float().view(-1, 1, 1, 1) for f in (self.schedule.alpha, self.schedule.sigma))
        noise = (x - alpha * self.images) / sigma
        return {"flow": noise - self.images, "epsilon": noise, "sample": self.images}[self.prediction]


@pytest.mark.parametrize(("schedule", "prediction"), [("flow", "flow"), ("vp_linear", "epsilon"), ("flow", "sample")])
def test_the_right_answer_has_no_loss(schedule, prediction):
    images = torch.randn(64, 1, 4, 4).clamp(-1, 1)
    model = Oracle(images, schedules.from_name(schedule), prediction)
    loss = losses.denoising(model.schedule, prediction, losses.uniform_times)
    value = loss(model, images, torch.zeros(64, dtype=torch.long), step_generator(0, 0))
    assert float(value) < 1e-6
    wrong = Oracle(images + 0.5, schedules.from_name(schedule), prediction)
    assert float(loss(wrong, images, torch.zeros(64, dtype=torch.long), step_generator(0, 0))) > 0.1


def test_labels_are_dropped():
    images = torch.zeros(2000, 1, 1, 1)
    model = Oracle(images, schedules.flow(), "flow")
    loss = losses.denoising(model.schedule, "flow", losses.logit_normal_times, label_dropout=0.25)
    loss(model, images, torch.full((2000,), 3), step_generator(0, 0))
    assert set(model.labels.tolist()) == {3, 10}
    assert float((model.labels == 10).float().mean()) == pytest.approx(0.25, abs=0.04)


def test_times():
    t = losses.uniform_times(1000, step_generator(0, 0))
    counts = torch.histc(t, 10, 0, 1)
    assert counts.min() >= 99
    assert counts.max() <= 101
    t = losses.logit_normal_times(20000, step_generator(0, 0), mean=-0.5, std=0.8)
    logits = torch.log(t / (1 - t))
    assert float(logits.mean()) == pytest.approx(-0.5, abs=0.03)
    assert float(logits.std()) == pytest.approx(0.8, abs=0.03)


def test_classification_prefers_the_right_class():
    class Fixed(nn.Module):
        def __init__(self, right):
            super().__init__()
            self.right = right

        def forward(self, x):
            logits = torch.zeros(len(x), 10)
            logits[:, 2 if self.right else 5] = 5.0
            return logits

    images, labels = torch.randn(4, 1, 28, 28), torch.full((4,), 2)
    good, bad = (losses.classification(Fixed(r), images, labels, step_generator(0, 0)) for r in (True, False))
    assert float(good) < float(bad) - 1
