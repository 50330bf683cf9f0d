"""The best solver and grid without training: every deterministic solver on every grid at a number of calls.

All candidates are screened by their Fréchet distance with few images; those that lead, and those nearest to the exact
solution, are measured with many. Writes pyaccel/zoo/plans/untrained.json, against which trained plans are judged.

    python benchmarks/best_untrained.py --model fashion-dit --calls 4
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import torch

from pyaccel import solvers, zoo
from pyaccel.evaluation.bench.variants import VARIANTS, plan_within
from pyaccel.evaluation.frechet import frechet_distance
from pyaccel.evaluation.quality import classify, rmse
from pyaccel.evaluation.sampling import fashion_reference, generate
from pyaccel.files import write_atomically
from pyaccel.time_grids import GRIDS

KNOWN = zoo.PLANS / "untrained.json"


def candidates(schedule, calls: int) -> dict[str, tuple]:
    """Plans with exactly so many calls, each table once: name -> (variant, grid, plan)."""
    found, seen = {}, []
    for variant, grid in itertools.product(VARIANTS, GRIDS):
        try:
            plan = plan_within(variant, schedule, calls, grid)
        except ValueError:
            continue
        if plan is None or plan.calls != calls:
            continue
        table = (plan.start, plan.stages, plan.output)
        if table not in seen:
            seen.append(table)
            found[f"{variant.name}, {grid}"] = (variant, grid, plan)
    return found


def measured(denoiser, plan, count: int, truth: torch.Tensor) -> tuple[float, float]:
    """(Fréchet distance of ``count`` samples with seed 0, RMSE of the first ones to the teacher's)."""
    classifier, reference = fashion_reference()
    images = generate(denoiser, plan, count).images
    if not torch.isfinite(images).all():
        return float("inf"), float("inf")
    features, _ = classify(classifier, images)
    return frechet_distance(features, reference.moments), rmse(images[: len(truth)], truth)


def search(model: str, calls: int, few: int, many: int, device: str) -> dict:
    """The ranking, best first by Fréchet distance."""
    denoiser = zoo.load(model, device=device)
    fashion_reference()[0].to(device)
    teacher = generate(denoiser, solvers.unipc(denoiser.schedule, 20), max(few, 500)).images
    plans = candidates(denoiser.schedule, calls)
    print(f"{model}: {len(plans)} candidates with {calls} calls", flush=True)
    screened = {}
    for name, (_, _, plan) in plans.items():
        screened[name] = measured(denoiser, plan, few, teacher[:few])
        print(f"  {screened[name][0]:9.3f} {screened[name][1]:7.4f}  {name}", flush=True)
    leaders = sorted(screened, key=lambda name: screened[name][0])[:6]
    leaders += [n for n in sorted(screened, key=lambda name: screened[name][1])[:3] if n not in leaders]
    rows = []
    for name in leaders:
        variant, grid, plan = plans[name]
        fid, error = measured(denoiser, plan, many, teacher[:500])
        rows.append(
            {"name": name, "solver": variant.solver, "options": variant.options, "grid": grid, "steps": plan.steps,
             "fid": round(fid, 4), "rmse to the teacher": round(error, 5)}
        )  # fmt: skip
        print(f"* {fid:9.3f} {error:7.4f}  {name}", flush=True)
    rows.sort(key=lambda row: row["fid"])
    return {"candidates": len(plans), "screened with": few, "measured with": many, "leaders": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="fashion-dit")
    parser.add_argument("--calls", type=int, default=4)
    parser.add_argument("--few", type=int, default=300, help="images to screen with")
    parser.add_argument("--many", type=int, default=5000, help="images to measure the leaders with")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=KNOWN)
    a = parser.parse_args()
    known = json.loads(a.out.read_text()) if a.out.exists() else {}
    result = search(a.model, a.calls, a.few, a.many, a.device)
    known = json.loads(a.out.read_text()) if a.out.exists() else known  # another model's search may have ended
    known.setdefault(a.model, {})[str(a.calls)] = result
    write_atomically(a.out, lambda path: path.write_text(json.dumps(known, indent=1) + "\n"))


if __name__ == "__main__":
    main()
