import copy
import dataclasses
import errno
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from pyaccel.training import checkpoints
from pyaccel.training.datasets import ImageData
from pyaccel.training.optimizers import Optimizer
from pyaccel.training.recipe import Recipe
from pyaccel.training.trainer import Trainer
from pyaccel.training.trainer_config import TrainerConfig
from tests.training.trainings import Tiny, TinyClassification, state, tiny_images, trainer


def test_the_loss_falls(tmp_path):
    t = trainer(tmp_path, steps=150, flip=False)
    first = float(t.train_step())
    assert t.fit(progress=False)
    assert t.history[-1][1] < 0.5 * first
    assert t.step == 150


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.fit(progress=False)
    part = trainer(tmp_path / "part")
    for _ in range(5):
        part.train_step()
    part.save()
    torch.rand(17)  # the global generator stands elsewhere in the new process
    again = trainer(tmp_path / "part")
    assert again.fit(progress=False)
    for name, tensor in state(whole).items():
        assert torch.equal(tensor, state(again)[name]), name


def test_a_run_that_was_killed_goes_on_to_the_same_bits(tmp_path):
    whole = trainer(tmp_path / "whole", steps=40)
    whole.fit(progress=False)
    code = (
        "import sys, pathlib; from tests.training.trainings import trainer\n"
        "t = trainer(pathlib.Path(sys.argv[1]), steps=40, checkpoint_seconds=0.0, pause=0.05); t.fit(progress=False)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "killed")])
    checkpoint = tmp_path / "killed" / "checkpoint.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3 * float(torch.rand(())))
    child.kill()
    assert child.wait() == -signal.SIGKILL
    again = trainer(tmp_path / "killed", steps=40)
    assert again.fit(progress=False)
    for name, tensor in state(whole).items():
        assert torch.equal(tensor, state(again)[name]), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(tmp_path, number):
    t = trainer(tmp_path, interrupt=(4, number))
    before = signal.getsignal(number)
    assert not t.fit(progress=False)
    assert signal.getsignal(number) is before
    assert (t.step, t.stopped) == (5, number)
    again = trainer(tmp_path)
    again.load()
    assert again.step == 5
    assert not list(tmp_path.glob(".*"))


def test_the_seconds_of_a_run_have_the_wait_for_its_loss(tmp_path):
    """On a GPU a step is begun at once, and waited for where its loss is looked at."""
    t = trainer(tmp_path, steps=4)
    t.mean = lambda value: time.sleep(0.1) or value
    t.fit(progress=False)
    assert t.seconds > 0.4


def test_limits_of_time_and_steps(tmp_path):
    t = trainer(tmp_path)
    assert not t.fit(progress=False, steps=3)
    assert t.step == 3
    assert not t.fit(progress=False, seconds=0.0)
    assert t.step == 3
    assert t.stopped == 0


def test_other_settings_do_not_go_on(tmp_path):
    trainer(tmp_path).save()
    with pytest.raises(ValueError, match=r"batch_size: 16 there, 8 now.*another --out"):
        trainer(tmp_path, batch_size=8).fit(progress=False)
    with pytest.raises(ValueError, match=r"steps: 12 there, 24 now"):  # its cosine would have been another
        trainer(tmp_path, steps=24).load()


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    @dataclass(frozen=True)
    class Other(TinyClassification):
        smooth: float = 0.1

    trainer(tmp_path).save()
    with pytest.raises(ValueError, match=r"recipe: 'TinyClassification' there, 'Other' now; smooth: None there"):
        trainer(tmp_path, recipe=Other()).load()
    checkpoints.save_tensors(tmp_path / "checkpoint.safetensors", {"a": torch.ones(1)}, {})
    with pytest.raises(ValueError, match="no checkpoint of this kind"):
        trainer(tmp_path).load()


def test_a_run_with_a_constant_rate_may_be_made_longer(tmp_path):
    constant = TinyClassification(Optimizer(0.02))
    whole = trainer(tmp_path / "whole", recipe=constant, steps=20)
    whole.fit(progress=False)
    trainer(tmp_path / "part", recipe=constant, steps=8).fit(progress=False)
    longer = trainer(tmp_path / "part", recipe=constant, steps=20)
    assert longer.fit(progress=False)
    assert all(torch.equal(t, state(longer)[name]) for name, t in state(whole).items())


def test_averages_at_several_rates_lag_behind(tmp_path):
    rates = (0.9, 0.5)
    t = trainer(tmp_path, ema=rates)
    expected = [{k: v.clone() for k, v in t.modules["model"].named_parameters()} for _ in rates]
    for step in range(6):
        t.train_step()
        for most, averages in zip(rates, expected, strict=True):
            rate = min(most, (1 + step) / (10 + step))
            for name, p in t.modules["model"].named_parameters():
                averages[name] = rate * averages[name] + (1 - rate) * p.detach()
    for number, averages in enumerate(expected):
        for name, p in t.average(rate=number).named_parameters():
            torch.testing.assert_close(p, averages[name], rtol=1e-5, atol=1e-6)


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path):
    found = []
    for parts in (1, 4):
        t = trainer(tmp_path / str(parts), accumulate=parts, recipe=TinyClassification(Optimizer(0.1, "sgd", clip=0)),
                    model=Tiny(norm=False, dropout=0.0).double())  # fmt: skip
        t.train_step()
        found.append(torch.cat([p.flatten() for p in t.modules["model"].parameters()]))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


def test_several_optimizers_with_their_own_rhythm(tmp_path):
    @dataclass(frozen=True)
    class Two(Recipe):
        first: Optimizer = Optimizer(0.1, "sgd", clip=0.0)
        second: Optimizer = Optimizer(0.2, "sgd", clip=0.0)
        output = "first"
        averaged = ("first",)

        def losses(self, networks, batch):
            yield "second", (networks.second.weight - 1).square().sum() + networks.first.weight.sum()
            if batch.step % 3 == 0:
                # The second network has just moved, and what reaches it here is thrown away.
                yield "first", (networks.first.weight - networks.second.weight).square().sum()

    networks = {name: nn.Linear(1, 1, bias=False) for name in ("first", "second")}
    for n in networks.values():
        nn.init.constant_(n.weight, 0.5)
    t = Trainer(Two(), networks, tiny_images(), TrainerConfig(4, 16, bf16=False), tmp_path)
    a, b = 0.5, 0.5
    for step in range(4):
        t.train_step()
        b -= 0.2 * 2 * (b - 1)
        if step % 3 == 0:
            a -= 0.1 * 2 * (a - b)
        assert t.modules["second"].weight.item() == pytest.approx(b, abs=1e-6)
        assert t.modules["first"].weight.item() == pytest.approx(a, abs=1e-6)
    assert set(t.latest) == {"first", "second"}


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path):
    t = trainer(tmp_path, spoil=3)
    t.fit(progress=False, steps=2)
    with pytest.raises(FloatingPointError, match=r"the loss of model became nan at step 4; .* is whole"):
        t.fit(progress=False)
    again = trainer(tmp_path)
    again.load()
    assert again.step == 2


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    t = trainer(tmp_path)
    t.train_step()
    t.save()
    with torch.no_grad():
        next(t.modules["model"].parameters()).fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="is whole"):
        t.save()
    trainer(tmp_path).load()


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    t = trainer(tmp_path)
    t.train_step()
    t.save()

    def full(_tensors, path, _metadata):
        path.write_bytes(b"half of a file")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoints, "save_file", full)
    t.train_step()
    with pytest.raises(OSError, match="No space left"):
        t.save()
    assert not list(tmp_path.glob(".*"))
    again = trainer(tmp_path)
    again.load()
    assert again.step == 1


def test_validation_sees_the_average(tmp_path):
    seen = []

    def validate(network, step):
        seen.append((step, copy.deepcopy(network.state_dict())))
        return {"size": 1.5}

    t = trainer(tmp_path, steps=7, validate=validate, validate_every=3)
    t.fit(progress=False)
    assert [step for step, _ in seen] == [3, 6, 7]
    assert all(torch.equal(v, t.average().state_dict()[k]) for k, v in seen[-1][1].items())
    assert t.validations == [(3, {"size": 1.5}), (6, {"size": 1.5}), (7, {"size": 1.5})]
    assert "size 1.5" in t.note(0.0)


def test_logs_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    t = trainer(tmp_path, steps=3)
    t.fit(progress=False)
    t.ranks.close()
    assert list((tmp_path / "logs").rglob("events.out.tfevents.*"))


def test_bad_settings(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        TrainerConfig(steps=0)
    with pytest.raises(ValueError, match="ema needs"):
        TrainerConfig(steps=1, ema=(1.0,))
    with pytest.raises(ValueError, match="cannot be cut into 1 ranks times 3 parts"):
        trainer(tmp_path, accumulate=3)
    with pytest.raises(ValueError, match="a batch of 128 was asked for, and there are 64 samples"):
        trainer(tmp_path, batch_size=128)
    recipe = dataclasses.replace(TinyClassification())
    with pytest.raises(ValueError, match="TinyClassification needs the networks model"):
        Trainer(recipe, {"net": Tiny()}, tiny_images(), TrainerConfig(1, 16), tmp_path)


def test_each_image_comes_once_an_epoch(tmp_path):
    data = tiny_images()
    t = trainer(tmp_path, data=ImageData(data.images, torch.arange(64)))
    seen = []
    for _ in range(4):
        seen += t.batches()[0].conditioning["label"].tolist()
        t.step += 1
    assert sorted(seen) == list(range(64))
