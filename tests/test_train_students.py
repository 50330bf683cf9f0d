"""benchmarks/train_students.py with a few steps of a few samples on a CPU."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import pytest

from pyaccel.distill.presets import PRESETS
from pyaccel.training.recipe import trained

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import train_students
from preset_steps import COUNTED, at_the_end, fitted, may_go_on


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "few.yaml").write_text("run: {batch_size: 4}\n")
    config = dict.fromkeys(PRESETS, tmp_path / "few.yaml")
    return argparse.Namespace(
        recipes=["scm"], teacher="fashion-dit", device="cpu", minutes=0.002, jobs=2, count=8, pairs=8, batch_size=None,
        data="fashion-mnist", config=config, work=tmp_path / "work", out=tmp_path / "out.json",
    )  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_settings_counted_in_steps_follow(name):
    recipe, run = PRESETS[name]
    shorter, config = fitted(recipe, run, 777)
    assert config == dataclasses.replace(run, steps=777)
    for network, optimizer in trained(recipe).items():
        assert trained(shorter)[network].warmup == int(optimizer.warmup * 777 / run.steps)
    if name == "progressive":
        assert shorter.steps_at(0) == 16
        assert shorter.steps_at(776) == shorter.end_steps
        assert shorter.student.cycle == shorter.phase == 155
    if name == "scm":
        assert shorter.warmup == int(0.25 * 777)
    assert fitted(recipe, run, run.steps) == (recipe, run)


def test_the_end_of_a_training():
    for recipe, run in PRESETS.values():
        assert all(getattr(at_the_end(recipe, run), name, 1) <= 1 for name in COUNTED)


def test_a_student_of_pairs_from_its_beginning_to_its_row(arguments, monkeypatch):
    steps = []
    monkeypatch.setattr(train_students, "steps_within", lambda *_: steps.append(3) or 3)
    monkeypatch.setattr(train_students, "_logged", lambda _: pytest.MonkeyPatch.context())
    train_students.make_pairs(arguments)
    for _ in range(2):  # the second one goes on from the checkpoint, with as many steps
        train_students.train("kd", arguments, None)
    assert steps == [3]
    card = json.loads((arguments.work / "kd" / "fashion-dit-kd.json").read_text())
    row = train_students.row_of("kd", arguments)
    assert row["calls"]["2"] == {key: card["figures"][f"{key}, 2 calls"] for key in ("fid", "interval", "accuracy")}
    assert row["batch"] == 4
    assert Path(row["weights"]).exists()
    assert json.loads((arguments.work / "kd" / "steps.json").read_text())["steps"] == 3
    arguments.minutes = 1.0
    with pytest.raises(ValueError, match=r"steps\.json was made with another minutes; use another --work"):
        train_students.train("kd", arguments, None)
    arguments.minutes, arguments.batch_size = 0.002, 8
    arguments.config = {}
    with pytest.raises(ValueError, match="another run; use"):
        train_students.train("kd", arguments, None)
    card["figures"]["fid, 2 calls"] = float("nan")
    (arguments.work / "kd" / "fashion-dit-kd.json").write_text(json.dumps(card))
    assert train_students.row_of("kd", arguments) == {"failed": "samples with NaN"}


def test_a_run_trains_what_is_missing_and_says_what_failed(arguments, capsys):
    kept, folder = {"calls": {"1": {"fid": 1.0}}}, arguments.work / "meanflow"
    results = train_students.Results(arguments)
    results.add("kd", kept)
    results.add("scm", {"failed": "before"})
    folder.mkdir(parents=True)
    (folder / "steps.json").write_text(json.dumps({"steps": 3, **train_students.asked("meanflow", arguments)}))
    (folder / "checkpoint.safetensors").write_text("damaged")
    arguments.recipes = ["kd", "meanflow", "scm"]
    rows = train_students.run(arguments)
    assert rows["kd"] == kept
    assert set(rows["scm"]["calls"]) == {"1", "2", "4"}
    assert "not a readable safetensors file" in rows["meanflow"]["failed"]
    assert json.loads(arguments.out.read_text())["students"] == rows
    assert "scm: FID" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "value"), [("minutes", 1.0), ("batch_size", 3), ("pairs", 9), ("config", {})])
def test_figures_of_other_settings_are_not_mixed(name, value, arguments):
    train_students.Results(arguments).add("kd", {"calls": {}})
    train_students.Results(arguments)
    setattr(arguments, name, value)
    with pytest.raises(ValueError, match=f"another {name.removesuffix('_size')}; use another --out"):
        train_students.Results(arguments)


def test_a_training_goes_on_until_its_time_is_used(arguments, monkeypatch):
    monkeypatch.setattr(train_students, "steps_within", lambda *_: 1)
    monkeypatch.setattr(train_students, "_logged", lambda _: pytest.MonkeyPatch.context())
    arguments.minutes = 0.05
    train_students.train("dmd2", arguments, None)
    assert train_students.row_of("dmd2", arguments)["steps"] > 1


def test_trainings_that_may_end_at_any_step():
    found = {name for name, (recipe, _) in PRESETS.items() if may_go_on(recipe)}
    assert found == {"add", "dmd", "dmd2", "ladd"}


def test_the_pairs_have_a_slot_of_their_own():
    assert train_students.at_first(12, True, 12) == 11
    assert train_students.at_first(12, False, 12) == 12
    assert train_students.at_first(12, True, 3) == 3
    assert train_students.at_first(1, True, 3) == 1
