"""The Triton kernels of ``qk_norm_rope``: in the interpreter, and compiled."""

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")

from pyaccel.triton_kernels import norm_rope, rows  # noqa: E402

from tests.triton_kernels.ahead_of_time import (  # noqa: E402
    assert_nothing_spilled,
    compiled_kernel,
    dump,
    in_interpreter,
    needs_compiler,
)

PROGRAM = """
import itertools
import torch
from pyaccel import ops
from pyaccel.ops import reference_norms as reference

torch.manual_seed(0)
# The interpreter truncates where it stores bfloat16.
ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-8, torch.float64: 1e-12}
assert ops.backend.choose(torch.device("cpu")) == "triton"
formulas = reference.norm_rope, reference.norm_rope_backward

def formula(*args):
    raise AssertionError("the formula was used, not the kernel")

def use(*pair):
    reference.norm_rope, reference.norm_rope_backward = pair

def agrees(found, right, by):
    assert found.dtype is not right.dtype or right.dtype is torch.float64
    assert found.shape == right.shape
    assert float((found.double() - right).abs().max()) <= by * max(1.0, float(right.abs().max())), found.dtype

shapes = [(2, 5, 3, 12), (1, 19, 2, 16), (2, 3, 1, 2), (1, 2, 5, 34)]
for i, (shape, across, angles, interleaved) in enumerate(
    itertools.product(shapes, (None, False, True), (0, 1, 2), (True, False))
):
    dtype = list(ROUNDING)[i % 4]
    length, heads, width = shape[1:]
    if shape is not shapes[0] and i % 5:  # odd and long shapes: a few cases of each will do
        continue
    made = lambda *s: torch.randn(s).to(dtype)
    operands = [made(*shape), None if across is None else made(heads * width if across else width)]
    batch = shape[0] if angles > 1 else 1
    operands += [torch.randn(batch, length, 1, width) if angles else None for _ in "cs"]
    call = lambda x, w, c, s: ops.qk_norm_rope(x, x, w, w, c, s, eps=1e-3, interleaved=interleaved)[0]
    changes = [None if t is None else torch.randn(t.shape).to(t.dtype) for t in operands]
    wide = [None if t is None else t.double() for t in operands]
    wide_changes = [None if t is None else t.double() for t in changes]
    places = [j for j, t in enumerate(operands) if t is not None]

    def of(given):
        def f(*some):
            full = [None] * 4
            for j, t in zip(places, some, strict=True):
                full[j] = t
            return call(*full)
        return f, tuple(given[j] for j in places)

    results = []
    for values, tangents in ((operands, changes), (wide, wide_changes)):
        use(*(formulas if values is wide else (formula, formula)))
        f, given = of(values)
        y, dy = torch.func.jvp(f, given, of(tangents)[1])
        leaves = [None if t is None else t.clone().requires_grad_(j < 2) for j, t in enumerate(values)]
        out = call(*leaves)
        out.backward(tangents[0])
        results.append([call(*values), y, dy, leaves[0].grad, *([] if across is None else [leaves[1].grad])])
    for found, right in zip(*results, strict=True):
        agrees(found, right, 4 * ROUNDING[dtype])
use(*formulas)
large = torch.randn(1, 2, 40, 256)
torch.testing.assert_close(ops.qk_norm_rope(large, large, None, None, None, None)[0],
                           torch.nn.functional.rms_norm(large, (256,), eps=1e-6))
print("right")
"""


def test_in_the_interpreter():
    assert in_interpreter(PROGRAM) == "right"


KERNELS = {
    kernel.__name__: kernel
    for kernel in (norm_rope.norm_rope, norm_rope.norm_rope_tangent, norm_rope.norm_rope_backward)
}


@needs_compiler
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize(("heads", "neighbours", "across"), [(24, True, False), (40, True, True), (24, False, False)])
@pytest.mark.parametrize("name", KERNELS)
def test_compiles_to_wide_accesses_without_spills(name, heads, neighbours, across, capability, tmp_path):
    """Heads of 128 in bfloat16: 24 of them are FLUX's, 40 Wan's."""
    kernel = KERNELS[name]
    heads_block, half = norm_rope.blocks(heads, 128)
    sizes = {"heads", "width", "tokens", "cos_period", "sin_period"}
    constants = dict.fromkeys([n for n in kernel.arg_names if n.isupper()], True) | {
        "ACROSS": across,
        "NEIGHBOURS": neighbours,
        "EPS": 1e-6,
        "ACCUMULATOR": triton.language.float32,
        "HEADS": heads_block,
        "HALF": half,
    }
    if "ROWS" in constants:
        constants["ROWS"] = rows.ROWS
    pointers = {n: "*bf16" for n in kernel.arg_names if n not in sizes and n not in constants}
    pointers |= {n: "*fp32" for n in pointers if n in ("cos", "sin", "sums", "cos_tangent", "sin_tangent")}
    warps = rows.warps_of(norm_rope.loaded_at_once(heads_block, half, neighbours))
    made = compiled_kernel(kernel, pointers, constants, ("width",), capability, options={"num_warps": warps})
    assert_nothing_spilled(made, tmp_path)
    code = dump(made, tmp_path, "--dump-sass")
    for instruction in ("LDG", "STG"):
        assert code.count(f"{instruction}.E.128") == code.count(f"{instruction}.E") > 0
