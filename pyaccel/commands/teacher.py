"""``pyaccel teacher``: samples of a good solver, to train few-step solvers on."""

from __future__ import annotations

import os
from pathlib import Path

import click

from .options import parse_options


@click.command(short_help="Make a teacher's samples, to train solvers on.")
@click.option("--model", required=True, help="A model of the zoo; see: pyaccel models.")
@click.option("--solver", default="unipc", show_default=True, help="The teacher's; see: pyaccel solvers.")
@click.option("--steps", type=click.IntRange(1), default=20, show_default=True)
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="Of the solver, e.g. -o order=2.")
@click.option("--count", type=click.IntRange(1), default=5000, show_default=True)
@click.option("--seed", type=click.IntRange(0), help="Of the noise; default: one that no report uses.")
@click.option("--guidance", type=float, default=1.0, show_default=True)
@click.option("--shard", type=click.IntRange(1), default=250, show_default=True, help="Samples in a file.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder.")
@click.option("--progress/--no-progress", default=True, show_default=True)
def teacher(
    model: str,
    solver: str,
    steps: int,
    options: tuple[str, ...],
    count: int,
    seed: int | None,
    guidance: float,
    shard: int,
    dtype: str,
    device: str,
    out: Path,
    progress: bool,
) -> None:
    """Make samples of a model by a good solver, with the seeds of their noise, in shards with checksums.

    A run that was stopped goes on with the same command, which also makes missing and damaged shards anew. Under
    torchrun each rank makes its share of the shards, on its own GPU.
    """
    import torch

    from ..evaluation.teaching import TEACHER_SEED, make_teacher, teacher_spec
    from ..evaluation.tuning import zoo_denoiser
    from ..progress import progress_bar

    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    denoiser = zoo_denoiser(model, device, guidance, getattr(torch, dtype))
    spec = teacher_spec(
        model, denoiser, count, solver=solver, steps=steps, seed=TEACHER_SEED if seed is None else seed,
        options=parse_options(options), shard=shard,
    )  # fmt: skip
    mine = sum(len(indices) for indices in spec.shards()[rank::ranks])
    with progress_bar(f"teacher {model}", mine, progress and rank == 0) as bar:
        made = make_teacher(out, denoiser, spec, rank=rank, ranks=ranks, progress=bar.advance)
    shards = len(spec.shards()[rank::ranks])
    print(f"{count} samples of {model} by {solver} with {steps} steps: {len(made)} of {shards} shards made: {out}")
