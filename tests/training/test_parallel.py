"""Trainings over two processes on this machine, by gloo, beside one process with the same batches."""

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.training.trainings import Tiny, TinyClassification, state, trainer

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from pyaccel.training.optimizers import Optimizer
from pyaccel.training.parallel import Ranks
from tests.training.trainings import Tiny, TinyClassification, tiny_images, trainer, state
from pyaccel.training.datasets import ImageData

folder, what, sharding = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
ranks = Ranks(folder, sharding, "cpu")
model = Tiny(norm=False, dropout=0.0).double()
data = tiny_images()
if what == "gradients":
    recipe = TinyClassification(Optimizer(1.0, "sgd", clip=0.0))
    t = trainer(folder, ranks=ranks, model=model, accumulate=2, recipe=recipe)
    before = {k: v.clone() for k, v in t.average().state_dict().items()}
    t.train_step()
    from pyaccel.training.shards import whole
    after = whole(t.modules["model"].state_dict())
    if ranks.main:
        torch.save({k: before[k] - after[k] for k in before}, folder / "gradients.pt")
elif what == "epoch":
    t = trainer(folder, ranks=ranks, data=ImageData(data.images, torch.arange(64)))
    seen = []
    for _ in range(4):
        seen += [int(n) for batch in t.batches() for n in batch.conditioning["label"]]
        t.step += 1
    (folder / f"seen-{ranks.rank}.json").write_text(json.dumps(seen))
elif what == "fit":
    t = trainer(folder, ranks=ranks, model=model, steps=int(sys.argv[4]), ema=(0.9, 0.5),
                recipe=TinyClassification(Optimizer(0.02)), validate=lambda network, step: {"step": step},
                validate_every=3)
    done = t.fit(progress=False)
    average = t.average().state_dict()
    if ranks.main:
        torch.save(average, folder / "average.pt")
elif what == "stop":
    import os, signal
    t = trainer(folder, ranks=ranks, model=model, steps=10_000, pause=0.01)
    step = t.train_step
    def once():
        if t.step == 5 and ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step()
    t.train_step = once
    assert not t.fit(progress=False)
    (folder / f"stopped-{ranks.rank}.json").write_text(json.dumps(t.step))
ranks.wait()
"""


def in_two_processes(folder, what, sharding="ddp", *more):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), "PYACCEL_NO_LOGS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(folder / "script.py"), str(folder), what, sharding, *more], env=environment,
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_gradients_are_those_of_one_process(tmp_path, sharding):
    from pyaccel.training.optimizers import Optimizer

    in_two_processes(tmp_path / "two", "gradients", sharding)
    found = torch.load(tmp_path / "two" / "gradients.pt", weights_only=True)
    one = trainer(
        tmp_path / "one", model=Tiny(norm=False, dropout=0.0).double(),
        recipe=TinyClassification(Optimizer(1.0, "sgd", clip=0.0)),
    )  # fmt: skip
    before = {k: v.clone() for k, v in one.modules["model"].state_dict().items()}
    one.train_step()
    for name, value in one.modules["model"].state_dict().items():
        torch.testing.assert_close(found[name], before[name] - value, rtol=1e-10, atol=1e-12)
        assert float(found[name].abs().max()) > 1e-4


def test_each_datum_comes_once_an_epoch_over_both(tmp_path):
    in_two_processes(tmp_path, "epoch")
    seen = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in (0, 1)]
    assert len(seen[0]) == len(seen[1]) == 32
    assert sorted(seen[0] + seen[1]) == list(range(64))


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path, sharding):
    from pyaccel.training.optimizers import Optimizer

    def alone(folder, steps):
        return trainer(
            folder, model=Tiny(norm=False, dropout=0.0).double(), steps=steps, ema=(0.9, 0.5),
            recipe=TinyClassification(Optimizer(0.02)),
        )  # fmt: skip

    whole = alone(tmp_path / "whole", 9)
    whole.fit(progress=False)
    mixed = tmp_path / "mixed"
    alone(mixed, 3).fit(progress=False)
    in_two_processes(mixed, "fit", sharding, "6")
    last = alone(mixed, 9)
    assert last.fit(progress=False)
    for name, value in state(whole).items():
        torch.testing.assert_close(state(last)[name], value, rtol=1e-9, atol=1e-11)
    assert [step for step, _ in last.validations] == [6]  # by the two


def test_a_signal_to_one_process_stops_all_at_one_step(tmp_path):
    in_two_processes(tmp_path, "stop")
    first, second = (json.loads((tmp_path / f"stopped-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second < 100
    again = trainer(tmp_path, model=Tiny(norm=False, dropout=0.0).double(), steps=10_000)
    again.load()
    assert again.step == first
