import pytest
import torch

from pyaccel.seeding import step_generator
from pyaccel.training.datasets import epoch_indices, step_flips


def test_every_datum_comes_once_an_epoch():
    epochs = [torch.cat([epoch_indices(20, 4 * epoch + k, 5, seed=0) for k in range(4)]) for epoch in range(3)]
    assert all(sorted(epoch.tolist()) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3


def test_two_ranks_that_halve_each_batch_see_every_datum_once_over_both():
    batches = [epoch_indices(24, step, 8, seed=3) for step in range(3)]
    ranks = [torch.cat([batch[4 * rank :][:4] for batch in batches]).tolist() for rank in range(2)]
    assert not set(ranks[0]) & set(ranks[1])
    assert sorted(ranks[0] + ranks[1]) == list(range(24))


def test_what_is_left_over_is_other_data_in_each_epoch():
    epochs = [set(torch.cat([epoch_indices(10, 3 * epoch + k, 3, 0) for k in range(3)]).tolist()) for epoch in range(9)]
    assert all(len(epoch) == 9 for epoch in epochs)
    assert set.union(*epochs) == set(range(10))


def test_the_order_is_the_permutation_of_seed_and_epoch():
    """The trainings of the zoo were made with it."""
    order = torch.randperm(50, generator=step_generator(7, 2, stream=1))
    assert torch.equal(epoch_indices(50, 2 * 6 + 4, 8, seed=7), order[32:40])
    flips = torch.rand(8, generator=step_generator(7, 16, stream=2)) < 0.5
    assert torch.equal(step_flips(16, 8, seed=7), flips)


def test_a_caller_may_write_into_its_indices():
    epoch_indices(12, 0, 4, seed=1).zero_()
    assert sorted(torch.cat([epoch_indices(12, step, 4, seed=1) for step in range(3)]).tolist()) == list(range(12))


@pytest.mark.parametrize(("length", "step", "size"), [(5, 0, 6), (5, -1, 2), (5, 0, 0)])
def test_batches_that_cannot_be_are_refused(length, step, size):
    with pytest.raises(ValueError, match=r"only 5 samples|size >= 1 and step >= 0"):
        epoch_indices(length, step, size, 0)
