"""Feature caches beside diffusers' hooks: one site's prediction and refresh, the bytes held, and whole runs.

A prediction of order n has to read n + 1 features and write one; a refresh has to move nothing, as features are kept by
reference. Whole runs: full steps × their time + predicted steps × the time of the model without its blocks is the least
that a run can take.
"""

import pytest
import torch
from harness import in_turns

from pyaccel import caching
from pyaccel.caching.features import History
from pyaccel.caching.storage import storage_of
from pyaccel.denoiser import Run, StepContext, announce

diffusers = pytest.importorskip("diffusers")
ROWS, WIDTH, ORDER = 4608, 3072, 2


def _full(step):
    return torch.randn(1, ROWS, WIDTH, generator=torch.Generator().manual_seed(step)).bfloat16()


@pytest.mark.parametrize("memory", [None, "int8"])
def test_one_site(benchmark, report, memory):
    """A branch of FLUX at 1024²: 4608 × 3072 in bfloat16, order 2."""
    from diffusers.hooks.taylorseer_cache import TaylorSeerState

    features, how = [_full(step) for step in range(4)], caching.taylor(ORDER)
    ours, theirs = History(storage_of(memory)), TaylorSeerState(torch.bfloat16, ORDER)
    for step in range(3):
        ours.push(5 * step, 5 * step, features[step], how)
        theirs.current_step = 5 * step
        theirs.update((features[step],))
    theirs.current_step = 12
    steps = iter(range(15, 10**9, 5))

    def refresh():
        step = next(steps)
        ours.push(step, step, features[step % 4], how)

    def refresh_theirs():
        theirs.current_step += 5
        theirs.update((features[theirs.current_step % 4],))
        theirs.current_step += 1

    with torch.no_grad():
        weights = ours.weights(12, how, {})
        exact = sum(w * f.float() for w, f in zip(weights, features[2::-1], strict=True))
        torch.testing.assert_close(ours.predict(weights).float(), exact, rtol=0.03, atol=0.3)
        predicted = in_turns({"ours": lambda: ours.predict(weights), "diffusers": theirs.predict})
        refreshed = in_turns({"ours": refresh, "diffusers": refresh_theirs})
    held = sum(t.nbytes for factors in theirs.taylor_factors.values() for t in factors.values())
    moved = ours.bytes + features[0].nbytes
    report(
        "One site, 4608 × 3072 bf16, order 2",
        memory=memory or "as it is",
        predict_GB_s=moved / predicted["ours"] / 1e9,
        predict_x_diffusers=predicted["diffusers"] / predicted["ours"],
        refresh_x_diffusers=refreshed["diffusers"] / refreshed["ours"],
        bytes_of_diffusers=ours.bytes / held,
    )
    benchmark.pedantic(lambda: ours.predict(weights), rounds=3)


def _flux():
    torch.manual_seed(0)
    model = diffusers.FluxTransformer2DModel(
        in_channels=64, num_layers=4, num_single_layers=8, attention_head_dim=64, num_attention_heads=8,
        joint_attention_dim=256, pooled_projection_dim=256, axes_dims_rope=(16, 24, 24),
    )  # fmt: skip
    return model.eval().requires_grad_(False)


def _inputs(t):
    text, image = 64, 1024
    return {
        "hidden_states": torch.randn(1, image, 64, generator=torch.Generator().manual_seed(0)) * t,
        "encoder_hidden_states": torch.randn(1, text, 256, generator=torch.Generator().manual_seed(1)),
        "pooled_projections": torch.randn(1, 256, generator=torch.Generator().manual_seed(2)),
        "timestep": torch.tensor([t]),
        "img_ids": torch.zeros(image, 3),
        "txt_ids": torch.zeros(text, 3),
        "return_dict": False,
    }


STEPS, INTERVAL = 20, 5


def _run(model):
    run = Run()
    for i in range(STEPS):
        t = 1 - i / STEPS
        with announce(StepContext(run, i, STEPS, t)):
            model(**_inputs(t))


@pytest.mark.parametrize("where", ["branches", "last_block"])
def test_a_whole_run(benchmark, report, where):
    """FLUX's form with 4 + 8 blocks and 1088 tokens, float32, 20 steps."""
    ours, theirs, plain = _flux(), _flux(), _flux()
    config = diffusers.TaylorSeerCacheConfig(
        cache_interval=INTERVAL, disable_cache_before_step=3, max_order=1, taylor_factors_dtype=torch.float32,
        use_lite_mode=where == "last_block",
    )  # fmt: skip
    theirs.enable_cache(config)
    bare = _flux()
    bare.transformer_blocks, bare.single_transformer_blocks = torch.nn.ModuleList(), torch.nn.ModuleList()
    sites = caching.branches(ours) if where == "branches" else caching.spans(ours, residual=False)
    when = caching.mask({0, 1, 2, 4, 9, 14, 19})  # when diffusers computes in full
    cache = caching.attach("ours", ours, where=sites, when=when, how=caching.taylor(1, first=2))

    def run_theirs():
        with theirs.cache_context("run"):
            _run(theirs)
        theirs._reset_stateful_cache()

    with torch.no_grad(), cache:
        best = in_turns(
            {
                "ours": lambda: _run(ours),
                "diffusers": run_theirs,
                "full step": lambda: plain(**_inputs(0.5)),
                "no blocks": lambda: bare(**_inputs(0.5)),
            },
            seconds=60,
            fewest=3,
        )
    summary = cache.summary()
    runs = summary.calls // STEPS
    full = summary.full_calls // runs
    least = full * best["full step"] + (STEPS - full) * best["no blocks"]
    report(
        "A run of 20 steps, FLUX with 4 + 8 blocks, order 1",
        remembers=where,
        full_steps=str(full),
        x_uncached=STEPS * best["full step"] / best["ours"],
        x_diffusers=best["diffusers"] / best["ours"],
        over_least_percent=100 * (best["ours"] / least - 1),
        MiB=summary.peak_bytes / 2**20,
    )
    benchmark.pedantic(lambda: None, rounds=1)
