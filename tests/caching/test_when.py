import pytest

from pyaccel.caching import Moment, every, full_steps, mask


def test_every():
    assert full_steps(every(3, after=3), 20) == [0, 1, 2, 5, 8, 11, 14, 17]
    assert full_steps(every(5), 12) == [0, 5, 10]
    assert full_steps(every(1), 5) == [0, 1, 2, 3, 4]


def test_a_missed_step_is_made_up_for():
    """A pass that was left out at step 5, at which it was due, is in full at step 6."""
    moment, when = Moment(), every(5)
    moment.step = 0
    moment.decided(True)
    moment.step = 4
    assert not when(moment)
    moment.step = 6
    assert when(moment)


def test_masks():
    assert full_steps(mask([True, False, False, True]), 6) == [0, 3, 4, 5]
    assert full_steps(mask({2, 4}), 6) == [0, 2, 4]
    with pytest.raises(ValueError, match="a step of the mask"):
        mask([1, -2])


@pytest.mark.parametrize("arguments", [(0,), (-1,), (2.0,), (True,), (3, 0)])
def test_bad_numbers(arguments):
    with pytest.raises(ValueError, match=r"interval|after"):
        every(*arguments)
