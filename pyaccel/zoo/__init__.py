"""The embedded models: weights in safetensors (half precision), each with a card that says how it was made.

``zoo.load("fashion-dit")`` is a :class:`pyaccel.Denoiser` ready for any Plan; ``zoo.cards()`` lists what there is. A
student of your own is named by its file, ``runs/.../NAME.safetensors``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .. import schedules
from ..denoiser import Denoiser
from ..files import write_atomically
from ..models import ARCHITECTURES
from ..names import look_up
from ..training.checkpoints import load_tensors, save_tensors

if TYPE_CHECKING:
    from ..solvers import Plan

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Every model of the zoo."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def cards() -> list[dict[str, Any]]:
    """The cards of all models."""
    return [card(name) for name in names()]


def weights(name: str) -> Path:
    """The file of a model's weights; a name that ends in .safetensors is one itself, with its card beside it.

    ValueError, with the nearest name, for one that is not there.
    """
    if not name.endswith(".safetensors"):
        return look_up("model", name, {known: FOLDER / f"{known}.safetensors" for known in names()})
    path = Path(name)
    for needed in (path, path.with_suffix(".json")):
        if not needed.exists():
            raise ValueError(f"{name} is no model: there is no {needed}; pyaccel distill and train write both files")
    return path


def knows(name: str) -> bool:
    """Whether it names a model of the zoo or a file of one, and none of somebody else."""
    return name in names() or name.endswith(".safetensors")


def card(name: str) -> dict[str, Any]:
    """What is known of a model: architecture, schedule, prediction, training, figures. See :func:`weights`."""
    return json.loads(weights(name).with_suffix(".json").read_text())


def load_model(name: str) -> nn.Module:
    """The network of a model, float32, in evaluation mode, without gradients."""
    facts = card(name)
    model = ARCHITECTURES[facts["architecture"]](**facts["options"])
    tensors, _ = load_tensors(weights(name))
    model.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    )
    return model.eval().requires_grad_(False)


def load(
    name: str,
    *,
    guidance: float | torch.Tensor = 1.0,
    dtype: torch.dtype = torch.float32,
    batched: bool = True,
    device: torch.device | str = "cpu",
) -> Denoiser:
    """A generative model of the zoo or a file as a Denoiser; samples are images in [−1, 1] for a ``label=`` [B].

    Args:
        guidance: weight w of classifier-free guidance, a number or a tensor [B]; 1 is without. Students that are told
            it (lcm) take a number, and make one call all the same; for a weight of each sample, hand them
            ``guidance=`` [B] beside the label.
        dtype: of the network; the state of a run stays float32.
        batched: both passes of guidance in one call.
        device: where the network is.
    """
    facts = card(name)
    if "schedule" not in facts:
        raise ValueError(f"{name} is a {facts['architecture']}, not a model to sample from; use zoo.load_model")
    model = load_model(name).to(device, dtype)
    schedule = schedules.from_name(facts["schedule"]["name"], **facts["schedule"]["parameters"])
    unconditional = {"label": model.classes}
    if facts["options"].get("guided"):
        if isinstance(guidance, torch.Tensor):
            raise ValueError(f"{name} is told the guidance: hand it over beside the label, guidance= [B]")
        model.conditioning.usual_guidance, guidance = guidance, 1.0
    return Denoiser(model, schedule, facts["prediction"], guidance, unconditional, batched, dtype)


def students(teacher: str) -> list[str]:
    """The students of a model."""
    return [facts["name"] for facts in cards() if facts.get("teacher") == teacher]


def sampler(name: str) -> tuple[str, int, dict[str, Any]] | None:
    """(solver, steps, options) that a student of the zoo is for; None for a model that any solver may sample."""
    facts = card(name).get("sampler")
    return (facts["solver"], facts["steps"], facts.get("options", {})) if facts else None


def student_plan(name: str, steps: int) -> Plan:
    """The plan of a student's own solver."""
    from ..solvers.family import make_plan

    facts = card(name)
    schedule = schedules.from_name(facts["schedule"]["name"], **facts["schedule"]["parameters"])
    solver, _, options = sampler(name)
    return make_plan(solver, schedule, steps, prediction=facts["prediction"], **options)


PLANS = FOLDER / "plans"


def plan_names(model: str | None = None) -> list[str]:
    """The trained plans of a model, such as ``gas-4``; without one ``model/name`` of all."""
    paths = sorted(PLANS.glob(f"{model or '*'}/*.json"))
    paths = [path for path in paths if not path.name.endswith(".card.json")]
    return [path.stem if model else f"{path.parent.name}/{path.stem}" for path in paths]


def plan(model: str, name: str) -> Plan:
    """The plan called ``name`` that was trained for a model of the zoo, or the plan in a file of that name.

    ValueError, with the nearest name, where there is neither.
    """
    from ..solvers import Plan

    if name.endswith(".json"):
        return Plan.load(name)
    return Plan.load(look_up(f"plan for {model}", name, {n: PLANS / model / f"{n}.json" for n in plan_names(model)}))


def plan_card(model: str, name: str) -> dict[str, Any]:
    """How a trained plan was made, and its figures."""
    look_up(f"plan for {model}", name, {n: n for n in plan_names(model)})
    return json.loads((PLANS / model / f"{name}.card.json").read_text())


def save(model: nn.Module, facts: dict[str, Any], folder: str | os.PathLike) -> None:
    """Writes ``folder/NAME.safetensors`` in half precision and the card beside it; the name is ``facts["name"]``."""
    folder = Path(folder)
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_tensors(folder / f"{facts['name']}.safetensors", tensors, {"name": facts["name"]})
    text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / f"{facts['name']}.json", lambda path: path.write_text(text))
