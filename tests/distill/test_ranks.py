import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .ranks import RECIPES


def students(folder: Path, sharding: str, count: int) -> dict[str, torch.Tensor]:
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count), "-m",
         "tests.distill.ranks", sharding, str(folder)],
        cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=90,
        capture_output=True,
    )  # fmt: skip
    return torch.load(folder / "found.pt", weights_only=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return students(tmp_path_factory.mktemp("ranks") / "alone", "ddp", 1)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_ranks_train_the_student_of_one(sharding, alone, tmp_path):
    """Replicas and shards, with batches in parts: the same numbers but for the order of sums."""
    together = students(tmp_path / sharding, sharding, 2)
    assert set(together) == set(RECIPES)
    for name, weights in together.items():
        # Adam's first steps have the size of the learning rate whatever the gradient is: 1e-6 to 1e-4.
        torch.testing.assert_close(weights, alone[name], rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
