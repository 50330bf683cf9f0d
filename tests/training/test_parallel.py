"""Trainings over two processes on this machine, by gloo, beside one process with the same batches.

Starting processes takes longer than what they do, so both ways of sharing are tried in one launch.
"""

import json
import os
import subprocess
import sys

import pytest
import torch

from pyaccel.training.optimizers import Optimizer
from tests.training.trainings import Tiny, TinyClassification, state, trainer

SCRIPT = """
import json, os, signal, sys
from pathlib import Path
import torch
from pyaccel.training.datasets import ImageData
from pyaccel.training.parallel import Ranks
from pyaccel.training.shards import whole
from tests.training.test_parallel import network, PLAIN, STEADY
from tests.training.trainings import tiny_images, trainer

root = Path(sys.argv[1])
torch.set_num_threads(1)
for sharding in ("ddp", "fsdp"):
    folder = root / sharding
    ranks = Ranks(folder, sharding, "cpu")

    t = trainer(folder / "gradients", ranks=ranks, model=network(), accumulate=2, recipe=PLAIN)
    before = {k: v.clone() for k, v in t.average().state_dict().items()}
    t.train_step()
    after = whole(t.modules["model"].state_dict())
    if ranks.main:
        torch.save({k: before[k] - after[k] for k in before}, folder / "gradients.pt")

    t = trainer(folder / "mixed", ranks=ranks, model=network(), steps=6, ema=(0.9, 0.5), recipe=STEADY,
                validate=lambda network, step: {"step": step}, validate_every=3)
    t.fit(progress=False)

    t = trainer(folder / "stop", ranks=ranks, model=network(), steps=10_000, pause=0.01)
    step = t.train_step

    def once():
        if t.step == 5 and ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step()

    t.train_step = once
    assert not t.fit(progress=False)
    (folder / f"stopped-{ranks.rank}.json").write_text(json.dumps([t.step, t.stopped]))

data = tiny_images()
t = trainer(root / "epoch", ranks=ranks, data=ImageData(data.images, torch.arange(64)))
seen = []
for _ in range(4):
    seen += [int(n) for batch in t.batches() for n in batch.conditioning["label"]]
    t.step += 1
(root / f"seen-{ranks.rank}.json").write_text(json.dumps(seen))
ranks.wait()
"""
PLAIN = TinyClassification(Optimizer(1.0, "sgd", clip=0.0))
STEADY = TinyClassification(Optimizer(0.02))
SHARDINGS = ("ddp", "fsdp")


def network() -> Tiny:
    return Tiny(norm=False, dropout=0.0).double()


def alone(folder, steps: int):
    return trainer(folder, model=network(), steps=steps, ema=(0.9, 0.5), recipe=STEADY)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of what two processes did, beginning with a run of one that stands at its third step."""
    root = tmp_path_factory.mktemp("two")
    for sharding in SHARDINGS:
        alone(root / sharding / "mixed", 3).fit(progress=False)
    (root / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), "PYACCEL_NO_LOGS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(root / "script.py"), str(root)], env=environment, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return root


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_gradients_are_those_of_one_process(two, sharding, tmp_path):
    found = torch.load(two / sharding / "gradients.pt", weights_only=True)
    one = trainer(tmp_path, model=network(), recipe=PLAIN)
    before = {k: v.clone() for k, v in one.modules["model"].state_dict().items()}
    one.train_step()
    for name, value in one.modules["model"].state_dict().items():
        torch.testing.assert_close(found[name], before[name] - value, rtol=1e-10, atol=1e-12)
        assert float(found[name].abs().max()) > 1e-4


def test_each_datum_comes_once_an_epoch_over_both(two):
    seen = [json.loads((two / f"seen-{rank}.json").read_text()) for rank in (0, 1)]
    assert len(seen[0]) == len(seen[1]) == 32
    assert sorted(seen[0] + seen[1]) == list(range(64))


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_run_goes_on_with_another_number_of_processes(two, sharding, tmp_path):
    whole = alone(tmp_path, 9)
    whole.fit(progress=False)
    last = alone(two / sharding / "mixed", 9)
    last.load()
    assert last.step == 6
    assert last.fit(progress=False)
    for name, value in state(whole).items():
        torch.testing.assert_close(state(last)[name], value, rtol=1e-9, atol=1e-11)
    assert [step for step, _ in last.validations] == [6]  # by the two


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_signal_to_one_process_stops_all_at_one_step(two, sharding):
    (first, _), (second, _) = stops = [
        json.loads((two / sharding / f"stopped-{rank}.json").read_text()) for rank in (0, 1)
    ]
    assert first == second < 100
    assert all(number for _, number in stops)  # both know that it was a signal
    again = trainer(two / sharding / "stop", model=network(), steps=10_000)
    again.load()
    assert again.step == first
