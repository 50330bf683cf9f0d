"""``pyaccel plan``: a sampler as the table that it is, and as a picture."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import make_schedule, parse_options, traced_plan

if TYPE_CHECKING:
    from ..solvers import Plan

LATENT = (1, 4, 64, 64)


@click.command(short_help="Print a solver's table of coefficients; draw it; save it.")
@click.argument("name")
@click.option("--steps", type=int, default=8, show_default=True, help="Intervals of the time grid.")
@click.option("--schedule", help="E.g. flow, vp_linear, vp_cosine, edm, ve; default: flow.")
@click.option("--shift", type=float, help="Of a schedule that has one, such as flow.")
@click.option("--grid", help="uniform, quadratic, log_snr, karras, ...; default: the solver's own.")
@click.option("--prediction", help="What the model returns: epsilon, sample, v or flow; default: by the schedule.")
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="Of the solver, e.g. -o order=3.")
@click.option("--plot", is_flag=False, flag_value="", metavar="[FILE.png]", help="Draw it; default: NAME.png.")
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE.json", help="For solvers.Plan.load.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON, as --save writes it.")
def plan(
    name: str,
    steps: int,
    schedule: str | None,
    shift: float | None,
    grid: str | None,
    prediction: str | None,
    options: tuple[str, ...],
    plot: str | None,
    save: Path | None,
    as_json: bool,
) -> None:
    """Print the table of a solver: its points, its coefficients and what it costs.

    NAME is a solver of pyaccel (see pyaccel solvers), a plan in a file, or the scheduler_config.json of a pipeline of
    diffusers, whose scheduler is then probed and turned into a table.

    r0, r1, … are the tensors that a run holds, m(r0) is the model's prediction at r0, and ξ0, ξ1, … are draws of noise.
    """
    picture = None if plot is None else Path(plot or f"{Path(name).stem}.png")
    if picture is not None and picture.suffix != ".png":
        raise ValueError(f"--plot must end in .png, got {str(picture)!r}")
    from .. import solvers
    from ..solvers.family import make_plan

    settings = {"grid": grid, "prediction": prediction, **parse_options(options)}
    if name.endswith(".json") and '"pyaccel plan"' in Path(name).read_text()[:200]:
        table = solvers.Plan.load(name)
    elif name.endswith(".json"):
        table = traced_plan(Path(name), steps, schedule=schedule, shift=shift, **settings)
    else:
        table = make_plan(name, make_schedule(schedule or "flow", shift), steps, **settings)
    if picture is not None:
        from ..evaluation.plan_figure import plan_figure

        plan_figure(picture, table)
    if save is not None:
        table.save(save)
    if as_json:
        print(_json(table))
        return
    print(table)
    cost = table.cost(LATENT)
    print(
        f"cost: {cost.calls} model calls; beside them {cost.launches} launches that move {cost.bytes / 1e6:.2f} MB for "
        f"a {'×'.join(map(str, LATENT))} latent in float32"
    )
    for what, path in (("plot", picture), ("plan", save)):
        if path is not None:
            print(f"{what}: {path}")


def _json(table: Plan) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "plan.json")
        table.save(path)
        return path.read_text()
