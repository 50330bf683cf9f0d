"""The Triton kernel of ``attention_jvp``: its values in the interpreter, and the machine code, without a GPU."""

import re

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")

from pyaccel.triton_kernels import attention_jvp as module  # noqa: E402

from tests.triton_kernels.ahead_of_time import (  # noqa: E402
    assert_nothing_spilled,
    compiled_kernel,
    dump,
    in_interpreter,
    needs_compiler,
)

VALUES = """
import torch
from pyaccel import ops
from pyaccel.ops import attention_blocks
from tests.ops.attentions import assert_right, random_arguments

torch.manual_seed(0)
f32, bf16, f16 = torch.float32, torch.bfloat16, torch.float16
assert ops.backend.choose(torch.device("cpu")) == "triton"

blocked = attention_blocks.attention_jvp

def other(*args):
    raise AssertionError("another path was used, not the kernel")

attention_blocks.attention_jvp = other

def check(shape, dtype, given="qkv", **options):
    primals, tangents, masks = random_arguments(shape, dtype, given, **options)
    # The interpreter truncates where it stores bfloat16: twice the rounding.
    assert_right(ops.attention_jvp(*primals, tangents, **masks), primals, tangents, **masks, slack=2)

check((2, 1, 7, 9, 40), f32)
check((1, 2, 70, 90, 32), f32, causal=True)
check((1, 1, 90, 50, 64), f32, causal=True, padding=True)
check((2, 1, 150, 90, 64), bf16, causal=True, padding=True)
check((2, 1, 33, 37, 72), f16, padding=True, order="heads inside")
check((1, 1, 140, 90, 80), bf16, "k")
check((1, 2, 130, 130, 96), f16, causal=True, order="strided")
check((1, 1, 37, 40, 160), f32, "v")
check((1, 1, 17, 40, 256), f32, causal=True, padding=True)
check((1, 1, 40, 70, 256), f16, "qk")
check((1, 1, 17, 40, 3), f32, "q", causal=True, scale=-0.3)
check((2, 1, 5, 0, 8), f32)
check((2, 0, 5, 4, 8), f32)
check((2, 1, 0, 4, 8), f32)
check((1, 1, 5, 6, 33), f16, order="expanded")

# In forward mode too; float64 and wider heads are not the kernel's.
(q, k, v), (dq, dk, dv), _ = random_arguments((1, 2, 20, 20, 16), f32)
results = torch.func.jvp(ops.attention, (q, k, v), (dq, dk, dv))
assert_right(results, (q, k, v), (dq, dk, dv))
attention_blocks.attention_jvp = blocked
for shape, dtype in (((1, 1, 5, 6, 257), f32), ((1, 1, 5, 6, 8), torch.float64)):
    primals, tangents, _ = random_arguments(shape, dtype)
    assert_right(ops.attention_jvp(*primals, tangents), primals, tangents)
print("right")
"""


def test_values_in_the_interpreter():
    assert in_interpreter(VALUES) == "right"


HEAD_DIMS = [32, 40, 64, 72, 80, 96, 128, 160, 256]


def compiled(dtype, head_dim, capability, *, causal=True, padding=True, given="qkv", precision=None):
    torch_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    blocks = module.blocks_for(head_dim, torch_dtype, capability // 10)
    tensors = [f"{name}_pointer" for name in ("q", "k", "v", "dq", "dk", "dv", "out", "tangent")]
    strides = [f"{name}_strides" for name in ("q", "k", "v", "dq", "dk", "dv", "out")]
    constants = {
        "UNIT": 16 // torch_dtype.itemsize,
        "D": head_dim,
        "CAUSAL": causal,
        "PADDING": padding,
        "DQ": "q" in given,
        "DK": "k" in given,
        "DV": "v" in given,
        "PRECISION": precision or module.precision(head_dim, torch_dtype),
        "BLOCK_D": module.padded(head_dim),
        "BLOCK_M": blocks.queries,
        "BLOCK_N": blocks.keys,
        "COLUMNS": min(blocks.columns, module.padded(head_dim)),
    }
    return compiled_kernel(
        module.attend,
        dict.fromkeys(tensors, f"*{dtype}") | {"padding": "*i1"},
        constants,
        (),
        capability,
        dict.fromkeys(strides, ("i32",) * 3) | {"scale": "fp32"},
        {"num_warps": blocks.warps, "num_stages": blocks.stages},
    )


def assert_wide_accesses(kernel, folder):
    """Every load of queries, keys and values and every store moves 16 bytes of a thread; the padding is of bytes."""
    sass = dump(kernel, folder, "--dump-sass")
    for name in ("LDGSTS", "STG"):
        accesses = re.findall(rf"\b{name}\.\S+", sass)
        assert accesses
        assert all(".128" in access for access in accesses), set(accesses)
    narrow = {access for access in re.findall(r"\bLDG\.\S+", sass) if ".128" not in access}
    assert all(".U8" in access for access in narrow), narrow


@needs_compiler
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_hopper_spills_nothing_and_reads_sixteen_bytes_at_a_time(dtype, head_dim, tmp_path):
    kernel = compiled(dtype, head_dim, 90)
    assert_nothing_spilled(kernel, tmp_path)
    assert_wide_accesses(kernel, tmp_path)
    assert kernel.metadata.shared <= 99 << 10


@needs_compiler
@pytest.mark.parametrize("options", [{"causal": False}, {"padding": False}, {"given": "v"}, {"given": "q"}], ids=str)
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_simpler_kernels_spill_nothing(dtype, options, tmp_path):
    assert_nothing_spilled(compiled(dtype, 128, 90, **options), tmp_path)


@needs_compiler
@pytest.mark.parametrize("head_dim", [32, 64, 128, 256])
def test_tf32_spills_nothing(head_dim, tmp_path):
    assert_nothing_spilled(compiled("fp32", head_dim, 90, precision="tf32"), tmp_path)


@needs_compiler
@pytest.mark.parametrize("head_dim", [32, 64, 128, 256])
@pytest.mark.parametrize(("dtype", "precision"), [("bf16", None), ("fp32", None), ("fp32", "tf32")])
@pytest.mark.parametrize("capability", [80, 100])
def test_compiles_for_other_gpus(capability, dtype, precision, head_dim):
    kernel = compiled(dtype, head_dim, capability, precision=precision)
    assert kernel.metadata.shared <= 99 << 10
    assert getattr(kernel.metadata, "tmem_size", 0) <= 512
    assert "trap;" not in kernel.asm["ptx"]
