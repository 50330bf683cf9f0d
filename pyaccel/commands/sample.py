"""``pyaccel sample``: samples of a model of the zoo by any solver."""

from __future__ import annotations

from pathlib import Path

import click

from .options import parse_options


@click.command(short_help="Draw samples from a model of the zoo.")
@click.option("--model", required=True, help="A model of the zoo; see: pyaccel models.")
@click.option("--solver", help="Any, see: pyaccel solvers; default: unipc, and for a student its own.")
@click.option("--steps", type=int, help="Default: 8, and for a student 1.")
@click.option("--plan", "plan_name", help="A trained plan of the zoo, e.g. gas-4, or FILE.json; instead of a solver.")
@click.option("--solver-order", type=int, help="The same as -o order=N; default: the solver's own.")
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="Of the solver, e.g. -o eta=0.5.")
@click.option("--grid", help="uniform, quadratic, log_snr, karras, ...; default: the solver's own.")
@click.option("--cache", "cache_name", help="taylorseer, deepcache, fbcache, ...; see: docs/caching.md.")
@click.option(
    "-c", "--cache-option", "cache_options", multiple=True, metavar="KEY=VALUE", help="Of it, e.g. -c threshold=0.1."
)
@click.option("--interval", type=int, help="The same as -c interval=N: in full every N-th step.")
@click.option("--order", type=int, help="The same as -c order=N: of the cache's polynomial.")
@click.option("--count", type=int, default=64, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of all noise; sample i depends on it and i.")
@click.option("--classes", help="Labels to cycle through, e.g. 0,3; default: all.")
@click.option("--guidance", type=float, default=1.0, show_default=True, help="Classifier-free guidance; 1 is none.")
@click.option("--batch", type=int, default=250, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="FILE.png (a grid) or FILE.safetensors.")
def sample(
    model: str,
    solver: str | None,
    steps: int | None,
    plan_name: str | None,
    solver_order: int | None,
    options: tuple[str, ...],
    grid: str | None,
    cache_name: str | None,
    cache_options: tuple[str, ...],
    interval: int | None,
    order: int | None,
    count: int,
    seed: int,
    classes: str | None,
    guidance: float,
    batch: int,
    out: Path,
) -> None:
    """Draw samples from a model of the zoo, by any solver and optionally with a feature cache.

    Models: see pyaccel models. Solvers: see pyaccel solvers; what one does step by step: see pyaccel plan NAME. Trained
    plans, pyaccel tune-solver makes them, are taken by --plan.
    """
    if out.suffix not in (".png", ".safetensors"):
        raise ValueError(f"--out must end in .png or .safetensors, got {str(out)!r}")
    if batch < 1:
        raise ValueError(f"--batch must be at least 1, got {batch}")
    settings = parse_options(options)
    if plan_name is not None:
        source = click.get_current_context().get_parameter_source
        beside = ("solver", "steps", "solver_order", "options", "grid")
        given = [name for name in beside if source(name) is click.core.ParameterSource.COMMANDLINE]
        if given:
            named = ", ".join("-o" if name == "options" else f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(f"--plan is a whole solver: {named} cannot be given beside it")
    if solver_order is not None:
        if "order" in settings:
            raise ValueError("--solver-order and -o order= are the same; give one of them")
        settings["order"] = solver_order

    from .. import caching, zoo
    from ..evaluation import image_grid
    from ..evaluation.sampling import generate
    from ..names import look_up
    from ..progress import progress_bar
    from ..solvers.family import make_plan
    from ..training.checkpoints import save_tensors

    denoiser = zoo.load(model, guidance=guidance)
    if plan_name is not None:
        plan = zoo.plan(model, plan_name)
    else:
        own_solver, own_steps, own_options = zoo.sampler(model) or ("unipc", 8, {})
        if solver in (None, own_solver):
            settings = own_options | ({"grid": grid} if grid else {}) | settings
        solver, steps = solver or own_solver, own_steps if steps is None else steps
        plan = make_plan(
            solver, denoiser.schedule, steps, **{"grid": grid, "prediction": denoiser.prediction, **settings}
        )
    of_cache = parse_options(cache_options)
    for key, value in (("interval", interval), ("order", order)):
        if value is not None and of_cache.setdefault(key, value) != value:
            raise ValueError(f"--{key} and -c {key}= are the same; give one of them")
    if of_cache and cache_name is None:
        raise ValueError(f"{', '.join(of_cache)}: options of a cache, but there is none; name it: --cache taylorseer")
    cache = None
    if cache_name is not None:
        make = look_up("cache", cache_name, caching.CACHES)
        for key in of_cache:
            look_up(f"option of {cache_name}", key, caching.options_of(make))
        cache = make(denoiser.model, **of_cache)
    with progress_bar(f"sampling {model}", count) as bar:
        result = generate(
            denoiser, plan, count, seed=seed, classes=_numbers(classes), cache=cache, batch=batch, bar=bar
        )
    if out.suffix == ".png":
        image_grid(out, result.images)
    else:
        facts = {
            "seconds": f"{result.seconds:.6f}",
            "model_calls": str(result.model_calls),
            "full_calls": str(result.full_calls),
        }
        save_tensors(out, {"samples": result.images, "labels": result.labels}, facts)
    print(
        f"{count} samples in {result.seconds:.2f} s ({result.model_calls} model calls, {result.full_calls} of them "
        f"in full): {out}"
    )


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--classes must be whole numbers with commas between, e.g. 0,3; got {text!r}") from None
