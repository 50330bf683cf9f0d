"""Writes the table of docs/methods.md, between its markers: every solver, trained solver, cache and student there is.

    python benchmarks/methods_table.py           # a test says when it has to be run

What can be looked up is looked up: names, papers, files and ideas in the registers, FID and costs in the zoo's cards
and in benchmarks/results, of which the newest files count:

    bench-DEVICE-DATE.json       results.json of pyaccel bench students: solvers of the teacher
    caches-DEVICE-DATE.json      results.json of pyaccel bench caching on fashion-dit
    students-DEVICE-DATE.json    benchmarks/train_students.py
    costs-DEVICE-DATE.json       benchmarks/training_costs.py

Only when to choose a method is written here. What was not measured is a dash.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

from result_files import results_of

from pyaccel import caching, zoo
from pyaccel.distill import RECIPES
from pyaccel.evaluation.searching import searched_times
from pyaccel.files import write_atomically
from pyaccel.solvers.chosen_times import dmn_times, gits_times
from pyaccel.solvers.family import SOLVERS
from pyaccel.training.solver_methods import METHODS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods.md"
BEGIN, END = "<!-- methods:begin -->\n", "<!-- methods:end -->\n"
HEAD = ("method", "paper", "file", "idea", "networks in memory", "cost of a step", "FID, 1 call", "2", "4", "choose it")
CALLS = ("1", "2", "4")
MODEL = "fashion-dit"

WHEN = {
    # solvers
    "euler": "as a baseline, and for flow-matching models that were trained with it",
    "ddim": "as a baseline; to invert images",
    "heun": "for EDM's models with tens of calls",
    "rk4": "for tight tolerances with many calls",
    "rho_rk": "where memory of past predictions is unwanted",
    "epd": "where a batch of several calls costs hardly more than one",
    "deis": "few calls on variance-preserving models",
    "rho_ab": "as deis, where steps are even in noise level",
    "lms": "to reproduce k-diffusion",
    "ipndm": "few calls on VE and EDM models",
    "ipndm_v": "as ipndm, on uneven grids",
    "pndm": "to reproduce PNDM",
    "dpm_adaptive": "where a tolerance is asked for, not a number of calls",
    "amed": "trained, at 4 to 6 calls",
    "dpm_v3": "for a model that is sampled often",
    "dpmpp": "the usual choice with strong guidance",
    "dpm": "to compare with dpmpp",
    "dpm_fast": "to reproduce DPM-Solver-fast",
    "unipc": "the default from 5 calls on",
    "unic": "a corrector for another solver at no call",
    "ddpm": "as the reference, with hundreds of calls",
    "euler_ancestral": "to reproduce its look, with tens of calls",
    "dpmpp_sde": "stochastic samples with 10 to 30 calls",
    "edm_stochastic": "EDM's models with many calls",
    "restart": "as edm_stochastic, with fewer calls",
    "euler_maruyama": "as the reference of the SDE",
    "sa_solver": "stochastic samples with 20 calls and more",
    "lcm": "for students that predict x0",
    "tcd": "for TCD's students; more detail than lcm with many calls",
    "ctm": "for CTM's students",
    "flow_map": "for students of two times that predict a flow",
    # trained solvers
    "gs": "3 to 6 calls after minutes of training",
    "gas": "as gs, where sharpness counts more than the distance",
    "ld3": "where the solver must stay and its times may move",
    "s4s": "where the times must stay",
    "s4s-alt": "as gs, with little teacher data",
    "bns": "as gs, without shifts of the time",
    "gits": "better times in seconds, without training",
    "dmn": "as gits, without asking the model",
    "search": "times for a student that adds noise on its way",
    # caches
    "auto": "the default",
    "taylorseer": "transformers, intervals of 3 to 6",
    "fora": "the simplest; intervals of 2 or 3",
    "deepcache": "U-Nets",
    "delta_dit": "little memory on a transformer, intervals of 2",
    "blockcache": "where a calibration may be made once",
    "fbcache": "where each run decides by itself",
    "dbcache": "as fbcache, with more blocks that decide",
    "teacache": "video transformers, with their published coefficients",
    "magcache": "little memory and no reads of the device, after a calibration",
    "hicache": "as taylorseer, with longer intervals",
    "pab": "video transformers of several kinds of attention",
    "easycache": "models of an unknown form",
    "dicache": "where each run decides by itself, and the residual moves",
    "speca": "where a bad forecast must not pass",
    # students
    "add": "one to four calls with a pretrained feature network",
    "ayf": "one to four calls by one student, with guidance of its own weaker self",
    "consistency": "a first student, without a discriminator; others begin with it (`--start`)",
    "consistency-fm": "a flow student of one time",
    "ctm student": "to choose the number of calls afterwards",
    "dmd": "one call, where teacher pairs are at hand",
    "dmd2": "one to four calls where pictures must be sharp, for the price of a critic",
    "kd": "the simplest: one call, from teacher pairs",
    "ladd": "one to four calls without a feature network; latents",
    "lcm student": "guided latent models, two to eight calls; as a LoRA",
    "meanflow": "any number of calls, near the teacher's own samples; can do without a teacher",
    "progressive": "eight calls and fewer, deterministic",
    "scm": "consistency without a choice of time steps, where tangents are cheap",
    "shortcut": "one student for 1 to 128 steps",
}


def rows() -> Iterator[list[str] | str]:
    """The rows, and a text before each group."""
    yield "**solvers**"
    for name, make in sorted(SOLVERS.items()):
        about = make.about
        yield _row(name, _paper(about.paper), make, about.summary, "the model", _calls_of(name), _of_solver(name))
    yield "**trained and tuned solvers**"
    for name, method in METHODS.items():
        networks = "the model; in training a discriminator" if method.adversarial else "the model"
        cost = _calls_of(method.solver) if method.solver else "as the solver"
        yield _row(name, _paper(method.paper), METHODS, method.summary, networks, cost, _of_plans(name))
    for name, make, idea in (
        ("gits", gits_times, "times by dynamic programming along the teacher's path"),
        ("dmn", dmn_times, "times by a bound of the error"),
        ("search", searched_times, "times one after the other by the FID of samples"),
    ):
        yield _row(name, _paper(inspect.getdoc(make)), make, idea, "the model", "as the solver", {})
    yield "**caches**"
    for name, make in sorted(caching.CACHES.items()):
        text, paper = inspect.getdoc(make), _paper(inspect.getmodule(make).__doc__)
        yield _row(name, paper, make, _first_sentence(text), "the model, and features", _of_cache(name), {})
    yield "**students**: networks and cost of a training step; sampling makes one call a step"
    for name, kind in sorted(RECIPES.items()):
        key = f"{name} student" if name in SOLVERS else name
        idea = _first_sentence(inspect.getmodule(kind).__doc__)
        yield _row(key, _paper(inspect.getdoc(kind)), kind, idea, *_of_training(name), _of_student(name))


def _row(name: str, paper: str, where, idea: str, networks: str, cost: str, fid: dict[str, float]) -> list[str]:
    file = where if isinstance(where, Path) else _file(where)
    shown = [_number(fid.get(calls)) for calls in CALLS]
    idea = re.sub(r":\w+:", "", idea).strip().rstrip(".").replace("|", "\\|").replace("``", "`")
    label = f"`{name.removesuffix(' student')}`"
    return [label, paper, f"[{file.name}](../{file})", idea, networks, cost or "–", *shown, WHEN[name]]


def _file(thing) -> Path:
    if thing is METHODS:
        return Path("pyaccel/training/solver_methods.py")
    return Path(inspect.getfile(inspect.unwrap(thing))).relative_to(ROOT)


def _paper(text: str) -> str:
    """Links to the first two papers that a text names."""
    numbers = list(dict.fromkeys(re.findall(r"arXiv\s+(\d{4}\.\d{4,5})", text)))
    if numbers:
        return ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in numbers[:2])
    return "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _calls_of(solver: str) -> str:
    calls = SOLVERS[solver].about.calls
    return f"{calls} ×" if calls.isdigit() else calls


def _first_sentence(text: str) -> str:
    return " ".join(text.strip().split("\n\n")[0].split()).split(". ")[0]


def _newest(kind: str) -> dict:
    found = results_of(kind)
    return found[-1][1] if found else {}


def _of_solver(name: str) -> dict[str, float]:
    """The least FID of the teacher with as many calls, of its variants and grids that were measured."""
    found: dict[str, list[float]] = {}
    for row in _newest("bench").get("rows", []):
        if row["family"] == "few steps" and name in row["solvers"] and row["fid"] is not None:
            found.setdefault(str(row["model_calls"]), []).append(row["fid"])
    searched = json.loads((zoo.PLANS / "untrained.json").read_text())[MODEL]
    for calls, entry in searched.items():
        found.setdefault(calls, []).extend(e["fid"] for e in entry["leaders"] if e["solver"] == name)
    return {calls: min(values) for calls, values in found.items() if values}


def _of_plans(method: str) -> dict[str, float]:
    """The FID of the zoo's plans, and of methods that were trained beside them."""
    found = {}
    for name in zoo.plan_names(MODEL):
        card, calls = zoo.plan_card(MODEL, name), name.rsplit("-", 1)[1]
        if card["method"] == method:
            found[calls] = card["figures"]["fid"]
        elif method in card.get("other methods", {}):
            found[calls] = card["other methods"][method]["fid"]
    return found


def _of_cache(name: str) -> str:
    """The time of a call with the cache over one without, least and most over its settings."""
    rows = _newest("caches").get("rows", [])
    shares = [row["seconds"] / rows[0]["seconds"] for row in rows if row["name"].split(":")[0] == name]
    if not shares:
        return "–"
    low, high = f"{min(shares):.2f}", f"{max(shares):.2f}"
    return f"{low} ×" if low == high else f"{low} to {high} ×"


def _of_training(name: str) -> tuple[str, str]:
    """(networks in memory, cost of a training step)."""
    row = _newest("costs").get("recipes", {}).get(name)
    if row is None:
        return "–", "–"
    names = [
        network if 0.99 < size < 1.05 else f"{network} ({size:.2g} ×)" for network, size in row["networks"].items()
    ]
    average = "average" if len(row["averaged"]) == 1 else f"{len(row['averaged'])} averages"
    passes, steps = row["ms over the teacher's forward pass"], row["ms over the teacher's step"]
    memory = row["memory over the teacher's"]
    networks = f"{', '.join(names)}; {average}; {memory:.1f} × the teacher's memory"
    return networks, f"{passes:.1f} ×; {steps:.1f} × the teacher's step"


def _of_student(name: str) -> dict[str, float]:
    """The FID of a student: of the newest training of all recipes, or else on the zoo's card."""
    for _, found in reversed(results_of("students")):
        row = found["students"].get(name, {})
        if found["teacher"] == MODEL and "calls" in row:
            return {calls: figures["fid"] for calls, figures in row["calls"].items()}
    if f"{MODEL}-{name}" not in zoo.names():
        return {}
    figures = zoo.card(f"{MODEL}-{name}")["figures"]
    return {calls: figures[f"fid, {calls} call{'s' * (calls != '1')}"] for calls in CALLS}


def table() -> str:
    """The table as Markdown."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    for row in rows():
        cells = [row, *[""] * (len(HEAD) - 1)] if isinstance(row, str) else row
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with the table as it is now; ValueError where its markers are missing."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"{PAGE} has no {BEGIN.strip()} and {END.strip()}")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}{table()}{END}{after}"


def main() -> None:
    text = page(PAGE.read_text())
    write_atomically(PAGE, lambda path: path.write_text(text))
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
