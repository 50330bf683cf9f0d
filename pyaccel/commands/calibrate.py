"""``pyaccel calibrate``: how much each part of a model changes from step to step, as a file and a picture."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Measure what changes from step to step, for blockcache, teacache and magcache.")
@click.option("--model", required=True, help="A model of the zoo; see: pyaccel models.")
@click.option("--solver", default="euler", show_default=True)
@click.option(
    "--steps", type=click.IntRange(2), default=50, show_default=True, help="As many as the cached runs will have."
)
@click.option("--count", type=click.IntRange(1), default=16, show_default=True, help="Samples to measure on.")
@click.option("--seed", type=click.IntRange(0), default=100, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="FILE.json; a picture FILE.png lies beside it."
)
def calibrate(model: str, solver: str, steps: int, count: int, seed: int, out: Path) -> None:
    """Measure how much each branch of a model changes from step to step.

    The file holds what three caches want to know: a schedule for each branch (blockcache), the polynomial of teacache
    and the magnitudes of magcache. Use it as: pyaccel sample --cache blockcache -c calibration=FILE.json ...
    """
    if out.suffix != ".json":
        raise ValueError(f"--out must end in .json, got {str(out)!r}")
    from .. import caching, zoo
    from ..evaluation.heat_map import heat_map
    from ..evaluation.sampling import labels_of
    from ..progress import progress_bar
    from ..seeding import sample_noise
    from ..solvers.family import make_plan

    denoiser = zoo.load(model)
    network = denoiser.model
    plan = make_plan(solver, denoiser.schedule, steps)
    shape, labels = (network.channels, network.size, network.size), labels_of(range(count), [*range(network.classes)])
    with progress_bar("calibrating", plan.calls) as bar:
        noise = sample_noise(seed, range(count), shape)
        run = lambda: plan.sample(denoiser, noise, label=labels, callback=lambda *_: bar.advance())  # noqa: E731
        found = caching.calibrate(network, [run])
    found.save(out)
    picture = out.with_suffix(".png")
    columns = [list(column) for column in zip(*found.change, strict=True)]
    heat_map(picture, columns, found.sites, f"{model}: change of each branch from step to step")
    print(f"{len(found.sites)} branches over {found.steps} steps: {out}, {picture}")
