"""FBCache, DBCache, TeaCache, MagCache, Delta-DiT and DiCache, each beside its paper's rule written out plainly."""

import pytest
import torch

from pyaccel import caching

from .toys import WithTrunk, dit, drive, equal, inputs, relative, through


def compared(model, cache, trunk, some=True):
    """The cached model does what ``trunk`` does; returns at which steps it computed in full."""
    full = []

    def noted(h, c):
        h, was_full = trunk(len(full), h, c)
        full.append(was_full)
        return h

    xs = inputs()
    expected = drive(WithTrunk(model, noted), xs)
    with cache:
        found = drive(model, xs)
        again = drive(model, xs)
    equal(found, expected)
    equal(again, expected)
    assert cache.summary().full_calls == 2 * sum(full)
    assert not some or 1 < sum(full) < len(full) - 1  # the rule was of some use
    return full


@pytest.mark.parametrize("threshold", [0.02, 0.15, 1.0])
def test_fbcache(threshold):
    model, state = dit(), {}

    def trunk(step, h, c):
        first = model.blocks[0](h, c)
        r = first - h
        if not state or relative(r, state["r"]) >= threshold:
            state["r"], state["tail"] = r, through(model.blocks[1:], first, c) - first
            return first + state["tail"], True
        return first + state["tail"], False

    compared(model, caching.fbcache(model, threshold), trunk, some=threshold == 0.15)


@pytest.mark.parametrize(
    "options",
    [{}, {"in_a_row": 2}, {"most": 3}, {"total": 0.3}, {"warmup": 6}, {"back": 2, "in_a_row": 3}, {"order": 1}],
    ids=str,
)
def test_dbcache(options):
    model, state = dit(), {"hits": 0, "row": 0, "sum": 0.0, "tails": []}
    front, back, threshold = 2, options.get("back", 0), 0.3
    warmup = options.get("warmup", 1)
    end = len(model.blocks) - back

    def trunk(step, h, c):
        first = through(model.blocks[:front], h, c)
        r = first - h
        change = relative(r, state["r"]) if "r" in state else 9.0
        total = state["sum"] + change
        predicted = (
            step >= warmup
            and state["hits"] < options.get("most", 99)
            and state["row"] < options.get("in_a_row", 99)
            and change < threshold
            and total < options.get("total", 99)
        )
        if predicted:
            state.update(hits=state["hits"] + 1, row=state["row"] + 1, sum=total)
            (s0, middle), *older = state["tails"]
            if options.get("order") and older:
                middle = middle + (middle - older[0][1]) / (s0 - older[0][0]) * (step - s0)
        else:
            middle = through(model.blocks[front:end], first, c) - first
            state.update(r=r, row=0, sum=0.0, tails=[(step, middle), *state["tails"]][:2])
        return through(model.blocks[end:], first + middle, c), not predicted

    cache = caching.dbcache(model, front=front, threshold=threshold, **{"warmup": 1, **options})
    compared(model, cache, trunk)


@pytest.mark.parametrize("polynomial", [None, (2.0, 0.5, 0.01)])
def test_teacache(polynomial):
    model, state = dit(), {}

    def trunk(step, h, c):
        block = model.blocks[0]
        shift, scale = block.modulation(c)[:, None].chunk(6, dim=-1)[:2]
        m = block.attention.norm(h) * (1 + scale) + shift
        if state:
            x = relative(m, state["m"])
            state["sum"] += x if polynomial is None else abs(2 * x * x + 0.5 * x + 0.01)
        full = not state or state["sum"] >= 0.3 or step == 11
        state["m"] = m
        if full:
            state.update(sum=0.0, added=through(model.blocks, h, c) - h)
        return h + state["added"], full

    full = compared(model, caching.teacache(model, 0.3, polynomial), trunk)
    assert full[0]
    assert full[-1]


def test_a_step_that_is_left_out_runs_no_more_than_the_first_norm():
    model = dit()
    ran = []
    with caching.teacache(model, threshold=1e9):
        drive(model, inputs(3)[:1])
        hooks = [m.register_forward_hook(lambda m, *_: ran.append(m)) for m in model.blocks.modules()]
        drive(model, inputs(3))
    [hook.remove() for hook in hooks]
    names = {m: name for name, m in model.named_modules()}
    # The first and the last step are in full; between them the modulation and the norm of the first attention.
    counts = [sum(names[m].startswith(f"blocks.{i}.") for m in ran) for i in range(5)]
    assert counts[0] == counts[1] + 2 == counts[4] + 2


@pytest.mark.parametrize("options", [{}, {"in_a_row": 1}, {"retention": 0.5}, {"threshold": 0.03}], ids=str)
def test_magcache(options):
    model, state = dit(), {"product": 1.0, "error": 0.0, "row": 0}
    ratios = [1.0, 0.97, 1.01, 0.99, 0.9, 1.05, 0.98, 1.0, 0.99, 0.95, 0.97, 0.9]

    def trunk(step, h, c):
        state["product"] *= ratios[step]
        state["error"] += abs(1 - state["product"])
        state["row"] += 1
        full = (
            step == 0
            or step < options.get("retention", 0.1) * 12
            or state["error"] > options.get("threshold", 0.1)
            or state["row"] > options.get("in_a_row", 3)
        )
        if full:
            state.update(product=1.0, error=0.0, row=0, added=through(model.blocks, h, c) - h)
        return h + state["added"], full

    cache = caching.magcache(model, ratios, **{"threshold": 0.1, "in_a_row": 3, **options})
    compared(model, cache, trunk)


@pytest.mark.parametrize(("boundary", "count"), [(6, 3), (0.5, 4), (0, 2), (12, 4), (7, 1), (5, 5)])
def test_delta_dit(boundary, count):
    model, state = dit(), {}
    first_of_detail = boundary if isinstance(boundary, int) else 6

    def trunk(step, h, c):
        late, early = model.blocks[-count:], model.blocks[:count]
        full = step % 3 == 0
        if full:
            middle = through(model.blocks[:-count], h, c)
            out = through(late, middle, c)
            state.update(late=out - middle, early=through(early, h, c) - h)
            return out, True
        if step < first_of_detail:  # the outline: late blocks are left out
            return through(model.blocks[:-count], h, c) + state["late"], False
        return through(model.blocks[count:], h + state["early"], c), False

    compared(model, caching.delta_dit(model, interval=3, boundary=boundary, count=count), trunk)


def test_dicache():
    model, state = dit(), {"sum": 0.0, "past": []}

    def trunk(step, h, c):
        first = through(model.blocks[:1], h, c)
        p = first - h
        state["sum"] += relative(p, state["p"]) if "p" in state else 9.0
        state["p"] = p
        full = step < 3 or state["sum"] >= 0.2
        if full:
            added = through(model.blocks[1:], first, c) - first
            state.update(sum=0.0, past=[(p, added), *state["past"]][:2])
            return first + added, True
        (p1, r1), (p2, r2) = state["past"]
        gamma = float(((p - p2).abs().mean() / (p1 - p2).abs().mean()).clamp(1, 1.5))
        return first + r2 + gamma * (r1 - r2), False

    compared(model, caching.dicache(model, threshold=0.2), trunk)


def test_last_block():
    """TaylorSeer's light form: nothing but the last block's output is remembered."""
    model, state = dit(), []

    def trunk(step, h, c):
        if step % 3 == 0:
            state.insert(0, (step, through(model.blocks, h, c)))
            return state[0][1], True
        (s0, newest), *older = state
        return (newest if not older else newest + (newest - older[0][1]) / 3 * (step - s0)), False

    cache = caching.taylorseer(model, interval=3, order=1, warmup=1, where="last_block")
    compared(model, cache, trunk)
    assert cache.summary().peak_bytes == 2 * 2 * 4 * 16 * 4


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda m: caching.fbcache(m, 0), "threshold must be above 0"),
        (lambda m: caching.dbcache(m, front=0), "front must be a whole number"),
        (lambda m: caching.dbcache(m, front=5), "the first 5 blocks: expected 1 to 4"),
        (lambda m: caching.dbcache(m, front=3, back=2), "the range is empty"),
        (lambda m: caching.teacache(m, -1), "threshold must be above 0"),
        (lambda m: caching.magcache(m, []), "ratios must be numbers above 0"),
        (lambda m: caching.magcache(m, [1.0], retention=2), "retention from 0 to 1"),
        (lambda m: caching.delta_dit(m, interval=0), "interval must be a whole number"),
        (lambda m: caching.delta_dit(m, count=6), "count must be at most 5"),
        (lambda m: caching.delta_dit(m, boundary=1.5), "boundary must be a step, or a fraction"),
        (lambda m: caching.dicache(m, depth=5), "the first 5 blocks"),
        (lambda m: caching.taylorseer(m, where="lastblock"), "did you mean 'last_block'"),
        (lambda m: caching.taylorseer(m, how="tailor"), "did you mean 'taylor'"),
        (lambda m: caching.taylorseer(m, memory="int4"), "memory must be None or one of int8, fp8, bf16"),
    ],
)
def test_errors(make, match):
    with pytest.raises(ValueError, match=match):
        make(dit())
    assert torch.is_tensor(drive(dit(), inputs(1))[0])
