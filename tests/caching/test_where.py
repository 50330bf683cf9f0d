import pytest
from torch import nn

from pyaccel import caching
from pyaccel.models import DiT


def test_branches_of_a_model_and_of_some_blocks():
    model = DiT(width=16, depth=3, heads=2)
    assert len(caching.branches(model)) == 6
    assert [site.module for site in caching.branches(model.blocks[1:])] == [
        b for k in (1, 2) for b in (model.blocks[k].attention, model.blocks[k].mlp)
    ]


def test_errors():
    with pytest.raises(ValueError, match="Linear: found nothing to cache"):
        caching.branches(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="torch modules"):
        caching.branches(["blocks"])
