import pytest
import torch

from pyaccel.training.batch import Batch


def parts(count: int, size: int = 12, **settings) -> list[Batch]:
    x = torch.zeros(size, 3, 2)
    n = size // count
    return [
        Batch(x[i * n : (i + 1) * n], step=5, seed=7, places=range(i * n, (i + 1) * n), size=size, **settings)
        for i in range(count)
    ]


def draws(batch: Batch):
    return batch.normal(), batch.uniform(), batch.gaussians(), batch.normal(4), batch.uniform()


@pytest.mark.parametrize("count", [2, 3, 12])
def test_random_numbers_do_not_depend_on_how_a_batch_is_cut(count):
    whole = draws(parts(1)[0])
    cut = [torch.cat(pieces) for pieces in zip(*map(draws, parts(count)), strict=True)]
    for a, b in zip(whole, cut, strict=True):
        assert torch.equal(a, b)


def test_draws_steps_and_seeds_differ():
    x = torch.zeros(4, 8)
    first = Batch(x, step=1, seed=0)
    numbers = [first.normal(), first.normal(), Batch(x, step=2, seed=0).normal(), Batch(x, step=1, seed=1).normal()]
    for i, a in enumerate(numbers):
        assert all(float((a - b).abs().min()) > 0 for b in numbers[i + 1 :])
    assert not torch.equal(first.uniform(), first.uniform())
    assert first.number() != first.number()
    assert all(b.number() == parts(2)[0].number() for b in parts(2))


def test_distributions():
    batch = Batch(torch.zeros(4096, 16, dtype=torch.float64))
    normal, uniform = batch.normal(), batch.uniform()
    assert normal.dtype == uniform.dtype == torch.float64
    assert float(normal.mean()) == pytest.approx(0, abs=0.01)
    assert float(normal.std()) == pytest.approx(1, abs=0.01)
    assert float(torch.corrcoef(normal.T).fill_diagonal_(0).abs().max()) < 0.08
    strata = torch.histc(uniform, 4096, 0, 1)
    assert strata.min() == strata.max() == 1
    assert not torch.equal(uniform, uniform.sort().values)


def test_conditioning_is_left_out_of_a_share():
    labels, text = torch.arange(1000) % 10, torch.randn(1000, 3, 2)
    batch = Batch(torch.zeros(1000, 1), {"label": labels, "text": text, "size": torch.ones(1000)})
    some = batch.dropped({"label": 10, "text": torch.zeros(3, 2)}, 0.3)
    gone = some["label"] == 10
    assert int(gone.sum()) == 300
    assert torch.equal(some["label"][~gone], labels[~gone])
    assert torch.equal(some["text"], torch.where(gone[:, None, None], 0.0, text))  # together with the label
    assert torch.equal(some["size"], torch.ones(1000))
    assert batch.dropped({"label": 10}, 0.0) is batch.conditioning
