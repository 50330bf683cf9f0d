"""Noise drawn in the Triton kernel: its values in the interpreter, and the machine code that it becomes."""

import re

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from pyaccel.triton_kernels import linear_combination as module

from tests.triton_kernels.ahead_of_time import (
    assert_nothing_spilled,
    compiled,
    dump,
    in_interpreter,
    needs_compiler,
)

VALUES = """
import torch
from pyaccel import ops
from pyaccel.ops import reference
from tests.ops.combinations import assert_combines, random_coefficients
from tests.tolerances import NORMAL

torch.manual_seed(0)
f32, bf16, f16, f64 = torch.float32, torch.bfloat16, torch.float16, torch.float64
assert ops.backend.choose(torch.device("cpu")) == "triton"
normal = reference.normal

def draw(*args, **kwargs):
    raise AssertionError("the formula was used, not the kernel")

reference.normal = draw
LARGE = [2**62 + 5, 0, 2**32, 7]

for shape in [(1,), (4, 3), (3, 1023), (2, 4099), (1, 70001), (0, 3), (3, 0)]:
    for stream in (0, 1, 2**32 + 3, 2**63 - 1):
        seeds = LARGE[:shape[0]]
        xi = ops.normal(shape, seeds, stream)
        assert xi.shape == shape and (xi - normal(shape, seeds, stream)).abs().lt(NORMAL).all()

def check(shape, dtypes, outs, streams, per_sample=False):
    seeds = LARGE[:shape[0]]
    c = random_coefficients(*shape[:1] * per_sample, len(outs), len(dtypes) + len(streams))
    tensors = [torch.randn(shape).to(d) for d in dtypes]
    all_of_them = [*tensors, *(ops.normal(shape, seeds, s) for s in streams)]
    results = ops.linear_combination(tensors, c, dtype=outs, noise=ops.Noise(seeds, streams))
    assert_combines(results, all_of_them, c, 2 if bf16 in outs else 1)  # the interpreter truncates bfloat16

check((3, 70001), [f32, f32], [f32], [5])
check((3, 333), [bf16, f32], [bf16, f32, f16], [5, 2**40], per_sample=True)
check((2, 41), [f32, f64], [f64, f32, bf16, f32, f32], [0, 1, 2])
check((2, 40), [f32] * 70, [f32] * 2, [3])
x = torch.randn(3, 50)
before = x.clone()
ops.linear_combination([x], [[2.0, 1.0]], out=[x], noise=ops.Noise([1, 2, 3], [4]))
assert_combines([x], [before, ops.normal((3, 50), [1, 2, 3], 4)], [[2.0, 1.0]])
print("right")
"""


def test_values_in_the_interpreter():
    assert in_interpreter(VALUES) == "right"


@needs_compiler
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_compiles_ahead_of_time_without_spills(capability, tmp_path):
    assert_nothing_spilled(compiled(capability, ["fp32", "bf16"], ["fp32", "bf16"], streams=1), tmp_path)


@needs_compiler
@pytest.mark.parametrize("inputs", [[], ["fp32"] * 4])
def test_several_streams_and_no_inputs_do_not_spill(inputs, tmp_path):
    assert_nothing_spilled(compiled(90, inputs, ["fp32"] * module.MOST_OUTPUTS, streams=3), tmp_path)


@needs_compiler
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_loads_and_stores_sixteen_bytes_at_a_time(dtype, tmp_path):
    """And one call of Philox serves four elements: of its twenty products of 32 bits none is made four times."""
    k, n = 2, 1
    sass = dump(compiled(90, [dtype] * k, [dtype] * n, streams=1), tmp_path, "--dump-sass")
    elements = module.BLOCK // (32 * module.WARPS)
    per_thread = elements * {"fp32": 4, "bf16": 2}[dtype] // 16
    assert len(re.findall(r"LDG\.E\.(?:\S+\.)?128", sass)) == k * per_thread
    assert len(re.findall(r"STG\.E\.(?:\S+\.)?128", sass)) == n * per_thread
    assert len(re.findall(r"IMAD\.(?:WIDE|HI)\.U32", sass)) <= 2 * 20 * (elements // 4)
