"""Kernels compiled ahead of time, for a GPU that is not there, and their machine code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")

import triton.language as tl  # noqa: E402
from pyaccel.triton_kernels import linear_combination as module  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

interpreted = os.environ.get("TRITON_INTERPRET") == "1"
needs_compiler = pytest.mark.skipif(interpreted, reason="TRITON_INTERPRET=1: kernels are not compiled")
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def in_interpreter(program):
    """What ``program`` prints with Triton's interpreter, which must be chosen before a kernel is decorated."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYACCEL_BACKEND": "triton", "PYTHONWARNINGS": "ignore"}
    root, command = Path(__file__).parents[2], [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def compiled(capability, inputs, outputs, *, accumulator="fp32", first=True, ones=(), streams=0):
    """The kernel for pointers and sizes that 16 divides, as they nearly always are, without any GPU."""
    names = module.combine.arg_names
    signature = dict.fromkeys(names, "i32") | {
        "inputs": tuple(f"*{d}" for d in inputs),
        "partials": tuple(f"*{d}" for d in (outputs if first else [accumulator] * len(outputs))),
        "outputs": tuple(f"*{d}" for d in outputs),
        "coefficients": f"*{accumulator}",
        "counters": "*i64" if streams else f"*{accumulator}",
    }
    constants = {
        "K": len(inputs),
        "N": len(outputs),
        "S": streams,
        "FIRST": first,
        "ACCUMULATOR": {"fp32": tl.float32, "fp64": tl.float64}[accumulator],
        "BLOCK": module.BLOCK,
    } | dict.fromkeys(ones, 1)
    signature |= dict.fromkeys(constants, "constexpr")
    divisible = [(names.index(p), i) for p in ("inputs", "partials", "outputs") for i in range(len(signature[p]))]
    divisible += [(names.index(p),) for p in ("coefficients", "counters", "inner")]
    source = ASTSource(
        fn=module.combine,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={place: [["tt.divisibility", 16]] for place in divisible},
    )
    options = {"num_warps": module.WARPS, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def compiled_kernel(kernel, pointers, constants, divisible, capability, others=None, options=None):
    """``kernel`` for ``pointers`` (tuples of them too) and sizes named ``divisible`` that 16 divides.

    All other arguments are 32-bit integers, but for the types of ``others``.
    """
    names = kernel.arg_names
    signature = dict.fromkeys(names, "i32") | pointers | (others or {}) | dict.fromkeys(constants, "constexpr")
    places = [(names.index(name),) for name in divisible]
    for name, kind in pointers.items():
        places += [(names.index(name), *i) for i in ([(j,) for j in range(len(kind))] if type(kind) is tuple else [()])]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={place: [["tt.divisibility", 16]] for place in places},
    )
    options = {"num_warps": module.WARPS} if options is None else options
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def dump(kernel, folder, what):
    if not CUOBJDUMP.exists():
        pytest.skip("this triton brings no cuobjdump")
    path = folder / "kernel.cubin"
    path.write_bytes(kernel.asm["cubin"])
    return subprocess.run([CUOBJDUMP, what, path], capture_output=True, text=True, check=True).stdout


def assert_nothing_spilled(kernel, folder):
    usage = dump(kernel, folder, "--dump-resource-usage")
    assert "STACK:0" in usage
    assert "LOCAL:0" in usage
