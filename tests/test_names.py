import pytest

from pyaccel.names import look_up


def test_found_and_not_found():
    assert look_up("fruit", "apple", {"apple": 1}) == 1
    with pytest.raises(ValueError, match=r"unknown fruit 'aple'; there are: apple, pear; did you mean 'apple'\?"):
        look_up("fruit", "aple", {"apple": 1, "pear": 2})
    with pytest.raises(ValueError, match=r"there are: apple$"):
        look_up("fruit", "zzz", {"apple": 1})
