"""Features in fewer bits: the bytes, and the prediction against the one from raw features."""

import pytest
import torch

from pyaccel import caching
from pyaccel.caching.features import History
from pyaccel.caching.storage import storage_of

from .toys import dit, drive, inputs


def features(steps, dtype=torch.float32, drift=0.05):
    """A slow drift with curvature, as features have from step to step."""
    a, b, c = (torch.randn(3, 64, 256, generator=torch.Generator().manual_seed(i)) for i in range(3))
    return [(a + drift * s * b + 0.2 * drift * s**2 / steps * c).to(dtype) for s in range(steps)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("memory", "share"), [("int8", 0.04), ("fp8", 0.1), ("bf16", 0.2)])
def test_the_error_is_small_beside_the_extrapolation(memory, share, dtype):
    """Beside what the prediction adds to the newest feature; and differences are kept, not features."""
    how = caching.taylor(2)
    compact, raw = History(storage_of(memory)), History()
    for step, feature in enumerate(features(12, dtype)):
        if step % 3 == 0:
            for history in (compact, raw):
                history.push(step, step, feature, how)
            continue
        if step < 6:
            continue
        weights = raw.weights(step, how, {})
        exact, found = raw.predict(weights), compact.predict(compact.weights(step, how, {}))
        assert found.dtype == dtype
        moved = (exact.float() - raw.storage.features[0][0].float()).norm()
        rounding = 2**-9 * exact.float().norm()  # of the newest feature to bfloat16
        assert (found.float() - exact.float()).norm() < share * moved + rounding
    numel, rows = 3 * 64 * 256, 3 * 64
    assert compact.bytes == {"int8": 4 * numel + 8 * rows, "fp8": 4 * numel + 8 * rows, "bf16": 6 * numel}[memory]
    assert raw.bytes == 3 * numel * dtype.itemsize


@pytest.mark.parametrize("memory", ["int8", "fp8", "bf16"])
def test_residuals_tuples_and_none(memory):
    history = History(storage_of(memory), residual=True)
    x, y = torch.randn(2, 5, 8), torch.randn(2, 3, 8)

    class Session:
        serial = 1

    history.entered(Session, (x,), {"encoder_hidden_states": y})
    history.push(0, 0, (y + 0.5, x - 0.25, None), caching.reuse())
    Session.serial = 2
    history.entered(Session, (2 * x,), {"encoder_hidden_states": 3 * y})
    assert history.usable
    a, b, none = history.predict([1.0])
    torch.testing.assert_close(a, 3 * y + 0.5, rtol=0, atol=2e-2)
    torch.testing.assert_close(b, 2 * x - 0.25, rtol=0, atol=2e-2)
    assert none is None


@pytest.mark.parametrize("make", [caching.taylorseer, caching.delta_dit, caching.fora])
def test_a_whole_run(make):
    model = dit()
    results, held = {}, {}
    for memory in (None, "int8"):
        with make(model, interval=3, memory=memory) as cache:
            results[memory] = drive(model, inputs())
        held[memory] = cache.summary().peak_bytes
    plain = drive(model, inputs())
    error = max(float((a - b).norm()) for a, b in zip(results[None], plain, strict=True))
    change = max(float((a - b).norm()) for a, b in zip(results["int8"], results[None], strict=True))
    assert change < 0.2 * error + 0.02 * float(plain[0].norm())
    assert held["int8"] < 0.6 * held[None]


def test_nobody_writes_into_what_is_kept():
    feature = torch.randn(2, 4, 8)
    history = History(storage_of("int8"))
    history.push(0, 0, feature, caching.reuse())
    before = history.predict([1.0])
    feature.zero_()
    assert torch.equal(history.predict([1.0]), before)
    before.zero_()
    assert not torch.equal(history.predict([1.0]), before)
