"""CUDA graphs: what a GPU does is recorded once, and then launched as a whole."""

from __future__ import annotations

from collections.abc import Callable

import torch


class CudaGraphs:
    """Records work on a GPU; all graphs have one pool of memory, as they never run side by side."""

    def __init__(self, device: torch.device):
        self.device, self.stream, self.pool = device, torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def warm_up(self, work: Callable[[], None]) -> None:
        """Runs it once: what is made at the first use must not be made while recording."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            work()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """What runs it again, on the same memory."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            work()
        return graph.replay
