"""The Triton kernel of ``ema_update``: its values in the interpreter, and compiled without a GPU."""

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")

from pyaccel.triton_kernels import ema  # noqa: E402

from tests.triton_kernels.ahead_of_time import (  # noqa: E402
    assert_nothing_spilled,
    compiled_kernel,
    dump,
    in_interpreter,
    needs_compiler,
)

VALUES = """
import itertools
import torch
from pyaccel import ops
from pyaccel.ops import reference

torch.manual_seed(0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# The interpreter truncates where it stores bfloat16.
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-9, torch.float64: 1e-14}
SHAPES = [(1,), (0,), (3, 17), (70001,), ()]
assert ops.backend.choose(torch.device("cpu")) == "triton"
formula = reference.ema_update

def refuse(*args):
    raise AssertionError("the formula was used, not the kernel")

reference.ema_update = torch._foreach_lerp_ = refuse

def check(thetas, averages, rates, shapes=SHAPES, offset=0):
    def some(dtypes):
        room = [torch.randn(torch.Size(s).numel() + offset).to(dtypes[i % len(dtypes)]) for i, s in enumerate(shapes)]
        return [t[offset:].view(s) for t, s in zip(room, shapes)]
    params, ema = some(thetas), [some(averages[r % len(averages)]) for r in range(len(rates))]
    expected = [[formula(e, p, b) for e, p in zip(es, params)] for es, b in zip(ema, rates)]
    ops.ema_update(ema, params, rates)
    for es, answers in zip(ema, expected):
        for e, answer in zip(es, answers):
            torch.testing.assert_close(e, answer, rtol=ROUNDING[e.dtype], atol=ROUNDING[e.dtype])

for theta, average in itertools.product(DTYPES, repeat=2):
    check([theta], [[average]], [0.9, 0.25])
check(DTYPES, [DTYPES, DTYPES[2:], DTYPES[:1]], [0.9, 0.5, 0.999], SHAPES * 2)
check(DTYPES[:2], [DTYPES[:1]], [0.0, 1.0], [(i,) for i in range(33)], offset=1)
last = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
average = torch.zeros_like(last)
ops.ema_update([average], [torch.nn.Parameter(last)], 0.5)
assert torch.equal(average, last / 2)
print("right")
"""


def test_values_in_the_interpreter():
    assert in_interpreter(VALUES) == "right"


@needs_compiler
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("theta", "average"), [("float32",) * 2, ("bfloat16", "float32"), ("float64",) * 2])
def test_compiles_without_spills(theta, average, aligned, capability, tmp_path):
    pointers = {"table": "*i64", "weights": "*fp64" if theta == "float64" else "*fp32"}
    constants = {
        "RATES": 2,
        "THETA": getattr(triton.language, theta),
        "AVERAGE": getattr(triton.language, average),
        "ALIGNED": aligned,
        "ROUNDS": 10,
        "BLOCK": ema.BLOCK,
    }
    kernel = compiled_kernel(ema.approach, pointers, constants, (), capability)
    assert_nothing_spilled(kernel, tmp_path)
    code = dump(kernel, tmp_path, "--dump-sass")
    assert code.count("LDG.E.128") >= (5 if aligned else 0)
    assert code.count("STG.E.128") >= (2 if aligned else 0)
