"""A discriminator of several heads on the frozen features of a network, and its hinge loss: for ADD and LADD."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..denoiser import repeated
from ..models.layers import sinusoidal_embedding
from ..training.adversarial import gradient_penalty


def hinge_generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """−Σ_k mean D_k(fake) over heads k, whose logits are [b, places] (Sauer et al. 2023, arXiv 2311.17042, eq. 2)."""
    return -torch.stack([logits.mean() for logits in fake]).sum()


def hinge_discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Σ_k mean max(0, 1 − D_k(real)) + mean max(0, 1 + D_k(fake)) (eq. 3 there, without R1)."""
    pairs = zip(real, fake, strict=True)
    return torch.stack([F.relu(1 - of_real).mean() + F.relu(1 + of_fake).mean() for of_real, of_fake in pairs]).sum()


def discriminator_step_loss(
    discriminator: nn.Module, real: Sequence[Tensor], fake: Sequence[Tensor], r1: float, *t: Tensor, **conditioning
) -> Tensor:
    """The hinge loss of a :class:`Discriminator` and ``r1`` times its penalty, in one call for both.

    ``real`` and ``fake`` are features of equally many samples, the latter without their graph; the time t [b] of noisy
    ones and the conditioning are the same for both. Without ``r1`` there is no penalty, nor its second derivatives.
    """
    both = [torch.cat([r, f.detach()]) for r, f in zip(real, fake, strict=True)]
    told, conditioning = [u.repeat(2) for u in t], repeated(conditioning, 2)
    logits, penalty = discriminator(both, *told, real=len(real[0]) if r1 else 0, **conditioning)
    of_real, of_fake = zip(*(head.chunk(2) for head in logits), strict=True)
    return hinge_discriminator_loss(of_real, of_fake) + r1 * penalty


def as_map(features: Tensor) -> Tensor:
    """Features as maps [b, c, h, w]: tokens [b, n, c] of a square as they lie in it, others in a row; [b, c] as one."""
    if features.dim() == 4:
        return features
    if features.dim() == 2:
        return features[:, :, None, None]
    side = math.isqrt(features.shape[1])
    shape = (side, side) if side * side == features.shape[1] else (1, -1)
    return features.transpose(1, 2).unflatten(2, shape)


class Head(nn.Module):
    """``forward(features, c)``: features of ``width`` channels and c [b, embedding] or None -> logits [b, places].

    Convolutions over the places, one of them residual, as StyleGAN-T has them (Sauer et al. 2023, arXiv 2301.09515); in
    two dimensions, as LADD has them. The condition enters as a projection (Miyato & Koyama 2018, arXiv 1802.05637).
    Norms are over the channels of one sample, so that no logit depends on the rest of the batch.
    """

    def __init__(self, width: int, embedding: int = 0):
        super().__init__()
        groups = math.gcd(width, max(1, width // 16))
        self.first, self.first_norm = nn.Conv2d(width, width, 1), nn.GroupNorm(groups, width)
        self.second, self.second_norm = nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(groups, width)
        self.score = nn.Conv2d(width, 1, 1)
        self.project = nn.Linear(embedding, width) if embedding else None

    def forward(self, features: Tensor, c: Tensor | None) -> Tensor:
        h = F.leaky_relu(self.first_norm(self.first(as_map(features))), 0.2)
        h = math.sqrt(0.5) * (h + F.leaky_relu(self.second_norm(self.second(h)), 0.2))
        logits = self.score(h).flatten(1)
        if self.project is None:
            return logits
        h = h.flatten(2)
        return logits + torch.einsum("bcn,bc->bn", h, self.project(c).to(h.dtype)) / math.sqrt(h.shape[1])


class Discriminator(nn.Module):
    """``forward(features, t, real=0, **conditioning)`` gives (logits [b, places] of each head, the penalty).

    The penalty is R1 on the heads' inputs, summed over heads: mean ‖∇_F Σ_places D_k(F)‖² at the first ``real``
    samples, which are the real ones; 0 without any. It is computed in here, where the parameters of a network in shards
    are whole.

    Args:
        widths: channels of the features, one number for each head.
        classes: of ``label`` [b]; a label that is not given, or is ``classes``, is none. 0: heads know no label.
        given: the widths of further conditioning by name, [b, width] or [b, tokens, width], whose mean counts.
        timed: whether heads are told the time t [b] of noisy features.
        embedding: width of all that together.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        classes: int = 0,
        given: Mapping[str, int] | None = None,
        timed: bool = False,
        embedding: int = 64,
    ):
        super().__init__()
        self.classes, self.given = classes, tuple(given or {})
        self.label = nn.Embedding(classes + 1, embedding) if classes else None
        self.projections = nn.ModuleDict({name: nn.Linear(width, embedding) for name, width in (given or {}).items()})
        self.time = (
            nn.Sequential(nn.Linear(64, embedding), nn.SiLU(), nn.Linear(embedding, embedding)) if timed else None
        )
        conditioned = bool(classes or given or timed)
        # No ModuleList: what is in one is sharded one by one, and the penalty needs all of it whole.
        self.heads = nn.Sequential(*(Head(width, embedding if conditioned else 0) for width in widths))

    def forward(
        self, features: Sequence[Tensor], t: Tensor | None = None, *, real: int = 0, **conditioning
    ) -> tuple[list[Tensor], Tensor]:
        dtype = self.heads[0].score.weight.dtype
        features = [f.to(dtype) for f in features]
        c = self._condition(features[0], t, conditioning)
        if not real:
            return [head(f, c) for head, f in zip(self.heads, features, strict=True)], features[0].new_zeros(())
        c_real, c_fake = (None, None) if c is None else (c[:real], c[real:])
        logits, penalties = [], []
        for head, f in zip(self.heads, features, strict=True):
            at = f[:real].detach().requires_grad_()
            of_real = head(at, c_real)
            penalties.append(gradient_penalty(of_real, at))
            logits.append(torch.cat([of_real, head(f[real:], c_fake)]))
        return logits, torch.stack(penalties).sum()

    def _condition(self, like: Tensor, t: Tensor | None, conditioning: dict) -> Tensor | None:
        parts = []
        if self.label is not None:
            label = conditioning.get("label")
            if label is None:
                label = torch.full((len(like),), self.classes, device=like.device)
            parts.append(self.label(label))
        for name in self.given:
            if name not in conditioning:
                there = ", ".join(conditioning) or "nothing"
                raise ValueError(f"the discriminator is conditioned on {name!r}, and the data have {there}")
            value = conditioning[name].to(like.dtype)
            parts.append(self.projections[name](value.mean(1) if value.dim() == 3 else value))
        if self.time is not None:
            parts.append(self.time(sinusoidal_embedding(1000 * t, 64).to(like.dtype)))
        return torch.stack(parts).sum(0) if parts else None
