"""Trains the zoo's plans, all of them in one process and within a time: for a GPU that is there for minutes.

    python benchmarks/train_plans.py --device cuda --budget 170 --out plans-run.json   # one file holds everything
    python benchmarks/train_plans.py --install plans-run.json                          # into pyaccel/zoo/plans
    python benchmarks/measure_plans.py                                                 # their figures, with intervals

Teacher data are made first, in memory; then each plan gets its share of what time is left, by its number of calls. GAS
begins where GS of the same model and calls ended. The result is written after each plan, so a run that is cut off has
given all that it had finished. With few samples and iterations it runs on a CPU too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path

import torch

from pyaccel import solvers, zoo
from pyaccel.evaluation.frechet import frechet_distance
from pyaccel.evaluation.quality import classify, rmse
from pyaccel.evaluation.sampling import fashion_reference, generate
from pyaccel.evaluation.teaching import class_labels, sample_shape, teacher_plan, teacher_spec
from pyaccel.evaluation.training_figure import training_figure
from pyaccel.evaluation.tuning import Job, card, make_trainer, zoo_denoiser
from pyaccel.files import write_atomically
from pyaccel.seeding import sample_noise
from pyaccel.solvers import files
from pyaccel.training.solver_config import SolverConfig
from pyaccel.training.teacher import TeacherData

ZOO = ("gs", "gas")  # others are trained at four calls, and their figures stand on the card of GS
PROBE = 20  # steps after which it is known how many there will be; the warm-up, so they do not depend on it


class Clock:
    """Seconds since the start, out of a budget."""

    def __init__(self, budget: float):
        self.begun, self.budget = time.monotonic(), budget

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.begun

    @property
    def left(self) -> float:
        """Seconds until the budget is spent."""
        return self.budget - self.spent

    def say(self, text: str) -> None:
        """Prints with the time."""
        print(f"[{self.spent:6.1f} s] {text}", flush=True)


def teacher_of(model: str, denoiser, count: int, batch: int):
    """(teacher data on the denoiser's device, how they were made)."""
    spec = teacher_spec(model, denoiser, count)
    plan, noise = teacher_plan(denoiser, spec), sample_noise(spec.seed, range(count), sample_shape(denoiser))
    asked = TeacherData(noise, noise, class_labels(denoiser)(range(count))).to(next(denoiser.model.parameters()).device)
    samples = torch.cat([plan.sample(denoiser, x, **given) for x, _, given in asked.batches(batch)])
    return dataclasses.replace(asked, samples=samples), spec


def figures_of(denoiser, plan, count: int, truth: torch.Tensor | None, seed: int = 0) -> tuple[dict, torch.Tensor]:
    """(FID of ``count`` samples with this seed and RMSE to the teacher's, the samples)."""
    classifier, reference = fashion_reference()
    images = generate(denoiser, plan, count, seed=seed, batch=1000 if denoiser_on_gpu(denoiser) else 250).images
    features, _ = classify(classifier, images)
    found = {"fid": round(frechet_distance(features, reference.moments), 4), "samples": count}
    return found | ({} if truth is None else {"rmse to the teacher": round(rmse(images, truth), 5)}), images


def untrained(model: str, schedule, calls: int) -> list[tuple]:
    """(name, plan) of solvers without training: two usual ones, and the best one where it was searched."""
    found = [("unipc", solvers.unipc(schedule, calls)), ("dpmpp 3M", solvers.dpmpp(schedule, calls, order=3))]
    path = zoo.PLANS / "untrained.json"
    known = json.loads(path.read_text()).get(model, {}) if path.exists() else {}
    if str(calls) in known:
        best = known[str(calls)]["leaders"][0]
        make = solvers.from_name(best["solver"])
        found.append((f"best ({best['name']})", make(schedule, best["steps"], grid=best["grid"], **best["options"])))
    return found


def denoiser_on_gpu(denoiser) -> bool:
    """Whether the network is on a GPU."""
    return next(denoiser.model.parameters()).device.type == "cuda"


def jobs(a) -> list[Job]:
    """In the order in which they matter: four calls first; GAS after the GS that it begins with."""
    order = sorted(a.steps, key=lambda n: (n != 4, n))
    changes = {
        "batch_size": a.batch_size, "learning_rate": a.learning_rate, "objective": a.objective, "pixels": a.pixels,
        "time_factor": a.time_factor, "warmup": PROBE, "ema": a.ema,
        "validate_every": a.validate_every, "steps": a.iterations,
    }  # fmt: skip
    gas = {"adversarial": a.adversarial, "discriminator_rate": a.discriminator_rate, "gamma": a.gamma}
    result = []
    for n in order:
        for seed in range(a.seeds if n == 4 else 1):
            for method in a.methods:
                if method not in ZOO and (n != 4 or seed):
                    continue  # a comparison
                more = gas if method == "gas" else {}
                options = {"order": 3} if a.solver == "dpmpp" else {}
                result += [
                    Job(m, n, method, a.solver, options, a.grid, changes={**changes, **more, "seed": seed})
                    for m in a.models
                ]
    return result


def train(job: Job, clock: Clock, share: float, a, denoiser, data, spec, start):
    """The trainer when it is done: its number of steps is what fits into ``share`` seconds."""
    folder = Path(a.work) / f"{job.model}-{job.method}-{job.steps}-{job.changes['seed']}"
    trainer = make_trainer(job, denoiser, data, folder, held_out=a.held_out, start=start)
    trainer.graph, trainer.checkpoint_seconds = a.graph, math.inf
    trainer._record()
    trainer.save = lambda: None  # the best plan is in the result; nobody will go on from here
    began = time.monotonic()
    trainer.fit(progress=False, steps=PROBE // 2)
    half = time.monotonic()
    trainer.fit(progress=False, steps=PROBE - PROBE // 2)
    each = (time.monotonic() - half) / (PROBE - PROBE // 2)
    left = share - (time.monotonic() - began)
    steps = max(PROBE + 1, min(a.iterations, trainer.step + int(left / each)))
    trainer.config = dataclasses.replace(trainer.config, steps=steps)
    trainer.total = steps
    trainer.fit(progress=False, seconds=1.3 * max(left, each))
    name = f"{job.model} {job.method}-{job.steps} seed {job.changes['seed']}"
    clock.say(
        f"{name}: {trainer.step} steps, {each * 1e3:.1f} ms each, "
        f"validation {trainer.validations[0][1]:.4f} -> {trainer.best_score:.4f} at {trainer.best_step}"
    )
    return trainer


def tried(a, clock: Clock, model: str, denoiser, data, spec) -> dict:
    """The settings of ``--try`` with which GS at four calls comes out best, in a few seconds each.

    Best is the least sum of FID over the teacher's and of RMSE over that of the start, on noise of another seed than
    the figures'.
    """
    count = min(2000, a.measure_count)
    base, truth = figures_of(denoiser, solvers.unipc(denoiser.schedule, 20), count, None, seed=1)
    start, _ = figures_of(denoiser, solvers.unipc(denoiser.schedule, 4), count, truth, seed=1)
    best, least = {}, math.inf
    for settings in a.try_settings:
        changes = {k: v for k, v in settings.items() if k in {f.name for f in dataclasses.fields(SolverConfig)}}
        (job,) = (j for j in jobs(a) if (j.model, j.steps, j.method, j.changes["seed"]) == (model, 4, "gs", 0))
        job = dataclasses.replace(job, changes={**job.changes, **changes}, grid=settings.get("grid", job.grid))
        trainer = train(job, clock, a.try_seconds, a, denoiser, data, spec, None)
        found, _ = figures_of(denoiser, trainer.best.plan("gs"), count, truth, seed=1)
        score = found["fid"] / base["fid"] + found["rmse to the teacher"] / start["rmse to the teacher"]
        clock.say(f"{model}: with {settings} {found}, score {score:.4f}")
        if score < least:
            best, least = settings, score
    clock.say(f"{model}: {best} is best")
    return best


def run(a) -> None:
    """All plans."""
    clock, measured = Clock(a.budget), 0.0
    torch.set_float32_matmul_precision("high" if a.tf32 else "highest")
    denoisers, data, specs, truth, results = {}, {}, {}, {}, {"models": {}, "plans": []}
    fashion_reference()[0].to(a.device)
    for model in a.models:
        denoisers[model] = zoo_denoiser(model, a.device)
        data[model], specs[model] = teacher_of(model, denoisers[model], a.count, a.teacher_batch)
        clock.say(f"{model}: {a.count} teacher samples")
        plan = solvers.unipc(denoisers[model].schedule, 20)
        teacher, truth[model] = figures_of(denoisers[model], plan, a.measure_count, None)
        results["models"][model] = {"teacher": teacher, "untrained": {}}
        clock.say(f"{model}: teacher {teacher}")
        began = clock.spent
        for n in a.steps:
            for name, plan in untrained(model, denoisers[model].schedule, n):
                found, _ = figures_of(denoisers[model], plan, a.measure_count, truth[model])
                results["models"][model]["untrained"][f"{name}, {n}"] = found
        measured += clock.spent - began
        clock.say(f"{model}: untrained {results['models'][model]['untrained']}")
    left, ended = jobs(a), {}
    if a.try_settings:
        for model in a.models:
            best = dict(tried(a, clock, model, denoisers[model], data[model], specs[model]))
            grid = best.pop("grid", None)
            results["models"][model]["settings"] = best | {"grid": grid}
            left = [
                dataclasses.replace(job, changes={**job.changes, **best}, grid=grid or job.grid)
                if job.model == model
                else job
                for job in left
            ]
    each_measure = max(0.5, measured / max(1, 2 * len(a.models) * len(a.steps)))
    while left:
        job = left.pop(0)
        weights = [other.steps for other in (job, *left)]
        share = (clock.left - each_measure * len(weights) - 2) * job.steps / sum(weights)
        if share < 1:
            clock.say(f"no time is left for {job.model} {job.method}-{job.steps} and {len(left)} more")
            break
        key = (job.model, job.steps, job.changes["seed"])
        start = ended.get(key) if job.method == "gas" else None
        model = job.model
        trainer = train(job, clock, share, a, denoisers[model], data[model], specs[model], start)
        if job.method == "gs":
            ended[key] = {name: p.clone() for name, p in trainer.best.state_dict().items()}
        plan = trainer.best.plan(job.method, method=job.method, model=model)
        figures, _ = figures_of(denoisers[model], plan, a.measure_count, truth[model])
        facts = card(job, trainer, figures, specs[model])
        if start is not None:
            facts["starts from"] = {"plan": f"gs-{job.steps}"} | facts["starts from"]
        results["plans"].append(
            {
                "model": model, "name": f"{job.method}-{job.steps}", "seed": job.changes["seed"], "card": facts,
                "plan": files.to_data(plan), "start": files.to_data(trainer.trainable.origin),
                "validations": trainer.validations, "history": trainer.history,
            }
        )  # fmt: skip
        clock.say(f"{model} {job.method}-{job.steps} seed {job.changes['seed']}: {figures}")
        write_atomically(a.out, lambda path: path.write_text(json.dumps(results)))
    clock.say(f"done: {a.out}")


def install(path: Path, figures: Path | None) -> None:
    """Plans and cards of a run's file into the zoo, of several seeds the first; pictures of them into ``figures``."""
    results = json.loads(path.read_text())
    for entry in results["plans"]:
        if entry["seed"] or entry["card"]["method"] not in ZOO:
            continue
        folder, name = zoo.PLANS / entry["model"], entry["name"]
        plan, start = files.from_data(entry["plan"]), files.from_data(entry["start"])
        plan.save(folder / f"{name}.json")
        others = [e for e in results["plans"] if (e["model"], e["name"]) == (entry["model"], name) and e["seed"]]
        facts = entry["card"] | {"other seeds": [e["card"]["figures"] for e in others]} if others else entry["card"]
        beside = {
            e["card"]["method"]: e["card"]["figures"]
            for e in results["plans"]
            if e["model"] == entry["model"] and e["card"]["method"] not in ZOO
        }
        if name == "gs-4" and beside:
            facts["other methods"] = beside
        facts["teacher's figures"] = results["models"][entry["model"]]["teacher"]
        _write_card(folder / f"{name}.card.json", facts)
        if figures:
            picture = figures / f"trained-{entry['model']}-{name}.png"
            training_figure(picture, start, plan, [tuple(v) for v in entry["validations"]])
        print(f"{entry['model']} {name}: {facts['figures']}")


def _write_card(path: Path, facts: dict) -> None:
    text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def names(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    add = parser.add_argument
    add("--device", default="cpu")
    add("--budget", type=float, default=170.0, help="seconds for everything")
    add("--models", type=names, default=["fashion-dit", "fashion-unet"])
    add("--methods", type=names, default=["gs", "gas", "ld3"])
    add("--steps", type=numbers, default=[3, 4, 5, 6])
    add("--seeds", type=int, default=1, help="trainings of each plan of four calls")
    add("--count", type=int, default=5000, help="teacher samples")
    add("--held-out", type=int, default=500, help="of them, for validation")
    add("--teacher-batch", type=int, default=1000)
    add("--measure-count", type=int, default=5000, help="samples for FID and RMSE")
    add("--solver", default="dpmpp", help="that training starts from")
    add("--grid", default=None)
    add("--batch-size", type=int, default=64)
    add("--iterations", type=int, default=3000, help="at most")
    add("--learning-rate", type=float, default=1e-2)
    add("--time-factor", type=float, default=5.0, help="rate of the times over that of the rest")
    add("--objective", default="features")
    add("--pixels", type=float, default=3.0, help="weight of pixels beside features")
    add(
        "--try",
        dest="try_settings",
        type=json.loads,
        default=[],
        metavar="JSON",
        help='settings to choose from by GS at 4 calls, e.g. [{"pixels": 3}, {"pixels": 10}, {"objective": "l1"}]',
    )
    add("--try-seconds", type=float, default=8.0)
    add("--ema", type=float, default=0.99)
    add("--validate-every", type=int, default=150)
    add("--adversarial", type=float, default=0.01)
    add("--discriminator-rate", type=float, default=2e-4)
    add("--gamma", type=float, default=0.2)
    add("--graph", action=argparse.BooleanOptionalAction, default=True, help="CUDA graphs")
    add("--tf32", action=argparse.BooleanOptionalAction, default=False, help="for matrix products on a GPU")
    add("--work", default="runs/plans")
    add("--out", type=Path, default=Path("plans-run.json"))
    add("--install", type=Path, metavar="FILE", help="put the plans of a run into the zoo; nothing is trained")
    add("--figures", type=Path, metavar="FOLDER", help="with --install: pictures of what training changed")
    a = parser.parse_args()
    if a.install:
        install(a.install, a.figures)
    else:
        run(a)


if __name__ == "__main__":
    main()
