import json
from dataclasses import replace

import pytest
import torch

from pyaccel import schedules, solvers
from pyaccel.solvers import Plan, Threshold
from pyaccel.solvers.builder import Builder

from ..mixture import exact_denoiser, times
from .agreement import Path

S = schedules.vp_linear()
PLANS = {
    "two calls a stage": solvers.epd(S, times=times(3), prediction="sample"),
    "noise": solvers.dpmpp_sde(S, times=times(3), prediction="sample", method="singlestep"),
    "threshold": solvers.dpmpp(S, times=times(3), prediction="sample", threshold=Threshold(1.5, 0.9)),
    "betas": solvers.ddim(schedules.vp_discrete(schedules.linear_betas(100)), 4),
    "inversion": solvers.ddim(S, times=times(3)[::-1], prediction="sample"),
}


def elementwise() -> Plan:
    b = Builder(S, times(2), "sample")
    x = b.noise()
    for s, t in b.intervals():
        m = b.predict(x, s)
        x = torch.tensor([0.5, 0.25, 2.0]) * x + b.exponential_step(x, m, s, t)
    return b.plan(x)


@pytest.mark.parametrize("name", PLANS)
def test_every_kind_of_plan_comes_back_as_it_was(name, tmp_path):
    plan = PLANS[name]
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again == plan
    assert not (tmp_path / "plan.safetensors").exists()
    noise, draw = torch.randn(5, 2, dtype=torch.float64), Path(5, 2).draw
    model = exact_denoiser(S) if name != "betas" else (lambda x, t: torch.tanh(x))
    assert torch.equal(
        again.sample(model, noise, noise_sampler=draw if plan.draws else None),
        plan.sample(model, noise, noise_sampler=draw if plan.draws else None),
    )


def test_tensors_lie_beside_the_plan(tmp_path):
    plan, noise = elementwise(), torch.randn(4, 3, dtype=torch.float64)
    plan.save(tmp_path / "plan.json")
    assert (tmp_path / "plan.safetensors").exists()
    again = Plan.load(tmp_path / "plan.json")
    assert again == plan
    assert again.tensors.keys() == plan.tensors.keys()
    assert torch.equal(again.sample(exact_denoiser(S), noise), plan.sample(exact_denoiser(S), noise))


def test_missing_tensors_are_named(tmp_path):
    elementwise().save(tmp_path / "plan.json")
    (tmp_path / "plan.safetensors").unlink()
    with pytest.raises(ValueError, match=r"needs the tensors in .*plan.safetensors, which is missing"):
        Plan.load(tmp_path / "plan.json")


def test_damaged_tensors_are_named(tmp_path):
    elementwise().save(tmp_path / "plan.json")
    path = tmp_path / "plan.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"plan.safetensors is damaged"):
        Plan.load(tmp_path / "plan.json")


def test_tensors_of_another_plan_are_refused(tmp_path):
    plan = elementwise()
    plan.save(tmp_path / "plan.json")
    replace(plan, tensors={"other": torch.ones(3)}).save(tmp_path / "other.json")
    (tmp_path / "other.safetensors").replace(tmp_path / "plan.safetensors")
    with pytest.raises(ValueError, match="does not belong to"):
        Plan.load(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda d: d["stages"][0].update(calls=[]), "do not fit its 0 calls"),
        (lambda d: d["stages"][1]["rows"][0].update(new=[1.0, 2.0, 3.0, 4.0]), "stage 1 do not fit its 2 calls"),
        (lambda d: d["stages"][0]["rows"][0].update(reads={"9": 1.0}), "reads registers .9. that nothing has written"),
        (lambda d: d["stages"][0]["rows"][0].update(noise={"3": 1.0}), "not among the plan's 0 draws"),
        (lambda d: d.update(output=5), "register 5, is never written"),
        (lambda d: d.update(stages=[]), "never written"),
        (lambda d: d.pop("times"), "damaged .KeyError"),
        (lambda d: d["stages"][0]["calls"][0].update(t="soon"), "damaged"),
        (lambda d: d["stages"][0]["rows"][0].update(new=None), "damaged"),
        (lambda d: d.update(schedule=["vp_linear"]), "damaged"),
        (lambda d: d.update(schema=1), "make the plan anew"),
        (lambda d: d.update(schema="2"), "schema '2'"),
        (lambda d: d.update(kind="pyaccel report"), "not a plan"),
    ],
)
def test_damage_is_named(change, what, tmp_path):
    path = tmp_path / "plan.json"
    PLANS["two calls a stage"].save(path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=what):
        Plan.load(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        Plan.load(tmp_path / "none.json")


def test_saving_again_replaces_the_file(tmp_path):
    for steps in (3, 5):
        solvers.ddim(S, steps).save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json").steps == 5
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
