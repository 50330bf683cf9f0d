"""``pyaccel bench students`` with a few images: its rows, their pairs, and going on after a cut."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from pyaccel import schedules, solvers, zoo
from pyaccel.evaluation import student_bench
from pyaccel.evaluation.frechet import frechet_distance
from pyaccel.evaluation.paired import paired_change
from pyaccel.evaluation.quality import classify, rmse
from pyaccel.evaluation.sampling import fashion_reference, generate
from pyaccel.evaluation.student_bench import measure
from pyaccel.evaluation.student_bench.figure import calls_figure
from pyaccel.evaluation.student_bench.variants import CacheChoice, rows

TEACHER, STUDENT, COUNT = "fashion-dit", "fashion-dit-meanflow", 8
FLOW = schedules.flow()


def test_the_teachers_rows():
    found = rows(TEACHER, FLOW, [1, 2, 3], ["DDIM", "UniPC-3 (B2)", "Heun"], students=[], teacher_steps=7)
    assert (found[0].plan.solver, found[0].plan.calls, found[0].family) == ("unipc", 7, "baseline")
    solvers = {row.name: row.plan for row in found if row.family == "few steps"}
    # With one call all are Euler's.
    assert set(solvers) == {"DDIM, 1 call", "DDIM, 2 calls", "DDIM, 3 calls", "UniPC-3 (B2), 2 calls",
                            "UniPC-3 (B2), 3 calls", "Heun, 2 calls"}  # fmt: skip
    assert all(f", {plan.calls} call" in name for name, plan in solvers.items())
    assert solvers["Heun, 2 calls"].solver == "heun"
    assert {row.name: row.solvers for row in found}["DDIM, 1 call"] == ("ddim", "unipc", "heun")
    trained = [row.plan.calls for row in found if row.line == "GS, trained"]
    assert trained == [3, 4, 5, 6]
    assert {row.model for row in found} == {TEACHER}


def test_a_students_rows(tmp_path):
    plan = zoo.student_plan(STUDENT, 2)
    dataclasses.replace(plan, options={"method": "gs"}).save(tmp_path / "mine.json")
    plans = {STUDENT: [str(tmp_path / "mine.json")]}
    found = rows(TEACHER, FLOW, [1], ["DDIM"], [STUDENT, "fashion-dit-dmd2"], plans, CacheChoice(calls=(4, 8)))
    by_name = {row.name: row for row in found if row.family.startswith("students")}
    assert {name for name in by_name if name.startswith("meanflow")} == {
        "meanflow, 1 call", "meanflow, 2 calls", "meanflow, 4 calls", "meanflow, 8 calls", "meanflow + gs, 2 calls",
        "meanflow + taylorseer, 4 calls", "meanflow + taylorseer, 8 calls",
    }  # fmt: skip
    tuned, cached = by_name["meanflow + gs, 2 calls"], by_name["dmd2 + taylorseer, 8 calls"]
    assert (tuned.against, tuned.plan.options["method"]) == ("meanflow, 2 calls", "gs")
    assert (cached.against, cached.plan.solver, cached.plan.calls) == ("dmd2, 8 calls", "lcm", 8)
    assert cached.cache is not None
    assert all(row.against in by_name for row in by_name.values() if row.against)
    assert by_name["meanflow, 2 calls"].plan.solver == "flow_map"
    assert [by_name[name].follows for name in ("dmd2, 1 call", "dmd2, 2 calls")] == [True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"only": ["ddimm"]}, "did you mean 'ddim'"),
        ({"students": ["fashion-dit-meanflo"]}, "did you mean 'fashion-dit-meanflow'"),
        ({"students": ["fashion-unet"]}, "fashion-unet is no student of fashion-dit: its card names no teacher"),
        ({"students": ["none.safetensors"]}, "there is no none.safetensors"),
        ({"students": [], "plans": {STUDENT: ["x.json"]}}, "unknown student with a plan"),
        ({"students": [STUDENT, STUDENT]}, "two rows are called meanflow, 1 call"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        rows(TEACHER, FLOW, [1], **arguments)
    with pytest.raises(ValueError, match=r"did you mean 'interval'"):
        CacheChoice("fora", options={"intervall": 2})


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A student of a file, by itself, with a plan and with a cache; the folder and how to run it again."""
    folder = tmp_path_factory.mktemp("bench")
    for suffix in (".json", ".safetensors"):
        shutil.copy(zoo.FOLDER / f"{STUDENT}{suffix}", folder / f"mine{suffix}")
    student = str(folder / "mine.safetensors")
    solvers.flow_map(FLOW, times=[1.0, 0.6, 0.2, 0.0]).save(folder / "tuned.json")
    options = {
        "calls": [2], "only": ["DDIM"], "students": [student], "plans": {student: [str(folder / "tuned.json")]},
        "cache": CacheChoice(calls=(4,)), "teacher_steps": 3, "count": COUNT, "progress": False,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "plan_names", lambda model: [])
        results = student_bench.run(folder / "out", TEACHER, **options)
        yield SimpleNamespace(folder=folder, options=options, rows={row["name"]: row for row in results["rows"]})


def test_every_row_is_that_of_its_samples(measured):
    classifier, reference = fashion_reference()
    teacher, student = zoo.load(TEACHER), zoo.load(STUDENT)
    table = rows(TEACHER, FLOW, **{k: v for k, v in measured.options.items() if k not in ("count", "progress")})
    images, features = {}, {}
    for row in table:
        denoiser = teacher if row.model == TEACHER else student
        cache = row.cache.make(denoiser.model) if row.cache else None
        samples = generate(denoiser, row.plan, COUNT, cache=cache)
        images[row.name], (features[row.name], _) = samples.images, classify(classifier, samples.images)
        found = measured.rows[row.name]
        assert found["fid"] == pytest.approx(frechet_distance(features[row.name], reference.moments), rel=1e-6)
        assert (found["model_calls"], found["full_calls"]) == (row.plan.calls, samples.full_calls)
        assert found["interval"][0] <= found["fid"] <= found["interval"][1]
        assert found["rmse"] == pytest.approx(rmse(samples.images, images[table[0].name]), abs=1e-7)
        against = row.against or table[0].name
        if row is not table[0]:
            change = paired_change(features[row.name], features[against], reference.moments)
            assert found["change"] == {"against": against, "fid": pytest.approx(list(change), rel=1e-5)}
    assert measured.rows["meanflow + taylorseer, 4 calls"]["full_calls"] < 4
    assert measured.rows["meanflow + taylorseer, 4 calls"]["change"]["against"] == "meanflow, 4 calls"
    assert not torch.equal(images["meanflow + tuned, 3 calls"], images["meanflow, 3 calls"])


def test_the_report(measured):
    out = measured.folder / "out"
    for name in ("calls.png", "pareto.png", "samples.png"):
        assert min(Image.open(out / name).size) > 300
    page = (out / "report.html").read_text()
    assert "Quality against model calls" in page
    assert page.index("Quality against model calls") < page.index("What speed costs")
    assert "meanflow + tuned, 3 calls" in page


def test_a_cut_run_goes_on(measured, monkeypatch):
    out, sampled = measured.folder / "cut", []

    def counting(denoiser, plan, count, **options):
        sampled.append((plan.solver, plan.calls, "cache" in options and options["cache"] is not None))
        if len(sampled) == 5:
            raise KeyboardInterrupt
        return generate(denoiser, plan, count, **options)

    monkeypatch.setattr(measure, "generate", counting)
    monkeypatch.setattr(measure, "write_report", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        student_bench.run(out, TEACHER, **measured.options)
    written = json.loads((out / "results.json").read_text())
    assert [row["name"] for row in written["rows"]] == list(measured.rows)[:3]
    sampled.clear()
    sampled += [None] * 10
    resumed = student_bench.run(out, TEACHER, resume=True, **measured.options)
    assert len(sampled) == 10 + 1 + len(measured.rows) - 3  # the warm-up and what was missing
    for row in resumed["rows"]:
        for key in ("fid", "interval", "rmse", "change"):
            assert row.get(key) == measured.rows[row["name"]].get(key)
    sampled.clear()
    sampled += [None] * 10
    changed = measured.options | {"teacher_steps": 4, "plans": {}, "cache": None}
    student_bench.run(out, TEACHER, resume=True, **changed)
    assert ("unipc", 4, False) in sampled  # another baseline, under another name
    assert sampled.count(("flow_map", 1, False)) == 1  # in pairs with that
    assert len(sampled) == 10 + 1 + 5


def test_other_weights_or_plans_make_another_row(tmp_path):
    for suffix in (".json", ".safetensors"):
        shutil.copy(zoo.FOLDER / f"{STUDENT}{suffix}", tmp_path / f"mine{suffix}")
    file = tmp_path / "mine.safetensors"
    one, two, _ = (row for row in rows(TEACHER, FLOW, [1], ["DDIM"], [str(file)]) if row.family == "students")
    assert measure._facts(one) == measure._facts(one) != measure._facts(two)
    cached = dataclasses.replace(one, cache=CacheChoice())
    assert measure._facts(one) != measure._facts(cached)
    before = measure._facts(one)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert measure._facts(one) != before


def test_the_figure_leaves_out_what_has_no_value(tmp_path):
    base = {"name": "a", "family": "baseline", "line": "teacher", "full_calls": 20, "fid": 1.0, "interval": [0.9, 1.1]}
    broken = base | {"name": "b", "family": "students", "line": "b", "full_calls": 1, "fid": float("nan")}
    good = base | {
        "name": "c",
        "family": "students, cached",
        "line": "c",
        "full_calls": 2,
        "fid": 3.0,
        "interval": None,
    }
    for theme in ("light", "dark"):
        calls_figure(tmp_path / "x.png", {"rows": [base, broken, good]}, theme)
        assert min(Image.open(tmp_path / "x.png").size) > 1000
