import pytest
import torch

from pyaccel import caching

from .toys import STEPS, dit, drive, inputs


def test_the_least_squares_of_each_channel(tmp_path):
    """Beside torch.linalg.lstsq on what a reused feature would lack; and a run with them is nearer to the uncached."""
    model, features = dit(), {}
    calibration = caching.calibrate(model, [lambda: drive(model, inputs())])
    found = caching.fit_scale_shift(model, calibration, [lambda: drive(model, inputs())], delta=0.2)
    branches, step = caching.branches(model), [-1]
    originals = [site.module.compute for site in branches]
    try:
        for index, site in enumerate(branches):

            def compute(*args, index=index):
                step[0] += index == 0
                features[index, step[0]] = originals[index](*args)
                return features[index, step[0]]

            site.module.compute = compute
        uncached = drive(model, inputs())
    finally:
        for site in branches:
            del site.module.compute
    schedule, checked = calibration.schedule(0.2), 0
    for index, site in enumerate(branches):
        for s in range(STEPS):
            key = f"{site.name}/{s}"
            assert (key in found.tensors) == (s not in schedule[index])
            if key not in found.tensors:
                continue
            last = max(due for due in schedule[index] if due < s)
            f, y = features[index, last].double().flatten(0, 1), features[index, s].double().flatten(0, 1)
            for channel in (0, 7):
                a = torch.stack([f[:, channel], torch.ones(len(f), dtype=torch.float64)], dim=1)
                expected = torch.linalg.lstsq(a, y[:, channel : channel + 1]).solution[:, 0]
                torch.testing.assert_close(found.tensors[key][:, channel].double(), expected, rtol=1e-3, atol=1e-4)
                checked += 1
    assert checked > 20

    def error(**options):
        with caching.blockcache(model, calibration, delta=0.2, **options):
            return sum(float((a - b).square().sum()) for a, b in zip(drive(model, inputs()), uncached, strict=True))

    found.save(tmp_path / "s.safetensors")
    plain, adjusted = error(), error(scale_shift=found)
    assert adjusted < 0.5 * plain
    assert error(scale_shift=tmp_path / "s.safetensors") == adjusted
    (tmp_path / "s.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"s\.safetensors is not a readable safetensors file"):
        caching.blockcache(model, calibration, scale_shift=tmp_path / "s.safetensors")
