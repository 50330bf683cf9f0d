"""Networks over ranks: replicas that share their gradients (DDP), or shards (FSDP2)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

SHARDINGS = ("ddp", "fsdp")


class Ranks:
    """The processes of a training, by ``accelerate``: one alone, or those that torchrun or accelerate launch started.

    ``device`` names one for a training in one process ("cpu", "cuda:1"); by default accelerate chooses.
    """

    def __init__(self, folder: Path, sharding: str = "ddp", device: str | None = None):
        from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType

        if sharding not in SHARDINGS:
            raise ValueError(f"sharding must be one of {', '.join(SHARDINGS)}, got {sharding!r}")
        # BatchNorm's statistics are those of rank 0 at the end; broadcasting buffers costs a launch in every forward.
        arguments = DistributedDataParallelKwargs(broadcast_buffers=False)
        self.accelerator = Accelerator(
            cpu=device == "cpu", kwargs_handlers=[arguments], log_with=_trackers() or None, project_dir=folder
        )
        alone = self.accelerator.num_processes == 1
        self.device = torch.device(device) if device and alone else self.accelerator.device
        self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self.main = self.accelerator.is_main_process
        asked = sharding == "fsdp" or self.accelerator.distributed_type == DistributedType.FSDP
        self.sharded = asked and not alone
        # What ranks agree on at every step goes over the hosts, so that no GPU is waited for.
        self._hosts = None if alone or dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
        self._logging = False

    def place(self, module: nn.Module) -> nn.Module:
        """The module on the device; sharded, if that is how networks are kept."""
        module = module.to(self.device)
        if self.sharded:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(self.device.type, (self.count,))
            for part in module.modules():
                if isinstance(part, nn.ModuleList):
                    for block in part:
                        if sum(p.numel() for p in block.parameters()) and not isinstance(block, nn.ModuleList):
                            fully_shard(block, mesh=mesh)
            # The outermost too is cut again after each call: others read the parameters between calls.
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
        return module

    def share_weights(self, modules: Sequence[nn.Module]) -> None:
        """Gives the modules of all ranks the parameters and buffers of rank 0; before they are placed."""
        if self.count == 1:
            return
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                sent = tensor.detach().to(self.device).contiguous()
                dist.broadcast(sent, 0)
                tensor.detach().copy_(sent)

    def share_gradients(self, module: nn.Module) -> nn.Module:
        """A module that was placed, so that a backward pass leaves the mean gradient of all ranks."""
        if self.count == 1 or self.sharded:
            return module
        return self.accelerator.prepare_model(module)

    def no_sync(self, modules: Sequence[nn.Module]) -> contextlib.ExitStack:
        """Within it, gradients are added up and not shared: for all but the last part of an accumulated batch."""
        stack = contextlib.ExitStack()
        for module in modules:
            if hasattr(module, "no_sync"):
                stack.enter_context(module.no_sync())
            elif self.sharded:
                module.set_requires_gradient_sync(False)
                stack.callback(module.set_requires_gradient_sync, True)
        return stack

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag whether it is set on any rank."""
        if self.count == 1:
            return list(flags)
        numbers = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self._hosts)
        return [bool(n) for n in numbers]

    def mean(self, value: Tensor) -> Tensor:
        """The mean over ranks."""
        return value if self.count == 1 else self.accelerator.reduce(value.float(), "mean")

    def wait(self) -> None:
        """Until all ranks are here."""
        self.accelerator.wait_for_everyone()

    def log(self, values: dict[str, float], step: int) -> None:
        """Writes numbers to the log, by the main process, where a tracker such as TensorBoard is installed."""
        if not self.main or not self.accelerator.log_with:
            return
        if not self._logging:
            self.accelerator.init_trackers("logs")
            self._logging = True
        self.accelerator.log(values, step=step)

    def close(self) -> None:
        """Ends the log, and the connection between the ranks: nothing can be trained after it."""
        self.accelerator.end_training()


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean of a tensor over the ranks of this training; every rank must ask for it. Alone it is the tensor."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _trackers() -> list[str]:
    from accelerate.utils import is_tensorboard_available

    return ["tensorboard"] if is_tensorboard_available() and "PYACCEL_NO_LOGS" not in os.environ else []


def local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that this rank holds; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
