"""Fixtures for all tests."""

import os

import pytest
import torch

from pyaccel.ops import backend


def pytest_configure(config):
    workers = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if workers is not None:  # the workers of `make test` share the processors
        torch.set_num_threads(max(1, torch.get_num_threads() // int(workers)))


def pytest_make_parametrize_id(config, val):
    """Functions by their names, not by addresses, which differ from worker to worker; options as they are written."""
    if isinstance(val, dict) and " at 0x" not in str(val):
        return str(val)
    return val.__name__ if callable(val) and hasattr(val, "__name__") else None


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def restored_instruction_set():
    """For tests that change the instruction set of the native kernels."""
    if backend._native is None:
        pytest.skip(backend.native_missing)
    before = backend._native.instruction_set()
    yield backend._native.use_instruction_set
    backend._native.use_instruction_set(before)


def pytest_generate_tests(metafunc):
    if "instruction_set" in metafunc.fixturenames:
        names = backend._native.instruction_sets() if backend._native is not None else []
        metafunc.parametrize("instruction_set", names, indirect=True)


@pytest.fixture
def instruction_set(request, restored_instruction_set):
    """Runs the test with each instruction set that this machine has."""
    restored_instruction_set(request.param)
    return request.param
