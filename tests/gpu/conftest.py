"""Tests that need one of NVIDIA's GPUs; elsewhere they are skipped."""

import importlib

import pytest
import torch

QUICK = ("adaln", "blend", "gated_combination", "linear_combination", "qk_norm_rope", "threshold")


@pytest.fixture(autouse=True)
def _needs_gpu():
    if not torch.cuda.is_available() or torch.version.hip:
        pytest.skip("torch sees no GPU of NVIDIA's")


@pytest.fixture(params=["native", "triton"])
def gpu(request, monkeypatch):
    """A GPU on which this backend serves: each test runs with both."""
    from pyaccel.ops import backend

    device = torch.device("cuda", torch.cuda.current_device())
    if reason := backend.why_not(request.param, device):
        pytest.skip(reason)
    if request.param == "triton":  # the quick way into the native kernels was chosen when they were imported
        for module in QUICK:
            monkeypatch.setattr(importlib.import_module(f"pyaccel.ops.{module}"), "_native_first", False)
    # The CPU, which computes what is expected, keeps its own.
    others = {"native", "triton"} - {request.param}
    why_not = backend.why_not

    def only_this(name, device):
        return "left out" if device.type == "cuda" and name in others else why_not(name, device)

    monkeypatch.setattr(backend, "why_not", only_this)
    return device
