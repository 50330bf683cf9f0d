import os
import signal

import pytest
import torch
from torch import nn

from pyaccel.training.datasets import ImageData
from pyaccel.training.trainer import Trainer, TrainerConfig


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 4))

    def forward(self, x):
        return self.net(x)


def loss(model, images, labels, generator):
    images = images + 0.1 * torch.randn(images.shape, generator=generator)
    return nn.functional.cross_entropy(model(images).float(), labels)


@pytest.fixture
def data():
    labels = torch.arange(64) % 4
    images = torch.randint(0, 100, (64, 1, 4, 4), dtype=torch.uint8)
    images[torch.arange(64), 0, labels, labels] = 255  # what tells the classes apart
    return ImageData(images, labels)


def trainer(data, folder, **changes):
    settings = {"steps": 12, "batch_size": 16, "learning_rate": 0.02, "warmup": 2, "bf16": False, **changes}
    return Trainer(Tiny(), loss, data, TrainerConfig(**settings), folder)


def state(t):
    return {**t.model.state_dict(), **{f"ema.{k}": v for k, v in t.ema.state_dict().items()}}


def test_the_loss_falls(data, tmp_path):
    t = trainer(data, tmp_path, steps=150, flip=False)
    assert t.fit(progress=False)
    first = float(loss(Tiny().eval(), *data.batch(0, 64, 0, flip=False), torch.Generator()))
    last = float(loss(t.ema, *data.batch(0, 64, 0, flip=False), torch.Generator()))
    assert last < 0.5 * first
    assert t.step == 150


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(data, tmp_path):
    whole = trainer(data, tmp_path / "whole")
    whole.fit(progress=False)
    part = trainer(data, tmp_path / "part")
    for _ in range(5):
        part.train_step()
    part.save()
    torch.rand(17)  # the global generator stands elsewhere in the new process
    again = trainer(data, tmp_path / "part")
    assert again.fit(progress=False)
    for name, tensor in state(whole).items():
        assert torch.equal(tensor, state(again)[name]), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(data, tmp_path, number):
    def interrupted(model, images, labels, generator):
        if t.step == 4:
            os.kill(os.getpid(), number)
        return loss(model, images, labels, generator)

    t = Trainer(Tiny(), interrupted, data, TrainerConfig(steps=12, batch_size=16, bf16=False), tmp_path)
    before = signal.getsignal(number)
    assert not t.fit(progress=False)
    assert signal.getsignal(number) is before
    assert t.step == 5
    again = Trainer(Tiny(), loss, data, TrainerConfig(steps=12, batch_size=16, bf16=False), tmp_path)
    again.load()
    assert again.step == 5
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_other_settings_do_not_go_on(data, tmp_path):
    trainer(data, tmp_path).save()
    with pytest.raises(ValueError, match=r"learning_rate: 0.02 there, 0.5 now.*another --out"):
        trainer(data, tmp_path, learning_rate=0.5).fit(progress=False)


def test_ema_lags_behind(data, tmp_path):
    t = trainer(data, tmp_path, ema=0.9)
    expected = {k: v.clone() for k, v in t.model.named_parameters()}
    for step in range(6):
        t.train_step()
        rate = min(0.9, (1 + step) / (10 + step))
        for name, p in t.model.named_parameters():
            expected[name] = rate * expected[name] + (1 - rate) * p.detach()
    for name, p in t.ema.named_parameters():
        torch.testing.assert_close(p, expected[name], rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_not_finite_stops(data, tmp_path):
    def diverged(model, images, labels, generator):
        return loss(model, images, labels, generator) * float("nan")

    t = Trainer(Tiny(), diverged, data, TrainerConfig(steps=3, batch_size=16, bf16=False), tmp_path)
    with pytest.raises(FloatingPointError, match="step 3"):
        t.fit(progress=False)


def test_learning_rate():
    config = TrainerConfig(steps=110, warmup=10, learning_rate=1.0)
    assert config.learning_rate_at(0) == pytest.approx(0.1)
    assert config.learning_rate_at(9) == pytest.approx(1.0)
    assert config.learning_rate_at(60) == pytest.approx(0.5)
    assert config.learning_rate_at(109) < 0.001
    with pytest.raises(ValueError, match="steps"):
        TrainerConfig(steps=0)
