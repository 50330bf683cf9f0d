"""The Trainer: optimisation, EMA, checkpoints that resume to the same bits, progress. Losses and data are handed in."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from .. import ops
from ..seeding import step_generator
from .checkpoints import flatten, flatten_optimizer, load_optimizer, load_tensors, save_tensors, unflatten
from .data import ImageData
from .loop import Loop, refuse_other_settings
from .rates import ema_rate, warmup_cosine


@dataclass(frozen=True)
class TrainerConfig:
    """What decides the result of a training, beside model, loss and data. Two equal configs give equal bits."""

    steps: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 200
    clip: float = 1.0
    ema: float = 0.999
    bf16: bool = True
    flip: bool = True
    seed: int = 0

    def __post_init__(self):
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"training needs steps >= 1 and batch_size >= 1, got {self.steps} and {self.batch_size}")

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero at the last step."""
        return warmup_cosine(self.learning_rate, step, warmup=self.warmup, steps=self.steps)


class Trainer(Loop):
    """Trains ``model`` by ``loss(model, images, labels, generator)``, keeping an EMA of it in ``ema``.

    Everything random in step k depends on the seed and k alone, so the checkpoint (``folder/checkpoint.safetensors``)
    holds weights, EMA, optimizer and the step, and a run that was killed goes on to the same bits.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., torch.Tensor],
        data: ImageData,
        config: TrainerConfig,
        folder: Path,
        checkpoint_seconds: float = 120.0,
    ):
        self.model, self.loss, self.data, self.config = model, loss, data, config
        self.ema = copy.deepcopy(model).eval().requires_grad_(False)
        super().__init__(config.steps, folder, checkpoint_seconds)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )

    def train_step(self) -> torch.Tensor:
        """One optimizer step; returns the loss, a tensor without dimensions."""
        config, step = self.config, self.step
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate_at(step)
        images, labels = self.data.batch(step, config.batch_size, config.seed, config.flip)
        generator = step_generator(config.seed, step)
        # What draws from the global generator (dropout) depends on the step alone, too.
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            value = self.loss(self.model, images, labels, generator)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        self._update_ema()
        self.step += 1
        return value.detach()

    def _update_ema(self) -> None:
        rate = ema_rate(self.config.ema, self.step)
        ops.ema_update(list(self.ema.parameters()), list(self.model.parameters()), rate)
        for average, buffer in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            average.copy_(buffer)

    def save(self) -> None:
        """Writes the whole state to :attr:`checkpoint`, atomically."""
        tensors = flatten("model", self.model.state_dict()) | flatten("ema", self.ema.state_dict())
        tensors |= flatten_optimizer("optimizer", self.optimizer)
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "config": dataclasses.asdict(self.config),
            "history": self.history,
        }
        save_tensors(self.checkpoint, tensors, {"trainer": json.dumps(facts)})

    def load(self) -> None:
        """Goes on from :attr:`checkpoint`; ValueError when it was made with another configuration."""
        tensors, metadata = load_tensors(self.checkpoint)
        facts = json.loads(metadata["trainer"])
        refuse_other_settings(self.checkpoint, facts["config"], dataclasses.asdict(self.config))
        self.model.load_state_dict(unflatten("model", tensors))
        self.ema.load_state_dict(unflatten("ema", tensors))
        load_optimizer("optimizer", self.optimizer, tensors)
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.history = [tuple(row) for row in facts["history"]]
