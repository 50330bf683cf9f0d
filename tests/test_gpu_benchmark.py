"""benchmarks/gpu.py, as far as it goes without a GPU: its contestants compute the same, and its table is one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import gpu

CASES = list(gpu.cases(torch.device("cpu"), 6144 * 2))


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_contestants_compute_the_same(case):
    results = [r if isinstance(r, tuple) else (r,) for r in (case.ours(), case.eager())]
    rounding = 0.05 if "bfloat16" in case.name else 1e-5
    for ours, eager in zip(*results, strict=True):
        if ours.dtype == torch.int8:
            assert (ours.int() - eager.int()).abs().max() <= 1
        else:
            torch.testing.assert_close(ours.float(), eager.float(), rtol=rounding, atol=rounding)


def test_table():
    row = {"case": "a", "GB/s": 3012.0, "of a copy, %": 93.5, "× eager": 2.0, "× compile": 1.25}
    found = {"gpu": "X", "date": "D", "torch": "T", "backend": "native", "copy, GB/s": 3200.0, "rows": [row, row]}
    run = {"what": "a run", "ms": 2.5, "× the other": 3.0, "the other": "b", "note": ""}
    lines = gpu.table(found | {"small step": {"host, µs": 4.0}, "runs": [run, run]}).splitlines()
    assert "3200 GB/s" in lines[0]
    assert {line.count("|") for line in lines if "|" in line} == {6}
    assert sum("2.5" in line for line in lines) == 2
    assert sum("93.5" in line for line in lines) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    done = subprocess.run([sys.executable, gpu.__file__, "--check"], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "sees no GPU" in done.stderr
