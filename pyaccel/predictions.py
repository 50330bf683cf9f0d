"""What a network predicts, as a pair (p, q): x0 = p·x + q·output.

=========== ============================ ==========================================
name        the network's output         x0
=========== ============================ ==========================================
epsilon     eps                          x/alpha − (sigma/alpha)·eps
sample      x0                           output
v           v = alpha·eps − sigma·x0     (alpha·x − sigma·v)/(alpha² + sigma²)
flow        u = eps − x0                 (x − sigma·u)/(alpha + sigma)
=========== ============================ ==========================================

Each follows from x = alpha·x0 + sigma·eps (v: Salimans & Ho 2022, section 4; u: Lipman et al. 2023).
"""

from __future__ import annotations

from .scalars import Scalar

PREDICTIONS = ("epsilon", "sample", "v", "flow")


def check(prediction: str) -> str:
    """``prediction`` itself if it is known, otherwise a ValueError."""
    if prediction not in PREDICTIONS:
        raise ValueError(f"unknown prediction {prediction!r}; there are: {', '.join(PREDICTIONS)}")
    return prediction


def to_sample(prediction: str, alpha: Scalar, sigma: Scalar) -> tuple[Scalar, Scalar]:
    """(p, q) with x0 = p·x + q·output at a point where the data has factor alpha and the noise sigma.

    Raises ValueError for ``epsilon`` where alpha is 0: there the output says nothing about x0.
    """
    check(prediction)
    if prediction == "epsilon":
        if isinstance(alpha, float) and alpha == 0:
            raise ValueError(
                "prediction 'epsilon' cannot be converted where alpha is 0 (pure noise): "
                "start the times below 1, or use a model that predicts 'v', 'flow' or 'sample'"
            )
        return 1 / alpha, -sigma / alpha
    if prediction == "sample":
        return 0.0 * alpha, 0.0 * alpha + 1.0
    if prediction == "v":
        norm = alpha * alpha + sigma * sigma
        return alpha / norm, -sigma / norm
    return 1 / (alpha + sigma), -sigma / (alpha + sigma)


def to_noise(prediction: str, alpha: Scalar, sigma: Scalar) -> tuple[Scalar, Scalar]:
    """(p, q) with eps = p·x + q·output; finite at sigma = 0 except for ``sample``, which says nothing about eps there.

    Raises ValueError in that case.
    """
    check(prediction)
    if prediction == "epsilon":
        return 0.0 * alpha, 0.0 * alpha + 1.0
    if prediction == "sample":
        if isinstance(sigma, float) and sigma == 0:
            raise ValueError(
                "prediction 'sample' cannot be read as noise where sigma is 0 (pure data): start the times above 0, "
                "or use a model that predicts 'v', 'flow' or 'epsilon'"
            )
        return 1 / sigma, -alpha / sigma
    if prediction == "v":
        norm = alpha * alpha + sigma * sigma
        return sigma / norm, alpha / norm
    return 1 / (alpha + sigma), alpha / (alpha + sigma)


def target(prediction: str, x0, noise, alpha, sigma):
    """What the network is trained to predict, from tensors x0 and noise [B, ...] and alpha, sigma that broadcast."""
    check(prediction)
    if prediction == "epsilon":
        return noise
    if prediction == "sample":
        return x0
    return alpha * noise - sigma * x0 if prediction == "v" else noise - x0


def convert(prediction: str, form: str, alpha: Scalar, sigma: Scalar) -> tuple[Scalar, Scalar]:
    """(p, q) with m = p·x + q·output, where m is the output read as ``form``, another of :data:`PREDICTIONS`."""
    if prediction == form:
        return 0.0 * alpha, 0.0 * alpha + 1.0
    if form == "sample":
        return to_sample(prediction, alpha, sigma)
    if form == "epsilon":
        return to_noise(prediction, alpha, sigma)
    check(form)
    (px, qx), (pe, qe) = to_sample(prediction, alpha, sigma), to_noise(prediction, alpha, sigma)
    if form == "v":
        return alpha * pe - sigma * px, alpha * qe - sigma * qx
    return pe - px, qe - qx
