"""Measures the zoo's plans and writes the figures, with their intervals, on their cards.

    python benchmarks/measure_plans.py                     # an hour on a core: export OMP_NUM_THREADS=1
    python benchmarks/measure_plans.py --device cuda

FID, and RMSE to the teacher (UniPC with 20 calls) from the same noise, of 5000 samples. An interval holds 95 % of what
the figure becomes when the samples are drawn again from themselves; for the FID over the teacher's, both with the same
indices.
"""

from __future__ import annotations

import argparse
import json

import torch

from pyaccel import solvers, zoo
from pyaccel.evaluation.frechet import Moments, frechet_distance
from pyaccel.evaluation.paired import bootstrap, paired_change
from pyaccel.evaluation.quality import classify
from pyaccel.evaluation.sampling import fashion_reference, generate
from pyaccel.evaluation.tuning import zoo_denoiser
from pyaccel.files import write_atomically
from pyaccel.training.record import machine_of

RESAMPLES = 200


def squared_errors(images: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The mean squared difference of each image [N, ...] to the teacher's, [N] in float64."""
    return (images.double() - teacher.double()).square().flatten(1).mean(1)


def facts_of(features: torch.Tensor, base: torch.Tensor, errors: torch.Tensor, real: Moments) -> dict:
    """``figures`` and ``intervals`` of a card: ``base`` are the teacher's features, ``errors`` the squared ones."""
    count = len(features)
    fid = bootstrap(lambda drawn: frechet_distance(features[drawn], real), count, RESAMPLES)
    rmse = bootstrap(lambda drawn: float(errors[drawn].mean().sqrt()), count, RESAMPLES)
    over = paired_change(features, base, real, RESAMPLES)
    return {
        "figures": {"fid": round(fid.value, 4), "samples": count, "rmse to the teacher": round(rmse.value, 5)},
        "intervals": {
            "fid": [round(x, 4) for x in fid[1:]],
            "rmse to the teacher": [round(x, 5) for x in rmse[1:]],
            "fid over the teacher's": [round(x, 4) for x in over],
        },
    }


def teacher_facts(base: torch.Tensor, real: Moments) -> dict:
    """What the cards say of the teacher."""
    fid = bootstrap(lambda drawn: frechet_distance(base[drawn], real), len(base), RESAMPLES)
    return {"fid": round(fid.value, 4), "samples": len(base), "interval": [round(x, 4) for x in fid[1:]]}


def write(model: str, name: str, facts: dict) -> None:
    """Onto the card of a plan."""
    text = json.dumps(zoo.plan_card(model, name) | facts, indent=1, ensure_ascii=False) + "\n"
    write_atomically(zoo.PLANS / model / f"{name}.card.json", lambda path: path.write_text(text))


def measure(model: str, device: str, count: int) -> None:
    """All plans of a model."""
    classifier, reference = fashion_reference()
    classifier, denoiser = classifier.to(device), zoo_denoiser(model, device)
    teacher = generate(denoiser, solvers.unipc(denoiser.schedule, 20), count).images
    base, _ = classify(classifier, teacher)
    of_teacher = {"teacher's figures": teacher_facts(base, reference.moments)}
    print(f"{model}: {of_teacher}", flush=True)
    for name in zoo.plan_names(model):
        images = generate(denoiser, zoo.plan(model, name), count).images
        features, _ = classify(classifier, images)
        facts = facts_of(features, base, squared_errors(images, teacher), reference.moments)
        write(model, name, facts | of_teacher | {"measured on": machine_of(torch.device(device))})
        print(f"{model} {name}: {facts}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", default=["fashion-dit", "fashion-unet"])
    parser.add_argument("--count", type=int, default=5000)
    a = parser.parse_args()
    for model in a.models:
        measure(model, a.device, a.count)


if __name__ == "__main__":
    main()
