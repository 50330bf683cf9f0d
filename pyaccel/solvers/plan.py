"""The Plan: a sampler as a table. Plain data, no code; how it is saved is in files.py, how it runs in executor.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from .capturing import CapturedPlan

TRAINED = "trained from"
"""The option of a trained plan that names the solver from which it was trained."""


@dataclass(frozen=True)
class Row:
    """register[``target``] = Σ_r ``reads[r]``·register[r] + Σ_c ``new[c]``·m_c + Σ_d ``noise[d]``·ξ_d + ``bias``.

    m_c are the predictions of the stage's calls, ξ_d the plan's draws of unit Gaussian noise. In the start rows, which
    come before any call, ``new`` has one entry, the factor of what the run is given. A coefficient that is a string
    names a tensor of the plan with a value for each element of a sample.
    """

    target: int
    reads: dict[int, float | str]
    new: tuple[float | str, ...]
    noise: dict[int, float] = field(default_factory=dict)
    bias: float | str = 0.0


@dataclass(frozen=True)
class Call:
    """One model call: the model sees register ``input`` and is told ``model_time``.

    Its output is read as ``form`` (``sample``, ``epsilon``, ``v`` or ``flow``) with the schedule's ``alpha`` and
    ``sigma``. A model of two times is also told ``to``, the time that it leads to.
    """

    t: float
    alpha: float
    sigma: float
    model_time: float
    form: str
    input: int
    to: float | None = None


@dataclass(frozen=True)
class Stage:
    """Model calls that do not need one another, nearly always one, and the update after them.

    All ``rows`` are computed at once, from the registers as they were.
    """

    calls: tuple[Call, ...]
    rows: tuple[Row, ...]

    @property
    def t(self) -> float:
        """The time of the first call."""
        return self.calls[0].t

    @property
    def reads(self) -> list[int]:
        """The registers that the update reads, sorted: those of the rows and, for the conversion, the inputs."""
        return sorted({r for row in self.rows for r in row.reads} | {call.input for call in self.calls})

    @property
    def draws(self) -> list[int]:
        """The draws of noise that the update adds, sorted."""
        return sorted({d for row in self.rows for d in row.noise})


class Draw(NamedTuple):
    """Unit Gaussian noise over a step from time ``t_from`` to ``t_to``, whose sigma/alpha are the other two."""

    t_from: float
    t_to: float
    sigma_from: float
    sigma_to: float


class Threshold(NamedTuple):
    """A map of each prediction of x0 before the update: clamped to ±``limit``, or dynamic thresholding.

    Dynamic (Saharia et al. 2022, section 2.3): s is the ``ratio``-quantile of |x0| in each sample, at least 1 and at
    most ``limit``; x0 is clamped to ±s and divided by s. ``ratio`` 0 is the plain clamp.
    """

    limit: float
    ratio: float = 0.0


@dataclass(frozen=True)
class Cost:
    """What a run moves and launches beside the model calls themselves."""

    calls: int
    launches: int
    bytes: int


@dataclass(frozen=True)
class Plan:
    """A sampler between noise and data: model calls, and one linear combination after each.

    ``prediction`` says what a bare function is taken to return; a :class:`pyaccel.Denoiser` knows its own. Solvers
    make Plans (:mod:`pyaccel.solvers`); :meth:`sample` runs them. ``ends`` are (alpha, sigma) at the first and at the
    last time.
    """

    start: tuple[Row, ...]
    stages: tuple[Stage, ...]
    output: int
    prediction: str
    schedule: tuple[str, dict[str, Any]]
    times: tuple[float, ...]
    ends: tuple[tuple[float, float], tuple[float, float]]
    draws: tuple[Draw, ...] = ()
    threshold: Threshold | None = None
    solver: str = "custom"
    options: dict[str, Any] = field(default_factory=dict)
    # Their names are made from their contents, so comparing the names is enough.
    tensors: dict[str, torch.Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def calls(self) -> int:
        """Model calls of one run."""
        return sum(len(stage.calls) for stage in self.stages)

    @property
    def steps(self) -> int:
        """Intervals of the time grid."""
        return len(self.times) - 1

    @property
    def registers(self) -> int:
        """Tensors of the sample's size that a run holds at most."""
        return 1 + max(row.target for rows in (self.start, *(stage.rows for stage in self.stages)) for row in rows)

    @property
    def stochastic(self) -> bool:
        """Whether a run adds noise on its way."""
        return bool(self.draws)

    @property
    def start_draws(self) -> list[int]:
        """The draws of noise in the start rows, sorted."""
        return sorted({d for row in self.start for d in row.noise})

    def sample_register(self, index: int) -> int:
        """The register that holds the sample after stage ``index``: what the next call sees, or the output."""
        return self.stages[index + 1].calls[0].input if index + 1 < len(self.stages) else self.output

    @property
    def rising(self) -> bool:
        """Whether the plan leads from data to noise."""
        return self.times[-1] > self.times[0]

    def sample(
        self,
        denoiser: Callable[..., torch.Tensor],
        noise: torch.Tensor,
        *,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        noise_sampler: Callable[[float, float], torch.Tensor] | None = None,
        image: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        batched_guidance: bool | None = None,
        callback: Callable[[int, float, torch.Tensor], torch.Tensor | None] | None = None,
        progress: bool = False,
        grad: bool = False,
        **conditioning,
    ) -> torch.Tensor:
        """Runs the plan: a sample like ``noise``.

        Args:
            denoiser: a :class:`pyaccel.Denoiser` or any callable ``(x, t, **conditioning) -> prediction`` with x like
                noise and t a float tensor [B], the schedule's model time.
            noise: unit Gaussian, [B, ...]; the plan scales it. The state of the run is float32, or float64 if noise is.
                A rising plan (inversion) is handed the sample itself.
            seed: of the noise that a stochastic plan adds on its way: B numbers, or one number s for s, s+1, ...,
                s+B−1. The noise of a sample depends on its own seed alone, not on its batch, and is drawn in the
                kernel.
            generator: draw that noise with torch's generator instead, or with one generator for each sample.
            noise_sampler: or by ``noise_sampler(sigma_from, sigma_to)``, unit Gaussian noise for a step between two
                values of sigma/alpha, such as k-diffusion's BrownianTreeNoiseSampler.
            image: [B, ...]; start from it, noised to the plan's first time, instead of from noise alone. With a mask,
                what is kept where the mask is 0.
            mask: broadcasts to noise, in [0, 1]; 1 where the sample is to be made anew, 0 where ``image`` stays.
            batched_guidance: both passes of guidance in one model call or one after the other; by default as the
                denoiser says.
            callback: called after each step as ``callback(step, t, x)`` with the number of the stage, the time
                of its call and the new sample, a tensor of the callback's own; returning a tensor replaces the
                sample.
            progress: show a progress bar.
            grad: keep the graph for gradients through the whole run; also kept when noise requires gradients.
            conditioning: handed on to the denoiser.

        Raises:
            TypeError, ValueError: noise that is not a real floating-point tensor [B, ...]; a prediction that is not
                like it; a stochastic plan without seed, generator or noise_sampler, or with more than one.
            FloatingPointError: the model returned NaN or infinity, with the number of the call where it is known.
        """
        from .executor import run

        return run(
            self, denoiser, noise, seed=seed, generator=generator, noise_sampler=noise_sampler, image=image, mask=mask,
            batched_guidance=batched_guidance, callback=callback, progress=progress, grad=grad,
            conditioning=conditioning,
        )  # fmt: skip

    def capture(
        self, denoiser: Callable[..., torch.Tensor], noise: torch.Tensor | Sequence[int], **conditioning
    ) -> CapturedPlan:
        """Records a run as CUDA graphs: a callable that samples as :meth:`sample` does, to the same bits.

        Args:
            denoiser: as in :meth:`sample`; it must not read numbers from the GPU on its way, as dynamic caches do.
            noise: an example [B, ...] on an NVIDIA GPU, or its shape, in float32 on the current one.
            conditioning: an example; tensors may have other values later, of the same shapes and dtypes.

        The result is called as ``captured(noise, seed=..., callback=..., progress=..., **conditioning)``. Steps that
        differ in numbers alone share one graph, whose coefficients are a table in the GPU's memory;
        ``captured.graphs`` says how many graphs there are. Two runs are made to record it.

        Raises ValueError where there is no such GPU, RuntimeError where something in the model cannot be recorded.
        """
        from ..cuda_graphs import CudaGraphs
        from .capturing import CapturedPlan

        if not torch.cuda.is_available() or torch.version.hip:
            raise ValueError(
                "capture records CUDA graphs, and torch sees no GPU of NVIDIA's; plan.sample runs everywhere"
            )
        if not isinstance(noise, torch.Tensor):
            noise = torch.randn(*noise, device="cuda")
        if noise.device.type != "cuda":
            raise ValueError(f"capture records CUDA graphs; noise is on {noise.device}, expected a GPU")
        return CapturedPlan(self, denoiser, noise, conditioning, CudaGraphs(noise.device))

    @staticmethod
    def trace(scheduler, steps: int | None = None, *, begin: int = 0, **step_options) -> Plan:
        """The Plan of a scheduler object with the interface of diffusers, by probing each of its steps.

        Every setting that the scheduler has is honoured, and classes that a user wrote are served as well: all that is
        asked of a step is that it be a linear combination of the tensors that it is given and remembers.

        Args:
            scheduler: any object with ``set_timesteps``, ``timesteps`` and ``step(model_output, timestep, sample)``. It
                is copied, and left as it is.
            steps: for its ``set_timesteps``; None if that was called.
            begin: start at this entry of its timesteps, as image-to-image does.
            step_options: numbers handed to each step, such as ``eta``.

        The plan's times are the scheduler's timesteps over its number of training steps (sigma for flows), and its
        model is told the scheduler's timesteps. Noise is drawn by the Plan's own means; calls whose output the
        scheduler does not use are left out.

        Raises:
            pyaccel.solvers.NotLinear: a ValueError that says which step is not linear and why. Clamping and dynamic
                thresholding of the prediction of x0 become the plan's threshold.
        """
        from .tracing.composing import trace

        return trace(scheduler, steps, begin=begin, **step_options)

    def cost(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Cost:
        """Calls, launches and bytes of the updates for samples of ``shape``, state and network in ``dtype``.

        Noise is drawn in the kernel and moves nothing. A threshold adds a launch for the conversion and one for the
        map, which reads and writes the prediction.
        """
        elements = 1
        for size in shape:
            elements *= size
        tensors, launches = 1 + len(self.start), 1
        for stage in self.stages:
            tensors += len(stage.reads) + len(stage.calls) + len(stage.rows)
            launches += 1
            if self.threshold is not None:
                tensors += (3 + 2) * len(stage.calls)
                launches += 2
        return Cost(self.calls, launches, tensors * elements * dtype.itemsize)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the plan as JSON, atomically; floats are exact. Tensors go into a safetensors file beside it."""
        from .files import save

        save(self, path)

    @staticmethod
    def load(path: str | os.PathLike) -> Plan:
        """A saved plan; ValueError when the file is damaged, from a newer version or not a plan."""
        from .files import load

        return load(path)

    def __str__(self) -> str:
        name, parameters = self.schedule
        options = ", ".join(f"{k}={v}" for k, v in {**parameters, **self.options}.items() if k != "betas")
        lines = [
            f"{self.solver} on {name}: {self.steps} steps, {self.calls} model calls, {self.registers} registers"
            + (f", {len(self.draws)} draws of noise" if self.draws else "")
            + (f" ({options})" if options else ""),
            " call        t    alpha    sigma    m  update",
        ]
        given = "x" if self.rising else "noise"
        lines += [f"    -                                 {_equation(row, [given])}" for row in self.start]
        number = 0
        for stage in self.stages:
            heads = []
            for call in stage.calls:
                m = {"sample": "x0", "epsilon": "eps"}.get(call.form, call.form)
                heads.append(f"{number:5d} {call.t:8.5f} {call.alpha:8.5f} {call.sigma:8.5f} {m:>4}")
                number += 1
            texts = [_equation(row, [f"m(r{call.input})" for call in stage.calls]) for row in stage.rows]
            for j in range(max(len(heads), len(texts))):
                head = heads[j] if j < len(heads) else " " * len(heads[0])
                lines.append(f"{head}  {texts[j] if j < len(texts) else ''}".rstrip())
        return "\n".join([*lines, f"result: r{self.output}"])


def _equation(row: Row, new: list[str]) -> str:
    terms = [(c, f"r{r}") for r, c in row.reads.items()]
    # Of several calls only those that the row uses; of one always, so that the table shows where it stands.
    terms += [(c, m) for c, m in zip(row.new, new, strict=True) if c != 0.0 or len(new) == 1]
    terms += [(c, f"ξ{d}") for d, c in row.noise.items()]
    text = " ".join(f"+[{c[:6]}]·{x}" if isinstance(c, str) else f"{c:+.5f}·{x}" for c, x in terms)
    bias = f" +[{row.bias[:6]}]" if isinstance(row.bias, str) else f" {row.bias:+.5f}" if row.bias else ""
    return f"r{row.target} = {text}{bias}"
