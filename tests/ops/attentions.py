"""Attention for the tests: a plain softmax in float64, differentiated by PyTorch; it owes nothing to the operation."""

import torch

from tests.tolerances import ROUNDING


def plain(q, k, v, causal=False, key_padding=None, scale=None):
    s = (q.shape[-1] ** -0.5 if scale is None else scale) * torch.einsum("bhid,bhjd->bhij", q, k)
    seen = torch.ones(s.shape, dtype=torch.bool)
    if causal:
        seen = seen.tril()
    if key_padding is not None:
        seen = seen & ~key_padding[:, None, None, :]
    # exp(s − max) where a key is seen, by hand: rows that see none have weights 0/1.
    top = torch.where(seen, s.detach(), -1e30).amax(-1, keepdim=True) if k.shape[2] else 0.0
    e = torch.where(seen, torch.exp(torch.where(seen, s - top, 0.0)), 0.0)
    total = e.sum(-1, keepdim=True)
    return torch.einsum("bhij,bhjd->bhid", e / torch.where(total == 0, 1.0, total), v)


def exact(primals, tangents, **options):
    """Output and tangent in float64."""
    wide = tuple(t.double() for t in primals)
    along = tuple(torch.zeros_like(t) if d is None else d.double() for t, d in zip(wide, tangents, strict=True))
    return torch.func.jvp(lambda *args: plain(*args, **options), wide, along)


def assert_right(results, primals, tangents, slack=1, **options):
    """Each result has the shape and dtype of q and errs, against float64, by its rounding and that of the sums."""
    dtype, d = primals[0].dtype, primals[0].shape[-1]
    for name, result, expected in zip(("output", "tangent"), results, exact(primals, tangents, **options), strict=True):
        assert result.dtype == dtype
        assert result.shape == expected.shape
        # The sums err relative to their largest terms: a rounding for each of the products of a score, at the most.
        sums = 4 * (d**0.5 + 4) * ROUNDING[torch.float64 if dtype == torch.float64 else torch.float32]
        largest = expected.abs().max() if expected.numel() else 0.0
        allowed = slack * (ROUNDING[dtype] * expected.abs() + sums * (1 + largest)) + 2.0**-24 * (
            dtype is torch.float16
        )
        error = (result.double() - expected).abs()
        assert (error <= allowed).all(), f"{name}: {error.max()} off, {(error / allowed).max()} times the tolerance"


def random_arguments(shape, dtype, given="qkv", order="contiguous", padding=False, **options):
    """Primals and tangents, None for those not ``given``, of shape (B, H, L, S, D), and masks as keywords."""
    b, h, queries, keys, d = shape

    def one(length):
        if order == "heads inside":
            return torch.randn(b, length, h, d).to(dtype).transpose(1, 2)
        if order == "strided":
            return torch.randn(b, h, length, 2 * d).to(dtype)[..., ::2]
        if order == "expanded":
            return torch.randn(b, 1, 1, d).to(dtype).expand(b, h, length, d)
        return torch.randn(b, h, length, d).to(dtype)

    primals, tangents = ([one(queries), one(keys), one(keys)] for _ in range(2))
    if padding:
        options["key_padding"] = torch.rand(b, keys) < 0.4
        options["key_padding"][:1, : keys // 2 + 1] = True  # under causal, rows that see no key
        options["key_padding"][1:2] = True
    return primals, [t if name in given else None for name, t in zip("qkv", tangents, strict=True)], options
