"""Whole pieces of work on a GPU: cached steps at the size of FLUX, captured runs, launches, attention with its tangent.

benchmarks/gpu.py calls them and writes what they found. Contestants take turns.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from pyaccel import caching, models, ops, schedules, solvers

BF16 = torch.bfloat16
InTurns = Callable[..., dict[str, float]]
Row = dict[str, object]


def taylorseer(device: torch.device, in_turns: InTurns) -> Iterator[Row]:
    """A predicted step of TaylorSeer, order 2, on every site of a FLUX at 1024×1024: 10.8 GB to move."""
    sites, width = [rows for rows in (4608, 4096, 512) for _ in range(38)], 3072
    features = [[torch.randn(1, rows, width, device=device, dtype=BF16) for _ in range(3)] for rows in sites]
    stream = {rows: torch.randn(1, rows, width, device=device, dtype=BF16) for rows in set(sites)}
    gate = torch.randn(1, 1, width, device=device, dtype=BF16)

    def ours():
        for rows, remembered in zip(sites, features, strict=True):
            ops.gated_combination(stream[rows], gate, remembered, [1.9, -1.2, 0.3], out=stream[rows])

    def eager():
        for rows, (a, b, c) in zip(sites, features, strict=True):
            stream[rows] + gate * (1.9 * a - 1.2 * b + 0.3 * c)

    with torch.no_grad():
        seconds = in_turns({"ours": ours, "eager": eager}, turns=5, calls=2)
    moved = 5 * sum(sites) * width * 2
    yield _row(
        "TaylorSeer, a predicted step of 114 sites of FLUX",
        seconds,
        f"{moved / seconds['ours'] / 1e9:.0f} GB/s",
    )


def ema(device: torch.device, in_turns: InTurns) -> Iterator[Row]:
    """The moving averages of 300 parameters of 4 MB for three rates."""
    params = [torch.randn(1 << 20, device=device) for _ in range(300)]
    averages, rates = [[p.clone() for p in params] for _ in range(3)], [0.99, 0.999, 0.9999]

    def theirs():
        for average, rate in zip(averages, rates, strict=True):
            torch._foreach_lerp_(average, params, 1 - rate)

    with torch.no_grad():
        seconds = in_turns(
            {"ours": lambda: ops.ema_update(averages, params, rates), "_foreach_lerp_": theirs}, turns=8, calls=3
        )
    yield _row(
        "ema_update, 300 parameters of 4 MB, three rates",
        seconds,
        f"{7 * 300 * (4 << 20) / seconds['ours'] / 1e9:.0f} GB/s",
    )


def small_dit(device: torch.device):
    """A DiT of 6 blocks of width 384 on 16×16 latents, as a flow's model."""
    model = models.DiT(size=16, channels=4, width=384, depth=6, heads=6, patch=2).to(device, BF16).eval()
    return model.requires_grad_(False)


def captured(device: torch.device) -> Iterator[Row]:
    """20 steps of a small DiT as CUDA graphs, beside the same run without, to the same bits."""
    model, noise = small_dit(device), torch.randn(1, 4, 16, 16, device=device)
    label = torch.tensor([3], device=device)
    for name, options in (("euler", {}), ("unipc", {"order": 3})):
        plan = getattr(solvers, name)(schedules.flow(), steps=20, **options)

        def eager(plan=plan):
            return plan.sample(network, noise, label=label)

        def network(x, t, label):
            return model(x.to(BF16), t, label)

        with torch.no_grad():
            run = plan.capture(network, noise, label=label)
            same = torch.equal(run(noise, label=label), eager())
            seconds = _wall({"ours": lambda run=run: run(noise, label=label), "plan.sample": eager})
        yield _row(
            f"{name}, 20 steps of a small DiT, captured",
            seconds,
            f"{run.graphs} graphs; {'the same bits' if same else 'OTHER BITS'}",
        )


def launches(device: torch.device) -> Iterator[Row]:
    """Kernels of the updates of a run, ours and those of the scheduler of diffusers."""
    try:
        from diffusers import DPMSolverMultistepScheduler
    except ImportError:
        return
    x, steps = torch.randn(1, 16, 128, 128, device=device, dtype=BF16), 10
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    plan = solvers.dpmpp(schedules.flow(), steps=steps)
    output = torch.randn_like(x)

    def ours():
        plan.sample(lambda x, t: output, x)

    def theirs():
        scheduler.set_timesteps(steps, device=device)
        sample = x
        for t in scheduler.timesteps:
            sample = scheduler.step(output, t, sample).prev_sample

    counts, contestants = {}, {"ours": ours, "diffusers": theirs}
    for name, work in contestants.items():
        work()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            work()
            torch.cuda.synchronize()
        kernels = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        counts[name] = len(kernels) / steps
    seconds = _wall(contestants)
    yield _row(
        "DPM++ 2M, a step on a 1×16×128×128 latent, kernels and copies",
        {name: s / steps for name, s in seconds.items()},
        f"{counts['ours']:.1f} launches a step, diffusers {counts['diffusers']:.1f}",
    )


def attention(device: torch.device, in_turns: InTurns) -> Iterator[Row]:
    """``attention_jvp`` beside the MATH backend, the one of PyTorch's own that has a tangent."""

    def math_backend(q, k, v):
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v)

    for d in (64, 128):
        primals, tangents = (
            tuple(torch.randn(4, 2048, 16, d, device=device).to(BF16).transpose(1, 2) for _ in range(3))
            for _ in range(2)
        )

        def ours(primals=primals, tangents=tangents):
            return ops.attention_jvp(*primals, tangents)

        def theirs(primals=primals, tangents=tangents):
            return jvp(math_backend, primals, tangents)

        with torch.no_grad():
            contestants = {"ours": ours, "MATH": theirs}
            seconds = in_turns(contestants, turns=4, calls=2)
            memory = {name: _peak(work) for name, work in contestants.items()}
        rate = 18 * 4 * 16 * 2048**2 * d / seconds["ours"] / 1e12
        yield _row(
            f"attention_jvp, 4×16×2048×{d} bfloat16",
            seconds,
            f"{rate:.0f} TFLOP/s; memory {memory['ours'] / 1e6:.0f} MB, MATH {memory['MATH'] / 1e6:.0f} MB",
        )


def cached_run(device: torch.device) -> Iterator[Row]:
    """A whole cached run of a DiT as large as DiT-XL beside the uncached one, step by step and as CUDA graphs."""
    model = models.DiT(size=32, channels=4, width=1152, depth=28, heads=16, patch=2).to(device, BF16).eval()
    model.requires_grad_(False)
    plan = solvers.euler(schedules.flow(), steps=50)
    noise, label = torch.randn(8, 4, 32, 32, device=device), torch.arange(8, device=device)

    def network(x, t, label):
        return model(x.to(BF16), t, label)

    def run():
        return plan.sample(network, noise, label=label)

    def captured():
        graphs = plan.capture(network, noise, label=label)
        return lambda: graphs(noise, label=label)

    for where in ("branches", "last_block"):

        def cache(where=where):
            return caching.taylorseer(model, interval=4, order=2, where=where)

        def cached(cache=cache):
            with cache():
                return run()

        name = f"TaylorSeer every 4th ({where}), 50 Euler steps of a DiT-XL/2, batch 8"
        with torch.no_grad():
            yield _row(name, _wall({"ours": cached, "uncached": run}, turns=2))
            with cache():
                graphs = captured()
            yield _row(f"{name}, captured", _wall({"ours": graphs, "uncached, captured": captured()}, turns=2))
        del graphs
        torch.cuda.empty_cache()


def _row(what: str, seconds: dict[str, float], note: str = "") -> Row:
    """A row of the table: what "ours" took, beside the other contestant."""
    (other,) = seconds.keys() - {"ours"}
    ours = seconds["ours"]
    return {"what": what, "ms": ours * 1e3, "× the other": seconds[other] / ours, "the other": other, "note": note}


def all_runs(device: torch.device, in_turns: InTurns, wanted: Callable[[str], bool]) -> Iterator[Row]:
    """The rows of the runs that are wanted; where one fails, its error stands in its place, and others are measured."""
    for name, rows in (
        ("taylorseer", lambda: taylorseer(device, in_turns)),
        ("ema_update", lambda: ema(device, in_turns)),
        ("captured runs", lambda: captured(device)),
        ("launches", lambda: launches(device)),
        ("attention_jvp", lambda: attention(device, in_turns)),
        ("a cached run", lambda: cached_run(device)),
    ):
        if not wanted(name):
            continue
        try:
            yield from rows()
        except Exception as error:
            traceback.print_exc()
            note = f"failed: {str(error).splitlines()[0][:120] if str(error) else type(error).__name__}"
            yield _row(name, {"ours": math.nan, "": math.nan}, note)
        torch.cuda.empty_cache()


def _wall(contestants: dict[str, Callable], turns: int = 5) -> dict[str, float]:
    """Best seconds by the host's clock, the GPU's work included."""
    best = dict.fromkeys(contestants, float("inf"))
    for f in contestants.values():
        f()
    for _ in range(turns):
        for name, f in contestants.items():
            torch.cuda.synchronize()
            begin = time.perf_counter()
            f()
            torch.cuda.synchronize()
            best[name] = min(best[name], time.perf_counter() - begin)
    return best


def _peak(work: Callable) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
