import math

import pytest
import torch
from torch import nn

from pyaccel import Denoiser, schedules
from pyaccel.training.batch import Batch
from pyaccel.training.losses import Classification, Denoising, classification_loss, denoising_loss
from pyaccel.training.recipe import Networks


class Oracle(nn.Module):
    """Knows the images, and so the target, from x and t."""

    classes = 10

    def __init__(self, images, schedule, prediction):
        super().__init__()
        self.images, self.schedule, self.prediction = images, schedule, prediction
        self.labels, self.t = None, None

    def forward(self, x, t, label=None):
        self.labels, self.t = label, t
        alpha, sigma = (f(t).to(x.dtype).view(-1, 1, 1, 1) for f in (self.schedule.alpha, self.schedule.sigma))
        noise = (x - alpha * self.images) / sigma
        return {"flow": noise - self.images, "epsilon": noise, "sample": self.images}[self.prediction]


def oracle(images, schedule="flow", prediction="flow"):
    schedule = schedules.from_name(schedule)
    return Denoiser(Oracle(images, schedule, prediction), schedule, prediction, unconditional={"label": 10})


@pytest.mark.parametrize(("schedule", "prediction"), [("flow", "flow"), ("vp_linear", "epsilon"), ("flow", "sample")])
def test_the_right_answer_has_no_loss(schedule, prediction):
    images = torch.randn(64, 1, 4, 4, dtype=torch.float64)
    noise, t = torch.randn_like(images), torch.rand(64, dtype=torch.float64).clamp_min(0.01)
    assert float(denoising_loss(oracle(images, schedule, prediction), images, noise, t, {})) < 1e-20
    assert float(denoising_loss(oracle(images + 0.5, schedule, prediction), images, noise, t, {})) > 0.1


def first_loss(recipe, model, batch):
    ((name, loss),) = recipe.losses(Networks(model=model, ema={}), batch)
    assert name == "model"
    return loss


def test_labels_are_dropped():
    images = torch.zeros(2000, 1, 1, 1)
    model = oracle(images)
    batch = Batch(images, {"label": torch.full((2000,), 3)})
    first_loss(Denoising(times="logit-normal", label_dropout=0.25), model, batch)
    assert set(model.model.labels.tolist()) == {3, 10}
    assert float((model.model.labels == 10).float().mean()) == pytest.approx(0.25, abs=0.001)  # by strata
    first_loss(Denoising(label_dropout=0.0), model, batch)
    assert set(model.model.labels.tolist()) == {3}


def test_times():
    images = torch.zeros(20000, 1, 1, 1)
    model = oracle(images)
    first_loss(Denoising(times="uniform"), model, Batch(images, {"label": torch.zeros(20000, dtype=torch.long)}))
    counts = torch.histc(model.model.t, 10, 0, 1)
    assert counts.min() >= 1999
    assert counts.max() <= 2001
    first_loss(Denoising(times="logit-normal"), model, Batch(images, {"label": torch.zeros(20000, dtype=torch.long)}))
    logits = torch.log(model.model.t / (1 - model.model.t))
    assert float(logits.mean()) == pytest.approx(0, abs=0.03)
    assert float(logits.std()) == pytest.approx(1, abs=0.03)


class Fixed(nn.Module):
    def __init__(self, right):
        super().__init__()
        self.right, self.seen = right, []

    def forward(self, x):
        self.seen.append(x)
        logits = torch.zeros(len(x), 10)
        logits[:, 2 if self.right else 5] = 5.0
        return logits


def test_classification_prefers_the_right_class():
    images, labels = torch.randn(4, 1, 28, 28), torch.full((4,), 2)
    good, bad = (float(classification_loss(Fixed(r), images, labels)) for r in (True, False))
    logits = torch.zeros(10, dtype=torch.float64)
    logits[2] = 5.0
    smooth = torch.full((10,), 0.01, dtype=torch.float64)
    smooth[2] += 0.9
    assert good == pytest.approx(-float((smooth * logits.log_softmax(0)).sum()), abs=1e-5)
    assert bad > good + 1


def test_classified_images_are_moved_by_up_to_two_pixels():
    image = torch.full((1, 1, 28, 28), -1.0)
    image[..., 14, 14] = 1.0
    network, places = Fixed(True), set()
    for step in range(60):
        first_loss(Classification(), network, Batch(image, {"label": torch.zeros(1, dtype=torch.long)}, step=step))
        places.add(divmod(int(network.seen[-1].argmax()), 28))
    assert {y for y, _ in places} == {x for _, x in places} == set(range(12, 17))
    assert math.isclose(float(network.seen[-1].sum()), float(image.sum()))
