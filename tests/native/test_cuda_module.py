"""The CUDA kernels as they were built, looked at without a GPU: architectures, 16-byte accesses, registers."""

import re
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from pyaccel.ops import backend

VECTOR_KERNELS = {
    # By kernel: its instantiations, and 16-byte loads and stores of the one that has most of them: for 16-bit operands
    # two loads of each, as a float32 one has twice the bytes, and stores of float32, bfloat16 and float16.
    "combine": (24, 8, 4),
    "gate_all": (3, 8, 4),
    "gate_few": (30, 4 + 2, 1),  # of one type: inputs, residual and gate
    "blend_all": (3, 8, 4),
    "clamp_all": (3, 2, 4),
    "add_up": (3, 8, 0),
    "update_all": (3, 8, 4),
    # Most of these hold a row in registers, each for other types and another length: twelve vectors of x, branch, gate,
    # scale, shift, weight and bias, and of two results; pairs of vectors of x, weight, cosines and sines, six of a row
    # in two ways to turn them, or one of three heads; six vectors of x and minus.
    "modulate_rows": (87, 12 * 7, 12 * 2),
    "norm_rows": (15, 12 * 4, 12),
    "norm_heads": (5, 3 * 2 + 3 * 2, 3 * 2),
    "quantize_rows": (1, 4, 0),  # 8 codes are 8 bytes
    "quantize_held": (9, 6 * 2, 0),
}
SCALAR = re.compile(r"_rowsI[fd]Li1E")  # what is not aligned goes element by element
OTHERS = {
    "count_digits": 4,
    "find_second": 4,
    "begin_selection": 1,
    "pick_digit": 1,
    "find_limits": 1,
    "divide_sums": 1,
}


def cuobjdump() -> str | None:
    """NVIDIA's tool: of the CUDA toolkit, or the one that comes with Triton."""
    triton = find_spec("triton")
    bundled = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump" if triton else None
    return shutil.which("cuobjdump") or (str(bundled) if bundled and bundled.exists() else None)


pytestmark = [
    pytest.mark.skipif(not hasattr(backend._native, "cuda_problem"), reason="built without nvcc"),
    pytest.mark.skipif(cuobjdump() is None, reason="neither the CUDA toolkit nor Triton brings a cuobjdump"),
]


@cache
def dump(*options: str) -> str:
    command = [cuobjdump(), *options, backend._native.__file__]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def kernel_of(symbol: str) -> str | None:
    """Which of the kernels a mangled name is of; a name is preceded by its length."""
    return next((name for name in (*VECTOR_KERNELS, *OTHERS) if f"{len(name)}{name}" in symbol), None)


def functions(text: str, heading: str) -> dict[str, str]:
    """What is said of each function, by its mangled name."""
    parts = re.split(heading, text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_kernel_was_built_for_every_architecture():
    for architecture in ("sm_80", "sm_90", "sm_100"):
        usage = functions(dump("--dump-resource-usage", "-arch", architecture), r"Function (\S+):")
        found = [kernel_of(symbol) for symbol in usage]
        for name, count in {n: c for n, (c, *_) in VECTOR_KERNELS.items()}.items() | OTHERS.items():
            assert found.count(name) == count, (architecture, name)
    assert "sm_100.ptx" in dump("--list-ptx")


def test_nothing_is_spilled():
    usage = functions(dump("--dump-resource-usage", "-arch", "sm_90"), r"Function (\S+):")
    for symbol, used in usage.items():
        assert "STACK:0" in used, symbol
        assert "LOCAL:0" in used, symbol


def test_vector_kernels_access_16_bytes_at_once():
    code = functions(dump("--dump-sass", "-arch", "sm_90"), r"Function : (\S+)")
    for name, (_, loads, stores) in VECTOR_KERNELS.items():
        texts = [text for symbol, text in code.items() if kernel_of(symbol) == name and not SCALAR.search(symbol)]
        assert all("LDG.E.128" in text for text in texts), name
        assert all("STG.E.128" in text for text in texts) or not stores, name
        counts = [(text.count("LDG.E.128"), text.count("STG.E.128")) for text in texts]
        assert any(a >= loads and b >= stores for a, b in counts), (name, counts)


def test_the_module_says_why_it_cannot_run():
    import torch

    problem = backend._native.cuda_problem(0)
    assert isinstance(problem, str)
    assert torch.cuda.is_available() or problem
    assert backend._native.cuda_problem(1 << 20)
