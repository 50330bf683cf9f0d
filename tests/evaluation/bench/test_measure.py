"""The measurement itself, on few images with few steps."""

import json
import sys

import pytest

from pyaccel import solvers, zoo
from pyaccel.evaluation.bench import run
from pyaccel.evaluation.sampling import labels_of
from pyaccel.seeding import sample_noise

module = sys.modules[run.__module__]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(module.QUICK, "reference steps", 12)


def measure(folder, only=("ddim", "Heun", "lms", "ipndm_v"), **more):
    options = {"calls": [2, 5], "count": 2, "only": only, "quick": True, "progress": False, **more}
    return run(folder, **options)


def test_the_error_is_that_to_the_solution_from_the_same_noise(tmp_path):
    results = measure(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    rows = {row["name"]: row for row in results["models"]["fashion-dit"]["rows"]}
    assert list(rows) == ["DDIM", "Heun", "iPNDM-v", "LMS"]
    assert rows["Heun"]["calls"] == [2, 4]
    assert rows["LMS"]["note"] == "here the same samples as iPNDM-v"
    assert rows["LMS"]["rmse"] == rows["iPNDM-v"]["rmse"]
    denoiser, noise = zoo.load("fashion-dit"), sample_noise(0, range(2), (1, 28, 28))
    label = labels_of(range(2), list(range(10)))
    truth = solvers.unipc(denoiser.schedule, 12).sample(denoiser, noise, label=label)
    x = solvers.heun(denoiser.schedule, 3).sample(denoiser, noise, label=label)
    expected = float((x - truth).square().mean().sqrt())
    assert rows["Heun"]["rmse"][1] == pytest.approx(expected, rel=1e-3)
    assert rows["DDIM"]["rmse"][0] > rows["DDIM"]["rmse"][1] > 0


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    complete = measure(tmp_path / "whole")
    asked = []
    error = module._error

    def interrupted(sample, plan, truth):
        if plan.solver == "ipndm_v" and not asked:
            raise KeyboardInterrupt
        return error(sample, plan, truth)

    monkeypatch.setattr(module, "_error", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path / "cut")
    kept = json.loads((tmp_path / "cut" / "results.json").read_text())
    assert [row["name"] for row in kept["models"]["fashion-dit"]["rows"]] == ["DDIM", "Heun"]

    def counted(sample, plan, truth):
        asked.append(plan.solver)
        return error(sample, plan, truth)

    monkeypatch.setattr(module, "_error", counted)
    results = measure(tmp_path / "cut", resume=True)
    assert set(asked) == {"ipndm_v"}
    for ours, theirs in zip(*(r["models"]["fashion-dit"]["rows"] for r in (results, complete)), strict=True):
        assert ours["name"] == theirs["name"]
        assert ours["rmse"] == pytest.approx(theirs["rmse"], rel=1e-3)
    with pytest.raises(ValueError, match="other settings"):
        measure(tmp_path / "cut", resume=True, count=3)


def test_what_diverges_has_no_value(tmp_path, monkeypatch):
    def broken(sample, plan, truth):
        return error(lambda p: (_ for _ in ()).throw(FloatingPointError("NaN")), plan, truth)

    error = module._error
    monkeypatch.setattr(module, "_error", broken)
    (row,) = measure(tmp_path, only=("ddim",))["models"]["fashion-dit"]["rows"]
    assert row["rmse"] == [None, None]
    assert (tmp_path / "report.html").exists()


def test_the_unet_can_be_measured(tmp_path):
    results = measure(tmp_path, only=("ddim",), models=("fashion-unet",), calls=[2])
    assert results["models"]["fashion-unet"]["schedule"]["name"] != "flow"
    assert 0 < results["models"]["fashion-unet"]["rows"][0]["rmse"][0] < 2


def test_mistakes_come_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "load", lambda *_: pytest.fail("a model was loaded"))
    for options, words in (
        ({"calls": [0, 2]}, "from 1 on"),
        ({"calls": [4, 2]}, "rising"),
        ({"calls": []}, "rising"),
        ({"count": 0}, "count"),
        ({"grid": "karas"}, "did you mean 'karras'"),
        ({"only": ["huen"]}, "did you mean 'heun'"),
    ):
        with pytest.raises(ValueError, match=words):
            measure(tmp_path, **options)
    assert not list(tmp_path.iterdir())
