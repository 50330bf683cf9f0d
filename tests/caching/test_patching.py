"""Nothing stays patched, whatever others do to the model meanwhile."""

import copy
import io
import pickle
import re

import pytest
import torch
from torch import nn

from pyaccel import caching

from .architectures import BY_NAME, TimmMlp, numbers

DIT, FLUX = BY_NAME["original-DiT"], BY_NAME["FLUX"]


@pytest.fixture
def model():
    return DIT.model()


@torch.no_grad()
def calls(model, architecture=DIT, steps=6):
    return torch.stack(
        [architecture.call(model, numbers(*architecture.shape, seed=i), 1 - i / steps) for i in range(steps)]
    )


def clean(model):
    return not any(name in m.__dict__ for m in model.modules() for name in ("forward", "compute", "_old_forward"))


def test_copies_and_pickles_are_uncached_models(model):
    plain = calls(model)
    with caching.taylorseer(model, interval=3, warmup=1) as cache:
        cached = calls(model)
        copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        torch.save(model, stream := io.BytesIO())
        stream.seek(0)
        saved = torch.load(stream, weights_only=False)
        count = cache.summary().calls
        for twin in (copied, pickled, saved):
            assert torch.equal(calls(twin), plain)
            assert twin.state_dict().keys() == model.state_dict().keys()
        with torch.no_grad():
            [p.zero_() for p in copied.parameters()]
        assert not calls(copied).any()  # its own weights, not the original's
        with caching.taylorseer(pickled, interval=3, warmup=1):
            assert torch.equal(calls(pickled), cached)
        assert cache.summary().calls == count
        assert torch.equal(calls(model), cached)
    assert clean(model)
    assert torch.equal(calls(model), plain)


@pytest.mark.parametrize("first", ["hook", "cache"])
@pytest.mark.parametrize("removed", ["hook", "cache"])
def test_hooks_of_accelerate(model, first, removed):
    hooks = pytest.importorskip("accelerate.hooks")
    plain, cache = calls(model), caching.taylorseer(model, interval=3, warmup=1)
    with cache:
        cached = calls(model)
    modules = [model, model.blocks[0].attn, model.blocks[1].mlp]

    def hook():
        for m in modules:
            hooks.add_hook_to_module(m, hooks.ModelHook())

    [step() for step in ((hook, cache.attach) if first == "hook" else (cache.attach, hook))]
    assert torch.equal(calls(model), cached)
    if removed == "hook":
        [hooks.remove_hook_from_module(m) for m in modules]
        calls(model)  # the model's own forward may have lost us; the first call puts it right
        assert torch.equal(calls(model), cached)
        cache.detach()
    else:
        cache.detach()
        assert torch.equal(calls(model), plain)
        [hooks.remove_hook_from_module(m) for m in modules]
    assert torch.equal(calls(model), plain)
    assert not any(isinstance(v, caching.patching.Patch) for m in model.modules() for v in m.__dict__.values())
    with cache:
        assert torch.equal(calls(model), cached)


def test_hooks_of_diffusers(model):
    registry = pytest.importorskip("diffusers.hooks.hooks")
    plain, cache = calls(model), caching.taylorseer(model, interval=3, warmup=1)
    with cache:
        cached = calls(model)
        of = registry.HookRegistry.check_if_exists_or_initialize(model.blocks[0].attn)
        of.register_hook(registry.ModelHook(), "mine")
        assert torch.equal(calls(model), cached)
    assert torch.equal(calls(model), plain)
    of.remove_hook("mine")
    assert torch.equal(calls(model), plain)


def test_an_adapter_that_takes_the_place_of_a_site(model):
    class Adapter(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base_layer, self.extra = base, nn.Linear(16, 16)

        def forward(self, x):
            return self.base_layer(x) + self.extra(x)

    adapted = DIT.model()
    adapter = Adapter(adapted.blocks[1].mlp)
    adapted.blocks[1].mlp = adapter
    with caching.taylorseer(model, interval=3, warmup=1) as cache:
        cached = calls(model)
        model.blocks[1].mlp, inner = adapter, model.blocks[1].mlp
        adapter.base_layer = inner
        result = calls(model)
        model.blocks[1].mlp = inner
        assert torch.equal(calls(model), cached)
        del model.blocks[1].mlp
        with pytest.raises(RuntimeError, match=re.escape("blocks.1.mlp")):
            calls(model)
        model.blocks[1].mlp = inner
    assert not torch.equal(result, cached)
    assert "forward" not in adapter.__dict__
    assert cache.summary().calls == 18
    assert clean(model)


def test_lora_on_the_joining_projection():
    peft = pytest.importorskip("peft")
    model = FLUX.model()
    plain = calls(model, FLUX)
    with caching.taylorseer(model, interval=3, warmup=1):
        cached = calls(model, FLUX)
        config = peft.LoraConfig(r=2, target_modules=["proj_out", "proj_mlp", "to_q"], init_lora_weights=False)
        model.add_adapter(config)
        adapted = calls(model, FLUX)
        model.unload_lora()
        assert torch.equal(calls(model, FLUX), cached)
    assert torch.isfinite(adapted).all()
    assert not torch.equal(adapted, cached)
    assert clean(model)
    assert torch.equal(calls(model, FLUX), plain)


def test_a_compiled_block(model):
    plain = calls(model)
    model.blocks[0] = torch.compile(model.blocks[0], backend="eager")
    with caching.taylorseer(model, interval=3, warmup=1) as cache:
        cached = calls(model)
        assert cache.summary().full_calls == 2
        assert {s.name for s in cache.where} >= {"blocks.0._orig_mod.attn"}
    torch.testing.assert_close(calls(model), plain)
    reference = DIT.model()
    with caching.taylorseer(reference, interval=3, warmup=1):
        torch.testing.assert_close(cached, calls(reference))
    torch.compiler.reset()


def test_attach_and_detach(model):
    cache = caching.taylorseer(model, interval=3)
    with pytest.raises(ValueError, match="is not attached"):
        cache.detach()
    assert cache.attach() is cache
    with pytest.raises(ValueError, match="already attached"):
        cache.attach()
    with pytest.raises(ValueError, match="already has a cache"):
        caching.taylorseer(model).attach()
    calls(model)
    cache.detach()
    assert clean(model)
    assert "3 attention, 3 mlp" in str(cache.summary())


def test_the_lines_of_the_message_work():
    class Strange(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.ModuleDict({"thing": nn.Linear(16, 16)}) for _ in range(2))

        def forward(self, x, t, y):
            for layer in self.layers:
                x = x + layer["thing"](x) * t[:, None, None]
            return x

    model = Strange()
    with pytest.raises(ValueError, match="Strange: found nothing to cache") as error:
        caching.taylorseer(model)
    lines = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert len(lines) == 4
    space = {"model": model, "calls": calls}
    exec("\n".join(lines).replace("...", "calls(model)"), space)
    assert space["cache"].summary().full_calls == 3
    assert space["cache"].summary().branches == 2


def test_sites_are_checked(model):
    with pytest.raises(TypeError, match=r"caching\.Site"):
        caching.taylorseer(model, where=[model.blocks[0].attn])
    with pytest.raises(TypeError, match="torch module"):
        caching.Site("a", "b")
    with pytest.raises(ValueError, match="no method"):
        caching.Site("a", nn.Linear(1, 1), method="compute")
    with pytest.raises(ValueError, match="empty"):
        caching.taylorseer(model, where=[]).attach()
    with (
        caching.taylorseer(model, where=[caching.Site("elsewhere", TimmMlp())]),
        pytest.raises(RuntimeError, match="none of the 1 sites ran"),
    ):
        calls(model)
