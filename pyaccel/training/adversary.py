"""The adversary of a solver in training: a discriminator with its optimizer, whose step is one launch on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .adversarial import check_discriminator, discriminator_loss, relativistic_generator_loss
from .checkpoints import flatten, flatten_optimizer, load_optimizer, unflatten
from .graphs import Graphed
from .solver_config import SolverConfig
from .teacher import Conditioning, TeacherData


class Adversary:
    """``discriminator`` against a solver, by R3GAN's losses with the weights and rates of ``config``.

    ValueError or TypeError where it does not take the samples and the conditioning of ``data``.
    """

    def __init__(self, discriminator: nn.Module | None, config: SolverConfig, data: TeacherData):
        if discriminator is None:
            raise ValueError("an adversarial weight needs a discriminator: a module D(x, **conditioning) -> [B]")
        _, samples, conditioning = data.at(slice(2))
        check_discriminator(discriminator, samples, conditioning)
        self.discriminator, self.config, self.names = discriminator, config, sorted(conditioning)
        self.optimizer = torch.optim.Adam(
            discriminator.parameters(), lr=config.discriminator_rate, betas=(0.0, 0.99), eps=1e-8,
            capturable=samples.device.type == "cuda",
        )  # fmt: skip
        self._part: Callable[..., Sequence[Tensor]] = self._train

    def loss(self, real: Tensor, fake: Tensor, conditioning: Conditioning) -> Tensor:
        """The solver's part of the loss, weighted; gradients go to ``fake`` alone."""
        with torch.no_grad():
            of_real = self.discriminator(real, **conditioning)
        return self.config.adversarial * relativistic_generator_loss(of_real, self.discriminator(fake, **conditioning))

    def train_step(self, real: Tensor, fake: Tensor, conditioning: Conditioning) -> None:
        """One step of the discriminator on samples without graphs."""
        self._part(real, fake, *(conditioning[name] for name in self.names))

    def record(self, graph: bool) -> None:
        """Makes the step a CUDA graph, or none; anew where tensors that it reads have been replaced."""
        # Detached: a copy's history would keep autograd's nodes of the stream that it was made in, for which a graph
        # may not wait.
        state = list(self._state().values())
        before = [t.detach().clone() for t in state]

        def restore() -> None:
            # A step that was not there before has made new tensors: zeros.
            now = self._state().values()
            with torch.no_grad():
                for t in now:
                    t.zero_()
                for t, was in zip(state, before, strict=True):
                    t.copy_(was)

        self._part = Graphed(self._train, restore) if graph else self._train

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint has to hold."""
        state = flatten("discriminator", self.discriminator.state_dict())
        return state | flatten_optimizer("discriminator_optimizer", self.optimizer)

    def set(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of :meth:`tensors`."""
        self.discriminator.load_state_dict(unflatten("discriminator", tensors))
        load_optimizer("discriminator_optimizer", self.optimizer, tensors)

    def _train(self, real: Tensor, fake: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        conditioning = dict(zip(self.names, values, strict=True))
        loss = discriminator_loss(self.discriminator, real, fake, self.config.gamma, conditioning)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return (loss.detach(),)

    def _state(self) -> dict[str, Tensor]:
        tensors = dict(self.discriminator.named_parameters()) | dict(self.discriminator.named_buffers())
        return tensors | flatten_optimizer("optimizer", self.optimizer)
