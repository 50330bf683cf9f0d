import warnings

import pytest

from pyaccel.training.datasets.broken import Reader
from pyaccel.training.datasets.decoding import BrokenSample


def reader(length, broken):
    def read(index):
        if index in broken:
            raise BrokenSample(f"reason {index}")
        return index

    return Reader(length, read, lambda index: f"sample {index}")


def test_good_samples_come_in_the_order_asked_for():
    assert reader(100, ()).take([7, 3, 99, 3]) == [7, 3, 99, 3]


@pytest.mark.parametrize("asked", [[4, 19, 5], [19], [5, 4]])
@pytest.mark.filterwarnings("ignore:sample")
def test_the_next_good_sample_replaces_a_broken_one_whatever_was_read_before(asked):
    replaced = {4: 6, 5: 6, 19: 1}
    samples = reader(20, {4, 5, 19, 0})
    for _ in range(2):
        assert samples.take([*asked, 10, 11, 12, 13]) == [*(replaced[i] for i in asked), 10, 11, 12, 13]


def test_each_is_named_once_with_the_count_so_far():
    samples = reader(40, {4, 9})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        samples.take([3, 4, 4, 5])
        samples.take([9, 4])
    assert [str(w.message) for w in caught] == [
        "sample 4 is broken (reason 4); the next good sample replaces it; 1 of 40 so far",
        "sample 9 is broken (reason 9); the next good sample replaces it; 2 of 40 so far",
    ]
    assert samples.broken == {"sample 4": "reason 4", "sample 9": "reason 9"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples.take([4, 9, 8])


@pytest.mark.filterwarnings("ignore:sample")
@pytest.mark.parametrize(
    ("length", "broken", "asked"), [(3, {0, 2}, [0, 1, 2]), (1000, range(1000), [5]), (1, {0}, [0])]
)
def test_more_broken_than_good_is_an_error(length, broken, asked):
    with pytest.raises(ValueError, match=r"samples that were read are broken, sample \d+ for one \(reason"):
        reader(length, broken).take(asked)


@pytest.mark.filterwarnings("ignore:sample")
def test_a_few_broken_ones_at_the_start_are_no_judgement_of_a_large_set():
    assert reader(1000, {0, 1, 2}).take([0]) == [3]


def test_other_errors_are_not_taken_for_broken_samples():
    def read(index):
        raise KeyError(index)

    with pytest.raises(KeyError):
        Reader(3, read, str).take([1])
