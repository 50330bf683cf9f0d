"""``adaln_modulate`` and ``gated_residual_adaln`` in Triton, with their derivatives.

With h = (x − mean)·r, r = 1/√(var + eps) (RMSNorm: without the mean), factor = weight·(1 + scale), d the tangents and g
the gradients:

    forward    t = x + gate·branch where there is a branch (else x), y = h(t)·factor + bias·(1 + scale) + shift
    tangent    dt = dx + dgate·branch + gate·dbranch, dh = r·(dt − mean(dt) − h·mean(dt·h)), and dy by the product rule
    backward   e = g·factor, gt = r·(e − mean(e) − h·mean(e·h)) + the gradient of t itself; Σg, Σg·h and Σgt·branch over
               the rows that share a modulation give the gradients of all that is not as large as x

Bytes: x and branch (and in the other two their tangents or gradients) are read once and every result is written once;
a row stays in registers. The backward writes its three sums for each ROWS rows and torch adds these up: no atomic
additions, the same result each time. A program computes one row, the backward ROWS of them that share a modulation.
The contract is in pyaccel/ops/adaln.py, the arithmetic in csrc/adaln.h.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from .rows import MOST_WIDTH, ROWS, accumulator, launch


@triton.jit
def load_row(pointer, entry, width, lane, PRESENT: tl.constexpr, ABSENT: tl.constexpr, ACCUMULATOR: tl.constexpr):
    """An entry of a row's width, 0 outside of it; the number ABSENT where there is no such operand."""
    if PRESENT:
        return tl.load(pointer + entry * width + lane, mask=lane < width, other=0.0).to(ACCUMULATOR)
    else:
        return tl.full([1], ABSENT, ACCUMULATOR)


@triton.jit
def store_row(pointer, row, width, lane, value):
    """Writes ``value`` to a row, rounded to the type of its elements."""
    if pointer.dtype.element_ty.primitive_bitwidth == 16:
        value = value.to(tl.float32)  # no machine rounds float64 to sixteen bits at once
    tl.store(pointer + row * width + lane, value.to(pointer.dtype.element_ty), mask=lane < width)


@triton.jit
def entry_of(row, inner, repeats):
    """The entry that goes with ``row``, of entries in runs of ``inner``, each run shared by ``repeats`` of it."""
    return row // (inner * repeats) * inner + row % inner


@triton.jit
def normed(v, lane, width, RMS: tl.constexpr, EPS: tl.constexpr):
    """h and r of a row; ``v`` is 0 outside of it, and so is h."""
    if not RMS:
        v = tl.where(lane < width, v - tl.sum(v, 0) / width, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(v * v, 0) / width + EPS)
    return v * inverse, inverse


@triton.jit
def norm_derivative(e, h, inverse, lane, width, RMS: tl.constexpr):
    """r·(e − mean(e) − h·mean(e·h)): the derivative of the norm, which is its own transpose."""
    e = e - h * (tl.sum(e * h, 0) / width)
    if not RMS:
        e = e - tl.sum(tl.where(lane < width, e, 0.0), 0) / width  # h has no mean
    return e * inverse


@triton.jit
def modulate(
    x,
    gate,
    branch,
    scale,
    shift,
    weight,
    bias,
    total,
    out,
    width,
    gate_inner,
    gate_repeats,
    scale_inner,
    scale_repeats,
    shift_inner,
    shift_repeats,
    GATE: tl.constexpr,
    BRANCH: tl.constexpr,
    SCALE: tl.constexpr,
    SHIFT: tl.constexpr,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    RMS: tl.constexpr,
    EPS: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row of ``out``, and of ``total`` where there is a BRANCH."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    v = load_row(x, row, width, lane, True, 0.0, ACCUMULATOR)
    if BRANCH:
        gates = load_row(gate, entry_of(row, gate_inner, gate_repeats), width, lane, GATE, 1.0, ACCUMULATOR)
        v += gates * load_row(branch, row, width, lane, True, 0.0, ACCUMULATOR)
        store_row(total, row, width, lane, v)
        if total.dtype.element_ty.primitive_bitwidth == 16:
            v = v.to(tl.float32).to(total.dtype.element_ty).to(ACCUMULATOR)  # what was written is normed
        else:
            v = v.to(total.dtype.element_ty).to(ACCUMULATOR)
    h, _ = normed(v, lane, width, RMS, EPS)
    one_plus = 1.0 + load_row(scale, entry_of(row, scale_inner, scale_repeats), width, lane, SCALE, 0.0, ACCUMULATOR)
    y = h * load_row(weight, 0, width, lane, WEIGHT, 1.0, ACCUMULATOR)
    y = (y + load_row(bias, 0, width, lane, BIAS, 0.0, ACCUMULATOR)) * one_plus
    y += load_row(shift, entry_of(row, shift_inner, shift_repeats), width, lane, SHIFT, 0.0, ACCUMULATOR)
    store_row(out, row, width, lane, y)


@triton.jit
def modulate_tangent(
    x,
    gate,
    branch,
    scale,
    weight,
    bias,
    x_tangent,
    gate_tangent,
    branch_tangent,
    scale_tangent,
    shift_tangent,
    weight_tangent,
    bias_tangent,
    total_tangent,
    out_tangent,
    width,
    gate_inner,
    gate_repeats,
    scale_inner,
    scale_repeats,
    shift_inner,
    shift_repeats,
    GATE: tl.constexpr,
    BRANCH: tl.constexpr,
    SCALE: tl.constexpr,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    X_TANGENT: tl.constexpr,
    GATE_TANGENT: tl.constexpr,
    BRANCH_TANGENT: tl.constexpr,
    SCALE_TANGENT: tl.constexpr,
    SHIFT_TANGENT: tl.constexpr,
    WEIGHT_TANGENT: tl.constexpr,
    BIAS_TANGENT: tl.constexpr,
    RMS: tl.constexpr,
    EPS: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row of the tangents; ``x`` is what was normed. A tangent is shaped like its operand."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    dt = load_row(x_tangent, row, width, lane, X_TANGENT, 0.0, ACCUMULATOR) + tl.zeros([BLOCK], ACCUMULATOR)
    if BRANCH:
        gate_entry = entry_of(row, gate_inner, gate_repeats)
        if BRANCH_TANGENT:
            gates = load_row(gate, gate_entry, width, lane, GATE, 1.0, ACCUMULATOR)
            dt += gates * load_row(branch_tangent, row, width, lane, True, 0.0, ACCUMULATOR)
        if GATE_TANGENT:
            gates = load_row(gate_tangent, gate_entry, width, lane, True, 0.0, ACCUMULATOR)
            dt += gates * load_row(branch, row, width, lane, True, 0.0, ACCUMULATOR)
        store_row(total_tangent, row, width, lane, dt)
    h, inverse = normed(load_row(x, row, width, lane, True, 0.0, ACCUMULATOR), lane, width, RMS, EPS)
    dh = norm_derivative(dt, h, inverse, lane, width, RMS)
    scale_entry = entry_of(row, scale_inner, scale_repeats)
    one_plus = 1.0 + load_row(scale, scale_entry, width, lane, SCALE, 0.0, ACCUMULATOR)
    weights = load_row(weight, 0, width, lane, WEIGHT, 1.0, ACCUMULATOR)
    dy = dh * weights
    if WEIGHT_TANGENT:
        dy += h * load_row(weight_tangent, 0, width, lane, True, 0.0, ACCUMULATOR)
    if BIAS_TANGENT:
        dy += load_row(bias_tangent, 0, width, lane, True, 0.0, ACCUMULATOR)
    dy = dy * one_plus
    if SCALE_TANGENT:
        affine = h * weights + load_row(bias, 0, width, lane, BIAS, 0.0, ACCUMULATOR)
        dy += affine * load_row(scale_tangent, scale_entry, width, lane, True, 0.0, ACCUMULATOR)
    if SHIFT_TANGENT:
        shift_entry = entry_of(row, shift_inner, shift_repeats)
        dy += load_row(shift_tangent, shift_entry, width, lane, True, 0.0, ACCUMULATOR)
    store_row(out_tangent, row, width, lane, dy)


@triton.jit
def modulate_backward(
    out_gradient,
    total_gradient,
    x,
    gate,
    branch,
    scale,
    weight,
    x_gradient,
    branch_gradient,
    sums,
    width,
    run,
    programs_per_run,
    gate_inner,
    gate_repeats,
    scale_inner,
    scale_repeats,
    TOTAL: tl.constexpr,
    GATE: tl.constexpr,
    BRANCH: tl.constexpr,
    SCALE: tl.constexpr,
    WEIGHT: tl.constexpr,
    RMS: tl.constexpr,
    EPS: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """ROWS rows of a run of rows that share their modulation; ``sums`` has three rows for each program."""
    program = tl.program_id(0).to(tl.int64)
    begin = program % programs_per_run * ROWS
    first = program // programs_per_run * run + begin
    lane = tl.arange(0, BLOCK)
    gate_entry = entry_of(first, gate_inner, gate_repeats)
    scale_entry = entry_of(first, scale_inner, scale_repeats)
    plain = tl.zeros([BLOCK], ACCUMULATOR)
    with_h = tl.zeros([BLOCK], ACCUMULATOR)
    with_branch = tl.zeros([BLOCK], ACCUMULATOR)
    for row in range(first, first + tl.minimum(run - begin, ROWS)):
        g = load_row(out_gradient, row, width, lane, True, 0.0, ACCUMULATOR)
        h, inverse = normed(load_row(x, row, width, lane, True, 0.0, ACCUMULATOR), lane, width, RMS, EPS)
        plain += g
        with_h += g * h
        # Read for each row, from the cache: in registers there is no room for them.
        g *= 1.0 + load_row(scale, scale_entry, width, lane, SCALE, 0.0, ACCUMULATOR)
        g *= load_row(weight, 0, width, lane, WEIGHT, 1.0, ACCUMULATOR)
        gt = norm_derivative(g, h, inverse, lane, width, RMS)
        if TOTAL:
            gt += load_row(total_gradient, row, width, lane, True, 0.0, ACCUMULATOR)
        store_row(x_gradient, row, width, lane, gt)
        if BRANCH:
            gates = load_row(gate, gate_entry, width, lane, GATE, 1.0, ACCUMULATOR)
            store_row(branch_gradient, row, width, lane, gt * gates)
            if GATE:
                with_branch += gt * load_row(branch, row, width, lane, True, 0.0, ACCUMULATOR)
    store_row(sums, 3 * program, width, lane, plain)
    store_row(sums, 3 * program + 1, width, lane, with_h)
    if GATE:
        store_row(sums, 3 * program + 2, width, lane, with_branch)


def served(x: torch.Tensor) -> bool:
    """Whether there are rows, and one fits the registers."""
    return 0 < x.shape[-1] <= MOST_WIDTH and x.numel() > 0


def forward(x, gate, branch, scale, shift, weight, bias, rms: bool, eps: float) -> list[torch.Tensor]:
    """[y], or [sum, y] with a branch, from contiguous tensors that are :func:`served`.

    The rows share the entries of gate, scale and shift in runs; these have as many dimensions as x, or one.
    """
    out = torch.empty_like(x)
    total = out if branch is None else torch.empty_like(x)
    operands = {"gate": gate, "branch": branch, "scale": scale, "shift": shift, "weight": weight, "bias": bias}
    _launch_rows(
        modulate,
        x.numel() // x.shape[-1],
        {"x": x, **operands, "total": total, "out": out, "width": x.shape[-1]},
        sharing(x.shape, gate=gate, scale=scale, shift=shift),
        {name.upper(): t is not None for name, t in operands.items()} | {"RMS": rms, "EPS": eps},
    )
    return [out] if branch is None else [total, out]


def tangent(tangents, x, gate, branch, scale, shift, weight, bias, rms: bool, eps: float) -> list[torch.Tensor]:
    """The tangents of what :func:`forward` returns, from those of the operands, of which some may be None.

    ``x`` is what was normed. A tangent is contiguous and has the shape of its operand.
    """
    out = torch.empty_like(x)
    total = out if branch is None else torch.empty_like(x)
    operands = {"gate": gate, "branch": branch, "scale": scale, "weight": weight, "bias": bias}
    names = ("x", "gate", "branch", "scale", "shift", "weight", "bias")
    changes = {f"{name}_tangent": t for name, t in zip(names, tangents, strict=True)}
    flags = {name.upper(): t is not None for name, t in (operands | changes).items()}
    _launch_rows(
        modulate_tangent,
        x.numel() // x.shape[-1],
        {"x": x, **operands, **changes, "total_tangent": total, "out_tangent": out, "width": x.shape[-1]},
        sharing(x.shape, gate=gate, scale=scale, shift=shift),
        flags | {"RMS": rms, "EPS": eps},
    )
    return [out] if branch is None else [total, out]


def backward(grads, x, gate, branch, scale, shift, weight, bias, rms: bool, eps: float) -> list[torch.Tensor | None]:
    """The gradients of all operands, which are contiguous, from those of what :func:`forward` returned.

    ``x`` is what was normed. gate, scale and shift have as many dimensions as it; the gradient of the sum may be None.
    """
    shape, width = x.shape, x.shape[-1]
    shared = [t for t in (gate, scale, shift) if t is not None]
    depth = len(shape) - 1  # the dimensions from here on share all modulations
    while depth > 0 and all(t.shape[depth - 1] == 1 for t in shared):
        depth -= 1
    run = math.prod(shape[depth:-1])
    programs_per_run = triton.cdiv(run, ROWS)
    programs = x.numel() // (width * run) * programs_per_run
    acc = accumulator(*grads, x, *shared, branch, weight, bias)
    sums = torch.empty(programs, 3, width, dtype=acc, device=x.device)
    total_gradient = grads[0] if branch is not None else None
    x_gradient = torch.empty_like(x)
    branch_gradient = None if branch is None else torch.empty_like(branch)
    operands = {"gate": gate, "branch": branch, "scale": scale, "weight": weight}
    _launch_rows(
        modulate_backward,
        programs,
        {
            "out_gradient": grads[-1],
            "total_gradient": total_gradient,
            "x": x,
            **operands,
            "x_gradient": x_gradient,
            "branch_gradient": branch_gradient,
            "sums": sums,
            "width": width,
            "run": run,
            "programs_per_run": programs_per_run,
        },
        sharing(shape, gate=gate, scale=scale),
        {name.upper(): t is not None for name, t in operands.items()}
        | {"TOTAL": total_gradient is not None, "RMS": rms, "EPS": eps, "ROWS": ROWS},
    )
    plain, with_h, with_branch = sums.view(*shape[:depth], programs_per_run, 3, width).sum(depth).unbind(depth)
    one_plus = 1 if scale is None else 1 + scale.reshape(*scale.shape[:depth], width).to(acc)
    scales = with_h if weight is None else with_h * weight.to(acc)
    scales = scales if bias is None else scales + plain * bias.to(acc)

    def reduced(gradient: torch.Tensor, t: torch.Tensor | None) -> torch.Tensor | None:
        if t is None:
            return None
        small = (*t.shape[:depth], width) if t.dim() == len(shape) else t.shape
        return gradient.sum_to_size(small).reshape(t.shape).to(t.dtype)

    return [
        x_gradient,
        reduced(with_branch, gate),
        branch_gradient,
        reduced(scales, scale),
        reduced(plain, shift),
        reduced(one_plus * with_h, weight),
        reduced(one_plus * plain, bias),
    ]


def sharing(shape, **shared: torch.Tensor | None) -> dict[str, int]:
    """How the rows of ``shape`` share the entries of each operand: (inner, repeats) of :func:`entry_of`."""
    arguments = {}
    for name, t in shared.items():
        small = shape[-1:] if t is None else t.shape
        sizes = (*[1] * (len(shape) - len(small)), *small)
        d, inner, repeats = len(shape) - 2, 1, 1
        while d >= 0 and sizes[d] == shape[d]:
            inner, d = inner * shape[d], d - 1
        while d >= 0 and sizes[d] == 1:
            repeats, d = repeats * shape[d], d - 1
        arguments |= {f"{name}_inner": inner, f"{name}_repeats": repeats}
    return arguments


def _launch_rows(kernel, programs: int, arguments: dict, sharing: dict, constants: dict) -> None:
    block = triton.next_power_of_2(arguments["width"])
    launch(kernel, programs, block, arguments | sharing, constants | {"BLOCK": block})
