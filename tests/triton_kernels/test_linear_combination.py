"""The Triton kernel: its values in the interpreter, and the machine code that it becomes, without a GPU."""

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

torch.manual_seed(0)
f32, bf16, f16, f64 = torch.float32, torch.bfloat16, torch.float16, torch.float64
assert ops.backend.choose(torch.device("cpu")) == "triton"

def check(shape, dtypes, outs, per_sample=False):
    sizes = shape[:1] * per_sample + (len(outs), len(dtypes))
    c = random_coefficients(*sizes)
    tensors = [torch.randn(shape).to(d) for d in dtypes]
    # The interpreter truncates where it stores bfloat16: twice the rounding.
    slack = 2 if bf16 in outs else 1
    assert_combines(ops.linear_combination(tensors, c, dtype=outs), tensors, c, slack)
    assert_combines(ops.linear_combination(tensors, torch.tensor(c), dtype=outs), tensors, torch.tensor(c), slack)
    into = [torch.full(shape, float("nan")).to(d) for d in outs]
    assert_combines(ops.linear_combination(tensors, c, out=into), tensors, c, slack)

def formula(*args):
    raise AssertionError("the formula was used, not the kernel")

reference.linear_combination = formula

for shape in [(), (1,), (3, 17), (255,), (4099,), (0, 3)]:
    check(shape, [f32, f32, f32], [f32])
check((5, 1000), [bf16, f32, f16], [bf16, f32, f16])
check((3, 333), [f32, bf16, f64], [f64, bf16, f32, f16])
check((3, 70001), [f32, bf16], [f32, f32], per_sample=True)  # several blocks to a sample
check((2, 40), [f32] * 64, [f32] * 6)
check((2, 40), [f32] * 150, [f32, bf16], per_sample=True)  # three launches through float32 scratch

# An output may be an input, also when the outputs need several launches.
for n in (2, 6):
    tensors = [torch.randn(1000) for _ in range(n)]
    before, c = [t.clone() for t in tensors], random_coefficients(n, n)
    assert_combines(ops.linear_combination(tensors, c, out=tensors), before, c)

# Over several launches an infinity stays in its output: no sum of one is multiplied by zero for another.
tensors = [torch.ones(4) for _ in range(70)]
tensors[0] = torch.full((4,), float("inf"))
a, b = ops.linear_combination(tensors, [[1.0] * 70, [-1.0] * 70])
assert torch.equal(a, tensors[0]) and torch.equal(b, -tensors[0])
channels_last = torch.randn(2, 3, 5, 7).to(memory_format=torch.channels_last)
(result,) = ops.linear_combination([channels_last, torch.randn(3, 1, 1)], [[1.0, 0.0]])
assert torch.equal(result, channels_last) and result.is_contiguous(memory_format=torch.channels_last)

# Gradients go through the kernel in both directions.
x = torch.randn(50, requires_grad=True)
(y,) = ops.linear_combination([x, x.detach()], [[2.0, 1.0]])
y.sum().backward()
assert torch.equal(x.grad, torch.full((50,), 2.0))
print("right")
"""


def test_values_in_the_interpreter():
    assert in_interpreter(VALUES) == "right"


@needs_compiler
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_compiles_ahead_of_time_without_spills(capability, tmp_path):
    kernel = compiled(capability, ["fp32", "bf16", "fp16"], ["fp32", "bf16"])
    assert_nothing_spilled(kernel, tmp_path)


@needs_compiler
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_loads_and_stores_sixteen_bytes_at_a_time(dtype, tmp_path):
    k, n = 3, 2
    sass = dump(compiled(90, [dtype] * k, [dtype] * n), tmp_path, "--dump-sass")
    per_thread = module.BLOCK // (32 * module.WARPS) * {"fp32": 4, "bf16": 2}[dtype] // 16
    assert len(re.findall(r"LDG\.E\.(?:\S+\.)?128", sass)) == k * per_thread
    assert len(re.findall(r"STG\.E\.(?:\S+\.)?128", sass)) == n * per_thread


@needs_compiler
def test_most_inputs_and_outputs_of_one_launch_do_not_spill(tmp_path):
    kernel = compiled(90, ["bf16"] * module.MOST_INPUTS, ["fp32"] * module.MOST_OUTPUTS, first=False)
    assert_nothing_spilled(kernel, tmp_path)


@needs_compiler
def test_float64_and_sizes_that_the_compiler_takes_for_constants(tmp_path):
    """Triton specializes arguments that equal one, such as the stride of a single input."""
    ones = ("row_stride", "sample_stride", "blocks_per_sample")
    kernel = compiled(90, ["bf16"], ["fp64", "bf16"], accumulator="fp64", ones=ones)
    assert_nothing_spilled(kernel, tmp_path)
