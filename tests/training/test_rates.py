"""Rates over a training: their ends, and what lies between."""

import math

import pytest

from pyaccel.training.rates import ema_rate, warmed_up


def test_a_warm_up_and_a_cosine():
    rates = [warmed_up(2.0, step, warmup=4, steps=24, least=0.1) for step in range(26)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0
    assert rates[9] == pytest.approx(2.0 * (0.1 + 0.45 * (1 + math.cos(math.pi / 4))))
    assert rates[24] == rates[25] == pytest.approx(0.2)
    assert warmed_up(2.0, 7, warmup=0, steps=7) == 0.0


def test_the_average_reaches_back_over_a_tenth():
    assert [ema_rate(0.9, step) for step in (0, 8, 1000)] == [0.1, 0.5, 0.9]
