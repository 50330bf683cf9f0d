"""``attention_jvp`` on a GPU: against float64, and beside PyTorch's MATH backend."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from pyaccel import ops
from pyaccel.ops import backend
from tests.ops.attentions import assert_right, exact, random_arguments

F32, BF16, F16 = DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MASKS = [{}, {"causal": True}, {"padding": True}, {"causal": True, "padding": True, "scale": -0.7}]
SHAPES = [(2, 3, 7, 9, 40), (1, 2, 190, 133, 64), (2, 1, 133, 190, 128), (1, 2, 300, 65, 256), (2, 2, 70, 70, 72)]


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    device = torch.device("cuda", torch.cuda.current_device())
    if reason := backend.why_not("triton", device):
        pytest.skip(reason)
    monkeypatch.setenv("PYACCEL_BACKEND", "triton")
    torch.set_float32_matmul_precision("highest")
    return device


def moved(gpu, primals, tangents, options):
    def one(t):
        return None if t is None else t.to(gpu) if t.is_contiguous() else t.transpose(1, 2).to(gpu).transpose(1, 2)

    options = {name: value.to(gpu) if isinstance(value, torch.Tensor) else value for name, value in options.items()}
    return [one(t) for t in primals], [one(t) for t in tangents], options


def math_backend(q, k, v):
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("masks", MASKS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_output_and_tangent(gpu, dtype, masks, monkeypatch):
    def other(*args):
        raise AssertionError("the CPU's path was used, not the kernel")

    monkeypatch.setattr("pyaccel.ops.attention_blocks.attention_jvp", other)
    for shape in SHAPES:
        for given, order in (("qkv", "contiguous"), ("qv", "heads inside")):
            primals, tangents, options = random_arguments(shape, dtype, given, order, **masks)
            there = moved(gpu, primals, tangents, options)
            results = ops.attention_jvp(*there[0], there[1], **there[2])
            assert_right([t.cpu() for t in results], primals, tangents, **options, slack=2)


def test_forward_mode_and_gradients(gpu):
    primals, tangents, _ = random_arguments((2, 2, 130, 130, 64), F32)
    there, along, _ = moved(gpu, primals, tangents, {})
    results = jvp(ops.attention, tuple(there), tuple(along))
    assert_right([t.cpu() for t in results], primals, tangents, slack=2)
    for t in there:
        t.requires_grad_()
    found = torch.autograd.grad(ops.attention_jvp(*there, along)[0].square().sum(), there)
    expected = torch.autograd.grad(math_backend(*there).square().sum(), there)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_no_further_off_than_the_math_backend(gpu):
    for d in (64, 128):
        primals, tangents, _ = random_arguments((2, 4, 512, 512, d), BF16)
        there, along, _ = moved(gpu, primals, tangents, {})
        ours = ops.attention_jvp(*there, along)
        peer = jvp(math_backend, tuple(there), tuple(along))
        for mine, theirs, right in zip(ours, peer, exact(primals, tangents), strict=True):
            off, allowed = ((t.cpu().double() - right).square().mean().sqrt() for t in (mine, theirs))
            assert off <= 1.02 * allowed, f"D = {d}: ours {off:.4e}, MATH {allowed:.4e}"


def test_memory_is_linear_in_the_length(gpu):
    primals, tangents, _ = random_arguments((2, 8, 2048, 2048, 64), BF16)
    there, along, _ = moved(gpu, primals, tangents, {})

    def peak(f):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        f()
        return torch.cuda.max_memory_allocated() - before

    with torch.no_grad():
        ours, theirs = (
            peak(lambda: ops.attention_jvp(*there, along)),
            peak(lambda: jvp(math_backend, tuple(there), tuple(along))),
        )
    assert ours <= theirs / 10
