"""The Trainer: it turns a recipe's losses into steps, over ranks, with averages, checkpoints, logs and validation."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from itertools import compress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import ops
from ..seeding import step_seed
from .batch import Batch
from .checkpoints import load_tensors, save_tensors
from .datasets import Prefetcher, epoch_indices, step_flips
from .loop import Loop, refuse_other_settings
from .parallel import Ranks, local
from .rates import ema_rate
from .recipe import Network, Networks, Recipe, module_of, trained, with_module
from .shards import gather, scatter, whole
from .trainer_config import TrainerConfig


class Trainer(Loop):
    """Trains the networks of a recipe on data, in ``folder``.

    Args:
        recipe: see :mod:`.recipe`.
        networks: what ``recipe.networks(teacher)`` gave.
        data: ``len(data)``, and ``data.at(index, flip)`` gives (x [b, ...], conditioning {name: [b, ...]}); see
            :mod:`.datasets`. For a recipe of pairs, ``data.noise_at(index)`` too.
        facts: what else decides the result, such as the teacher's name, for JSON; a run does not go on with others.
        ranks: the processes; by default those that this one was started with.
        validate: ``(average of the output, step) -> {name: number}``, every ``validate_every`` steps and at the end, on
            the main process, for the log.

    Everything random in step k depends on the seed and k alone. A checkpoint holds networks, averages, optimizers and
    the step, whole and not in shards, so a run that was killed goes on to the same bits, with any number of ranks.
    """

    def __init__(
        self,
        recipe: Recipe,
        networks: dict[str, Network],
        data,
        config: TrainerConfig,
        folder: Path,
        *,
        facts: Mapping[str, Any] | None = None,
        ranks: Ranks | None = None,
        validate: Callable[[Network, int], dict[str, float]] | None = None,
        validate_every: int = 0,
        checkpoint_seconds: float = 120.0,
    ):
        super().__init__(config.steps, folder, checkpoint_seconds)
        self.recipe, self.data, self.config, self.facts = recipe, data, config, dict(facts or {})
        self.ranks = ranks or Ranks(self.folder)
        self.validate, self.validate_every = validate, validate_every
        self.validations: list[tuple[int, dict[str, float]]] = []
        self.main = self.ranks.main
        if self.ranks.device.type == "cpu":
            self.look_every = 1 if self.ranks.count == 1 else 10  # looking costs nothing there
        self._check(networks)
        self.settings = trained(recipe)
        # What recipes begin with at random is the same everywhere, also in networks that no gradients hold together.
        self.ranks.share_weights([module_of(network) for network in networks.values()])
        # What shards are put together in, for looking.
        blank = recipe.averaged if self.ranks.sharded else ()
        self._blank = {name: copy.deepcopy(module_of(networks[name])).cpu() for name in blank}
        self._average = [self._averages(networks) for _ in config.ema]
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._wrapped: dict[str, nn.Module] = {}
        for name, network in networks.items():
            module = self.modules[name] = self.ranks.place(module_of(network))
            if name in self.settings:
                module.train()
                if not any(p.requires_grad for p in module.parameters()):
                    module.requires_grad_(True)
                # What a recipe froze, such as the network under an adapter, stays as it is.
                self.optimizers[name] = self.settings[name].make(p for p in module.parameters() if p.requires_grad)
                self._wrapped[name] = self.ranks.share_gradients(module)
            else:
                module.eval().requires_grad_(False)
        self.networks = Networks(
            **{name: with_module(n, self._wrapped.get(name, self.modules[name])) for name, n in networks.items()},
            ema={name: with_module(networks[name], average) for name, average in self._average[0].items()},
        )
        self.latest: dict[str, Tensor] = {}
        self._ahead: Prefetcher | None = None

    def _check(self, networks: dict[str, Network]) -> None:
        recipe, config = self.recipe, self.config
        missing = {*trained(recipe), *recipe.averaged, *recipe.kept, recipe.output} - set(networks)
        if missing:
            raise ValueError(f"{type(recipe).__name__} needs the networks {', '.join(sorted(missing))}")
        parts = self.ranks.count * config.accumulate
        if config.batch_size % parts:
            raise ValueError(
                f"a batch of {config.batch_size} cannot be cut into {self.ranks.count} ranks times "
                f"{config.accumulate} parts of equal size"
            )
        if config.batch_size > len(self.data):
            raise ValueError(f"a batch of {config.batch_size} was asked for, and there are {len(self.data)} samples")
        if recipe.pairs and not hasattr(self.data, "noise_at"):
            raise ValueError(f"{type(recipe).__name__} learns from a teacher's samples: make them with pyaccel teacher")

    def _averages(self, networks: dict[str, Network]) -> dict[str, nn.Module]:
        modules = {name: copy.deepcopy(module_of(networks[name])) for name in self.recipe.averaged}
        return {name: self.ranks.place(m.eval().requires_grad_(False)) for name, m in modules.items()}

    # -- steps --------------------------------------------------------------------------------------------------------

    def train_step(self) -> Tensor:
        """One step of the recipe; returns the sum of its losses."""
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.settings[name].rate(self.step, self.total)
        # What draws from the global generator (dropout) depends on the step alone, too.
        torch.manual_seed(step_seed(self.config.seed, self.step, self.ranks.rank))
        parts = [self.recipe.losses(self.networks, batch) for batch in self.batches()]
        self.latest = {}
        while self._next_optimizer_step(parts):
            pass
        self._update_averages()
        self.step += 1
        return torch.stack([loss.float() for loss in self.latest.values()]).sum()

    def batches(self) -> list[Batch]:
        """This rank's parts of the batch of the present step."""
        config, place = self.config, self._place
        parts = self._fetch(self.step) if self._ahead is None else self._ahead.get(self.step)
        size = config.batch_size // (self.ranks.count * config.accumulate)
        first = self.ranks.rank * config.accumulate
        return [
            Batch(
                place(x), {name: place(value) for name, value in conditioning.items()}, step=self.step,
                steps=self.total, seed=config.seed, places=range((first + i) * size, (first + i + 1) * size),
                size=config.batch_size, noise=None if noise is None else place(noise),
            )
            for i, (x, conditioning, noise) in enumerate(parts)
        ]  # fmt: skip

    def _fetch(self, step: int) -> list[tuple[Tensor, dict[str, Tensor], Tensor | None]]:
        """The data of a step for this rank, in parts."""
        config = self.config
        index = epoch_indices(len(self.data), step, config.batch_size, config.seed)
        flips = step_flips(step, len(index), config.seed) if config.flip and self.data.can_flip else None
        share = len(index) // self.ranks.count
        mine = slice(self.ranks.rank * share, (self.ranks.rank + 1) * share)
        rows = index[mine].chunk(config.accumulate)
        mirrored = [None] * len(rows) if flips is None else flips[mine].chunk(config.accumulate)
        noise_at = self.data.noise_at if self.recipe.pairs else lambda _: None
        return [(*self.data.at(row, flip), noise_at(row)) for row, flip in zip(rows, mirrored, strict=True)]

    def _place(self, tensor: Tensor) -> Tensor:
        if self.ranks.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.ranks.device, non_blocking=True)

    def fit(self, *arguments, **options) -> bool:
        """See :meth:`Loop.fit`. The data of the next steps are made ahead, in a thread."""
        with Prefetcher(self._fetch) as self._ahead:
            try:
                return super().fit(*arguments, **options)
            finally:
                self._ahead = None

    def _next_optimizer_step(self, parts: list) -> bool:
        """Runs all parts of the batch to their next loss, and the step of its networks; False after the last one."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        names: tuple[str, ...] = ()
        total = None
        for place, part in enumerate(parts):
            last = place == len(parts) - 1
            shared = contextlib.nullcontext() if last else self.ranks.no_sync(list(self._wrapped.values()))
            with shared:
                with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=self.config.bf16):
                    found = next(part, None)
                if found is None:
                    return False
                name, loss = found
                (loss / len(parts)).backward()
            names = (name,) if isinstance(name, str) else name
            total = loss.detach() if total is None else total + loss.detach()
        for name in names:
            limit = self.settings[name].limit
            if math.isfinite(limit):
                nn.utils.clip_grad_norm_(self.modules[name].parameters(), limit)
            self.optimizers[name].step()
        key = " + ".join(names)
        self.latest[key] = self.latest.get(key, 0) + total / len(parts)
        return True

    def _update_averages(self) -> None:
        rates = [ema_rate(rate, self.step) for rate in self.config.ema]
        for name in self.recipe.averaged:
            learned = [p.requires_grad for p in self.modules[name].parameters()]
            parameters = [local(p) for p in compress(self.modules[name].parameters(), learned)]
            averages = [[local(p) for p in compress(a[name].parameters(), learned)] for a in self._average]
            ops.ema_update(averages, parameters, rates)
            for average in self._average:
                for mine, now in zip(average[name].buffers(), self.modules[name].buffers(), strict=True):
                    mine.copy_(now)

    # -- looking ------------------------------------------------------------------------------------------------------

    def average(self, name: str | None = None, rate: int = 0) -> nn.Module:
        """The average of a network, by default of the recipe's output, by rate number ``rate``; whole on each rank."""
        name = name or self.recipe.output
        module = self._average[rate][name]
        if not self.ranks.sharded:
            return module
        plain = copy.deepcopy(self._blank[name])
        plain.load_state_dict(whole(module.state_dict()))
        return plain.eval().requires_grad_(False).to(self.ranks.device)

    def denoiser(self, rate: int = 0) -> Network:
        """The average of the recipe's output; a Denoiser where the network is one."""
        return with_module(getattr(self.networks, self.recipe.output), self.average(rate=rate))

    def after_step(self) -> None:
        """Validation, now and then and at the end."""
        due = self.validate_every and self.step % self.validate_every == 0
        if self.validate is None or not (due or self.step == self.total):
            return
        output = self.denoiser()  # of shards, all ranks have a part
        if self.main:
            values = self.validate(output, self.step)
            self.validations.append((self.step, values))
            self.ranks.log({f"validation/{name}": value for name, value in values.items()}, self.step)
        self.ranks.wait()

    def looked(self, value: float) -> None:
        """Writes the losses to the log."""
        self.ranks.log({f"loss/{name}": float(loss) for name, loss in self.latest.items()}, self.step)

    def note(self, value: float) -> str:
        """The losses, and the last validation."""
        losses = ", ".join(f"{name} {float(loss):.4f}" for name, loss in self.latest.items())
        if not self.validations:
            return losses
        step, values = self.validations[-1]
        return f"{losses}; at {step}: " + ", ".join(f"{name} {value:.3g}" for name, value in values.items())

    def diverged(self, value: float) -> None:
        """Raises FloatingPointError that names the networks whose loss it was."""
        bad = [name for name, loss in self.latest.items() if not math.isfinite(float(loss))] or list(self.latest)
        kept = f"{self.checkpoint} is whole" if self.checkpoint.exists() else "no checkpoint was written"
        raise FloatingPointError(
            f"the loss of {', '.join(bad)} became {value} at step {self.step}; {kept}; try a lower learning rate"
        )

    # -- over ranks ---------------------------------------------------------------------------------------------------

    def agree(self, *flags: bool) -> list[bool]:
        """For each flag whether it is set on any rank."""
        return self.ranks.any(flags)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over ranks."""
        return self.ranks.mean(value)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _holders(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """All that a checkpoint holds, by name."""
        networks = {f"network/{name}": self.modules[name] for name in [*self.settings, *self.recipe.kept]}
        averages = {f"ema/{i}/{name}": m for i, average in enumerate(self._average) for name, m in average.items()}
        return networks | averages | {f"optimizer/{name}": o for name, o in self.optimizers.items()}

    def save(self) -> None:
        """Writes the whole state to :attr:`checkpoint`, atomically; one that is not finite is never written."""
        tensors = gather(self._holders())
        if not all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point()):
            self.diverged(math.nan)
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "settings": self.all_settings(),
            "history": self.history,
            "validations": self.validations,
        }
        if self.main:
            save_tensors(self.checkpoint, tensors, {"trainer": json.dumps(facts)})
        self.ranks.wait()

    def load(self) -> None:
        """Goes on from :attr:`checkpoint`; ValueError when it was made by another recipe or with other settings."""
        tensors, metadata = load_tensors(self.checkpoint)
        if "trainer" not in metadata:
            raise ValueError(f"{self.checkpoint} is no checkpoint of this kind of training; use another --out")
        facts = json.loads(metadata["trainer"])
        there, mine = facts.get("settings", {}), json.loads(json.dumps(self.all_settings()))
        fixed = any(settings.depends_on_steps for settings in self.settings.values())
        if not fixed and not self.recipe.depends_on_steps:
            there.pop("steps", None), mine.pop("steps", None)  # such a run may be made longer
        refuse_other_settings(self.checkpoint, there, mine)
        scatter(tensors, self._holders())
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.history = [tuple(row) for row in facts["history"]]
        self.validations = [tuple(row) for row in facts["validations"]]

    def all_settings(self) -> dict[str, Any]:
        """What decides the result, as JSON can hold it."""
        recipe = {"recipe": type(self.recipe).__name__, **dataclasses.asdict(self.recipe)}
        return {**recipe, **dataclasses.asdict(self.config), "samples": len(self.data), **self.facts}
