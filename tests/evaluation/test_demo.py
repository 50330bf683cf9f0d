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
    assert table[0].family == "baseline"
    for method, rival in itertools.pairwise(table):
        if method.cache is not None:
            assert rival.cache is None
            assert rival.plan.solver == method.plan.solver
            with method.cache() as cache:
                method.plan.sample(denoiser, torch.randn(1, 1, 28, 28), label=torch.tensor([0]))
            assert cache.summary().full_calls == rival.plan.calls


def test_a_small_demo_writes_its_report(denoiser, tmp_path, monkeypatch):
    rows = demo.methods
    monkeypatch.setattr(demo, "methods", lambda denoiser: [m for m in rows(denoiser) if m.plan.calls in (8, 10)])
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
