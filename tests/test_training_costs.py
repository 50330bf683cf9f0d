"""benchmarks/training_costs.py: what it counts, and a run of few steps on a CPU."""

import argparse
import sys
from pathlib import Path

import pytest
import torch

from pyaccel import zoo
from pyaccel.distill.presets import PRESETS

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import training_costs

CPU = torch.device("cpu")


def test_the_peak_is_of_what_is_there_at_the_same_time():
    def work():
        a = torch.zeros(1 << 20)
        b = a + 1
        del a
        c = b * 2  # two of 4 MiB at any time
        return c

    assert 8 << 20 <= training_costs.peak_of(work, CPU) < 9 << 20


def test_seconds_of_the_processor():
    assert training_costs.seconds_of(lambda: sum(range(1_000_000)), CPU) > 1e-3


@pytest.fixture(scope="module")
def found():
    arguments = argparse.Namespace(
        recipes=["kd", "dmd2"], teacher="fashion-dit", device="cpu", batch_size=4, bf16=False, steps=2, turns=1
    )
    return training_costs.measure(arguments)


def test_what_stays_between_steps(found):
    count = sum(p.numel() for p in zoo.load_model("fashion-dit").parameters())
    assert 4 * count / 2**20 == pytest.approx(found["recipes"]["kd"]["MB between steps"]["networks"], rel=0.01)
    kept = found["recipes"]["kd"]["MB between steps"]
    assert kept["averages"] == kept["networks"]
    assert kept["optimizers"] == pytest.approx(2 * kept["networks"], rel=0.01)
    assert kept == pytest.approx(found["teacher's step"]["MB between steps"])
    assert found["recipes"]["dmd2"]["MB between steps"]["networks"] > 2.9 * kept["networks"]


def test_three_networks_cost_more_than_one(found):
    kd, dmd2 = found["recipes"]["kd"], found["recipes"]["dmd2"]
    assert set(dmd2["networks"]) == {"student", "teacher", "critic"}
    assert dmd2["networks"]["critic"] > dmd2["networks"]["teacher"] == pytest.approx(1.0)
    assert dmd2["ms"] > 1.5 * kd["ms"]
    assert dmd2["memory over the teacher's"] > 1.5 > kd["memory over the teacher's"] > 0.8
    assert kd["ms"] / found["teacher's step"]["ms"] == pytest.approx(kd["ms over the teacher's step"])
    # Forward and backward are three forward passes, and the optimizer comes on top.
    assert kd["ms over the teacher's forward pass"] > 2


def test_every_recipe_is_measured_by_default():
    assert set(training_costs.RECIPES) == set(PRESETS)
    assert training_costs.rounded({"a": [1], "b": {"c": 1.234567}}) == {"a": [1], "b": {"c": 1.235}}
