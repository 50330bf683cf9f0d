"""What users of other caches suffer from, and what they hand over by mistake. (Passes of guidance that mix, state of an
earlier call, changes of resolution, writes in place and patched classes have their tests beside the engine's.)"""

import math
import os

import pytest
import torch
import torch.multiprocessing as mp

from pyaccel import caching

from .toys import LABEL, STEPS, dit, drive, inputs

X, T = torch.zeros(2, 1, 8, 8), torch.full((2,), 0.5)


@pytest.mark.parametrize(
    "make",
    [
        lambda m: caching.taylorseer(m, interval=3, order=2, warmup=1),
        lambda m: caching.taylorseer(m, interval=3, order=2, warmup=1, memory="int8"),
        lambda m: caching.taylorseer(m, interval=3, order=1, warmup=1, memory="bf16"),
        lambda m: caching.delta_dit(m, interval=3),
        lambda m: caching.fbcache(m, 0.2),
        lambda m: caching.easycache(m, 0.2),
    ],
)
def test_the_memory_is_known_before_the_run(make):
    model = dit()
    cache = make(model)
    estimate = cache.estimate(X.to("meta"), T, label=LABEL)
    assert not cache.attached
    assert "forward" not in model.__dict__
    with cache:
        drive(model, inputs())
        assert cache.estimate(X, T, LABEL) == estimate
    assert cache.summary().peak_bytes == estimate > 0


def test_nan_is_recomputed_and_counted():
    """A remembered feature is spoilt; the step that would have used it is done in full."""
    model = dit()
    expected, xs = drive(model, inputs()), inputs()
    spoil = [False]

    def call(*args):
        result = model(*args)
        if spoil[0]:
            for state in cache._runs.by_run.values():
                for run_state in state.values():
                    for history in run_state.sessions[0].histories.values():
                        history.storage.features[0][0] = torch.full_like(history.storage.features[0][0], math.nan)
                        history.storage._versions[0] = [None]
        spoil[0] = False
        return result

    with caching.fora(model, interval=3) as cache:
        spoil[0] = True
        found = drive(call, xs)
    assert all(torch.isfinite(y).all() for y in found)
    assert torch.equal(found[1], expected[1])
    assert cache.summary().recomputed == 1
    assert cache.summary().full_calls == STEPS // 3 + 1
    assert "1 of them after a refused prediction" in str(cache.summary())


def test_a_site_that_does_not_exist():
    model = dit()
    with pytest.raises(ValueError, match=r"unknown module 'blocks.1.mpl'.*did you mean 'blocks.1.mlp'"):
        caching.taylorseer(model, where=["blocks.1.mpl"])
    with caching.taylorseer(model, interval=2, where=["blocks.1.mlp", "blocks.2.attention"]) as cache:
        drive(model, inputs())
    assert cache.summary().sites == ("blocks.1.mlp", "blocks.2.attention")


def test_a_figure_of_what_was_saved():
    model = dit()
    with caching.fora(model, interval=4) as cache:
        drive(model, inputs())
    summary = cache.summary()
    weights = sum(p.numel() for p in model.parameters() if p.dim() >= 2)
    branches = sum(p.numel() for s in cache.where for p in s.module.parameters() if p.dim() >= 2)
    assert summary.saved == pytest.approx(9 / 12 * branches / weights)
    from rich.console import Console

    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary)
    text = console.export_text()
    assert "blocks.4.mlp" in text
    assert "█···█···█···" in text


def test_blocks_stay_compilable():
    """Sites outside of blocks: no break inside of one, and no step compiles what the first three did not."""
    model, xs = dit(), inputs()
    with caching.delta_dit(model, interval=3, boundary=6, count=3):
        expected = drive(model, xs)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    for block in model.blocks:
        block.compile(backend="eager")
    with caching.delta_dit(model, interval=3, boundary=6, count=3):
        found = drive(model, xs)
        graphs = counters["stats"]["unique_graphs"]
        drive(model, xs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert graphs == counters["stats"]["unique_graphs"] <= 2 * len(model.blocks)


def _rank(rank: int, folder: str, thresholds: list[float]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = dit()
    xs = inputs() if rank == 0 else [3 * x.flip(-1) for x in inputs()]
    found = []
    for group in (None, torch.distributed.group.WORLD):
        with caching.fbcache(model, 0.2, group=group) as cache:
            drive(model, xs)
        found.append([int(c[0]) for c in cache.summary().computed])
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_decide_alike(tmp_path):
    mp.start_processes(_rank, args=(str(tmp_path), []), nprocs=2, start_method="spawn")
    (alone0, together0), (alone1, together1) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert alone0 != alone1
    assert together0 == together1
