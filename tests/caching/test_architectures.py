"""Every architecture: the sites, interval 1, a cached step against the uncached, and exact restoration."""

from collections import Counter

import pytest
import torch
from torch import nn

from pyaccel import caching
from pyaccel.denoiser import Run, StepContext, announce

from .architectures import ARCHITECTURES, BY_NAME, numbers

pytest.importorskip("diffusers")

TIMES = [1.0, 0.9, 0.8, 0.7]
each = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)


LAYERS = (nn.Linear, nn.Conv2d)


def expensive(model):
    """The layers that a cached step must not run: those inside of a site or of what feeds it."""
    found = {}
    for site in caching.branches(model):
        roots = [site.module.function] if site.method == "compute" else [site.module, *site.feeds]
        for root in roots:
            found |= {id(m): m for m in root.modules() if isinstance(m, LAYERS) and m is not root}
    return list(found.values())


@each
def test_sites(architecture):
    model = architecture.model()
    sites = caching.branches(model)
    assert dict(Counter(site.kind for site in sites)) == architecture.kinds
    modules = dict(model.named_modules())
    assert all(modules[site.name] is site.module for site in sites)
    assert set(architecture.some_names) <= {site.name for site in sites}


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a.name != "original-EDM"], ids=lambda a: a.name)
def test_a_lora_changes_no_site(architecture):
    """Not EDM's code: it has layers of its own, and peft knows none of them."""
    peft = pytest.importorskip("peft")
    model = architecture.model()
    kinds = [(site.name, site.kind) for site in caching.branches(model)]
    refused = [m.out_proj for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    refused += [m for m in model.modules() if getattr(m, "groups", 1) > 1]
    layers = [n for n, m in model.named_modules() if isinstance(m, LAYERS) and m not in refused]
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=layers), model)
    assert [(site.name, site.kind) for site in caching.branches(model)] == kinds


@each
@torch.no_grad()
def test_cached_step(architecture):
    model, x = architecture.model(), architecture.sample()
    before = {name: dict(m.__dict__) for name, m in model.named_modules()}
    state = {name: t.clone() for name, t in model.state_dict().items()}
    expected = [architecture.call(model, x, t) for t in TIMES]
    assert torch.isfinite(expected[0]).all()
    assert not torch.equal(expected[0], expected[1])
    with caching.taylorseer(model, interval=1):
        assert all(torch.equal(architecture.call(model, x, t), e) for t, e in zip(TIMES, expected, strict=True))
        assert model.state_dict().keys() == state.keys()

    ran, hooks = [], []
    with caching.taylorseer(model, interval=4, order=0, warmup=1) as cache:
        cache.follow(steps())
        full = architecture.call(model, x, 1.0)
        hooks = [m.register_forward_hook(lambda m, i, o: ran.append(m)) for m in expensive(model)]
        again = architecture.call(model, x, 1.0)
        [h.remove() for h in hooks]
        summary = cache.summary()
    assert torch.equal(full, expected[0])
    torch.testing.assert_close(again, full, rtol=1e-5, atol=1e-6)
    # Lumina-Next adds up two attentions and calls the output layer of one of them from the block.
    assert len(ran) == (2 if architecture.name == "Lumina-Next" else 0)
    assert (summary.calls, summary.full_calls, summary.kinds) == (2, 1, architecture.kinds)

    with caching.taylorseer(model, interval=2, order=1, warmup=2) as cache:
        cache.follow(steps())
        cached = [architecture.call(model, x * t, t) for t in TIMES]
        assert cache.summary().full_calls == 3
    plain = [architecture.call(model, x * t, t) for t in TIMES]
    assert all(torch.isfinite(y).all() for y in cached)
    assert float((cached[2] - plain[2]).norm() / plain[2].norm()) < 0.3
    assert not torch.equal(cached[2], plain[2])

    after = {name: dict(m.__dict__) for name, m in model.named_modules()}
    for name in before:
        before[name].pop("_forward_hooks_always_called", None), after[name].pop("_forward_hooks_always_called", None)
        assert before[name].keys() == after[name].keys()
        assert "forward" not in after[name]
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert torch.equal(architecture.call(model, x, 1.0), expected[0])


def steps():
    """A position that counts each call as a step of one run."""
    from pyaccel.denoiser import Run, StepContext

    run, count = Run(), iter(range(1000))
    return lambda: StepContext(run, next(count), 1000, 1.0)


@torch.no_grad()
def test_controlnet_residuals():
    """Fresh residuals in each step and pass: the passes are still told apart, by the text."""
    architecture = BY_NAME["SD1.5"]
    model, text = architecture.model(), [numbers(1, 5, 16, seed=s) for s in (5, 6)]

    def run(passes):
        outputs = []
        for i in range(8):
            t = torch.tensor(1000.0 - 100 * i)
            for p in passes:
                residuals = [0.1 * numbers(1, c, s, s, seed=10 * i + p) for c, s in [(8, 8), (8, 8), (8, 4), (16, 4)]]
                y = model(numbers(1, 4, 8, 8), t, encoder_hidden_states=text[p], return_dict=False,
                          down_block_additional_residuals=residuals,
                          mid_block_additional_residual=0.1 * numbers(1, 16, 4, 4, seed=p + i))  # fmt: skip
                outputs.append(y[0])
        return outputs

    with caching.taylorseer(model, interval=2, warmup=3) as cache:
        alone = [run([0]), run([1])]
        assert cache.summary().full_calls == 10
        both = run([0, 1])
        assert cache.summary().full_calls == 20
    assert all(torch.equal(a, b) for a, b in zip(both[::2], alone[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(both[1::2], alone[1], strict=True))


WHOLE = {
    "delta_dit": lambda m: caching.delta_dit(m, interval=2, boundary=4),
    "dbcache": lambda m: caching.dbcache(m, front=1, warmup=1, threshold=1e9, in_a_row=1),
    "teacache": lambda m: caching.teacache(m, threshold=1e9),
    "last_block": lambda m: caching.taylorseer(m, interval=2, order=0, warmup=1, where="last_block"),
    "deepcache": lambda m: caching.deepcache(m, interval=2),
}


@each
@pytest.mark.parametrize("method", WHOLE)
@torch.no_grad()
def test_ranges_of_blocks_and_depths(architecture, method):
    """Full steps are exact, a predicted one leaves blocks out and is near to the truth, and all is taken back."""
    model, x = architecture.model(), architecture.sample()
    is_unet = "UNet" in type(model).__name__
    if is_unet != (method == "deepcache"):
        with pytest.raises(ValueError, match=r"no list of transformer blocks|no U-Net of a known form"):
            WHOLE[method](model)
        return
    cache = WHOLE[method](model)
    expected = [architecture.call(model, x * (1 - 0.01 * i), 0.9 - 0.001 * i) for i in range(4)]
    ran = []
    run = Run()
    with cache:
        layers = [m for m in model.modules() if not [*m.children()] and [*m.parameters()]]
        hooks = [m.register_forward_hook(lambda m, *_: ran.append(m)) for m in layers]
        found, counts = [], []
        for i in range(4):
            ran.clear()
            with announce(StepContext(run, i, 4, 0.9 - 0.001 * i)):
                found.append(architecture.call(model, x * (1 - 0.01 * i), 0.9 - 0.001 * i))
            counts.append(len(ran))
        [hook.remove() for hook in hooks]
    assert torch.equal(found[0], expected[0])
    assert counts[1] < counts[0]
    assert float((found[1] - expected[1]).norm() / expected[1].norm()) < 0.3
    assert torch.equal(architecture.call(model, x, 0.9), expected[0])
