"""pyaccel teacher and tune-solver: what they write, how they go on, and how mistakes are answered."""

import json

import pytest
import torch

from pyaccel import zoo
from pyaccel.evaluation.sampling import generate
from pyaccel.solvers import Plan
from pyaccel.training.checkpoints import load_tensors
from pyaccel.training.teacher import load_teacher, shard_path

TEACHER = "teacher", "--model", "fashion-dit", "--steps", 6, "--count", 24, "--shard", 8, "--out", "teacher"
TUNE = (
    "tune-solver", "--model", "fashion-dit", "--steps", 3, "--teacher", "teacher", "--count", 24, "--held-out", 8,
    "--batch-size", 8, "--validate-every", 2, "--learning-rate", 0.02,
)  # fmt: skip


def ran(result):
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_from_teacher_to_samples(pyaccel, tmp_path):
    assert "3 of 3 shards made" in ran(pyaccel(*TEACHER))
    assert "0 of 3 shards made" in ran(pyaccel(*TEACHER))
    shard_path(tmp_path / "teacher", 1).unlink()
    result = pyaccel(*TUNE, "--iterations", 6, "--out", "run")
    assert result.returncode == 2
    assert "00001.safetensors is missing" in result.stderr
    assert "1 of 3 shards made" in ran(pyaccel(*TEACHER))
    data, spec = load_teacher(tmp_path / "teacher", model="fashion-dit")
    assert (spec.steps, len(data)) == (6, 24)

    text = ran(pyaccel(*TUNE, "--iterations", 6, "--out", "run"))
    assert "plan: run/plan.json" in text
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["validation"]["best"] < card["validation"]["start"]
    assert card["training"]["steps"] == 6
    assert (tmp_path / "run" / "figure.png").stat().st_size > 1000
    assert list((tmp_path / "run" / "samples").glob("*.png"))
    plan = Plan.load(tmp_path / "run" / "plan.json")
    assert (plan.solver, plan.calls) == ("gs", 3)

    ran(pyaccel("sample", "--model", "fashion-dit", "--plan", "run/plan.json", "--count", 4, "--out", "x.safetensors"))
    images = load_tensors(tmp_path / "x.safetensors")[0]["samples"]
    torch.testing.assert_close(images, generate(zoo.load("fashion-dit"), plan, 4).images, rtol=0, atol=1e-5)
    ran(pyaccel("plan", "run/plan.json"))


def test_a_stopped_run_goes_on(pyaccel, tmp_path):
    ran(pyaccel(*TEACHER))
    arguments = *TUNE, "--method", "gas", "--iterations", 4
    assert "step" in ran(pyaccel(*arguments, "--seconds", 0.0, "--out", "part"))
    assert load_tensors(tmp_path / "part" / "checkpoint.safetensors")[1]
    ran(pyaccel(*arguments, "--out", "part"))
    ran(pyaccel(*arguments, "--out", "whole"))
    part, whole = (Plan.load(tmp_path / name / "plan.json") for name in ("part", "whole"))
    assert part == whole


def test_amed_trains_its_own_solver(pyaccel, tmp_path):
    ran(pyaccel(*TEACHER))
    ran(pyaccel(*TUNE, "--steps", 2, "--method", "amed", "--iterations", 4, "--out", "run"))
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert (card["starts from"]["solver"], card["numbers"]) == ("amed", 3 * 2)
    assert Plan.load(tmp_path / "run" / "plan.json").calls == 4


@pytest.mark.parametrize("method", ["gits", "dmn"])
def test_chosen_times(pyaccel, tmp_path, method):
    arguments = "--model", "fashion-dit", "--steps", 3, "--solver", "ddim", "--out", "x"
    ran(pyaccel("tune-solver", "--method", method, *arguments))
    plan = Plan.load(tmp_path / "x" / "plan.json")
    assert (plan.solver, plan.calls) == ("ddim", 3)
    uniform = [1 - i / 3 for i in range(4)]
    assert max(abs(t - u) for t, u in zip(plan.times, uniform, strict=True)) > 0.01


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("needs at least 3 steps", ("--model", "fashion-dit", "--steps", 2)),
        ("did you mean 'gas'", ("--model", "fashion-dit", "--steps", 4, "--method", "gaz")),
        (
            "amed trains the solver amed, got ddim",
            ("--model", "x", "--steps", 2, "--method", "amed", "--solver", "ddim"),
        ),
        ("unknown objective", ("--model", "fashion-dit", "--steps", 4, "--objective", "l3")),
        ("is a Classifier", ("--model", "fashion-classifier", "--steps", 4)),
        ("cannot be used", ("--model", "fashion-dit", "--steps", 4, "--device", "cuda:77")),
    ],
)
def test_mistakes(mistake, words, arguments):
    mistake(words, "tune-solver", *arguments, "--no-progress")


def test_a_plan_is_a_whole_solver(mistake):
    common = "sample", "--model", "fashion-dit", "--out", "x.png", "--plan", "gas-4"
    mistake("--steps cannot be given beside it", *common, "--steps", 4)
    mistake("unknown plan for fashion-dit", *common[:-1], "nothing-4")


def test_teachers_that_do_not_fit(pyaccel, tmp_path):
    ran(pyaccel(*TEACHER))
    for options, message in (
        (("--guidance", 4), "was made with guidance 1, and the solver is to be for 4"),
        (("--dtype", "bfloat16"), "by the network in float32, and the solver is to be for bfloat16"),
        (("--count", 100), "holds 24 samples, and --count is 100"),
    ):
        result = pyaccel(*TUNE, "--iterations", 2, "--out", "other", *options)
        assert result.returncode == 2
        assert message in result.stderr
    result = pyaccel("teacher", "--model", "fashion-dit", "--solver", "euler_ancestral", "--count", 8, "--out", "noisy")
    assert result.returncode == 2
    assert "must be deterministic" in result.stderr
    assert not (tmp_path / "noisy" / "teacher.json").exists()


def test_a_student_learns_from_its_teachers_samples(tmp_path, pyaccel):
    arguments = ("tune-solver", "--model", "fashion-dit-meanflow", "--steps", 2, "--count", 12, "--held-out", 4,
                 "--iterations", 2, "--batch-size", 4, "--out", tmp_path / "run", "--no-progress")  # fmt: skip
    result = pyaccel(*arguments)
    assert result.returncode == 0, result.stderr
    spec = json.loads((tmp_path / "run" / "teacher" / "teacher.json").read_text())
    assert (spec["model"], spec["solver"], spec["steps"]) == ("fashion-dit", "unipc", 20)
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert (card["model"], card["starts from"]["solver"]) == ("fashion-dit-meanflow", "flow_map")
    plan = Plan.load(tmp_path / "run" / "plan.json")
    assert all(call.to is not None for stage in plan.stages for call in stage.calls)
    result = pyaccel("tune-solver", "--model", "fashion-dit-dmd2", "--steps", 2, "--out", tmp_path / "x")
    assert result.returncode == 2
    assert "--method search" in result.stderr
    assert not (tmp_path / "x").exists()  # it was refused before teacher data were made
