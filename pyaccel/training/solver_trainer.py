"""The training of a solver: GS, GAS and LD3 are one loop with other losses and other parameters.

The networks are frozen; a few dozen numbers are learned. Each step is split in two: what is on the device goes from the
table of coefficients to the loss and the gradient of the table; the rest, from the parameters to the table, is float64
on the CPU and takes a millisecond. So one small tensor goes to the device in a step and one comes back; what is between
them is on a GPU one launch (graphs.py).
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import ops
from .adversary import Adversary
from .checkpoints import flatten, flatten_optimizer, load_optimizer, load_tensors, save_tensors, unflatten
from .distances import Distance
from .graphs import Graphed
from .loop import Loop, refuse_other_settings
from .rates import ema_rate
from .solver_config import SolverConfig
from .teacher import TeacherData


class SolverTrainer(Loop):
    """Trains ``trainable`` (a :class:`pyaccel.solvers.TrainablePlan`) to lead from noise to the teacher's samples.

    Args:
        trainable: the plan with parameters; ``ema`` is an average of it over the steps.
        denoiser: a :class:`pyaccel.Denoiser` on the device of the data, its parameters without gradients.
        data, held_out: teacher samples to train on and to validate with, on one device.
        distance: of samples to targets, per sample.
        discriminator: for ``config.adversarial`` above 0.
        validate: ``(plan) -> float`` of the EMA's plan, smaller is better; by default the RMSE on ``held_out``.
        graph: on a GPU, launch the steps as CUDA graphs.
        report: called with (step, {name: value}) at each validation, for logs.

    The best plan by validation, among the EMA's from the start on, is :attr:`best`. A checkpoint holds everything, and
    a run that goes on from it comes to the same bits.
    """

    look_every = 25

    def __init__(
        self,
        trainable,
        denoiser,
        data: TeacherData,
        held_out: TeacherData,
        distance: Distance,
        config: SolverConfig,
        folder: Path,
        *,
        discriminator: nn.Module | None = None,
        validate: Callable[[nn.Module], float] | None = None,
        report: Callable[[int, dict[str, float]], None] | None = None,
        checkpoint_seconds: float = 60.0,
        graph: bool = True,
        facts: dict | None = None,
    ):
        super().__init__(config.steps, folder, checkpoint_seconds)
        self.trainable, self.denoiser, self.data, self.held_out = trainable, denoiser, data, held_out
        self.distance, self.config, self.report, self.graph = distance, config, report, graph
        self.facts = facts or {}  # what else decides the result: a checkpoint of other facts is refused
        self.device, self.names = data.noise.device, sorted(data.conditioning)
        trainable.learn(config.learn)
        self.ema = copy.deepcopy(trainable).requires_grad_(False)
        self.learned = [p for p in trainable.parameters() if p.requires_grad and p.numel()]
        if not self.learned:
            raise ValueError(f"there is nothing to learn: this plan has no {', '.join(config.learn)}")
        groups = [
            {"params": [p], "factor": config.time_factor if p is trainable.time_logits else 1.0} for p in self.learned
        ]
        self.optimizer = torch.optim.Adam(groups, lr=config.learning_rate)
        self.adversary = Adversary(discriminator, config, data) if config.adversarial > 0 else None
        self.offsets = torch.zeros_like(data.noise) if config.ball else None
        self.validate = validate or self.validation_rmse
        self.validations: list[tuple[int, float]] = []
        self.best, self.best_score, self.best_step = copy.deepcopy(self.ema), math.inf, -1
        self._check_data()
        self._record()

    def _record(self) -> None:
        """On a GPU what is done there becomes two graphs; anew where tensors that they read have been replaced."""
        graph = self.graph and self.device.type == "cuda" and not self.config.checkpoint
        self._solver_part = Graphed(self._differentiated) if graph else self._differentiated
        if self.adversary is not None:
            self.adversary.record(graph)

    def _check_data(self) -> None:
        """A teacher's sample that is not finite would spoil everything later, and nobody would know which it was."""
        for data in (self.data, self.held_out):
            bad = ~torch.isfinite(data.samples.flatten(1).sum(1))
            if bad.any():
                raise ValueError(
                    f"the teacher's sample {data.first + int(bad.nonzero()[0])} has NaN or infinite values"
                )

    # -- steps --------------------------------------------------------------------------------------------------------

    def train_step(self) -> Tensor:
        """One step of the solver and, with an adversary, one of the discriminator; returns the solver's loss."""
        config, step = self.config, self.step
        index = self.data.indices(step, config.batch_size, config.seed).to(self.device, non_blocking=True)
        noise, target, conditioning = self.data.at(index)
        values = [conditioning[name] for name in self.names]
        rate = config.learning_rate_at(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        table = self.trainable.table_for(self.denoiser)
        self._layout = table
        numbers = table.numbers.detach().to(self.device, non_blocking=True)
        offset = None if self.offsets is None else self.offsets[index]
        moved = noise if offset is None else noise + offset
        loss, gradient, by_noise, fake = self._solver_part(numbers, moved, target, *values)
        if offset is not None:
            self._move_offsets(index, offset, by_noise, noise)
        if self.adversary is not None:
            self.adversary.train_step(target, fake, conditioning)
        loss = loss.clone()  # a graph's result is overwritten in the next step
        self.optimizer.zero_grad(set_to_none=True)
        table.numbers.backward(gradient.to(table.numbers.device))
        if config.alternate:
            self._only_one_kind(step // config.alternate % 2)
        nn.utils.clip_grad_norm_(self.learned, config.clip, foreach=False)
        self.optimizer.step()
        self._update_ema()
        self.step += 1
        return loss

    def _differentiated(self, numbers: Tensor, noise: Tensor, target: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        """(loss, its gradients by the numbers of the table and, for a ball, by the noise, the samples).

        ``values`` are those of the conditioning in the order of ``names``: a graph takes tensors alone.
        """
        numbers = numbers.detach().requires_grad_()
        inputs = [numbers]
        if self.offsets is not None:
            noise = noise.detach().requires_grad_()
            inputs.append(noise)
        table = dataclasses.replace(self._layout, numbers=numbers)
        conditioning = dict(zip(self.names, values, strict=True))
        fake = self.trainable.run(table, self.denoiser, noise, self.config.checkpoint, conditioning)
        loss = self.distance(fake, target).mean()
        if self.adversary is not None:
            loss = loss + self.adversary.loss(target, fake, conditioning)
        gradients = torch.autograd.grad(loss, inputs)
        return loss.detach(), gradients[0], gradients[-1], fake.detach()

    def _only_one_kind(self, times: int) -> None:
        """Gradients of the coefficients alone, or of the times alone."""
        plan = self.trainable
        for p in (plan.coefficients, plan.states) if times else (plan.time_logits, plan.time_shifts):
            p.grad = None

    def _move_offsets(self, index: Tensor, offset: Tensor, gradient: Tensor, noise: Tensor) -> None:
        """LD3's soft ball (arXiv 2405.15506): the noise may move to where the student does better, a little way.

        A step down the gradient, of ``ball_rate`` radii, and back to within the radius around where it began.
        """

        def norm(x: Tensor) -> Tensor:
            return x.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, *[1] * (x.dim() - 1))

        radius = self.config.ball * norm(noise)
        moved = offset - self.config.ball_rate * radius * gradient / norm(gradient)
        self.offsets[index] = moved * (radius / norm(moved)).clamp_max(1.0)

    def _update_ema(self) -> None:
        parameters = list(self.ema.parameters()), list(self.trainable.parameters())
        ops.ema_update(*parameters, ema_rate(self.config.ema, self.step))

    # -- validation ---------------------------------------------------------------------------------------------------

    def after_step(self) -> None:
        """Validation, now and then and at the end."""
        if self.step % self.config.validate_every == 0 or self.step == self.total:
            self.validation()

    def validation(self) -> float:
        """Scores the EMA's plan and keeps the best one."""
        score = float(self.validate(self.ema))
        if not math.isfinite(score):
            self.diverged(score)
        self.validations.append((self.step, score))
        if score < self.best_score:
            self.best_score, self.best_step = score, self.step
            self.best.load_state_dict(self.ema.state_dict())
        if self.report is not None:
            loss = self.history[-1][1] if self.history else math.nan
            self.report(self.step, {"validation": score, "loss": loss, "best": self.best_score})
        return score

    @torch.no_grad()
    def validation_rmse(self, plan: nn.Module) -> float:
        """√ mean (sample − teacher's)² over the samples held out."""
        total, data = torch.zeros((), device=self.device), self.held_out
        for noise, target, conditioning in data.batches(max(256, self.config.batch_size)):
            total += (plan(self.denoiser, noise, **conditioning) - target).square().sum()
        return math.sqrt(float(total) / data.samples.numel())

    def note(self, value: float) -> str:
        """The loss and the best validation."""
        best = f", best {self.best_score:.4f} at {self.best_step}" if self.best_step >= 0 else ""
        return f"loss {value:.5f}{best}"

    def diverged(self, value: float) -> None:
        """Goes back to the last checkpoint, or to the start, and finds the sample; raises FloatingPointError."""
        reached = self.step
        if self.checkpoint.exists():
            self.load()
        else:
            self._begin_again()
        good = self.step
        state = {name: tensor.clone() for name, tensor in self._tensors().items()}
        culprit = self._first_bad(reached)
        self._set(state)
        self.step = good
        where = f"the checkpoint of step {good} is whole" if self.checkpoint.exists() else "no checkpoint was written"
        raise FloatingPointError(
            f"the loss became {value} by step {reached}{culprit}; {where}; try a lower learning rate than "
            f"{self.config.learning_rate}"
        )

    def _first_bad(self, reached: int) -> str:
        """Which sample it was, from steps made again one by one; what the last of them spoiled shows in the next."""
        while self.step <= reached:
            index = self.data.indices(self.step, self.config.batch_size, self.config.seed)
            with torch.no_grad():
                noise, target, conditioning = self.data.at(index.to(self.device))
                fake = self.trainable(self.denoiser, noise, **conditioning)
                bad = ~torch.isfinite(self.distance(fake, target))
            if bad.any():
                sample = self.data.first + int(index[int(bad.nonzero()[0])])
                return f", first at step {self.step + 1} with the teacher's sample {sample}"
            self.train_step()
        return ""

    def _begin_again(self) -> None:
        self._set(self._initial)
        self.step = self._initial_step

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _tensors(self) -> dict[str, Tensor]:
        tensors = flatten("plan", self.trainable.state_dict()) | flatten("ema", self.ema.state_dict())
        tensors |= flatten("best", self.best.state_dict())
        tensors |= flatten_optimizer("optimizer", self.optimizer)
        if self.adversary is not None:
            tensors |= self.adversary.tensors()
        if self.offsets is not None:
            tensors["offsets"] = self.offsets
        return tensors

    def _set(self, tensors: dict[str, Tensor]) -> None:
        for name, module in (("plan", self.trainable), ("ema", self.ema), ("best", self.best)):
            module.load_state_dict(unflatten(name, tensors))
        load_optimizer("optimizer", self.optimizer, tensors)
        if self.adversary is not None:
            self.adversary.set(tensors)
        if self.offsets is not None:
            self.offsets.copy_(tensors["offsets"])
        self._record()

    def fit(self, *arguments, **options) -> bool:
        """See :meth:`Loop.fit`. The start is validated too: training must not end with less."""
        self._initial = {name: tensor.clone() for name, tensor in self._tensors().items()}
        self._initial_step = self.step
        if not self.checkpoint.exists() and self.step == 0:
            self.validation()
        return super().fit(*arguments, **options)

    def save(self) -> None:
        """Writes the whole state to :attr:`checkpoint`, atomically; one that is not finite is never written."""
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in self._tensors().items()}
        if not all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point()):
            self.diverged(math.nan)
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "config": self._settings(),
            "history": self.history,
            "validations": self.validations,
            "best": [self.best_score, self.best_step],
        }
        save_tensors(self.checkpoint, tensors, {"solver trainer": json.dumps(facts)})

    def load(self) -> None:
        """Goes on from :attr:`checkpoint`; ValueError when it was made with other settings."""
        tensors, metadata = load_tensors(self.checkpoint)
        if "solver trainer" not in metadata:
            raise ValueError(f"{self.checkpoint} is no checkpoint of a solver's training; use another --out")
        facts = json.loads(metadata["solver trainer"])
        refuse_other_settings(self.checkpoint, facts["config"], self._settings())
        self._set(tensors)
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.history, self.validations = ([tuple(row) for row in facts[key]] for key in ("history", "validations"))
        self.best_score, self.best_step = facts["best"]

    def _settings(self) -> dict:
        settings = dataclasses.asdict(self.config)
        origin = self.trainable.origin
        return {
            **settings,
            "learn": list(settings["learn"]),
            "plan": f"{origin.solver} {json.dumps(origin.options, default=str)} {list(origin.times)}",
            "samples": [len(self.data), len(self.held_out)],
            "of": self.facts,
        }
