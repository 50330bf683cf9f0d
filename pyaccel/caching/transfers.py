"""Copies between a device and pinned host memory, beside the computation: streams and events, and never a wait of the
host.

A transfer layer has two queues. The *computation* is what the model launches; its work is done in order. *Copies* are
done in the order in which they were asked for, beside it. Events tie the two: one is recorded at a point of either
queue, and waited for by the other. So whoever uses a buffer waits for the last copy into or out of it, and each copy
waits for the last use. Another layer of the same methods can stand in for it, as the tests' does on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch


class CudaTransfers:
    """The layer of an NVIDIA or AMD GPU: copies run in a stream of their own."""

    def __init__(self, device: torch.device):
        self.device, self.stream = device, torch.cuda.Stream(device)

    def host(self, size: int) -> torch.Tensor:
        """So many bytes of pinned host memory. What is still on its way when it is freed arrives safely."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def room(self, size: int) -> torch.Tensor:
        """So many bytes on the device."""
        room = torch.empty(size, dtype=torch.uint8, device=self.device)
        room.record_stream(self.stream)  # whoever gets the memory next waits for the copies too
        return room

    def event(self) -> torch.cuda.Event:
        """A new event, which can be recorded again and again."""
        return torch.cuda.Event()

    def copy(self, to: torch.Tensor, source: torch.Tensor, after: Any, done: Any) -> None:
        """Asks for a copy that begins after the event ``after``; ``done`` is recorded behind it."""
        self.stream.wait_event(after)
        with torch.cuda.stream(self.stream):
            to.copy_(source, non_blocking=True)
        done.record(self.stream)

    def computed(self, event: Any) -> None:
        """Records ``event`` behind all that was computed so far."""
        event.record(torch.cuda.current_stream(self.device))

    def wait(self, event: Any) -> None:
        """What is computed from now on waits for ``event``."""
        torch.cuda.current_stream(self.device).wait_event(event)


def transfers_for(device: torch.device) -> CudaTransfers | None:
    """The layer for features on ``device``; None where host memory is where they lie, or where there is no layer."""
    return CudaTransfers(device) if device.type == "cuda" else None
