"""The operations on a GPU: bandwidth beside a copy, eager PyTorch and torch.compile; written to benchmarks/results/.

``make gpu`` runs it. Bytes are those that an operation has to move, each tensor once. The ceiling is a copy from device
memory to device memory in the same run, of as many bytes. Contestants take turns, each is timed by events of the GPU
over several calls, and its best turn counts; tensors are so large that no cache holds them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gpu_runs
import torch

from pyaccel import ops
from pyaccel.ops import backend

RESULTS = Path(__file__).parent / "results"
F32, BF16 = torch.float32, torch.bfloat16
WEIGHTS = [0.9, -0.3, 0.25, 0.1]
SHORT = {F32: "float32", BF16: "bfloat16"}


@dataclass
class Case:
    """One row: what moves so many bytes, and the same by others. Each contestant returns its result, or several."""

    name: str
    bytes: int
    ours: Callable[[], torch.Tensor | tuple[torch.Tensor, ...]]
    eager: Callable[[], torch.Tensor | tuple[torch.Tensor, ...]]


def combination(tensors, weights):
    total = weights[0] * tensors[0]
    for t, w in zip(tensors[1:], weights[1:], strict=True):
        total = total + w * t
    return total


def modulated(x, scale, shift):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def turned(x, weight, cos, sin):
    y = torch.nn.functional.rms_norm(x, x.shape[-1:], weight, 1e-6)
    beside = torch.stack([-y[..., 1::2], y[..., ::2]], -1).flatten(-2)
    return (y * cos[:, None] + beside * sin[:, None]).to(x.dtype)


def gated_and_modulated(residual, gate, branch, scale, shift):
    r = residual + gate * branch
    return r, modulated(r, scale, shift)


def cases(device: torch.device, elements: int) -> Iterator[Case]:
    """All rows, with tensors [2, elements / 6144, 3072] of the width of a large DiT."""
    shape = (2, elements // 6144, 3072)
    count = shape[0] * shape[1] * shape[2]

    def random(dtype, number):
        return [torch.randn(shape, dtype=dtype, device=device) for _ in range(number)]

    for dtype in (F32, BF16):
        x, y, z, u = random(dtype, 4)
        out, gate = torch.empty_like(x), x[:, :1].clone()
        size = count * dtype.itemsize
        for k in (2, 4):
            tensors, weights = [x, y, z, u][:k], WEIGHTS[:k]
            prepared = ops.prepare([weights], [dtype] * k, [dtype])
            yield Case(
                f"linear_combination, k = {k}, {SHORT[dtype]}",
                (k + 1) * size,
                lambda p=prepared, t=tensors, o=out: p(t, [o])[0],
                lambda t=tensors, w=weights: combination(t, w),
            )
        yield Case(
            f"linear_combination, k = 2 and noise, {SHORT[dtype]}",
            3 * size,
            lambda x=x, y=y, o=out: ops.linear_combination(
                [x, y], [[0.9, -0.3, 0.0]], out=[o], noise=ops.Noise([1, 2], [3])
            )[0],
            lambda x=x, y=y: 0.9 * x - 0.3 * y + 0.0 * torch.randn_like(x),
        )
        yield Case(
            f"gated_combination, 3 tensors, {SHORT[dtype]}",
            5 * size,
            lambda x=x, y=y, z=z, u=u, g=gate, o=out: ops.gated_combination(x, g, [y, z, u], WEIGHTS[:3], out=o),
            lambda x=x, y=y, z=z, u=u, g=gate: x + g * combination([y, z, u], WEIGHTS[:3]),
        )
        yield Case(
            f"blend, {SHORT[dtype]}",
            5 * size,
            lambda x=x, y=y, z=z, u=u, o=out: ops.blend(x, u, y, z, 0.8, 0.6, out=o),
            lambda x=x, y=y, z=z, u=u: u * x + (1 - u) * (0.8 * y + 0.6 * z),
        )
        scale, shift = y[:, :1].clone(), z[:, :1].clone()
        yield Case(
            f"adaln_modulate, {SHORT[dtype]}",
            2 * size,
            lambda x=x, s=scale, t=shift: ops.adaln_modulate(x, s, t),
            lambda x=x, s=scale, t=shift: modulated(x, s, t),
        )
        yield Case(
            f"gated_residual_adaln, {SHORT[dtype]}",
            4 * size,
            lambda x=x, g=gate, y=y, s=scale, t=shift: ops.gated_residual_adaln(x, g, y, s, t),
            lambda x=x, g=gate, y=y, s=scale, t=shift: gated_and_modulated(x, g, y, s, t),
        )
        q, k = (t.view(2, -1, 24, 128) for t in (x, y))
        weight = z[0, 0, :128].clone()
        cos, sin = (torch.randn(q.shape[1], 128, device=device) for _ in range(2))
        yield Case(
            f"qk_norm_rope, {SHORT[dtype]}",
            4 * size,
            lambda q=q, k=k, w=weight, c=cos, s=sin: ops.qk_norm_rope(q, k, w, w, c, s),
            lambda q=q, k=k, w=weight, c=cos, s=sin: (turned(q, w, c, s), turned(k, w, c, s)),
        )
        yield Case(
            f"threshold, {SHORT[dtype]}",
            2 * size,
            lambda x=x, o=out: ops.threshold(x, 1.0, out=o),
            lambda x=x: x.clamp(-1.0, 1.0),
        )
        yield Case(
            f"relative_l1, {SHORT[dtype]}",
            2 * size,
            lambda x=x, y=y: ops.relative_l1(x, y),
            lambda x=x, y=y: (x - y).abs().sum(dtype=F32) / y.abs().sum(dtype=F32),
        )
    x, y, z, u = random(BF16, 4)
    out, gate, pairs = torch.empty_like(x), x[:, :1].clone(), [ops.quantize(t) for t in (z, u)]
    yield Case(
        "gated_combination, 1 tensor and 2 of int8, bfloat16",
        count * (2 + 2 + 2 + 1 + 1),
        lambda: ops.gated_combination(x, gate, [y, *pairs], WEIGHTS[:3], out=out),
        lambda: (x + gate * combination([y.float(), *(p.dequantize() for p in pairs)], WEIGHTS[:3])).to(BF16),
    )

    def eager_quantize():
        v = x.float() - y.float()
        scales = v.abs().amax(-1, keepdim=True) / 127
        return (v / scales).round().to(torch.int8)

    yield Case("quantize, int8, bfloat16", count * 5, lambda: ops.quantize(x, y).codes, eager_quantize)


def in_turns(contestants: dict[str, Callable], turns: int, calls: int) -> dict[str, float]:
    """Best seconds per call of each contestant, by the GPU's clock."""
    best = dict.fromkeys(contestants, float("inf"))
    for f in contestants.values():
        for _ in range(3):
            f()
    for _ in range(turns):
        for name, f in contestants.items():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            for _ in range(calls):
                f()
            end.record()
            end.synchronize()
            best[name] = min(best[name], begin.elapsed_time(end) / 1e3 / calls)
    return best


def measure(case: Case, room: torch.Tensor) -> dict:
    """A row of the table. ``room`` is copied from one half to the other, as much as the case moves."""
    half = room.numel() // 2
    torch.compiler.reset()
    contestants = {
        "ours": case.ours,
        "eager": case.eager,
        "compile": torch.compile(case.eager, dynamic=False),
        "copy": lambda: room[:half].copy_(room[half:]),
    }
    with torch.no_grad():
        seconds = in_turns(contestants, turns=15, calls=5)
    rate, copy_rate = case.bytes / seconds["ours"], 2 * half / seconds["copy"]
    return {
        "case": case.name,
        "GB/s": rate / 1e9,
        "of a copy, %": 100 * rate / copy_rate,
        "× eager": seconds["eager"] / seconds["ours"],
        "× compile": seconds["compile"] / seconds["ours"],
    }


def small_step(device: torch.device) -> dict:
    """A solver step on a 1×16×128×128 bfloat16 latent: microseconds of the host, and of the GPU."""
    tensors = [torch.randn(1, 16, 128, 128, dtype=BF16, device=device) for _ in range(3)]
    out, prepared = [torch.empty_like(tensors[0])], ops.prepare([WEIGHTS[:3]], [BF16] * 3, [BF16])
    host = float("inf")
    for _ in range(50):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(100):
            prepared(tensors, out)
        host = min(host, (time.perf_counter() - begin) / 100)
    gpu = in_turns({"ours": lambda: prepared(tensors, out)}, turns=20, calls=100)["ours"]
    return {"host, µs": host * 1e6, "call after call, µs": gpu * 1e6}


def table(found: dict) -> str:
    """The results as Markdown."""
    step = ", ".join(f"{name} {value:.1f}" for name, value in found["small step"].items())
    head = f"{found['gpu']}, {found['date']}, torch {found['torch']}, backend {found['backend']}; a copy: "
    parts = [head + f"{found['copy, GB/s']:.0f} GB/s.", "", *_lines(found["rows"])]
    parts += ["", f"One step on a 1×16×128×128 latent: {step}.", ""]
    return "\n".join([*parts, *_lines(found["runs"]), ""])


def renewed(before: list[dict], rows: list[dict], key: str) -> list[dict]:
    """The rows of before, those that were measured again in their places, and new ones at the end."""
    new = {row[key]: row for row in rows}
    return [new.pop(row[key], row) for row in before] + list(new.values())


def _lines(rows: list[dict]) -> list[str]:
    numbers = [not isinstance(value, str) for value in rows[0].values()]
    lines = [f"| {' | '.join(rows[0])} |", "|" + "".join("---:|" if number else "---|" for number in numbers)]
    return lines + [f"| {' | '.join(v if isinstance(v, str) else f'{v:.3g}' for v in r.values())} |" for r in rows]


def _say(row: dict) -> None:
    print(", ".join(f"{k}: {v}" if isinstance(v, str) else f"{k}: {v:.3g}" for k, v in row.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether there is a GPU")
    parser.add_argument("--megabytes", type=int, default=256, help="of each bfloat16 tensor")
    parser.add_argument(
        "--only",
        default="",
        metavar="REGEX",
        help="the rows whose names it is found in, or runs; today's others stay as they are",
    )
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} sees no GPU, so there is nothing to measure")
    device = torch.device("cuda", torch.cuda.current_device())
    name = torch.cuda.get_device_name(device)
    if arguments.check:
        reason = backend.why_not("native", device)
        print(f"{name}; CUDA kernels: {f'missing: {reason}' if reason else 'available'}")
        return
    room = torch.empty(4 * arguments.megabytes << 20, dtype=torch.uint8, device=device)
    rows = []
    wanted = re.compile(arguments.only).search
    for case in cases(device, (arguments.megabytes << 20) // 2):
        if not wanted(case.name):
            continue
        rows.append(measure(case, room))
        _say(rows[-1])
    del room
    runs = []
    for run in gpu_runs.all_runs(device, in_turns, wanted):
        runs.append(run)
        _say(run)
    RESULTS.mkdir(exist_ok=True)
    date = datetime.date.today().isoformat()
    path = RESULTS / f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-').lower()}-{date}"
    before = json.loads(path.with_suffix(".json").read_text()) if path.with_suffix(".json").exists() else {}
    found = {
        "gpu": name,
        "date": date,
        "torch": torch.__version__,
        "backend": backend.choose(device),
        "megabytes": arguments.megabytes,
        "copy, GB/s": max([100 * r["GB/s"] / r["of a copy, %"] for r in rows], default=before.get("copy, GB/s", 0.0)),
        "rows": renewed(before.get("rows", []), rows, "case"),
        "small step": small_step(device),
        "runs": renewed(before.get("runs", []), runs, "what"),
    }
    path.with_suffix(".json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    path.with_suffix(".md").write_text(table(found))
    print(f"\n{table(found)}\nwritten to {path}.json and .md")


if __name__ == "__main__":
    main()
