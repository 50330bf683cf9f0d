"""The rows of ``pyaccel bench students``: the teacher, its solvers, its students, and these with a plan or a cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import caching, solvers, zoo
from ...names import look_up
from ...schedules import Schedule
from ...solvers import Plan
from ..bench.variants import chosen, plan_within

SOLVERS = ("DDIM", "DPM-Solver++(2M)", "DPM-Solver++(3M)", "UniPC-3 (B2)", "DEIS-tAB3")
STUDENT_CALLS = (1, 2, 4)


@dataclass(frozen=True)
class CacheChoice:
    """A cache for students at so many calls; ``options`` are the method's own."""

    method: str = "taylorseer"
    calls: tuple[int, ...] = (8,)
    options: Mapping[str, Any] = field(default_factory=lambda: {"interval": 2, "order": 1, "warmup": 1})

    def __post_init__(self):
        make = look_up("cache", self.method, caching.CACHES)
        for key in self.options:
            look_up(f"option of {self.method}", key, caching.options_of(make))

    def make(self, model) -> caching.Cache:
        """The cache on a model."""
        return caching.CACHES[self.method](model, **self.options)


@dataclass(frozen=True)
class Row:
    """One row: ``model`` by ``plan``, in pairs with the row ``against``.

    ``line`` joins rows of one method in the figure. ``follows`` says whether its samples should be the teacher's own.
    ``solvers`` are those that make this plan, where there are several.
    """

    name: str
    family: str
    line: str
    model: str
    plan: Plan
    against: str | None = None
    cache: CacheChoice | None = None
    follows: bool = True
    solvers: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, Any]:
        """What the results say of the row beside what is measured."""
        solvers = list(self.solvers or (self.plan.solver,))
        return {"family": self.family, "line": self.line, "model": self.model, "solvers": solvers}


def rows(
    model: str,
    schedule: Schedule,
    calls: Sequence[int],
    only: Sequence[str] | None = None,
    students: Sequence[str] | None = None,
    plans: Mapping[str, Sequence[str]] | None = None,
    cache: CacheChoice | None = None,
    teacher_steps: int = 20,
) -> list[Row]:
    """All rows, the teacher with many calls first.

    Args:
        model, schedule: the teacher.
        calls: of its solvers.
        only: names of these, or "all"; default :data:`SOLVERS`.
        students: names of the zoo or NAME.safetensors; default all of the zoo's.
        plans: for a student the plans that stand beside its own sampler, besides the zoo's for it: files or names.
        cache: for students.

    Raises ValueError for unknown names, for students of another teacher, and for plans of a student that is not there.
    """
    students = zoo.students(model) if students is None else list(students)
    plans = dict(plans or {})
    for student in plans:
        look_up("student with a plan", student, dict.fromkeys(students))
    found = [Row(f"teacher, UniPC, {teacher_steps} calls", "baseline", "teacher", model,
                 solvers.unipc(schedule, teacher_steps))]  # fmt: skip
    found += _of_teacher(model, schedule, calls, only)
    for student in students:
        found += _of_student(model, student, plans.get(student, ()), cache)
    twice = {row.name for row in found if [other.name for other in found].count(row.name) > 1}
    if twice:
        raise ValueError(f"two rows are called {sorted(twice)[0]}; give their files other names")
    return found


def _of_teacher(model: str, schedule: Schedule, calls: Sequence[int], only: Sequence[str] | None) -> Iterator[Row]:
    found: dict[str, Row] = {}
    for variant in chosen(None if only == ["all"] else only or SOLVERS):
        for budget in calls:
            plan = plan_within(variant, schedule, budget)
            if plan is None or plan.calls != budget:
                continue
            table = repr((plan.start, plan.stages, plan.output))
            row = found.get(table) or Row(f"{variant.name}, {_calls(budget)}", "few steps", variant.name, model, plan)
            of_both = tuple(dict.fromkeys((*row.solvers, plan.solver)))  # with one call most are Euler's
            found[table] = dataclasses.replace(row, solvers=of_both)
    yield from found.values()
    for name in zoo.plan_names(model):
        plan = zoo.plan(model, name)
        line = f"{name.split('-')[0].upper()}, trained"
        yield Row(f"{line}, {_calls(plan.calls)}", "trained solvers", line, model, plan)


def _of_student(teacher: str, student: str, plans: Sequence[str], cache: CacheChoice | None) -> Iterator[Row]:
    facts, sampler = zoo.card(student), zoo.sampler(student)
    if sampler is None or facts.get("teacher") != teacher:
        raise ValueError(f"{student} is no student of {teacher}: its card names {facts.get('teacher') or 'no teacher'}")
    short = facts["name"].removeprefix(f"{teacher}-")
    of_its_own: dict[int, str] = {}

    def own(calls: int) -> Iterator[Row]:
        """By its own sampler, once for each number of calls."""
        if calls not in of_its_own:
            of_its_own[calls] = f"{short}, {_calls(calls)}"
            plan = zoo.student_plan(student, calls)
            yield Row(of_its_own[calls], "students", short, student, plan, follows=not plan.stochastic)

    for calls in STUDENT_CALLS:
        yield from own(calls)
    names = zoo.plan_names(student) if student in zoo.names() else []
    for name in [*names, *plans]:
        plan = zoo.plan(student, name)
        yield from own(plan.calls)
        label = f"{short} + {_tuned(facts['name'], plan, name)}, {_calls(plan.calls)}"
        yield Row(label, "students, tuned", short, student, plan, of_its_own[plan.calls], follows=not plan.stochastic)
    for calls in cache.calls if cache else ():
        yield from own(calls)
        plan = zoo.student_plan(student, calls)
        label = f"{short} + {cache.method}, {_calls(calls)}"
        yield Row(
            label, "students, cached", short, student, plan, of_its_own[calls], cache, follows=not plan.stochastic
        )


def _tuned(student: str, plan: Plan, name: str) -> str:
    """What a plan is called: its method, or its file, or the file's folder, which pyaccel tune-solver names."""
    path = Path(name)
    stem = path.resolve().parent.name if path.name == "plan.json" else path.stem
    return plan.options.get("method") or stem.removeprefix(f"{student}-")


def _calls(count: int) -> str:
    return f"{count} call{'s' if count > 1 else ''}"
