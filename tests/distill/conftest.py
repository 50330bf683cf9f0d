"""Fixtures for the tests of distillation."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_core():
    """Networks this small are slower on two cores than on one, and much slower on two that others use too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
