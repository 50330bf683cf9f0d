import json

import pytest
import torch

from pyaccel import schedules, solvers
from pyaccel.solvers import Plan

from ..mixture import exact_denoiser, times

S = schedules.vp_linear()


@pytest.fixture
def plan():
    return solvers.unipc(S, times=times(6), prediction="sample")


def test_save_and_load_give_the_same_plan(plan, tmp_path):
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again == plan
    noise, model = torch.randn(5, dtype=torch.float64), exact_denoiser(S)
    assert torch.equal(again.sample(model, noise), plan.sample(model, noise))


def test_the_file_carries_schema_and_provenance(plan, tmp_path):
    plan.save(tmp_path / "plan.json")
    data = json.loads((tmp_path / "plan.json").read_text())
    assert data["schema"] == 2
    assert data["solver"] == "unipc"
    assert data["options"]["variant"] == "bh2"
    assert data["schedule"] == ["vp_linear", {"beta_min": 0.1, "beta_max": 20.0}]


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda text: text[: len(text) // 2], "not a whole JSON file"),
        (lambda text: text.replace('"schema": 2', '"schema": 99'), "schema 99.*update pyaccel"),
        (lambda text: "[1, 2]", "not a plan"),
        (lambda text: "{}", "not a plan"),
        (lambda text: text.replace('"stages"', '"stadiums"'), "damaged"),
        (lambda text: text.replace('"input": 0', '"input": 77', 1), "registers .77. that nothing has written"),
    ],
)
def test_damaged_files(plan, tmp_path, damage, what):
    path = tmp_path / "plan.json"
    plan.save(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=what):
        Plan.load(path)


def test_print_shows_the_table(plan):
    text = str(plan)
    assert "unipc on vp_linear: 6 steps, 6 model calls" in text
    assert "variant=bh2" in text
    assert text.count("·m(") >= 6
    assert f"result: r{plan.output}" in text


def test_cost_counts_what_the_table_moves():
    plan = solvers.dpmpp(S, 3, lower_order_final=False, end=0.01)
    cost = plan.cost((2, 3), torch.float32)
    assert cost.calls == 3
    assert cost.launches == 4
    # start: noise -> x; 0: x, o -> x, m; 1: x, m, o -> x, m; 2: x, m, o -> x
    assert cost.bytes == (2 + 4 + 5 + 4) * 6 * 4
