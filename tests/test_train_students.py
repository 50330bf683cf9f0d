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
from preset_steps import COUNTED, at_the_end, fitted


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
    assert json.loads((arguments.work / "kd" / "steps.json").read_text()) == 3
    card["figures"]["fid, 2 calls"] = float("nan")
    (arguments.work / "kd" / "fashion-dit-kd.json").write_text(json.dumps(card))
    assert train_students.row_of("kd", arguments) == {"failed": "samples with NaN"}


def test_a_run_trains_what_is_missing_and_says_what_failed(arguments, capsys):
    kept, folder = {"calls": {"1": {"fid": 1.0}}}, arguments.work / "meanflow"
    results = train_students.Results(arguments)
    results.add("kd", kept)
    results.add("scm", {"failed": "before"})
    folder.mkdir(parents=True)
    (folder / "steps.json").write_text("3")
    (folder / "checkpoint.safetensors").write_text("damaged")
    arguments.recipes = ["kd", "meanflow", "scm"]
    rows = train_students.run(arguments)
    assert rows["kd"] == kept
    assert set(rows["scm"]["calls"]) == {"1", "2", "4"}
    assert "not a readable safetensors file" in rows["meanflow"]["failed"]
    assert json.loads(arguments.out.read_text())["students"] == rows
    assert "scm: FID" in capsys.readouterr().out


def test_figures_of_other_settings_are_not_mixed(arguments):
    train_students.Results(arguments).add("kd", {"calls": {}})
    arguments.minutes = 1.0
    with pytest.raises(ValueError, match="another minutes"):
        train_students.Results(arguments)
