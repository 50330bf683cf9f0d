import gc
import threading

import pytest
import torch

from pyaccel import Denoiser, caching, schedules, solvers
from pyaccel.denoiser import Run, StepContext, announce
from pyaccel.models import DiT

FLOW = schedules.flow()


@pytest.fixture
def model():
    torch.manual_seed(3)
    model = DiT(size=8, patch=4, width=16, depth=2, heads=2).eval().requires_grad_(False)
    for block in model.blocks:  # adaLN-zero would hide what a cache does
        torch.nn.init.normal_(block.modulation.weight, std=0.3)
    torch.nn.init.normal_(model.modulation.weight, std=0.3)
    torch.nn.init.normal_(model.head.weight, std=0.3)
    return model


def sample(model, noise, steps=9, **options):
    denoiser = Denoiser(model, FLOW, "flow", unconditional={"label": 10}, **options)
    return solvers.unipc(FLOW, steps).sample(denoiser, noise, label=torch.arange(len(noise)) % 10)


NOISE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_interval_one_changes_nothing(model):
    expected = sample(model, NOISE)
    with caching.taylorseer(model, interval=1):
        assert torch.equal(sample(model, NOISE), expected)


def test_leaving_restores_the_model_exactly(model):
    expected, before = sample(model, NOISE), {n: dict(m.__dict__) for n, m in model.named_modules()}
    with caching.taylorseer(model, interval=4):
        assert not torch.equal(sample(model, NOISE), expected)
    assert {n: dict(m.__dict__) for n, m in model.named_modules()} == before
    assert torch.equal(sample(model, NOISE), expected)


def test_leaving_by_an_exception_restores_too(model):
    with pytest.raises(KeyError), caching.taylorseer(model, interval=4):
        raise KeyError
    assert "forward" not in model.__dict__


def test_a_forward_of_the_users_own_comes_back(model):
    original = model.forward
    model.forward = mine = lambda *a, **k: original(*a, **k)
    with caching.taylorseer(model):
        sample(model, NOISE)
    assert model.forward is mine


def test_cached_features_are_the_polynomial(model):
    """Against a cache written plainly: each branch's output before the gate, by the weights over its full steps."""
    outputs, how = {}, caching.taylor(1, first=0)
    when = caching.every(3, after=1)
    with caching.attach("plain", model, where=caching.branches(model), when=when, how=how) as cache:
        cached = sample(model, NOISE)

    step = [-1]
    modules = [site.module for site in caching.branches(model)]
    originals = [b.compute for b in modules]
    try:
        for index, branch in enumerate(modules):

            def compute(x, shift, scale, index=index, original=originals[index]):
                if index == 0:
                    step[0] += 1
                if step[0] % 3 == 0:
                    feature = original(x, shift, scale)
                    outputs.setdefault(index, []).append((step[0], feature))
                    return feature
                (s0, newest), *older = outputs[index][::-1]
                if not older:
                    return newest
                return newest + (newest - older[0][1]) / (s0 - older[0][0]) * (step[0] - s0)

            branch.compute = compute
        expected = sample(model, NOISE)
    finally:
        for branch in modules:
            del branch.compute
    torch.testing.assert_close(cached, expected, rtol=1e-5, atol=1e-5)
    assert cache.summary().full_calls == 3


def test_counts_and_memory(model):
    with caching.taylorseer(model, interval=3, order=2, warmup=3) as cache:
        sample(model, NOISE, steps=9)
    summary = cache.summary()
    assert (summary.calls, summary.full_calls) == (9, 5)
    assert summary.branches == 4
    assert summary.peak_bytes == 4 * 3 * (2 * 4 * 16 * 4)  # branches × features × [2, 4, 16] float32
    assert "9 model calls, 5 in full" in str(summary)


def test_a_second_run_starts_afresh(model):
    with caching.taylorseer(model, interval=4) as cache:
        first = sample(model, NOISE)
        assert torch.equal(sample(model, NOISE), first)
        sample(model, torch.randn(3, 1, 8, 8))  # another batch
        assert torch.equal(sample(model, NOISE), first)
    assert cache.summary().calls == 36


def test_state_is_freed_with_the_run(model):
    with caching.taylorseer(model, interval=4) as cache:
        sample(model, NOISE)
        gc.collect()
        assert len(cache._runs.by_run) == 0


def test_an_exception_in_the_middle_leaves_no_state(model):
    with caching.taylorseer(model, interval=4) as cache:
        expected = sample(model, NOISE)
        broken = iter(range(100))

        def fails(x, t, label):
            if next(broken) == 4:
                raise RuntimeError("out of memory")
            return model(x, t, label)

        with pytest.raises(RuntimeError, match="out of memory"):
            solvers.unipc(FLOW, 9).sample(fails, NOISE, label=torch.arange(2))
        assert torch.equal(sample(model, NOISE), expected)
        assert cache.summary().calls == 9 + 4 + 9


def test_guidance_branches_have_their_own_state(model):
    with caching.taylorseer(model, interval=3):
        together = sample(model, NOISE, guidance=2.0, batched=True)
        apart = sample(model, NOISE, guidance=2.0, batched=False)
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-4)


def test_threads_have_their_own_state(model):
    noises = [torch.randn(2, 1, 8, 8) for _ in range(3)]
    with caching.taylorseer(model, interval=4):
        expected = [sample(model, z) for z in noises]
        results = [None] * 3

        def work(i):
            results[i] = sample(model, noises[i])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        [t.start() for t in threads]
        [t.join() for t in threads]
    for got, want in zip(results, expected, strict=True):
        torch.testing.assert_close(got, want)


def plain_euler(model, x, steps=8):
    for i in range(steps):
        t = 1 - i / steps
        x = x - model(x, torch.full((len(x),), t), torch.arange(len(x))) / steps
    return x


def test_without_a_context_calls_are_counted_and_runs_told_apart(model):
    with caching.taylorseer(model, interval=4, warmup=1) as cache:
        first = plain_euler(model, NOISE)
        assert torch.equal(plain_euler(model, NOISE), first)
        assert cache.summary().full_calls == 4
        plain_euler(model, torch.randn(5, 1, 8, 8))
        assert torch.equal(plain_euler(model, NOISE), first)


def test_two_caches_on_one_model_are_refused(model):
    with (
        caching.taylorseer(model),
        pytest.raises(ValueError, match="already has a cache"),
        caching.taylorseer(model),
    ):
        pass
    assert "forward" not in model.__dict__


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_modes(model, mode):
    with mode(), caching.taylorseer(model, interval=3):
        result = plain_euler(model, NOISE)
    assert torch.isfinite(result).all()


def test_recomputation_of_a_step_replaces_its_features(model):
    with caching.taylorseer(model, interval=1, order=1, warmup=1) as cache:
        run = Run()
        for _ in range(2):
            with announce(StepContext(run, 0, 4, 1.0, branch="cond")):
                model(NOISE, torch.ones(2), torch.arange(2))
        (session,) = cache._runs.by_run[run][None].sessions
        assert [h.positions for h in session.histories.values()] == [[0]] * 4
