"""Which implementation serves an operation, decided in one place; and what is there, for ``pyaccel info``."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from types import SimpleNamespace

import torch
from torch.autograd import forward_ad

BACKENDS = ("native", "triton", "reference")

CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
"""Element types that the kernels know, with their codes in csrc/numeric.h."""

CODED = (torch.int8, torch.float8_e4m3fn)
"""Types of 8-bit codes, whose own codes in csrc/numeric.h come next."""

try:
    from .. import _native

    native_missing = ""
    MOST_OUTPUTS_IN_PLACE = _native.most_outputs_in_place
except ImportError as error:
    _native = None
    MOST_OUTPUTS_IN_PLACE = 4
    native_missing = f"pyaccel._native cannot be imported ({error}); reinstall with: pip install -e ."


def read_tensors(dlpack: bool = True) -> bool:
    """Tells the native module how to read tensors; True if it does so by DLPack's C functions, where it may."""
    current_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    return _native.configure(torch.Tensor, torch.nn.Parameter, (*CODES, *CODED), current_stream, dlpack)


if _native is not None:
    read_tensors()


def forced() -> str | None:
    """The backend that PYACCEL_BACKEND names, or None; ValueError when there is none of that name."""
    name = os.environ.get("PYACCEL_BACKEND")
    if not name:
        return None
    if name not in BACKENDS:
        raise ValueError(f"PYACCEL_BACKEND={name!r}: there are {', '.join(BACKENDS)}")
    return name


def choose(device: torch.device) -> str:
    """``native``, ``triton`` or ``reference`` for tensors on ``device``.

    A backend that PYACCEL_BACKEND forces but that cannot serve this device raises RuntimeError with the reason.
    """
    name = forced()
    if name is None:
        for candidate in BACKENDS[:-1]:
            if not why_not(candidate, device):
                return candidate
        return "reference"
    reason = why_not(name, device)
    if reason:
        raise RuntimeError(f"PYACCEL_BACKEND={name} cannot serve tensors on {device}: {reason}")
    return name


def triton_serves(device: torch.device) -> bool:
    """Whether Triton does what native kernels do not: it was chosen, or a GPU has it beside them and none is forced."""
    if choose(device) == "triton":
        return True
    return forced() is None and device.type != "cpu" and not why_not("triton", device)


def why_not(name: str, device: torch.device) -> str:
    """Empty when backend ``name`` serves tensors on ``device``; otherwise the reason why it does not."""
    if name == "native":
        if native_missing or device.type == "cpu":
            return native_missing
        if device.type != "cuda" or torch.version.hip:
            return f"there are native kernels for the CPU and for NVIDIA's GPUs, not for {device}"
        return _cuda_missing(0 if device.index is None else device.index)
    if name == "triton":
        if find_spec("triton") is None:
            return "triton is not installed (pip install 'pyaccel-diffusion[triton]')"
        if device.type not in ("cpu", "cuda", "xpu"):
            return f"Triton does not run on {device.type}"
        if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            return "Triton runs on a GPU; on a CPU it needs its interpreter (TRITON_INTERPRET=1)"
    return ""


def _cuda_missing(index: int) -> str:
    """Empty where the CUDA kernels run on the GPU of this number; otherwise the reason why they do not."""
    if not hasattr(_native, "cuda_problem"):
        return "this build has no CUDA kernels; with nvcc on the PATH, pip install -e . builds them"
    if not hasattr(torch._C, "_cuda_getCurrentRawStream"):
        return f"the kernels were built, but torch {torch.__version__} knows no CUDA"
    problem = _native.cuda_problem(index)
    return f"the kernels were built, but {problem}" if problem else ""


def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware, so that a network in it is faster than in float32."""
    return _native is not None and "avx512bf16" in _native.instruction_sets()


# Private names of torch, of which private_names_work() makes sure. One that a version lacks is replaced by what always
# says "transformed": then every call goes through the formula, slower but never wrong.
forward_level = forward_ad if hasattr(forward_ad, "_current_level") else SimpleNamespace(_current_level=0)
peek_functorch = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", lambda: True)
functorch_stack = getattr(getattr(torch._C, "_functorch", None), "get_interpreter_stack", lambda: [None] * 2)
is_wrapped = getattr(getattr(torch._C, "_functorch", None), "is_gradtrackingtensor", lambda _: False)
count_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)


def transformed() -> bool:
    """True inside torch.func transforms, forward-mode differentiation or a dispatch mode.

    There the data pointers of tensors are not the values that the caller means, so a kernel must not be handed them.
    """
    return forward_level._current_level >= 0 or peek_functorch() is not None or count_modes() > 0


def plain() -> bool:
    """The opposite of :func:`transformed`, for the quick way into a kernel."""
    return forward_level._current_level < 0 and peek_functorch() is None and not count_modes()


def forward_mode() -> bool:
    """True inside forward-mode differentiation and, under torch.compile, inside any transform of torch.func."""
    return forward_level._current_level >= 0 or (torch.compiler.is_compiling() and _transformed_where_traced())


@torch.compiler.assume_constant_result
def _transformed_where_traced() -> bool:
    """Of the place where torch.compile is now: of an attribute that it has read it remembers the first value."""
    return forward_level._current_level >= 0 or peek_functorch() is not None


def only_forward_mode(tensors) -> bool:
    """Within forward mode: whether there is one level of it, and no gradients, other transform, mode or torch.compile.

    Then a torch.autograd.Function with a ``jvp`` is handed tensors whose data a kernel may read.
    """
    if torch.compiler.is_compiling() or not private_names_work() or count_modes() or forward_level._current_level:
        return False
    levels = functorch_stack() or []
    if [str(level.key()) for level in levels] not in ([], ["TransformType.Jvp"]):
        return False
    # Within torch.func.jvp a tensor does not say whether the one that it stands for requires gradients.
    return not (torch.is_grad_enabled() and any(unwrapped(t).requires_grad for t in tensors))


def untransformed():
    """Within this context torch.func's transforms are not there; tensors made here are plain ones."""
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    return temporarily_clear_interpreter_stack()


def unwrapped(t: torch.Tensor) -> torch.Tensor:
    """The tensor that ``t`` stands for within torch.func.jvp; ``t`` itself where it is no wrapper."""
    return torch._C._functorch.get_unwrapped(t) if is_wrapped(t) else t


def tangents_visible() -> bool:
    """Whether ``forward_ad.unpack_dual`` shows the tangents of forward mode, as in no vmap or grad inside of it."""
    return private_names_work() and _innermost_is_forward()


def _innermost_is_forward() -> bool:
    innermost = peek_functorch()
    return innermost is None or innermost.key() == torch._C._functorch.TransformType.Jvp


@cache
def private_names_work() -> bool:
    """Whether the private names of torch that this file reads are there and mean what they meant.

    If they do not, every call goes through the formula: slower, never wrong.
    """
    try:
        seen = []

        def probe(x):
            seen.append((transformed(), _innermost_is_forward()))
            return x

        if transformed():
            return False
        torch.func.vmap(probe)(torch.zeros(2))
        with forward_ad.dual_level():
            probe(None)
        return seen == [(True, False), (True, True)]
    except Exception:
        return False


def native_first() -> bool:
    """Whether a call may go straight to a native kernel: it is there and not forbidden, and torch's inside is known."""
    # First, as this is asked where nothing is transformed, when a module is imported.
    return private_names_work() and _native is not None and forced() in (None, "native")


def describe() -> list[tuple[str, str]]:
    """(name, text) rows about backends, instruction sets and threads."""
    cpu = torch.device("cpu")
    rows = [("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")]
    if _native is None:
        rows.append(("native (CPU)", f"missing: {native_missing}"))
    else:
        others = ", ".join(_native.instruction_sets())
        rows.append(("native (CPU)", f"{_native.instruction_set()} in use; this machine runs {others}"))
        rows.append(("native threads", str(_native.threads())))
    reason, gpu = why_not("native", torch.device("cuda")), torch.cuda.is_available()
    rows.append(("native (CUDA)", f"missing: {reason}" if reason else "available"))
    reason = why_not("triton", torch.device("cuda")) or ("" if gpu else "torch sees no GPU")
    rows.append(("triton", f"missing: {reason}" if reason else "available"))
    rows.append(("reference", "available"))
    rows.append(("chosen on the CPU", choose(cpu) + (" (PYACCEL_BACKEND)" if forced() else "")))
    if not private_names_work():
        rows.append(("note", f"torch {torch.__version__} has changed inside: operations use the slower formula"))
    return rows
