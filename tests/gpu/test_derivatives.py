"""Gradients and tangents of the operations on a GPU, against float64 on the CPU."""

import itertools

import pytest
import torch

from pyaccel import ops

F32, BF16 = torch.float32, torch.bfloat16


def flow(*tensors):
    """``linear_combination`` and ``gated_combination`` of tensors [2, 5, width]."""
    x, y, gate = tensors
    (z,) = ops.linear_combination([x, y], [[0.5, -1.5]])
    return ops.gated_combination(x, gate, [y, z], [1.5, -0.25])


def normed(norm):
    def block(x, branch, gate, scale, shift):
        r, y = ops.gated_residual_adaln(x, gate, branch, scale, shift, norm=norm, eps=1e-3)
        return r + ops.adaln_modulate(y, scale, shift, norm=norm, eps=1e-3)

    return block


def turned(q, k, weight, cos, sin):
    q, k = ops.qk_norm_rope(q.unflatten(-1, (4, -1)), k.unflatten(-1, (4, -1)), weight, weight, cos, sin, eps=1e-3)
    return (q * k).flatten(2)


def cases(width):
    x, row, head = (2, 5, width), (2, width), (5, width // 4)
    yield flow, [x, x, (2, 1, width)]
    yield normed("layer"), [x, x, row, row, row]
    yield normed("rms"), [x, x, row, row, row]
    yield turned, [x, x, (width // 4,), head, head]


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_gradients_and_tangents(gpu, dtype):
    rtol = 2e-5 if dtype is F32 else 0.04
    for width, i in itertools.product((40, 1152), range(4)):
        function, shapes = list(cases(width))[i]
        primals, tangents = ([torch.randn(s).to(dtype) for s in shapes] for _ in range(2))
        there, along = ([t.to(gpu) for t in ts] for ts in (primals, tangents))
        wide, wide_along = ([t.double() for t in ts] for ts in (primals, tangents))

        def near(found, expected):
            for a, b in zip(found, expected, strict=True):
                assert (a.cpu().double() - b).abs().max() <= rtol * (1 + b.abs().max())

        near(
            torch.func.jvp(function, tuple(there), tuple(along)),
            torch.func.jvp(function, tuple(wide), tuple(wide_along)),
        )
        g = torch.randn(shapes[0]).to(dtype)
        leaves, wide_leaves = ([t.requires_grad_() for t in ts] for ts in (there, wide))
        near(
            torch.autograd.grad(function(*leaves), leaves, g.to(gpu)),
            torch.autograd.grad(function(*wide_leaves), wide_leaves, g.double()),
        )


def test_inside_of_torch_compile(gpu):
    x, branch = torch.randn(2, 2, 5, 1152, device=gpu)
    gate, scale, shift = torch.randn(3, 2, 1152, device=gpu)
    block = normed("layer")
    compiled = torch.compile(block, fullgraph=True)
    torch.testing.assert_close(compiled(x, branch, gate, scale, shift), block(x, branch, gate, scale, shift))
