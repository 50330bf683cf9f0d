"""``ema_update``: the moving averages of all of a model's parameters, for all rates, in one launch.

The arithmetic is in csrc/ema.h, the semantics in reference.py. Dense tensors go straight to the native kernel, which
reads each parameter once for all rates. What no kernel takes goes through torch's operations, many tensors at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from . import backend, reference
from .checks import overlapping
from .epilogues import check_number, check_tensor

_is_compiling = torch.compiler.is_compiling
_grad_enabled = torch.is_grad_enabled
_increment_version = torch.autograd.graph.increment_version
_plain = backend.plain
_native_first = backend.native_first()
_native = backend._native.ema_update if backend._native is not None else None


def ema_update(
    ema: Sequence[Tensor] | Sequence[Sequence[Tensor]], params: Sequence[Tensor], rates: float | Sequence[float]
) -> None:
    """ema ← β·ema + (1 − β)·θ in place, for every parameter θ and, with several rates β, for each of its averages.

    Args:
        ema: the averages, one for each parameter and of its shape; with several rates, such a list for each of them.
            Each must have memory of its own.
        params: a list of tensors or ``nn.Parameter``, of any shapes, sizes and strides. They are read once for all
            rates.
        rates: β in [0, 1], or a list of them. How they follow from a half-life or from the power-function form is the
            caller's choice.

    Every tensor may be float32, bfloat16, float16 or float64, whatever the others are; the arithmetic is float32, or
    float64 where a parameter or one of its averages is. It is that of ema + (1 − β)·(θ − ema), so that an average
    settles at θ exactly: β = 1 leaves ema and β = 0 gives θ, to the bit. Averages of 16 bits stand still where (1 − β)
    is below their precision: keep them in float32. The parameters are constants to autograd: no gradient flows.

    Raises:
        ValueError: no parameters, lists that differ in length, shapes or devices that differ, a rate outside of [0, 1],
            averages that share memory with other tensors, or that require gradients outside of ``torch.no_grad()``.
        TypeError: anything but real floating-point tensors and numbers.
    """
    if isinstance(rates, Real):
        ema, rates = (ema,), (rates,)
    # Dense tensors on one device, good rates: the common case, or False if it is another.
    direct = not _is_compiling() and _native_first and _plain()
    if direct and _native(ema, params, rates, _grad_enabled()):
        _increment_version([average for averages in ema for average in averages])
        return
    grad = _grad_enabled()
    with torch.no_grad():
        _general(*_checked(ema, params, rates, grad))


def _general(ema: list[list[Tensor]], params: list[Tensor], rates: list[float]) -> None:
    traced = torch.compiler.is_compiling() or backend.forward_mode() or backend.transformed()
    rest: list[int] = []
    by_device: dict[torch.device, list[int]] = {}
    for i, theta in enumerate(params):
        if theta.numel():
            by_device.setdefault(theta.device, []).append(i)
    for device, places in by_device.items():
        chosen = "reference" if traced or not backend.private_names_work() else backend.choose(device)
        rows = {} if chosen == "reference" else {i: _in_memory_order(params[i], [e[i] for e in ema]) for i in places}
        dense = [row for row in rows.values() if row is not None]
        averages = [[row[1][r] for row in dense] for r in range(len(rates))]
        served = bool(dense) and _launch(chosen, averages, [theta for theta, _ in dense], rates)
        if served:
            _increment_version([e[i] for i in places for e in ema if rows[i] is not None])
        rest += [i for i in places if not served or rows[i] is None]
    for averages, rate in zip(ema, rates, strict=True):
        _formula([averages[i] for i in rest], [params[i] for i in rest], rate, at_once=not traced)


def _launch(chosen: str, ema: list[list[Tensor]], params: list[Tensor], rates: list[float]) -> bool:
    """Updates contiguous tensors on one device; False, and nothing done, where the kernel does not take these."""
    if chosen == "native":
        return _native(ema, params, rates, False)
    from ..triton_kernels import ema as kernel

    kernel.launch(ema, params, rates)
    return True


def _in_memory_order(theta: Tensor, averages: list[Tensor]) -> tuple[Tensor, list[Tensor]] | None:
    """Contiguous views of tensors of one layout without gaps, such as channels-last; None for any other."""
    order = sorted(range(theta.dim()), key=lambda d: -theta.stride(d))
    views = [t.detach().permute(order) for t in (theta, *averages)]
    if any(not t.is_contiguous() or t.is_neg() or t._is_zerotensor() for t in views):
        return None
    return views[0], views[1:]


def _formula(averages: list[Tensor], params: list[Tensor], rate: float, at_once: bool) -> None:
    """The update by torch's operations; ``at_once`` for many tensors of one dtype together."""
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for average, theta in zip(averages, params, strict=True):
        exact = average.dtype is theta.dtype and average.dtype in (torch.float32, torch.float64)
        if at_once and exact and not any(t.is_neg() or t._is_zerotensor() for t in (average, theta)):
            group = groups.setdefault(average.dtype, ([], []))
            group[0].append(average.detach())
            group[1].append(theta.detach())
        else:
            average.copy_(reference.ema_update(average, theta.detach(), rate))
    for many, towards in groups.values():
        torch._foreach_lerp_(many, towards, 1 - rate)


def _checked(ema, params, rates, grad: bool) -> tuple[list[list[Tensor]], list[Tensor], list[float]]:
    """The arguments as lists; an error names the culprit. ``grad`` says whether gradients are recorded."""
    ema, params = _list_of(ema, "ema"), _list_of(params, "params")
    rates = [check_number(rate, "ema_update: a rate") for rate in _list_of(rates, "rates")]
    for rate in rates:
        if not 0 <= rate <= 1:
            raise ValueError(f"ema_update: a rate is {rate}; expected a number in [0, 1]")
    if not params or not rates:
        raise ValueError(f"ema_update: {'params' if not params else 'rates'} is empty")
    if len(ema) != len(rates):
        raise ValueError(f"ema_update: ema has {len(ema)} lists for {len(rates)} rates; expected a list for each")
    for i, theta in enumerate(params):
        check_tensor(theta, f"ema_update: params[{i}]")
    for r, averages in enumerate(ema):
        ema[r] = averages = _list_of(averages, f"ema[{r}]")
        if len(averages) != len(params):
            raise ValueError(f"ema_update: ema[{r}] has {len(averages)} tensors for {len(params)} params")
        for i, (average, theta) in enumerate(zip(averages, params, strict=True)):
            _check_pair(average, theta, f"ema_update: ema[{r}][{i}]", f"params[{i}]")
            if grad and average.requires_grad:
                raise ValueError(f"ema_update: ema[{r}][{i}] requires gradients; update it within torch.no_grad()")
    if not torch.compiler.is_compiling() and not backend.transformed():
        names = [f"ema[{r}][{i}]" for r in range(len(rates)) for i in range(len(params))]
        written = list(zip(names, (e for averages in ema for e in averages), strict=True))
        both = overlapping(written, [(f"params[{i}]", theta) for i, theta in enumerate(params)])
        if both:
            raise ValueError(f"ema_update: {both[0]} shares memory with {both[1]}; each average must have its own")
    return ema, params, rates


def _list_of(values, name: str) -> list:
    if isinstance(values, (Tensor, str, Real)):
        raise TypeError(f"ema_update: {name} is a {type(values).__name__}; expected a list")
    return list(values)


def _check_pair(average, theta: Tensor, name: str, other: str) -> None:
    check_tensor(average, name)
    if average.shape != theta.shape or average.device != theta.device:
        raise ValueError(
            f"{name} has shape {tuple(average.shape)} on {average.device}, {other} {tuple(theta.shape)} on "
            f"{theta.device}; expected the same"
        )
    if any(size > 1 and stride == 0 for size, stride in zip(average.shape, average.stride(), strict=True)):
        raise ValueError(f"{name} is an expanded tensor; several elements share memory")
