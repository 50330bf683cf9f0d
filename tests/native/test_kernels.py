"""The kernels' C++ by themselves, under the sanitizers: those of the CPU, and those of CUDA run by threads of the CPU.

kernels_check.cpp compares every operation with float64 on odd sizes, all types and unaligned addresses, while each
access to memory is watched (AddressSanitizer, UndefinedBehaviorSanitizer, which knows of alignment too) or each order
of accesses (ThreadSanitizer, for what compute-sanitizer's racecheck looks for). cuda_on_host.h stands for the GPU.
"""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "csrc"
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
FLAGS = ["-std=c++17", "-O0", "-pthread", "-Wno-unknown-pragmas", f"-I{HERE}", f"-I{SOURCE}"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"]
ISA = {"kernels_avx2": AVX2, "kernels_avx512": AVX512, "kernels_avx512bf16": [*AVX512, "-mavx512bf16"]}
MEMORY = "-fsanitize=address,undefined"
RACES = "-fsanitize=thread"

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler was found")


def run(command, **more):
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **more)


def needs(sanitizer: str, folder: Path) -> None:
    """Skips where this compiler or machine cannot run a program under the sanitizer."""
    (folder / "empty.cpp").write_text("int main() { return 0; }")
    made = run([COMPILER, sanitizer, "-pthread", "-o", folder / "empty", folder / "empty.cpp"])
    if made.returncode or run([folder / "empty"]).returncode:
        pytest.skip(f"{COMPILER} {sanitizer} does not work here")


def compiled(engine: str, sanitizer: str, folder: Path) -> Path:
    """The program of the checks with the kernels of one engine."""
    needs(sanitizer, folder)
    sources = {HERE / "kernels_check.cpp": [], HERE / f"engine_{engine}.cpp": []}
    extra = []
    if engine == "cuda":
        sources |= {path: ["-x", "c++"] for path in SOURCE.glob("cuda/*.cu") if path.stem != "runtime"}
    else:
        x86 = os.uname().machine == "x86_64"
        extra = ["-DPYACCEL_X86"] if x86 else []
        every = [path for path in SOURCE.glob("cpu/*.cpp") if x86 or path.stem not in ISA]
        sources |= {path: ISA.get(path.stem, []) for path in every}

    def compile_one(source):
        to = folder / f"{source.stem}.o"
        done = run([COMPILER, *FLAGS, *extra, sanitizer, *recover(sanitizer), *sources[source], "-c", source, "-o", to])
        assert done.returncode == 0, done.stderr
        return to

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    done = run([COMPILER, sanitizer, "-pthread", "-o", folder / "checks", *objects])
    assert done.returncode == 0, done.stderr
    return folder / "checks"


def recover(sanitizer: str) -> list[str]:
    """So that undefined behaviour ends the program as the other faults do."""
    return ["-fno-sanitize-recover=all"] if sanitizer == MEMORY else []


@pytest.mark.parametrize(
    ("engine", "sanitizer", "rounds"),
    [("cpu", MEMORY, 20), ("cuda", MEMORY, 4), ("cuda", RACES, 2)],
    ids=["CPU", "CUDA", "CUDA, races"],
)
def test_kernels_under_the_sanitizers(engine, sanitizer, rounds, tmp_path):
    program = compiled(engine, sanitizer, tmp_path)
    done = run([program, str(rounds)], env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == "right"
