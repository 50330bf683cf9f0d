"""``attention_jvp`` against ``torch.func.jvp`` over PyTorch's MATH backend, the one of its own that has a tangent.

Both make 12·B·H·L²·D flops. The peer also writes and reads several tensors of B·H·L² numbers, in float32 for 16-bit
inputs too. The ceiling is PyTorch's product of matrices of the sizes of a block, in float32 on the CPU and in the
inputs' dtype on a GPU, with as many flops. On a GPU the peak of the memory is measured as well, and the kernel's
18·B·H·L²·D flops (triton_kernels/attention_jvp.py) count as 12.
"""

import pytest
import torch
import torch.nn.functional as F
from harness import in_turns
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from pyaccel import ops

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")

LONGEST_BLOCK = 256
"""Rows of the ceiling's products on the CPU."""


def math_backend(q, k, v):
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v)


def arguments(shape, dtype, device):
    """Primals and tangents of shape (B, H, L, D), heads inside as a linear layer leaves them."""
    b, h, length, d = shape
    tensors = [torch.randn(b, length, h, d, device=device).to(dtype).transpose(1, 2) for _ in range(6)]
    return tuple(tensors[:3]), tuple(tensors[3:])


def peak_megabytes(function) -> float:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def measure(benchmark, report, shape, dtype, device):
    primals, tangents = arguments(shape, dtype, device)
    b, h, length, d = shape
    gpu = device == "cuda"
    rows = length if gpu else min(length, LONGEST_BLOCK)
    left = torch.randn(b * h if gpu else 1, rows, d, device=device, dtype=dtype if gpu else torch.float32)
    right = torch.randn(len(left), d, length, device=device, dtype=left.dtype)
    product = torch.empty(len(left), rows, length, device=device, dtype=left.dtype)

    def finished(function):
        """Waits for the GPU, so that the clock sees its work."""

        def call():
            function()
            if gpu:
                torch.cuda.synchronize()

        return call

    def ours():
        return ops.attention_jvp(*primals, tangents)

    def peer():
        return jvp(math_backend, primals, tangents)

    with torch.no_grad():
        contestants = {"ours": ours, "peer": peer, "product": lambda: torch.bmm(left, right, out=product)}
        seconds = in_turns({name: finished(function) for name, function in contestants.items()}, fewest=5)
        benchmark.pedantic(finished(ours), rounds=5, iterations=1)
        memory = {"ours, MB": peak_megabytes(ours), "peer, MB": peak_megabytes(peer)} if gpu else {}
    flops, product_flops = 12 * b * h * length**2 * d, 2 * product.numel() * d
    report(
        f"attention with its tangent, {torch.cuda.get_device_name() if gpu else 'CPU'}",
        shape="×".join(map(str, shape)),
        dtype=str(dtype).removeprefix("torch."),
        **{
            "ours, ms": seconds["ours"] * 1e3,
            "× MATH": seconds["peer"] / seconds["ours"],
            "of the ceiling, %": 100 * flops / product_flops * seconds["product"] / seconds["ours"],
            "GFLOP/s": flops / seconds["ours"] / 1e9,
        },
        **memory,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(4, 6, 196, 64), (1, 8, 1024, 64), (1, 4, 2048, 64)], ids=str)
def test_cpu(benchmark, report, shape, dtype):
    measure(benchmark, report, shape, dtype, "cpu")


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(8, 16, 256, 72), (4, 16, 2048, 64), (1, 24, 4608, 128), (2, 8, 1024, 160)], ids=str)
def test_gpu(benchmark, report, shape, dtype):
    measure(benchmark, report, shape, dtype, "cuda")
