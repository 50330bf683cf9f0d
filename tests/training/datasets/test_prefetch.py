import subprocess
import sys
import threading
import time

import pytest
import torch

from pyaccel.training.datasets import ImageData, Prefetcher, epoch_indices


@pytest.fixture
def calls():
    return []


def recording(calls):
    def fetch(step):
        calls.append(step)
        return step, threading.current_thread()

    return fetch


def test_steps_come_in_order_from_another_thread(calls):
    with Prefetcher(recording(calls), ahead=2) as batches:
        for step in range(5, 25):
            found, thread = batches.get(step)
            assert found == step
            assert thread is not threading.current_thread()
    assert calls[:20] == list(range(5, 25))
    assert len(calls) <= 22


def test_the_next_steps_are_made_meanwhile(calls):
    with Prefetcher(recording(calls), ahead=3) as batches:
        batches.get(0)
        deadline = time.monotonic() + 10
        while len(calls) < 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert calls == [0, 1, 2, 3]


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_jumps_start_anew(calls, ahead):
    with Prefetcher(recording(calls), ahead) as batches:
        assert [batches.get(step)[0] for step in (0, 1, 7, 8, 8, 3, 100, 4)] == [0, 1, 7, 8, 8, 3, 100, 4]


def test_batches_are_those_without_a_prefetcher():
    data = ImageData(torch.randint(256, (10, 1, 2, 2), dtype=torch.uint8), torch.arange(10))

    def fetch(step):
        return data.at(epoch_indices(10, step, 3, seed=1))[0]

    with Prefetcher(fetch) as batches:
        for step in [0, 1, 2, 3, 9, 10]:
            assert torch.equal(batches.get(step), fetch(step))


def test_errors_are_raised_for_their_step_with_their_cause():
    def fetch(step):
        if step == 2:
            try:
                {}["cause"]
            except KeyError as cause:
                raise ValueError("step 2 is bad") from cause
        return step

    with Prefetcher(fetch, ahead=3) as batches:
        assert [batches.get(0), batches.get(1)] == [0, 1]
        for _ in range(2):
            with pytest.raises(ValueError, match="step 2 is bad") as caught:
                batches.get(2)
            assert isinstance(caught.value.__cause__, KeyError)
        assert batches.get(3) == 3


def test_closed_is_closed(calls):
    batches = Prefetcher(recording(calls))
    batches.get(0)
    batches.close()
    batches.close()
    with pytest.raises(RuntimeError, match="closed"):
        batches.get(1)
    with pytest.raises(ValueError, match="ahead >= 0"):
        Prefetcher(recording(calls), ahead=-1)


@pytest.mark.parametrize("ending", ["", "raise SystemExit(0)"])
def test_a_process_that_does_not_close_it_ends(tmp_path, ending):
    """While a batch is being decoded in the threads of a folder of images."""
    code = f"""
import torch, time
from PIL import Image
from pyaccel.training.datasets import Prefetcher, image_folder
for i in range(4):
    Image.new("RGB", (64, 64)).save(r"{tmp_path}/%d.png" % i)
data = image_folder(r"{tmp_path}", 8)
batches = Prefetcher(lambda step: (time.sleep(0.05), data.at(torch.arange(4)))[1], ahead=3)
assert batches.get(0)[0].shape == (4, 3, 8, 8)
{ending}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
