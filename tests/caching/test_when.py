import pytest

from pyaccel.caching import every


def test_every():
    assert [s for s in range(20) if every(3, after=3)(s)] == [0, 1, 2, 5, 8, 11, 14, 17]
    assert [s for s in range(12) if every(5)(s)] == [0, 5, 10]
    assert all(every(1)(s) for s in range(5))


@pytest.mark.parametrize("arguments", [(0,), (-1,), (2.0,), (True,), (3, 0)])
def test_bad_numbers(arguments):
    with pytest.raises(ValueError, match=r"interval|after"):
        every(*arguments)
