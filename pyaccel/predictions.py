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


def target(prediction: str, x0, noise, alpha, sigma):
    """What the network is trained to predict, from tensors x0 and noise [B, ...] and alpha, sigma that broadcast."""
    check(prediction)
    if prediction == "epsilon":
        return noise
    if prediction == "sample":
        return x0
    return alpha * noise - sigma * x0 if prediction == "v" else noise - x0


def convert(prediction: str, form: str, alpha: Scalar, sigma: Scalar) -> tuple[Scalar, Scalar]:
    """(p, q) with m = p·x + q·output, where m is read as ``form``: ``sample`` (x0) or ``epsilon``.

    A solver that works with noise asks for epsilon = (x − alpha·x0)/sigma.
    """
    if prediction == form:
        return 0.0 * alpha, 0.0 * alpha + 1.0
    p, q = to_sample(prediction, alpha, sigma)
    if form == "sample":
        return p, q
    if form != "epsilon":
        raise ValueError(f"a prediction is read as 'sample' or 'epsilon', not as {form!r}")
    if isinstance(sigma, float) and sigma == 0:
        raise ValueError("a prediction cannot be read as 'epsilon' where sigma is 0")
    return (1 - alpha * p) / sigma, -alpha * q / sigma
