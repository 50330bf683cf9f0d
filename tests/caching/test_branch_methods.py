"""FORA, HiCache, BlockCache, PAB, SpeCa, EasyCache and DeepCache, each beside its paper's rule written out plainly."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from pyaccel import caching

from .toys import STEPS, dit, drive, equal, inputs, relative, unet


def with_branches(model, predict):
    """Runs the model with each branch's output from ``predict(step, index, compute)``."""
    branches = [site.module for site in caching.branches(model)]
    step, originals = [-1], [b.compute for b in branches]

    def replaced(index):
        def compute(*args):
            step[0] += index == 0
            return predict(step[0], index, lambda: originals[index](*args))

        return compute

    try:
        for index, branch in enumerate(branches):
            branch.compute = replaced(index)
        return drive(model, inputs())
    finally:
        for branch in branches:
            del branch.compute


def cached(cache, model):
    with cache:
        found = drive(model, inputs())
    return found, cache.summary()


def extrapolated(full, order, first, basis):
    """The papers' recursion of differences."""
    factors, last = {}, {}

    def predict(step, index, compute):
        if step in full:
            new, old = [compute()], factors.get(index, [])
            for i in range(order):
                if i < len(old) and step >= first:
                    new.append((new[i] - old[i]) / (step - last[index]))
            factors[index], last[index] = new, step
            return new[0]
        x = step - last[index]
        return sum(f * basis(i, x) / math.factorial(i) for i, f in enumerate(factors[index]))

    return predict


def test_fora():
    model = dit()
    expected = with_branches(model, extrapolated({0, 3, 6, 9}, 0, 0, lambda i, x: 1.0))
    found, summary = cached(caching.fora(model, interval=3), model)
    equal(found, expected)
    assert summary.full_calls == 4
    assert summary.computed[0] == (1,) * 10
    assert summary.predicted[1] == (1,) * 10


@pytest.mark.parametrize("order", [1, 2, 3])
def test_hicache(order):
    model = dit()
    polynomials = [lambda x: 1, lambda x: 2 * x, lambda x: 4 * x * x - 2, lambda x: 8 * x**3 - 12 * x]
    rule = extrapolated({0, 1, 2, 5, 8, 11}, order, 2, lambda i, x: 0.6**i * polynomials[i](0.6 * x))
    found, _ = cached(caching.hicache(model, interval=3, order=order, scale=0.6), model)
    equal(found, with_branches(model, rule))


def test_newton_is_exact_on_a_polynomial():
    model = dit()
    with_branches(model, lambda step, index, compute: compute())
    truth = lambda step: torch.full((2, 4, 16), 1.0 + step - 0.1 * step**2)  # noqa: E731
    expected = with_branches(model, lambda step, index, compute: truth(step))
    branches = [site.module for site in caching.branches(model)]
    step = [-1]

    def compute(x, shift, scale):
        return truth(step[0])

    try:
        for branch in branches:
            branch.compute = compute
        handle = model.register_forward_pre_hook(lambda *_: step.__setitem__(0, step[0] + 1))
        with caching.taylorseer(model, interval=4, order=2, warmup=3, how="newton"):
            found = drive(model, inputs())
    finally:
        handle.remove()
        for branch in branches:
            del branch.compute
    # Depth 2 is reached in the second full step behind the warm-up, 6.
    equal(found[7:], expected[7:])


def test_blockcache(tmp_path):
    model = dit()
    features = {}

    def note(step, index, compute):
        features[step, index] = compute()
        return features[step, index]

    with_branches(model, note)
    calibration = caching.calibrate(model, [lambda: drive(model, inputs())])
    change = [
        [0.0 if s == 0 else relative(features[s - 1, i], features[s, i]) for i in range(10)] for s in range(STEPS)
    ]
    torch.testing.assert_close(torch.tensor(calibration.change), torch.tensor(change), rtol=1e-4, atol=1e-6)
    calibration.save(tmp_path / "c.json")
    assert caching.Calibration.load(tmp_path / "c.json") == calibration

    sums, kept = {}, {}

    def predict(step, index, compute):
        sums[index] = sums.get(index, 0.0) + change[step][index]
        if step == 0 or sums[index] > 0.4:
            sums[index], kept[index] = 0.0, compute()
        return kept[index]

    expected = with_branches(model, predict)
    found, summary = cached(caching.blockcache(model, tmp_path / "c.json", delta=0.4), model)
    equal(found, expected)
    assert len({tuple(row[i] for row in summary.computed) for i in range(10)}) > 1  # schedules differ
    with pytest.raises(ValueError, match="this calibration is of a DiT with 10 branches, not of this DiT with 4"):
        caching.blockcache(dit(depth=2), calibration)
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(ValueError, match=r"c\.json is not a calibration"):
        caching.blockcache(model, tmp_path / "c.json")


def test_calibration_of_the_trunk():
    model = dit()
    calibration = caching.calibrate(model, [lambda: drive(model, inputs())] * 2)
    outputs = drive(model, inputs())
    expected = [relative(b, a) for a, b in pairwise(outputs)]
    torch.testing.assert_close(calibration.output_change, (0.0, *expected), rtol=1e-4, atol=1e-6)
    assert calibration.magnitudes[0] == 1.0
    assert all(0.5 < m < 2 for m in calibration.magnitudes)
    assert len(calibration.polynomial) == 5
    assert all(x > 0 for x in calibration.input_change[1:])


def test_pab():
    model = dit()

    def predict(step, index, compute):
        key = ("kept", index)
        kind = "attention" if index % 2 == 0 else "mlp"
        interval = {"attention": 2, "mlp": 3}[kind]
        inside = 0.25 * STEPS <= step < 0.75 * STEPS
        if not inside or step - state[key][0] >= interval:
            state[key] = step, compute()
        return state[key][1]

    state = {}
    found, _ = cached(caching.pab(model, spatial=2, mlp=3, between=(0.25, 0.75)), model)
    equal(found, with_branches(model, predict))


def test_pab_tells_attentions_apart():
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.LatteTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=1, caption_channels=8, sample_size=4,
        cross_attention_dim=16, patch_size=2,
    )  # fmt: skip
    from pyaccel.caching.pab import kind_of_attention

    kinds = {site.name: kind_of_attention(site, model) for site in caching.branches(model)}
    assert kinds["transformer_blocks.0.attn1"] == "spatial"
    assert kinds["transformer_blocks.0.attn2"] == "cross"
    assert kinds["temporal_transformer_blocks.0.attn1"] == "temporal"


@pytest.mark.parametrize("threshold", [1e9, 0.0])
def test_speca(threshold):
    """The last block is computed in each predicted step, from what was predicted before it, and compared."""
    model, due, errors = dit(), {0, 1, 4, 7, 10}, {}
    plain = extrapolated(due, 1, 1, lambda i, x: x**i)

    def predict(step, index, compute):
        value = plain(step, index, compute)
        if index < 8 or step in due:
            return value
        actual = compute()
        errors.setdefault(step, []).append(relative(value, actual))
        return actual

    expected = with_branches(model, predict)
    if threshold == 0.0:  # between the errors of two steps
        ranked = sorted(max(e) for e in errors.values())
        threshold = (ranked[3] + ranked[4]) / 2
    found, summary = cached(caching.speca(model, 2, order=1, warmup=2, threshold=threshold, decay=1.0), model)
    refused = [step for step, e in errors.items() if max(e) > threshold]
    if not refused:
        equal(found, expected)
        assert summary.recomputed == 0
        assert summary.computed[2][8:] == (1, 1)
        return
    # The first refused step is done in full; what comes after it has other features than the plain run.
    first = refused[0]
    equal(found[:first], expected[:first])
    equal(found[first : first + 1], drive(model, inputs())[first : first + 1])
    assert summary.recomputed >= 1
    assert summary.full_calls == len(due) + summary.recomputed


def test_easycache():
    model, state, full = dit(), {"sum": 0.0}, []

    def call(x, t, label):
        step = len(full)
        if "rate" in state and step >= 3:
            state["sum"] += state["rate"] * float((x - state["x"]).abs().mean()) / state["size"]
        if "rate" in state and step >= 3 and state["sum"] < 0.15 and step < STEPS - 1:
            full.append(False)
            state["x"] = x
            return x + state["added"]
        v = model(x, t, label)
        if "v" in state:
            state["rate"] = float((v - state["v"]).abs().mean() / (x - state["x of v"]).abs().mean())
        state.update({"sum": 0.0, "v": v, "x of v": x, "x": x, "added": v - x, "size": float(v.abs().mean())})
        full.append(True)
        return v

    expected = drive(call, inputs())
    found, summary = cached(caching.easycache(model, threshold=0.15), model)
    equal(found, expected)
    assert summary.full_calls == sum(full) < STEPS


@pytest.mark.parametrize("branch", range(6))
def test_deepcache(branch):
    """The U-Net's own code with all below one skip connection left out."""
    model, kept = unet(), {}
    per_level, levels = model.blocks, model.levels

    def call(x, t, label, step):
        c = F.silu(model.conditioning(t, label))
        h = model.first(x)
        skips = [h]
        down = [*model.down[:per_level], model.downsample[0], *model.down[per_level:]]
        full = step % 3 == 0
        for layer in down if full else down[:branch]:
            h = layer(h) if layer is model.downsample[0] else layer(h, c)
            skips.append(h)
        total = levels * (per_level + 1)
        if full:
            h = model.middle(h, c)
        for number, layer in enumerate(model.up):
            if number == total - 1 - branch:
                if full:
                    kept["h"] = h
                h = kept["h"]
            if full or number >= total - 1 - branch:
                h = layer(torch.cat([h, skips.pop()], dim=1), c)
                if number == per_level:
                    h = model.upsample[0](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return model.last(F.silu(model.norm(h)))

    if branch == 5:
        with pytest.raises(ValueError, match="branch must be a whole number from 0 to 4 in this UNet"):
            caching.deepcache(model, branch=branch)
        return
    steps = iter(range(STEPS))
    expected = drive(lambda *a: call(*a, next(steps)), inputs())
    found, summary = cached(caching.deepcache(model, interval=3, branch=branch), model)
    equal(found, expected)
    assert summary.full_calls == 4


def test_centred_steps():
    """Denser around the centre, beginning with 0, about steps/interval of them."""
    steps = caching.full_steps(caching.centred(5, center=20, power=1.4), 50)
    assert steps[0] == 0
    assert 8 <= len(steps) <= 11
    gaps = [b - a for a, b in pairwise(steps)]
    nearest = min(range(len(gaps)), key=lambda i: abs((steps[i] + steps[i + 1]) / 2 - 20))
    assert gaps[nearest] == min(gaps)
    assert gaps[-1] > gaps[nearest]
    assert caching.full_steps(caching.centred(5, center=20, power=1.0), 50)[1:3] == [5, 10]
    with pytest.raises(ValueError, match="center must be below the 10 steps"):
        caching.full_steps(caching.centred(5, center=20), 10)
