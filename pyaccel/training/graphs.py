"""A function of tensors on a GPU as a CUDA graph: recorded once, then launched as a whole."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..cuda_graphs import CudaGraphs

WARM_UP = 3


class Graphed:
    """``f(*tensors) -> tensors`` with inputs of fixed shapes; its results are overwritten by the next call.

    A small network is limited by the time in which the host launches kernels; a graph takes it off the host. ``f``
    must not wait for the GPU, and what it changes in place is changed ``WARM_UP`` times more unless ``restore`` puts
    it back. Where recording fails, and on other devices, ``f`` is called as it is.
    """

    def __init__(self, f: Callable[..., Sequence[Tensor]], restore: Callable[[], None] = lambda: None):
        self.f, self.restore = f, restore
        self._replay: Callable[[], None] | None = None
        self._failed = False
        self._inputs: list[Tensor] = []
        self._outputs: Sequence[Tensor] = ()

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """The results; the host goes on before they are there."""
        if self._failed or inputs[0].device.type != "cuda":
            return self.f(*inputs)
        if self._replay is None and not self._record(inputs):
            return self.f(*inputs)
        for static, given in zip(self._inputs, inputs, strict=True):
            static.copy_(given, non_blocking=True)
        self._replay()
        return self._outputs

    def _record(self, inputs: Sequence[Tensor]) -> bool:
        def work() -> None:
            self._outputs = self.f(*self._inputs)

        try:
            graphs, self._inputs = CudaGraphs(inputs[0].device), [x.detach().clone() for x in inputs]
            for _ in range(WARM_UP):
                graphs.warm_up(work)
            self.restore()
            self._replay = graphs.record(work)
        except RuntimeError as error:
            self._failed, self._inputs, self._outputs = True, [], ()
            torch.cuda.synchronize()
            self.restore()
            warnings.warn(f"no CUDA graph could be recorded, training is slower without: {error}", stacklevel=3)
        return not self._failed
