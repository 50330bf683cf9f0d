"""A plan on the command line is the plan of Python: printed, drawn, saved, and refused in one line."""

import pytest
from PIL import Image

from pyaccel import schedules, solvers


def test_prints_the_table_and_its_cost(pyaccel):
    result = pyaccel("plan", "dpmpp", "--steps", 5, "--shift", 3, "--grid", "karras", "-o", "order=3")
    plan = solvers.dpmpp(schedules.flow(3.0), 5, grid="karras", order=3)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{plan}\n")
    cost = plan.cost((1, 4, 64, 64))
    assert f"{cost.calls} model calls" in result.stdout
    assert f"{cost.launches} launches" in result.stdout
    assert f"{cost.bytes / 1e6:.2f} MB" in result.stdout


def test_saves_and_prints_what_python_loads(pyaccel, tmp_path):
    arguments = ("plan", "ddim", "--schedule", "vp_linear", "--prediction", "v", "-o", "eta=0.5")
    assert "plan: x.json" in pyaccel(*arguments, "--save", "x.json").stdout
    plan = solvers.Plan.load(tmp_path / "x.json")
    assert plan == solvers.ddim(schedules.vp_linear(), 8, prediction="v", eta=0.5)
    (tmp_path / "y.json").write_text(pyaccel(*arguments, "--json").stdout)
    assert solvers.Plan.load(tmp_path / "y.json") == plan


@pytest.mark.parametrize(("arguments", "name"), [(["--plot"], "heun.png"), (["--plot", "deep/h.png"], "deep/h.png")])
def test_draws(pyaccel, tmp_path, arguments, name):
    assert f"plot: {name}" in pyaccel("plan", "heun", "--steps", 3, *arguments).stdout
    with Image.open(tmp_path / name) as image:
        assert min(image.size) > 400


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["unipcc"], "did you mean 'unipc'"),
        (["unipc", "-o", "varient=bh1"], "did you mean 'variant'"),
        (["unipc", "-o", "variant=bh3"], "bh3"),
        (["unipc", "-o", "order"], "key=value"),
        (["unipc", "--grid", "karas"], "did you mean 'karras'"),
        (["unipc", "--schedule", "vp_liner"], "did you mean 'vp_linear'"),
        (["unipc", "--schedule", "edm", "--shift", 3], "no shift"),
        (["unipc", "--prediction", "noise"], "noise"),
        (["unipc", "--steps", 0], "steps"),
        (["unipc", "--plot", "x.gif"], ".png"),
        (["dpm_adaptive"], "chooses its steps"),
        ([], "NAME"),
    ],
)
def test_mistakes(mistake, arguments, words):
    mistake(words, "plan", *arguments)


def test_the_scheduler_of_a_pipeline(pyaccel, tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="the test extra has it")
    scheduler = diffusers.DPMSolverMultistepScheduler(solver_order=3)
    scheduler.save_pretrained(tmp_path)
    result = pyaccel("plan", "scheduler_config.json", "--steps", 5, "--save", "plan.json")
    assert "DPMSolverMultistepScheduler: 5 steps, 5 model calls, 3 registers" in result.stdout
    assert solvers.Plan.load(tmp_path / "plan.json") == solvers.Plan.trace(scheduler, 5)
    assert "has its own settings" in pyaccel("plan", "scheduler_config.json", "--grid", "karras").stderr
    (tmp_path / "scheduler_config.json").write_text("{}")
    assert "does not describe a scheduler" in pyaccel("plan", "scheduler_config.json").stderr
    assert "No such file" in pyaccel("plan", "elsewhere.json").stderr
