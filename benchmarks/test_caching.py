"""Feature caches beside diffusers' hooks, cache-dit and DeepCache: one site, the bytes held, and whole runs.

A prediction of order n has to read n + 1 features and write one; a refresh has to move nothing, as features are kept by
reference. Whole runs: full steps × their time + predicted steps × the time of the model without its blocks is the least
that a run can take.
"""

from types import SimpleNamespace

import pytest
import torch
from cached_models import FluxRun, flux, unet
from harness import in_turns, steps_in_turns

from pyaccel import caching
from pyaccel.caching.features import History
from pyaccel.caching.storage import storage_of

diffusers = pytest.importorskip("diffusers")
ROWS, WIDTH, ORDER = 4608, 3072, 2


def _full(step):
    return torch.randn(1, ROWS, WIDTH, generator=torch.Generator().manual_seed(step)).bfloat16()


@pytest.mark.parametrize("memory", [None, "int8"])
def test_one_site(benchmark, report, memory):
    """A branch of FLUX at 1024²: 4608 × 3072 in bfloat16, order 2."""
    from cache_dit.caching.cache_contexts.calibrators.taylorseer import TaylorSeerState as CacheDiT
    from diffusers.hooks.taylorseer_cache import TaylorSeerState

    features, how = [_full(step) for step in range(4)], caching.taylor(ORDER)
    ours, theirs, dit = History(storage_of(memory)), TaylorSeerState(torch.bfloat16, ORDER), CacheDiT(ORDER)
    for step in range(3):
        ours.push(5 * step, 5 * step, features[step], how)
        theirs.current_step = 5 * step
        theirs.update((features[step],))
        dit.current_step = 5 * step + 1  # it counts differences from its second step on
        dit.update(features[step])
    theirs.current_step, dit.current_step = 12, 13
    steps = iter(range(15, 10**9, 5))

    def refresh():
        step = next(steps)
        ours.push(step, step, features[step % 4], how)

    def refresh_theirs():
        theirs.current_step += 5
        theirs.update((features[theirs.current_step % 4],))
        theirs.current_step += 1

    def refresh_dit():
        dit.current_step += 5
        dit.update(features[dit.current_step % 4])

    with torch.no_grad():
        weights = ours.weights(12, how, {})
        exact = sum(w * f.float() for w, f in zip(weights, features[2::-1], strict=True))
        torch.testing.assert_close(ours.predict(weights).float(), exact, rtol=0.03, atol=0.3)
        torch.testing.assert_close(dit.approximate().float(), theirs.predict()[0].float(), rtol=0.03, atol=0.3)
        predicted = in_turns(
            {"ours": lambda: ours.predict(weights), "diffusers": theirs.predict, "cache-dit": dit.approximate}
        )
        refreshed = in_turns({"ours": refresh, "diffusers": refresh_theirs, "cache-dit": refresh_dit})
    held = sum(t.nbytes for factors in theirs.taylor_factors.values() for t in factors.values())
    held_by_dit = sum(t.nbytes for kept in dit.state.values() for t in kept if t is not None)
    moved = ours.bytes + features[0].nbytes
    report(
        "One site, 4608 × 3072 bf16, order 2",
        memory=memory or "as it is",
        predict_GB_s=moved / predicted["ours"] / 1e9,
        predict_x_diffusers=predicted["diffusers"] / predicted["ours"],
        predict_x_cache_dit=predicted["cache-dit"] / predicted["ours"],
        refresh_x_diffusers=refreshed["diffusers"] / refreshed["ours"],
        refresh_x_cache_dit=refreshed["cache-dit"] / refreshed["ours"],
        bytes_of_diffusers=ours.bytes / held,
        bytes_of_cache_dit=ours.bytes / held_by_dit,
    )
    benchmark.pedantic(lambda: ours.predict(weights), rounds=3)


STEPS, INTERVAL = 20, 5
FULL = {0, 1, 2, 4, 9, 14, 19}
"""When diffusers computes in full, and so the others do."""


@pytest.mark.parametrize("where", ["branches", "last_block"])
def test_a_whole_run(benchmark, report, where):
    """FLUX's form with 4 + 8 blocks and 1088 tokens, float32, 20 steps."""
    ours, theirs, plain = flux(), flux(), flux()
    config = diffusers.TaylorSeerCacheConfig(
        cache_interval=INTERVAL, disable_cache_before_step=3, max_order=1, taylor_factors_dtype=torch.float32,
        use_lite_mode=where == "last_block",
    )  # fmt: skip
    theirs.enable_cache(config)
    bare = flux()
    bare.transformer_blocks, bare.single_transformer_blocks = torch.nn.ModuleList(), torch.nn.ModuleList()
    sites = caching.branches(ours) if where == "branches" else caching.spans(ours, residual=False)
    when = caching.mask(FULL)
    cache = caching.attach("ours", ours, where=sites, when=when, how=caching.taylor(1, first=2))

    their_run = FluxRun(theirs, STEPS)

    def diffusers_step(i):
        if i == 0:
            theirs._reset_stateful_cache()
        with theirs.cache_context("run"):
            their_run(i)

    with torch.no_grad(), cache:
        best = steps_in_turns(
            {
                "ours": FluxRun(ours, STEPS),
                "diffusers": diffusers_step,
                "full step": FluxRun(plain, STEPS),
                "no blocks": FluxRun(bare, STEPS),
            },
            STEPS,
        )
    total = {name: sum(seconds) for name, seconds in best.items()}
    summary = cache.summary()
    least = sum(best["full step" if i in FULL else "no blocks"][i] for i in range(STEPS))
    report(
        "A run of 20 steps, FLUX with 4 + 8 blocks, order 1",
        remembers=where,
        full_steps=str(summary.full_calls * STEPS // summary.calls),
        x_uncached=total["full step"] / total["ours"],
        x_diffusers=total["diffusers"] / total["ours"],
        over_least_percent=100 * (total["ours"] / least - 1),
        MiB=summary.peak_bytes / 2**20,
    )
    benchmark.pedantic(lambda: None, rounds=1)


def test_first_block_beside_cache_dit(benchmark, report):
    """The first block in every step, what the others add predicted in order 1: cache-dit's F1B0 with TaylorSeer."""
    import cache_dit

    ours, theirs = flux(), flux()
    computed = []
    theirs.single_transformer_blocks[-1].register_forward_hook(lambda *_: computed.append(now[0]))
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=1, Bn_compute_blocks=0, num_inference_steps=STEPS, steps_computation_policy="static",
        steps_computation_mask=[int(i in FULL) for i in range(STEPS)], enable_separate_cfg=False,
    )  # fmt: skip
    cache_dit.enable_cache(
        theirs, cache_config=config, calibrator_config=cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1)
    )
    cache = caching.attach(
        "ours", ours, where=caching.spans(ours, first=1), when=caching.mask(FULL), how=caching.taylor(1)
    )
    now, their_run = [0], FluxRun(theirs, STEPS)

    def cache_dit_step(i):
        if i == 0:  # or its mask would begin one step later in each run
            cache_dit.refresh_context(theirs, num_inference_steps=STEPS)
        now[0] = i
        their_run(i)

    with torch.no_grad(), cache:
        best = steps_in_turns({"ours": FluxRun(ours, STEPS), "cache-dit": cache_dit_step}, STEPS)
    assert set(computed) == FULL
    report(
        "A run of 20 steps, FLUX with 4 + 8 blocks, first block computed, 7 full steps",
        x_cache_dit=sum(best["cache-dit"]) / sum(best["ours"]),
        full_step_x_cache_dit=sum(best["cache-dit"][i] for i in FULL) / sum(best["ours"][i] for i in FULL),
        cached_step_x_cache_dit=sum(s for i, s in enumerate(best["cache-dit"]) if i not in FULL)
        / sum(s for i, s in enumerate(best["ours"]) if i not in FULL),
        MiB=cache.summary().peak_bytes / 2**20,
    )
    benchmark.pedantic(lambda: None, rounds=1)


def test_deepcache_beside_its_authors(benchmark, report):
    """DeepCache, every third step in full, on the form of Stable Diffusion's U-Net; the same outputs."""
    from DeepCache import DeepCacheSDHelper

    ours, theirs = unet(), unet()
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(12)
    helper = DeepCacheSDHelper(SimpleNamespace(unet=theirs, scheduler=scheduler))
    helper.set_params(cache_interval=3, cache_branch_id=0)
    helper.enable()
    x = torch.randn(1, 4, 32, 32)
    text = torch.randn(1, 77, 192)

    def step(model, i):
        return model(x * (1 + i / 12), scheduler.timesteps[i], text, return_dict=False)[0]

    with torch.no_grad(), caching.deepcache(ours, interval=3, steps=12) as cache:
        for i in range(12):
            torch.testing.assert_close(step(ours, i), step(theirs, i), rtol=1e-3, atol=1e-3)
        best = steps_in_turns({"ours": lambda i: step(ours, i), "DeepCache": lambda i: step(theirs, i)}, 12, seconds=30)
    report(
        "DeepCache N = 3, 12 steps, Stable Diffusion's U-Net at a quarter of its width",
        x_DeepCache=sum(best["DeepCache"]) / sum(best["ours"]),
        full_steps=str(cache.summary().full_calls * 12 // cache.summary().calls),
    )
    benchmark.pedantic(lambda: None, rounds=1)
