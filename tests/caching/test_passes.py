"""Guidance passes and runs are told apart without anybody announcing them."""

import threading

import pytest
import torch

from pyaccel import caching
from pyaccel.caching.position import Counter, Direction, element_of, read
from pyaccel.denoiser import Run, StepContext

from .architectures import BY_NAME, numbers

DIT = BY_NAME["original-DiT"]
X = DIT.sample()
LABELS = [torch.full((2,), k) for k in range(3)]


@pytest.fixture
def model():
    return DIT.model()


@torch.no_grad()
def run(model, passes, steps=9, fresh=False, start=0):
    """The outputs of each pass; ``passes(i)`` are the labels of the passes at step i, in order."""
    outputs = {}
    for i in range(start, steps):
        for k in passes(i):
            label = LABELS[k].clone() if fresh else LABELS[k]
            t = torch.full((2,), 1 - i / steps)
            outputs.setdefault(k, []).append(model(numbers(2, 9, 16, seed=i), t, label))
    return outputs


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    "passes",
    [lambda i: (0, 1), lambda i: (1, 0), lambda i: (0, 1) if i % 2 else (1, 0), lambda i: (0, 1, 2)],
    ids=["in order", "other order", "changing order", "three"],
)
def test_passes_never_mix(model, passes, fresh):
    with caching.taylorseer(model, interval=3, warmup=1):
        alone = {k: run(model, lambda i, k=k: (k,))[k] for k in range(3)}
        together = run(model, passes, fresh=fresh)
    assert all(same(outputs, alone[k]) for k, outputs in together.items())
    assert not same(alone[0], alone[1])


@pytest.mark.parametrize("first", [True, False])
def test_a_guidance_interval(model, first):
    """The second pass is made in some steps only: it computes in full where it comes in."""
    order = (1, 0) if first else (0, 1)
    with caching.taylorseer(model, interval=3, warmup=1):
        alone = run(model, lambda i: (0,))[0]
        for begin in (1, 2, 4):
            together = run(model, lambda i, begin=begin: order if begin <= i < 7 else (0,))
            assert same(together[0], alone)
            with torch.no_grad():
                cache_free = DIT.model()(numbers(2, 9, 16, seed=begin), torch.full((2,), 1 - begin / 9), LABELS[1])
            assert torch.equal(together[1][0], cache_free)


def test_guidance_that_is_switched_off_midway(model):
    """Batched guidance ends: another batch is another session, and computes in full where it begins."""
    plain = DIT.model()
    with caching.taylorseer(model, interval=3, warmup=1), torch.no_grad():
        for i in range(8):
            n = 4 if i < 5 else 2
            x, t, y = numbers(n, 9, 16, seed=i), torch.full((n,), 1 - i / 8), torch.arange(n) % 4
            out = model(x, t, y)
            if i in (0, 3, 5):
                assert torch.equal(out, plain(x, t, y))


def test_a_new_run_is_seen_in_either_direction(model):
    with caching.taylorseer(model, interval=4, warmup=1) as cache, torch.no_grad():
        first = run(model, lambda i: (0,))[0]
        assert same(run(model, lambda i: (0,))[0], first)

    def rising():
        return [model(numbers(2, 9, 16, seed=i), torch.full((2,), i / 9), LABELS[0]) for i in range(9)]

    with caching.taylorseer(model, interval=4, warmup=1) as cache, torch.no_grad():
        rising()  # learns the direction
        calls = cache.summary().full_calls
        second = rising()
        assert cache.summary().full_calls == calls + 3
        assert same(rising(), second)


def test_follow(model):
    runs, position = [Run(), Run()], [None]
    with caching.taylorseer(model, interval=3, warmup=1) as cache, torch.no_grad():
        cache.follow(lambda: position[0])
        outputs = []
        for r in runs:
            for i in range(5):
                position[0] = StepContext(r, i, 5, 0.5)
                outputs += [[model(numbers(2, 9, 16, seed=i), torch.ones(2), LABELS[k]) for k in (0, 1)]]
        assert cache.summary().full_calls == 8
        assert len(cache._runs.by_run) == 1  # the state of the first run is freed though the run is still alive
    assert all(same(a, b) for a, b in zip(outputs[:5], outputs[5:], strict=True))
    with pytest.raises(TypeError, match="function without arguments"):
        cache.follow(3)


def test_threads_that_count(model):
    with caching.taylorseer(model, interval=4, warmup=1):
        expected = [run(model, lambda i, k=k: (k, 2))[k] for k in range(2)]
        results = [None, None]

        def work(k):
            results[k] = run(model, lambda i: (k, 2))[k]

        threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
        [t.start() for t in threads]
        [t.join() for t in threads]
    for a, b in zip(results, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_an_argument_that_is_new_in_each_step_is_left_out():
    class Varying(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = DIT.model()
            self.blocks = self.inner.blocks

        def forward(self, x, t, y, extra=None):
            return self.inner(x, t, y)

    model = Varying()
    with caching.taylorseer(model, interval=3, warmup=1) as cache, torch.no_grad():
        for i in range(10):
            for k in (0, 1):
                t = torch.full((2,), 1 - i / 10)
                model(X, t, LABELS[k], extra={"r": torch.full((2,), i + 0.5 * k)})
        assert cache.summary().full_calls < 14
        assert len(cache._runs._local.state.sessions) == 2


def test_counter():
    counter, times = Counter(Direction(), None), [3.0, 3.0, 2.0, 1.0, 3.0, 2.0]
    assert [(counter.advance(torch.tensor(t)), counter.step) for t in times] == [
        (True, 0), (False, 0), (False, 1), (False, 2), (True, 0), (False, 1)
    ]  # fmt: skip
    counted = Counter(Direction(), 2)
    assert [counted.advance(None) for _ in range(5)] == [True, False, True, False, True]


def test_times_are_read():
    times = torch.tensor([5.0, 4.0, 3.0])
    assert element_of(times[1].expand(4))[1] == 1
    assert element_of(times) is None
    assert element_of(torch.tensor(2.0)) is None
    assert read(3) == 3.0
    assert read(torch.tensor([[0.0, 4.0]])) == 2.0
    assert read(None) is None


def test_an_exception_leaves_no_state(model):
    with caching.taylorseer(model, interval=4, warmup=1) as cache:
        expected = run(model, lambda i: (0,))[0]
        run(model, lambda i: (0,), steps=3)
        with pytest.raises(RuntimeError), torch.no_grad():
            model(X[..., :3], torch.ones(2), LABELS[0])
        assert same(run(model, lambda i: (0,))[0], expected)
        cache.reset()
        assert same(run(model, lambda i: (0,))[0], expected)
