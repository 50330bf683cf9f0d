"""Fixtures for all tests."""

import pytest
import torch

from pyaccel.ops import backend


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
