import itertools
import json

import pytest
import torch

from pyaccel import zoo
from pyaccel.evaluation import demo


@pytest.fixture(scope="module")
def denoiser():
    return zoo.load("fashion-dit")


def test_every_cache_stands_beside_its_honest_rival(denoiser):
    table = demo.methods(denoiser)
    assert (table[0].family, table[0].name) == ("baseline", demo.BASELINE)
    for method, rival in itertools.pairwise(table):
        if method.cache is not None:
            assert rival.cache is None
            assert rival.plan.solver == method.plan.solver
            with method.cache() as cache:
                method.plan.sample(denoiser, torch.randn(1, 1, 28, 28), label=torch.tensor([0]))
            assert cache.summary().full_calls == rival.plan.calls


def test_a_small_demo_writes_its_report(denoiser, tmp_path, monkeypatch):
    rows = demo.methods
    monkeypatch.setattr(demo, "methods", lambda *a: [m for m in rows(*a) if m.plan.calls in (8, 10)])
    monkeypatch.setattr(demo, "SIZES", {True: (24, 8)})
    monkeypatch.setattr(demo, "REFERENCE_STEPS", 12)
    monkeypatch.setattr(demo, "WARM_UP", 2)
    demo.run(tmp_path / "out", quick=True, progress=False)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["rows"][0]["speedup"] == 1
    columns = {
        "name",
        "model_calls",
        "full_calls",
        "seconds",
        "speedup",
        "fid",
        "precision",
        "recall",
        "accuracy",
        "rmse",
    }
    for row in results["rows"]:
        assert columns <= set(row)
        assert 0 < row["rmse"] < 1
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "results.json",
        "samples.png",
        "pareto.png",
        "report.html",
    }
    assert not any("forward" in m.__dict__ for m in denoiser.model.modules())


def test_the_full_demo_spans_from_the_sde_to_few_steps(denoiser, tmp_path, monkeypatch):
    plain, full = demo.methods(denoiser), demo.methods(denoiser, full=True)
    assert [m.name for m in full[-len(plain) :]] == [m.name for m in plain]
    sde = full[: -len(plain)]
    assert all(m.family == "SDE" and m.plan.stochastic and m.plan.calls == 250 for m in sde)
    rows = demo.methods
    monkeypatch.setattr(demo, "SDE_STEPS", 3)
    monkeypatch.setattr(demo, "methods", lambda *a: [m for m in rows(*a) if m.plan.calls in (3, 4, 50)])
    monkeypatch.setattr(demo, "SIZES", {False: (8, 4)})
    monkeypatch.setattr(demo, "REFERENCE_STEPS", 4)
    monkeypatch.setattr(demo, "WARM_UP", 2)
    results = demo.run(tmp_path / "out", full=True, progress=False)
    assert results["baseline"] == "Euler, 50 steps"
    for row in results["rows"]:
        assert (row["rmse"] is None) == (row["family"] == "SDE")
        assert (row["speedup"] == 1) == (row["name"] == results["baseline"])
    assert results["rows"][0]["speedup"] > 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Euler–Maruyama, 3 steps" in page
