import math

import pytest
import torch

from pyaccel.caching import taylor
from pyaccel.caching.features import History


class Recursion:
    """The paper's cache: differences of differences, formed at each full step, and the sum over their powers."""

    def __init__(self, order, first):
        self.order, self.first, self.factors, self.step = order, first, [], None

    def update(self, step, feature):
        new = [feature]
        for i in range(self.order):
            if i < len(self.factors) and step >= self.first:
                new.append((new[i] - self.factors[i]) / (step - self.step))
            else:
                break
        self.factors, self.step = new, step

    def predict(self, step):
        x = step - self.step
        return sum(f * x**i / math.factorial(i) for i, f in enumerate(self.factors))


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("full", [{0, 1, 2, 5, 8, 11}, {0, 3, 4, 5, 9, 10, 14}, {0, 1, 7, 8}])
def test_weights_on_raw_features_are_the_papers_recursion(order, full):
    how, first = taylor(order, first=2), 2
    paper, history = Recursion(order, first), History()
    for step in range(18):
        if step in full:
            feature = torch.randn(6, dtype=torch.float64)
            paper.update(step, feature)
            history.push(step, step, feature, how)
        else:
            torch.testing.assert_close(
                history.predict(history.weights(step, how, {})), paper.predict(step), rtol=1e-12, atol=1e-12
            )


def test_a_square_is_predicted_as_by_the_paper():
    """On y = t² with interval 3 the paper's differences give 166 where the truth at 13 is 169."""
    how, history = taylor(2), History()
    for step in (3, 6, 9, 12):
        history.push(step, step, torch.tensor(float(step**2)), how)
    assert float(history.predict(history.weights(13, how, {}))) == pytest.approx(166, abs=1)
    assert float(history.predict(history.weights(13, how, {}))) != pytest.approx(169, abs=0.5)


def test_weights_sum_to_one():
    for order in range(5):
        steps = [9, 6, 4, 1, 0][: order + 1]
        assert sum(taylor(order).weights(steps, 11)) == pytest.approx(1)


@pytest.mark.parametrize("order", [-1, 9, 1.5, True])
def test_bad_order(order):
    with pytest.raises(ValueError, match="order"):
        taylor(order)
