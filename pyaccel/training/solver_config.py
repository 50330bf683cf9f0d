"""The settings of a solver's training."""

from __future__ import annotations

from dataclasses import dataclass

from .rates import warmed_up


@dataclass(frozen=True)
class SolverConfig:
    """What decides the result of a solver's training beside the models and the data.

    The logits of times learn ``time_factor`` times as fast as the rest: a change of theirs has a smaller effect.
    ``adversarial`` is the weight of the relativistic loss, 0 for none; ``gamma`` is that of R1 and R2 (over 2);
    ``ball`` the radius of LD3's ball around the noise, in units of its norm, 0 for none; ``ball_rate`` the step of the
    noise within it. With ``alternate`` above 0 coefficients and times are trained in turn, so many steps each.
    ``checkpoint`` makes model calls again in the backward pass instead of keeping their activations.
    ``objective`` is the name of the distance and ``pixels`` the weight of pixels in that of features, for the record.
    """

    steps: int = 2000
    batch_size: int = 24
    learning_rate: float = 5e-3
    time_factor: float = 5.0
    ema: float = 0.999
    clip: float = 1.0
    warmup: int = 20
    objective: str = "l2"
    pixels: float = 3.0
    adversarial: float = 0.0
    gamma: float = 0.2
    discriminator_rate: float = 2e-4
    ball: float = 0.0
    ball_rate: float = 1.0
    alternate: int = 0
    learn: tuple[str, ...] = ("times", "shifts", "coefficients", "states")
    validate_every: int = 100
    checkpoint: bool = False
    seed: int = 0

    def __post_init__(self):
        if self.steps < 1 or self.batch_size < 1 or self.validate_every < 1:
            raise ValueError(
                f"training needs steps, batch_size and validate_every of at least 1, got {self.steps}, "
                f"{self.batch_size} and {self.validate_every}"
            )
        if (
            min(self.learning_rate, self.discriminator_rate, self.time_factor) <= 0
            or min(self.adversarial, self.gamma, self.ball) < 0
        ):
            raise ValueError("learning rates must be above 0, and weights, gamma and the ball's radius not below it")

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine to a hundredth at the last step."""
        return warmed_up(self.learning_rate, step, warmup=self.warmup, steps=self.steps, least=0.01)
