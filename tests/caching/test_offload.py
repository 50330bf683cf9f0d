"""Features in host memory: the same bits, in a few buffers, and everything in its order; on a GPU by tests/gpu."""

import gc
import threading
import weakref

import pytest
import torch

from pyaccel import caching
from pyaccel.caching.features import History
from pyaccel.caching.offloading import Offloaded
from pyaccel.caching.ring import Ring
from pyaccel.caching.storage import Raw, storage_of
from pyaccel.denoiser import Run, StepContext, announce

from .toys import LABEL, STEPS, dit, drive, inputs, unet
from .transfers import Copies, Layers

X, T = torch.zeros(2, 1, 8, 8), torch.full((2,), 0.5)

METHODS = {
    "taylorseer": lambda m, **s: caching.taylorseer(m, interval=4, order=2, warmup=2, **s),
    "newton": lambda m, **s: caching.taylorseer(m, interval=3, order=1, warmup=1, how="newton", **s),
    "hicache": lambda m, **s: caching.hicache(m, interval=3, **s),
    "fora": lambda m, **s: caching.fora(m, interval=3, **s),
    "pab": lambda m, **s: caching.pab(m, **s),
    "auto": lambda m, **s: caching.auto(m, interval=3, **s),
    "delta_dit": lambda m, **s: caching.delta_dit(m, interval=3, **s),
    "fbcache": lambda m, **s: caching.fbcache(m, 0.2, **s),
    "dbcache": lambda m, **s: caching.dbcache(m, front=2, threshold=0.3, warmup=1, **s),
    "dicache": lambda m, **s: caching.dicache(m, threshold=0.2, **s),
    "easycache": lambda m, **s: caching.easycache(m, 0.2, **s),
    "speca": lambda m, **s: caching.speca(m, **s),
}


def run_of(make, model, xs=None, **settings):
    with make(model, **settings) as cache:
        return drive(model, inputs() if xs is None else xs), cache


def assert_same(found, expected):
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# ---- the same bits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pace", ["late", "early", "random"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_the_same_bits(monkeypatch, name, pace):
    model = dit()
    expected, plain = run_of(METHODS[name], model)
    layers = Layers(monkeypatch, pace)
    for ahead in (True, 1, 3):
        found, cache = run_of(METHODS[name], model, offload=ahead)
        assert_same(found, expected)
        assert cache.summary().predicted == plain.summary().predicted
    assert layers.made


@pytest.mark.parametrize("pace", ["late", "random"])
@pytest.mark.parametrize("memory", ["int8", "fp8", "bf16"])
@pytest.mark.parametrize("name", ["taylorseer", "newton", "fora", "pab", "delta_dit", "speca"])
def test_fewer_bits_too(monkeypatch, name, memory, pace):
    model = dit()
    expected, _ = run_of(METHODS[name], model, memory=memory)
    Layers(monkeypatch, pace)
    found, _ = run_of(METHODS[name], model, memory=memory, offload=True)
    assert_same(found, expected)


@pytest.mark.parametrize("make", [lambda m, **s: caching.deepcache(m, 3, **s), METHODS["auto"], METHODS["taylorseer"]])
def test_of_a_unet(monkeypatch, make):
    model = unet().to(memory_format=torch.channels_last)
    expected, _ = run_of(make, model)
    Layers(monkeypatch)
    found, cache = run_of(make, model, offload=True)
    assert_same(found, expected)
    assert cache.summary().host_bytes > 0


def test_a_cpu_needs_no_offload():
    model = dit()
    expected, _ = run_of(METHODS["taylorseer"], model)
    with METHODS["taylorseer"](model, offload=True) as cache:
        assert_same(drive(model, inputs()), expected)
        run = Run()
        with torch.no_grad(), announce(StepContext(run, 0, 9, 0.5)):
            model(X, T, LABEL)
        (session,) = cache._runs.by_run[run][None].sessions
        assert all(type(h.storage) is Raw for h in session.histories.values())
    assert cache.summary().host_bytes == 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_modes(monkeypatch, mode):
    model = dit()

    def run(first):
        run, found = Run(), []
        for i, x in enumerate(inputs()):
            with (first if i < 3 else mode)(), announce(StepContext(run, i, STEPS, 0.5)):
                found.append(model(x, T, LABEL).detach().clone())
        return found

    for first in (mode, torch.inference_mode):
        with METHODS["taylorseer"](model):
            expected = run(first)
        with pytest.MonkeyPatch.context() as patch:
            Layers(patch)
            with METHODS["taylorseer"](model, offload=True):
                assert_same(run(first), expected)


# ---- order ----------------------------------------------------------------------------------------------------------


def logged_step(monkeypatch, ahead, memory=None):
    """What was asked for in a step, by number of the site, for a step that predicts and the full one after it."""
    model, layers = dit(), Layers(monkeypatch)
    sites = {}
    with caching.taylorseer(model, interval=3, order=1, warmup=1, memory=memory, offload=ahead) as cache:
        run, logs = Run(), []
        for i, x in enumerate(inputs()):
            with torch.no_grad(), announce(StepContext(run, i, STEPS, 0.5)):
                model(x, T, LABEL)
            histories = cache._runs.by_run[run][None].sessions[0].histories
            sites |= {id(h.storage): index for (index, _), h in histories.items()}
            (layer,) = layers.made
            logs.append([(what, sites.get(value, value)) for what, value in layer.log])
            layer.log.clear()
    return logs, layer


@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_features_are_fetched_so_many_sites_ahead(monkeypatch, ahead):
    logs, layer = logged_step(monkeypatch, ahead)
    assert len(layer.rooms) == ahead + 1
    predicted = logs[7]  # of step 8 the first sites were fetched at its end
    uses = [i for i, (what, _) in enumerate(predicted) if what == "use"]
    fetches = [i for i, (what, _) in enumerate(predicted) if what == "fetch"]
    assert [predicted[i][1] for i in uses] == list(range(10))
    assert len(fetches) == 10
    for number, at in enumerate(fetches):  # the n-th fetch is for the site that comes `ahead` after the n-th
        assert uses[number - 1] < at < uses[number] if number else at < uses[0]
    assert [what for what, _ in predicted].count("wait") == 10


def test_a_full_step_fetches_nothing_that_it_does_not_need(monkeypatch):
    logs, _ = logged_step(monkeypatch, 2)
    kinds = [what for what, _ in logs[9]]
    assert kinds.count("send") == 10
    assert kinds.count("fetch") == 2  # the first two of the next step
    with pytest.MonkeyPatch.context() as patch:
        logs, _ = logged_step(patch, 2, memory="int8")
    kinds = [what for what, _ in logs[9]]
    assert kinds.count("send") == 20  # the newest, and the difference of the one before
    assert kinds.count("fetch") == 10


def test_each_copy_waits_for_the_last_use_and_each_use_for_the_last_copy():
    """The layer of these tests finds it out: a ring that forgets an event is caught."""

    class Owner:
        buffer, size = None, 64

        def __init__(self, layer):
            self.host = layer.host(64)

        def fetched(self):
            return 64

    with pytest.MonkeyPatch.context() as patch:
        layers = Layers(patch)
        ring = Ring(layers._make(None), 1)
        a, b, c = (Owner(ring.transfers) for _ in range(3))
        for owner in (a, b):
            ring.use(owner, filled=True)
        with pytest.raises(AssertionError, match="in use"):
            ring.use(c, filled=True)
        ring.clear()
    with pytest.MonkeyPatch.context() as patch:
        layers = Layers(patch)
        patch.setattr(Copies, "computed", lambda self, event: None)
        ring = Ring(layers._make(None), 0)
        a, b = (Owner(ring.transfers) for _ in range(2))
        ring.transfers.used.clear()
        with pytest.raises(AssertionError, match="does not wait"):
            ring.use(a, filled=True)


def test_sites_that_are_left_out_or_come_in_another_order(monkeypatch):
    """Nothing but the time to wait depends on the order of the step before."""
    layers = Layers(monkeypatch, "random")
    ring = Ring(layers._make(None), 2)
    how = caching.reuse()
    histories = [History(Offloaded(None, ring)) for _ in range(6)]
    features = [torch.randn(3, 5) for _ in histories]
    for history, feature in zip(histories, features, strict=True):
        history.push(0, 0, feature, how)
    for order in ([0, 1, 2, 3, 4, 5], [5, 0, 5, 3], [1, 1, 4, 2, 0], [3], [0, 1, 2, 3, 4, 5]):
        ring.begin()
        for i in order:
            assert torch.equal(histories[i].predict([1.0]), features[i])
    assert len(ring.transfers.rooms) == 3


# ---- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [None, "int8", "bf16"])
def test_bytes_are_known_before_and_said_afterwards(monkeypatch, memory):
    model = dit()
    make = METHODS["taylorseer"]
    plain = make(model, memory=memory).estimate(X, T, LABEL)
    assert plain.host == 0
    layers = Layers(monkeypatch)
    cache = make(model, memory=memory, offload=2)
    held = cache.estimate(X, T, LABEL)
    assert not any(layer.rooms or layer.hosts for layer in layers.made)
    with cache:
        drive(model, inputs())
    summary = cache.summary()
    assert (summary.peak_bytes, summary.host_bytes) == (held, held.host)
    assert held.host >= plain
    assert held == held.host * 3 // 10  # three buffers for ten sites
    assert f"{held.host / 2**20:.1f} MiB in host memory" in str(summary)


def test_nothing_is_allocated_after_the_first_steps(monkeypatch):
    model, layers = dit(), Layers(monkeypatch)
    counts = []
    with METHODS["taylorseer"](model, offload=True):
        run = Run()
        for i, x in enumerate(inputs()):
            with torch.no_grad(), announce(StepContext(run, i, STEPS, 0.5)):
                model(x, T, LABEL)
            (layer,) = layers.made
            counts.append((len(layer.rooms), len(layer.hosts)))
    assert counts == [(3, 10)] * STEPS


def test_everything_is_freed_at_the_end(monkeypatch):
    model, layers = dit(), Layers(monkeypatch)
    with METHODS["taylorseer"](model, offload=True):
        drive(model, inputs())
        memory = [weakref.ref(t) for layer in layers.made for t in (*layer.rooms, *layer.hosts)]
        layers.made.clear()
        gc.collect()
        assert len(memory) == 13
        assert not any(ref() is not None for ref in memory)  # the run is over


def test_nobody_writes_into_what_is_kept():
    ring = Ring(Copies(), 1)
    for memory in (None, "int8"):
        history, feature = History(Offloaded(memory, ring)), torch.randn(2, 4, 8)
        plain = History(storage_of(memory))
        for h in (history, plain):
            h.push(0, 0, feature.clone(), caching.reuse())
        history.push(0, 0, feature, caching.reuse())  # computed again, as gradient checkpointing does
        feature.zero_()
        before = history.predict([1.0])
        assert torch.equal(before, plain.predict([1.0]))
        kept = before.clone()
        before.zero_()
        assert torch.equal(history.predict([1.0]), kept)


@pytest.mark.parametrize("memory", [None, "int8"])
def test_tuples_strides_and_what_is_not_floating_point(memory):
    ring, how = Ring(Copies(), 1), caching.taylor(1)
    history, plain = History(Offloaded(memory, ring)), History(storage_of(memory))
    for step in range(4):
        image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
        feature = (image, None, torch.arange(3) + step, torch.randn(6, 4).t(), torch.randn(4, 8)[:, ::2])
        history.push(step, step, feature, how)
        plain.push(step, step, tuple(x.clone() if isinstance(x, torch.Tensor) else x for x in feature), how)
        found, expected = (h.predict(h.weights(step + 0.5, how, {})) for h in (history, plain))
        assert found[1] is None
        for a, b in zip(found, expected, strict=True):
            assert a is b or torch.equal(a, b)
        assert found[0].is_contiguous(memory_format=torch.channels_last)


# ---- runs -----------------------------------------------------------------------------------------------------------


def test_an_exception_in_the_middle(monkeypatch):
    model = dit()
    expected, _ = run_of(METHODS["taylorseer"], model)
    Layers(monkeypatch)
    with METHODS["taylorseer"](model, offload=True):
        for step in (2, 3, 5):
            block, count = model.blocks[2], [0]

            def breaks(*args, original=block.forward, count=count, step=step):
                count[0] += 1
                if count[0] > step:
                    raise RuntimeError("out of memory")
                return original(*args)

            block.forward = breaks
            with pytest.raises(RuntimeError, match="out of memory"):
                drive(model, inputs())
            del block.forward
            assert_same(drive(model, inputs()), expected)


def test_a_prediction_that_is_refused(monkeypatch):
    """speca refuses some of its own; everything is forgotten in the middle of a call, and the buffers go on."""
    model = dit()
    make = lambda m, **s: caching.speca(m, threshold=1e-4, **s)  # noqa: E731
    expected, plain = run_of(make, model)
    Layers(monkeypatch, "random")
    found, cache = run_of(make, model, offload=True)
    assert_same(found, expected)
    assert cache.summary().recomputed == plain.summary().recomputed > 0


def test_another_resolution(monkeypatch):
    """In the middle of a run, as some pipelines do, and in the next one."""
    how, layers = caching.taylor(1), Layers(monkeypatch)
    ring = Ring(layers._make(None), 1)
    pairs = [(History(Offloaded(None, ring)), History()) for _ in range(4)]
    for step in range(6):
        ring.begin()
        for history, plain in pairs:
            feature = torch.randn(2, 4 if step < 3 else 9, 8)
            for h in (history, plain):
                h.push(step, step, feature.clone(), how)
            found, expected = (h.predict(h.weights(step + 0.5, how, {})) for h in (history, plain))
            assert torch.equal(found, expected)
    assert all(room.nbytes >= 2 * 2 * 9 * 8 * 4 for room in (b.room for b in ring._buffers))
    model = dit()
    three = [x[:1].expand(3, 1, 8, 8).contiguous() for x in inputs()]

    def both(offload):
        with METHODS["taylorseer"](model, offload=offload):
            first = drive(model, inputs())
            with torch.no_grad():
                other = [model(x, torch.full((3,), 0.5 - 0.01 * i), torch.arange(3)) for i, x in enumerate(three)]
            return [*first, *other, *drive(model, inputs())]

    assert_same(both(True), both(False))


def test_threads_and_passes_have_their_own_buffers(monkeypatch):
    model = dit()
    layers = Layers(monkeypatch, "random")
    starts = [[x + i for x in inputs()] for i in range(3)]
    with METHODS["taylorseer"](model):
        expected = [drive(model, xs) for xs in starts]
    with METHODS["taylorseer"](model, offload=True):
        results = [None] * 3

        def work(i):
            results[i] = drive(model, starts[i])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        [t.start() for t in threads]
        [t.join() for t in threads]
    for found, answer in zip(results, expected, strict=True):
        assert_same(found, answer)
    assert len(layers.made) == 3

    def guided(offload):
        run, found = Run(), []
        with METHODS["newton"](model, offload=offload):
            for i, x in enumerate(inputs()):
                for label in (LABEL, LABEL + 5):
                    with torch.no_grad(), announce(StepContext(run, i, STEPS, 0.5)):
                        found.append(model(x, T, label))
        return found

    assert_same(guided(True), guided(False))
    assert len(layers.made) == 5


@pytest.mark.parametrize("wrong", [-1, "yes", 1.5, None])
def test_bad_input(wrong):
    with pytest.raises(ValueError, match="offload must be True, False or how many sites ahead"):
        caching.fora(dit(), offload=wrong)
