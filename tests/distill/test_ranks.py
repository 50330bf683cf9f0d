import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .ranks import RECIPES


def students(folder: Path, shardings: str, count: int) -> dict[str, dict[str, torch.Tensor]]:
    """For each way to share, the weights of each recipe's student."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count), "-m",
         "tests.distill.ranks", shardings, str(folder)],
        cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, timeout=180,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return {s: torch.load(folder / s / "found.pt", weights_only=True) for s in shardings.split(",")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return students(tmp_path_factory.mktemp("alone"), "ddp", 1)["ddp"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return students(tmp_path_factory.mktemp("two"), "ddp,fsdp", 2)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_ranks_train_the_student_of_one(sharding, alone, two):
    """Replicas and shards, with batches in parts: the same numbers but for the order of sums."""
    together = two[sharding]
    assert set(together) == set(RECIPES)
    for name, weights in together.items():
        # Adam's first steps have the size of the learning rate whatever the gradient is: 1e-6 to 1e-4.
        torch.testing.assert_close(weights, alone[name], rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
