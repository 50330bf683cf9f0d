import dataclasses
import json
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

from pyaccel import zoo
from pyaccel.distill import RECIPES
from pyaccel.evaluation.distilling import default_run, make_trainer
from pyaccel.evaluation.tuning import Job
from pyaccel.training.checkpoints import load_tensors

SMALL = ("--steps", "2", "--batch-size", "4", "--validate-count", "8", "--count", "8", "--device", "cpu")


@pytest.fixture
def run(pyaccel):
    """The command's exit code, standard output and standard error."""

    def call(*arguments):
        result = pyaccel(*arguments)
        return result.returncode, result.stdout, result.stderr

    return call


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_ends_in_a_student_that_samples(recipe, tmp_path, run):
    pairs = ("--data", "pairs")  # ladd takes images, too
    more = {"dmd": pairs, "kd": pairs, "ladd": pairs, "progressive": ("--phase", "1", "--start-steps", "2")}
    if pairs == more.get(recipe):
        run("teacher", "--model", "fashion-dit", "--steps", "2", "--count", "8", "--out", "pairs")
    code, out, err = run("distill", recipe, *SMALL, *more.get(recipe, ()), "--out", tmp_path)
    assert code == 0, err
    card = json.loads((tmp_path / f"fashion-dit-{recipe}.json").read_text())
    assert (card["teacher"], card["recipe"], card["training"]["steps"]) == ("fashion-dit", recipe, 2)
    assert {"fid, 1 call", "interval, 2 calls", "accuracy, 4 calls"} <= set(card["figures"])
    low, high = card["figures"]["interval, 1 call"]
    assert low <= card["figures"]["fid, 1 call"] <= high
    assert card["options"].get("second_time", False) == (recipe in ("ayf", "ctm", "meanflow", "shortcut"))
    weights = tmp_path / f"fashion-dit-{recipe}.safetensors"
    for calls in (1, 3, 5):  # by its card it is sampled as by its recipe
        plan = default_run(recipe).recipe.plan(zoo.load(str(weights)), calls)
        assert zoo.student_plan(str(weights), calls).times == plan.times
        job = Job(str(weights), calls, "search")
        assert job.plan(zoo.load(job.model)).times == plan.times
    tensors, _ = load_tensors(weights)
    assert all(torch.isfinite(t.float()).all() for t in tensors.values())
    before = zoo.load_model("fashion-dit").state_dict()
    moved = [name for name, t in before.items() if not torch.equal(t.half(), tensors[name])]
    assert moved
    for name in ("samples.png", "config.yaml", "versions.yaml", "checkpoint.safetensors"):
        assert (tmp_path / name).exists()
    assert str(tmp_path) in out


def test_a_student_in_the_zoo_is_sampled_by_its_own_solver(tmp_path, monkeypatch, run):
    for source in zoo.FOLDER.glob("fashion-dit.*"):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    facts = zoo.card("fashion-dit") | {
        "name": "student",
        "sampler": {"solver": "lcm", "steps": 1, "options": {"start": 0.75}},
    }
    (tmp_path / "student.json").write_text(json.dumps(facts))
    (tmp_path / "student.safetensors").write_bytes((tmp_path / "fashion-dit.safetensors").read_bytes())
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    code, out, err = run("sample", "--model", "student", "--count", "4", "--out", tmp_path / "x.png")
    assert code == 0, err
    assert "(1 model calls" in out
    assert zoo.student_plan("student", 2).times[0] == 0.75
    first = (tmp_path / "x.png").read_bytes()
    run("sample", "--model", "student", "--count", "4", "-o", "start=0.9", "--out", tmp_path / "y.png")
    assert (tmp_path / "y.png").read_bytes() != first
    code, out, _ = run("sample", "--model", "student", "--count", "4", "--steps", "3", "--out", tmp_path / "x.png")
    assert code == 0
    assert "(3 model calls" in out


def test_settings_from_yaml_and_dry_runs(tmp_path, run):
    code, text, err = run("distill", "dmd2", "--dry-run", "--ratio", "4", "--student.learning-rate", "0.5")
    assert code == 0, err
    settings = yaml.safe_load(text)
    assert settings["recipe"]["ratio"] == 4
    assert settings["recipe"]["student"]["learning_rate"] == 0.5
    (tmp_path / "a.yaml").write_text("recipe:\n  ratio: 7\n  student:\n    betas: [0.5, 0.6]\nrun: {seed: 3}\n")
    code, text, _ = run("distill", "dmd2", "--config", tmp_path / "a.yaml", "--seed", "4", "--dry-run")
    settings = yaml.safe_load(text)
    assert (settings["recipe"]["ratio"], settings["run"]["seed"]) == (7, 4)
    assert settings["recipe"]["student"]["betas"] == [0.5, 0.6]
    (tmp_path / "b.yaml").write_text(text)
    assert run("distill", "dmd2", "--config", tmp_path / "b.yaml", "--dry-run")[1] == text
    (tmp_path / "c.yaml").write_text("recipe: {ration: 7}\n")
    code, _, err = run("distill", "dmd2", "--config", tmp_path / "c.yaml")
    assert code == 2
    assert "did you mean 'ratio'" in err


def test_help_lists_every_recipe(run):
    for arguments in ((), ("--help",)):
        code, out, _ = run("distill", *arguments)
        assert code == 0
        assert all(name in out for name in RECIPES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("meanflo",), "did you mean 'meanflow'"),
        (("--teacher", "fashion-dit"), "the recipe comes first"),
        (("meanflow", "--teacher", "fashion-unet"), "needs a teacher that predicts a flow"),
        (("meanflow", "--teacher", "fashion-dt"), "did you mean 'fashion-dit'"),
        (("dmd",), "pyaccel teacher --model fashion-dit --out"),
        (("kd",), "pyaccel teacher --model fashion-dit --out"),
        (("add", "--features", "dinov3"), "did you mean 'dinov2'"),
        (("ladd", "--shares", "0.5", "0.5"), "a share for each of 4 times"),
        (("scm", "--start", "fashion-unet"), "the student cannot begin with fashion-unet"),
        (("scm", "--data", "/nowhere"), "/nowhere"),
        (("scm", "--config"), "--config needs a file"),
        (("scm", "--config", "/nowhere.yaml"), "there is no configuration"),
        (("scm", "--batch-size", "0"), "at least 1"),
    ],
)
def test_errors(arguments, message, tmp_path, run):
    code, _, err = run("distill", *arguments)
    assert code == 2
    assert message in err
    assert not list(tmp_path.rglob("checkpoint*"))


def test_another_beginning(tmp_path, run):
    code, _, err = run("distill", "scm", *SMALL, "--out", tmp_path / "a", "--name", "first")
    assert code == 0, err
    weights = tmp_path / "a" / "first.safetensors"
    code, _, err = run("distill", "meanflow", *SMALL, "--steps", "1", "--start", weights, "--out", tmp_path / "b",
                       "--student.learning-rate", "1e-12", "--ema", "0.0")  # fmt: skip
    assert code == 0, err
    first, _ = load_tensors(weights)
    second, _ = load_tensors(tmp_path / "b" / "fashion-dit-meanflow.safetensors")
    assert all(torch.equal(t, second[name]) for name, t in first.items())


def test_a_run_does_not_go_on_as_another(tmp_path, run):
    """What a checkpoint was made of counts, too, and the record of its run stays as it is."""
    first = ("distill", "scm", *SMALL, "--out", tmp_path / "a")
    assert run(*first)[0] == 0
    assert json.loads((tmp_path / "a" / "fashion-dit-scm.json").read_text())["guidance"] == 1.0
    kept = (tmp_path / "a" / "config.yaml").read_bytes()
    weights = str(zoo.weights("fashion-dit-consistency"))
    for changes, told in {
        ("--guidance", "3"): "teacher_guidance: 1.0 there, 3.0 now",
        ("--teacher", "fashion-dit-consistency"): "teacher: 'fashion-dit' there, 'fashion-dit-consistency' now",
        ("--start", weights): f"start: None there, '{weights}' now",
    }.items():
        code, _, err = run(*first, *changes)
        assert code == 2
        assert told in err
    assert (tmp_path / "a" / "config.yaml").read_bytes() == kept


def small_job(recipe, tmp_path, **changes):
    job = default_run(recipe)
    run = dataclasses.replace(job.run, steps=1, batch_size=4)
    return dataclasses.replace(job, run=run, device="cpu", validate_count=0, out=tmp_path, **changes)


def test_the_seed_decides_what_networks_begin_with(tmp_path):
    def critic(state, seed):
        torch.manual_seed(state)
        job = small_job("add", tmp_path)
        job = dataclasses.replace(job, run=dataclasses.replace(job.run, seed=seed))
        made = make_trainer("add", job).modules["discriminator"]
        assert torch.initial_seed() == state
        return torch.cat([p.flatten() for p in made.parameters()])

    assert torch.equal(critic(1, seed=0), critic(2, seed=0))
    assert not torch.equal(critic(1, seed=0), critic(1, seed=1))


@pytest.mark.parametrize("recipe", ["lcm", "consistency"])
def test_another_beginning_of_the_target(recipe, tmp_path):
    job = small_job(recipe, tmp_path, start="fashion-dit-consistency")
    if recipe == "consistency":
        job = dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, target_rate=0.9))
    networks = make_trainer(recipe, job).networks
    for name, t in zoo.load_model(job.start).state_dict().items():
        assert torch.equal(networks.target.model.state_dict()[name], t)
        assert torch.equal(networks.student.model.state_dict()[name], t)


def test_sigterm_saves_and_exits_with_0(tmp_path, run):
    command = [sys.executable, "-c", "from pyaccel.cli import main; main()", "distill", "kd"]
    pairs = tmp_path / "pairs"
    run("teacher", "--model", "fashion-dit", "--steps", "1", "--count", "4", "--out", pairs)
    settings = ("--steps", "100000", "--batch-size", "2", "--data", str(pairs), "--out", str(tmp_path / "run"))
    child = subprocess.Popen([*command, *settings, "--checkpoint-every", "0"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not (tmp_path / "run" / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=120) == 0
    _, facts = load_tensors(tmp_path / "run" / "checkpoint.safetensors")
    assert json.loads(facts["trainer"])["step"] >= 1
