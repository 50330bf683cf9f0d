import math

import pytest
import torch
from torch import nn

from pyaccel.training.optimizers import Optimizer


def test_rates():
    cosine = Optimizer(1.0, warmup=10, decay="cosine")
    assert cosine.rate(0, 110) == pytest.approx(0.1)
    assert cosine.rate(9, 110) == pytest.approx(1.0)
    assert cosine.rate(60, 110) == pytest.approx(0.5)
    assert cosine.rate(109, 110) < 0.001
    linear = Optimizer(2.0, decay="linear", warmup=10)
    assert [linear.rate(s, 110) for s in (4, 10, 60, 110)] == pytest.approx([1.0, 2.0, 1.0, 0.0])
    assert Optimizer(2.0).rate(99, 100) == 2.0
    cycle = Optimizer(1.0, decay="linear", cycle=10)
    assert [cycle.rate(s, 1000) for s in (0, 5, 10, 15)] == pytest.approx([1.0, 0.5, 1.0, 0.5])


def test_what_depends_on_the_number_of_steps():
    assert Optimizer(decay="cosine").depends_on_steps
    assert not Optimizer().depends_on_steps
    assert not Optimizer(decay="linear", cycle=5).depends_on_steps


@pytest.mark.parametrize(("kind", "made"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam),
                                            ("radam", torch.optim.RAdam), ("sgd", torch.optim.SGD)])  # fmt: skip
def test_kinds(kind, made):
    optimizer = Optimizer(0.1, kind, weight_decay=0.01).make(nn.Linear(2, 2).parameters())
    assert type(optimizer) is made
    assert optimizer.param_groups[0]["weight_decay"] == 0.01


def test_limits_and_bad_settings():
    assert Optimizer(clip=0.0).limit == math.inf
    assert Optimizer(clip=2.0).limit == 2.0
    with pytest.raises(ValueError, match="learning_rate > 0"):
        Optimizer(0.0)
    with pytest.raises(ValueError, match="at least 0"):
        Optimizer(clip=-1.0)
