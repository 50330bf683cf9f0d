"""The Triton kernels of ``adaln_modulate`` and ``gated_residual_adaln``: in the interpreter, and compiled."""

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")

from pyaccel.triton_kernels import adaln, rows  # noqa: E402

from tests.triton_kernels.ahead_of_time import (  # noqa: E402
    assert_nothing_spilled,
    compiled_kernel,
    dump,
    in_interpreter,
    needs_compiler,
)

BEGINNING = """
import itertools
import torch
from torch.autograd import forward_ad
from pyaccel import ops
from pyaccel.ops import reference_norms as reference

torch.manual_seed(0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# The interpreter truncates where it stores bfloat16.
ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-8, torch.float64: 1e-12}
assert ops.backend.choose(torch.device("cpu")) == "triton"
formulas = reference.adaln, reference.adaln_backward

def formula(*args):
    raise AssertionError("the formula was used, not the kernel")

def by_formula(f, *args):
    reference.adaln, reference.adaln_backward = formulas
    try:
        return f(*args)
    finally:
        reference.adaln = reference.adaln_backward = formula

reference.adaln = reference.adaln_backward = formula

def agrees(results, expected):
    for result, right in zip(results, expected, strict=True):
        if result is None or right is None:
            assert result is right
            continue
        tolerance = ROUNDING[result.dtype]
        torch.testing.assert_close(result.double(), right.double(), rtol=tolerance, atol=tolerance)

SHAPES = [
    ((2, 5, 24), (2, 24), (2, 24), (2, 24)),
    ((2, 5, 17), (17,), (2, 1, 17), (2, 5, 17)),
    ((2, 3, 5, 40), (2, 1, 5, 40), None, (2, 40)),
    ((1, 19, 33), (1, 33), (33,), None),
    ((3, 8), (3, 8), (8,), (1, 8)),
    ((18, 1), (1,), None, None),
    ((2, 3, 4, 6), (1, 3, 1, 6), (2, 3, 1, 1), (1, 1, 4, 6)),
]

def cases():
    for i, (shape, gate, scale, shift) in enumerate(SHAPES):
        for affine, branch, norm in itertools.product((False, True), (False, True), ("layer", "rms")):
            if i > 1 and (affine + branch + (norm == "rms") + i) % 2:  # the interpreter is slow: half of them each
                continue
            dtypes = itertools.cycle(DTYPES if i % 2 else DTYPES[:1])
            for _ in range(i):
                next(dtypes)
            made = lambda s: None if s is None else torch.randn(s).to(next(dtypes))
            x, b = made(shape), made(shape)
            g, s, t = made(gate), made(scale), made(shift)
            w, c = (made(shape[-1:]), made(shape[-1:])) if affine else (None, None)
            if branch:
                call = lambda x, g, b, s, t, w, c, norm=norm: ops.gated_residual_adaln(
                    x, g, b, s, t, weight=w, bias=c, norm=norm, eps=1e-3)
            else:
                g = b = None
                call = lambda x, g, b, s, t, w, c, norm=norm: (ops.adaln_modulate(
                    x, s, t, weight=w, bias=c, norm=norm, eps=1e-3),)
            yield call, (x, g, b, s, t, w, c)

def on(operands, f):
    return tuple(None if t is None else f(t) for t in operands)
"""

VALUES = """
for call, operands in cases():
    found = call(*operands)
    agrees(found, by_formula(call, *on(operands, torch.Tensor.double)))
    assert all(f.dtype == operands[0].dtype for f in found)
x = torch.randn(2, 6, 4, 8)
reference.adaln = formulas[0]
for t in (x.transpose(1, 3), x[:, ::2, :, 1::3], torch.randn(1, 6, 1, 8).expand(2, 6, 4, 8)):
    agrees([ops.adaln_modulate(t, None, None)], formulas[0](t.contiguous(), *[None] * 6, False, 1e-6))
assert ops.adaln_modulate(torch.empty(2, 0, 3), None, None).shape == (2, 0, 3)
wide = torch.randn(2, 9000)
agrees([ops.adaln_modulate(wide, None, None)], formulas[0](wide, *[None] * 6, False, 1e-6))
print("right")
"""

GRADIENTS = """
for call, operands in cases():
    def gradients(*operands):
        leaves = on(operands, lambda t: t.detach().clone().requires_grad_())
        results = call(*leaves)
        torch.manual_seed(1)
        total = sum((r.double() * torch.randn(r.shape).to(operands[0].dtype).double()).sum() for r in results)
        total.backward()
        return on(leaves, lambda t: t.grad)

    found, right = gradients(*operands), by_formula(gradients, *on(operands, torch.Tensor.double))
    for result, expected, t in zip(found, right, operands, strict=True):
        assert (result is None) == (t is None)
        if t is not None:
            assert result.shape == t.shape and result.dtype == t.dtype
            narrow = min((u.dtype for u in operands if u is not None), key=lambda d: -ROUNDING[d])
            by = 4 * ROUNDING[narrow] * float(expected.abs().max())
            assert float((result.double() - expected).abs().max()) <= by, (t.shape, t.dtype)
# Once more than ROWS rows, of which the last program has fewer; and one of the two results alone.
for lengths in ((1, 50, 24), (2, 33, 8)):
    x, b = torch.randn(2, *lengths, requires_grad=True).unbind()
    s = torch.randn(lengths[0], lengths[2], requires_grad=True)
    for place in (0, 1):
        def alone(x, b, s):
            return torch.autograd.grad(ops.gated_residual_adaln(x, s, b, s, s)[place].sum(), (x, b, s))
        agrees(alone(x, b, s), by_formula(alone, x, b, s))
# Twice: by the formula, from what the kernel gave.
x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
reference.adaln_backward = formulas[1]
assert torch.autograd.gradgradcheck(lambda x: ops.adaln_modulate(x, x, x, norm="rms"), (x,))
print("right")
"""

TANGENTS = """
for i, (call, operands) in enumerate(cases()):
    present = [t for t in operands if t is not None]
    places = [j for j, t in enumerate(operands) if t is not None]
    tangents = [torch.randn(t.shape).to(t.dtype) for t in present]
    chosen = [j for j in range(len(present)) if (i + j) % 3] or [0]  # the rest are constants

    def f(*some):
        given = list(operands)
        for j, t in zip(chosen, some, strict=True):
            given[places[j]] = t
        return tuple(call(*given))

    def wide(*some):
        given = list(on(operands, torch.Tensor.double))
        for j, t in zip(chosen, some, strict=True):
            given[places[j]] = t
        return tuple(call(*given))

    some, changes = tuple(present[j] for j in chosen), tuple(tangents[j] for j in chosen)
    right = by_formula(torch.func.jvp, wide, on(some, torch.Tensor.double), on(changes, torch.Tensor.double))
    found = torch.func.jvp(f, some, changes)
    narrow = max(ROUNDING[t.dtype] for t in present)
    for results, expected in zip(found, right, strict=True):
        for a, b in zip(results, expected, strict=True):
            by = 4 * narrow * float(b.abs().max())
            assert float((a.double() - b).abs().max()) <= by, (i, a.shape, a.dtype)
    with forward_ad.dual_level():
        results = f(*map(forward_ad.make_dual, some, changes))
        for result, a in zip(results, found[1], strict=True):
            torch.testing.assert_close(forward_ad.unpack_dual(result).tangent, a, rtol=0, atol=0)
# Where more is going on than one tangent, the formula is right.
reference.adaln, reference.adaln_backward = formulas
x, s = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
f = lambda x: ops.adaln_modulate(x, s, s)
g = lambda x: formulas[0](x, None, None, s[:, None], s[:, None], None, None, False, 1e-6)[0]
twice = lambda h: torch.func.jvp(lambda x: torch.func.jvp(h, (x,), (x,))[1], (x,), (x + 1,))[1]
torch.testing.assert_close(twice(f), twice(g))
mixed = lambda h: torch.func.grad(lambda x: torch.func.jvp(h, (x,), (x.detach(),))[1].square().sum())(x)
torch.testing.assert_close(mixed(f), mixed(g))
assert mixed(f).abs().max() > 0
leaf = x.clone().requires_grad_()
both = [torch.autograd.grad(torch.func.jvp(h, (leaf,), (x + 1,))[1].square().sum(), leaf)[0] for h in (f, g)]
torch.testing.assert_close(*both)
t = torch.func.vmap(lambda x: torch.func.jvp(lambda x: ops.adaln_modulate(x, s[0], None), (x,), (x + 1,))[1])(x)
torch.testing.assert_close(t, torch.func.jvp(lambda x: ops.adaln_modulate(x, s[0], None), (x,), (x + 1,))[1])
print("right")
"""


@pytest.mark.parametrize("program", [VALUES, GRADIENTS, TANGENTS], ids=["values", "gradients", "tangents"])
def test_in_the_interpreter(program):
    assert in_interpreter(BEGINNING + program) == "right"


BESIDE = """
import os
del os.environ["PYACCEL_BACKEND"]
from pyaccel.ops import backend
backend.triton_serves = lambda device: True
"""


@pytest.mark.parametrize("program", [GRADIENTS, TANGENTS], ids=["gradients", "tangents"])
def test_derivatives_beside_native_values(program):
    """As on a GPU that the native kernels serve."""
    assert in_interpreter(BESIDE + BEGINNING.replace('== "triton"', '== "native"') + program) == "right"


KERNELS = {kernel.__name__: kernel for kernel in (adaln.modulate, adaln.modulate_tangent, adaln.modulate_backward)}


@needs_compiler
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize(("dtype", "block"), [("fp32", 4096), ("bf16", 8192), ("fp64", 1024)])
@pytest.mark.parametrize("name", KERNELS)
def test_compiles_to_wide_accesses_without_spills(name, dtype, block, capability, tmp_path):
    accumulator = "fp64" if dtype == "fp64" else "fp32"
    kernel = KERNELS[name]
    sizes = {n for n in kernel.arg_names if n.endswith(("_inner", "_repeats"))} | {"width", "run", "programs_per_run"}
    constants = dict.fromkeys([n for n in kernel.arg_names if n.isupper()], True) | {
        "RMS": False,
        "EPS": 1e-6,
        "ACCUMULATOR": getattr(triton.language, {"fp64": "float64", "fp32": "float32"}[accumulator]),
        "BLOCK": block,
    }
    if "ROWS" in constants:
        constants["ROWS"] = rows.ROWS
    pointers = {n: f"*{dtype}" for n in kernel.arg_names if n not in sizes and n not in constants}
    if "sums" in pointers:
        pointers["sums"] = f"*{accumulator}"
    warps = rows.warps_of(block)
    made = compiled_kernel(kernel, pointers, constants, ("width",), capability, options={"num_warps": warps})
    if dtype != "fp64":  # whose backward needs more registers than there are
        assert_nothing_spilled(made, tmp_path)
    code = dump(made, tmp_path, "--dump-sass")
    for instruction in ("LDG", "STG"):
        assert code.count(f"{instruction}.E.128") == code.count(f"{instruction}.E") > 0
