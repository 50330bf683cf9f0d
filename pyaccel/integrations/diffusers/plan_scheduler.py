"""``PlanScheduler``: our solvers, and any Plan, as a scheduler of diffusers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor

from ... import ops, predictions, schedules, solvers
from ...denoiser import Run, StepContext
from ...solvers import Plan, files
from ...solvers.executor import PlanRun
from ...solvers.noise import GivenNoise
from ...solvers.plan import TRAINED
from .schedules import prediction_of, schedule_of


class PlanScheduler(SchedulerMixin, ConfigMixin):
    """A scheduler whose steps are those of a Plan, one launch each.

    ``PlanScheduler.like(pipe.scheduler, "unipc", order=3)`` makes the Plan anew for each number of steps, each list of
    sigmas and each strength of image-to-image. ``PlanScheduler(plan)`` runs one Plan and no other number of steps.
    ``PlanScheduler(Plan.load("plan.json"))`` so runs a trained solver: the pipeline has to be asked for its number of
    steps, and levels of noise that it brings along give way to the learned ones.
    It saves and loads as any scheduler does; whoever loads it needs pyaccel.

    Args:
        plan: a Plan with one model call in each stage and without tensors; or
        solver: the name of a solver (:data:`pyaccel.solvers.SOLVERS`), with
        options: the options of it, and
        schedule: the noise schedule of the model, as its name and parameters.
        prediction: what the model predicts; by default what the Plan says.
        num_train_timesteps: for flows, the model is told sigma times this.
    """

    _compatibles: list[str] = []  # noqa: RUF012 - the name and form are those of diffusers
    order = 1

    def __init__(
        self,
        plan: Plan | dict | None = None,
        solver: str | None = None,
        options: dict[str, Any] | None = None,
        schedule: list | None = None,
        prediction: str | None = None,
        num_train_timesteps: int = 1000,
    ):
        if (plan is None) == (solver is None):
            raise ValueError("give either a plan or the name of a solver with a schedule")
        if plan is not None:
            plan = plan if isinstance(plan, Plan) else files.from_data(plan)
            if plan.tensors or any(len(stage.calls) > 1 for stage in plan.stages):
                raise ValueError(
                    f"a plan of {plan.solver} has tensors, or several model calls at once, which a scheduler cannot "
                    "ask for; run it with plan.sample(denoiser, noise)"
                )
        else:
            if schedule is None:
                raise ValueError(f"solver={solver!r} needs a schedule, such as ['flow', {{'shift': 3.0}}]")
            solvers.from_name(solver)
            schedules.from_name(schedule[0], **schedule[1])
        self.register_to_config(
            plan=None if plan is None else files.to_data(plan),
            solver=solver,
            options=options or {},
            schedule=schedule,
            prediction=prediction,
            num_train_timesteps=num_train_timesteps,
        )
        if prediction is not None:
            predictions.check(prediction)
        self._fixed = plan
        self.num_inference_steps: int | None = None
        self.init_noise_sigma = 1.0
        self._use(plan if plan is not None else self._made(steps=10))

    @classmethod
    def like(cls, scheduler, solver: str, **options) -> PlanScheduler:
        """One for the model that ``scheduler`` is for, with a solver of ours and its options (``order``, ``grid``).

        Raises ValueError for an unknown solver or option, or a scheduler whose schedule is not known.
        """
        schedule = schedule_of(scheduler)
        return cls(
            solver=solver,
            options=options,
            schedule=[schedule.name, schedule.parameters],
            prediction=prediction_of(scheduler),
            num_train_timesteps=scheduler.config.get("num_train_timesteps", 1000),
        )

    # -- timesteps ----------------------------------------------------------------------------------------------------

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: list[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Makes the Plan of ``num_inference_steps``, or of the levels ``sigmas`` (flows only), and begins a run.

        ``mu`` shifts the levels of a flow as FlowMatchEulerDiscreteScheduler does: by e^mu.
        """
        if self._fixed is not None:
            # A pipeline that asks for its own levels gets the learned ones, which are there in their place.
            learned = TRAINED in self._fixed.options and sigmas is not None and len(sigmas) == self._fixed.calls
            own = sigmas is None or learned
            if num_inference_steps not in (None, self._fixed.steps, self._fixed.calls) or not own:
                raise ValueError(
                    f"this PlanScheduler runs one plan of {self._fixed.steps} steps, and was asked for "
                    f"{num_inference_steps if own else f'{len(sigmas)} sigmas'}; PlanScheduler.like(scheduler, "
                    f"{self._fixed.solver!r}) makes a plan for each number of steps"
                )
            plan = self._fixed
        elif sigmas is not None or mu is not None:
            plan = self._made_of_levels(sigmas, num_inference_steps, mu)
        elif num_inference_steps is None:
            raise ValueError("set_timesteps needs num_inference_steps or sigmas")
        else:
            plan = self._made(steps=num_inference_steps)
        self._use(plan, device)
        self.num_inference_steps = plan.steps

    def _made(self, schedule=None, **grid) -> Plan:
        make = solvers.from_name(self.config.solver)
        if schedule is None:
            name, parameters = self.config.schedule
            schedule = schedules.from_name(name, **parameters)
        return make(schedule, prediction=self.config.prediction, **grid, **self.config.options)

    def _made_of_levels(self, sigmas, count: int | None, mu: float | None) -> Plan:
        name, parameters = self.config.schedule
        if name != "flow":
            raise ValueError(f"sigmas and mu are for flows, and this scheduler's schedule is {name}")
        if sigmas is None:
            sigmas = [1 - i / count for i in range(count)]
        levels = torch.as_tensor(sigmas, dtype=torch.float64)
        shift = parameters["shift"] if mu is None else float(torch.tensor(mu).double().exp())
        levels = shift * levels / (1 + (shift - 1) * levels)
        return self._made(schedules.flow(), times=[*levels.tolist(), 0.0])

    def _use(self, plan: Plan, device=None) -> None:
        """Begins a run of ``plan``."""
        self._plan, self._run, self._result = plan, None, None
        self._step_index = self._begin_index = None
        self._identity = Run()
        calls = [stage.calls[0] for stage in plan.stages]
        scale = self.config.num_train_timesteps if plan.schedule[0] == "flow" else 1.0
        self.timesteps = torch.tensor([c.model_time * scale for c in calls], dtype=torch.float32, device=device)
        levels = [(c.alpha, c.sigma) for c in calls] + [plan.ends[1]]
        flow = plan.schedule[0] == "flow"
        self.sigmas = torch.tensor([s if flow or a == 0 else s / a for a, s in levels], dtype=torch.float32)
        self.order = -(-len(calls) // plan.steps)
        inputs = {row.target: row.new[0] for row in plan.start}
        self.init_noise_sigma = float(inputs[calls[0].input])

    def set_begin_index(self, begin_index: int = 0) -> None:
        """The run begins at this entry of ``timesteps``, as in image-to-image."""
        self._begin_index = int(begin_index)

    @property
    def begin_index(self) -> int | None:
        """Where the run begins; None if nobody said."""
        return self._begin_index

    @property
    def step_index(self) -> int | None:
        """The entry of ``timesteps`` whose step comes next; None before the first."""
        return self._step_index

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    # -- samples ------------------------------------------------------------------------------------------------------

    def scale_model_input(self, sample: torch.Tensor, timestep=None) -> torch.Tensor:
        """The sample itself: a Plan's model sees what the pipeline holds."""
        return sample

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """alpha·sample + sigma·noise at each of ``timesteps`` [B] or [1]."""
        index = self._step_index if self._step_index is not None else self._begin_index
        rows = []
        for t in torch.as_tensor(timesteps).reshape(-1):
            call = self._plan.stages[self._index_of(t) if index is None else index].calls[0]
            rows.append([[call.alpha, call.sigma]])
        rows = rows[0] if len(rows) == 1 else rows
        return ops.linear_combination(
            [original_samples, noise.to(original_samples)], rows, dtype=original_samples.dtype
        )[0]

    def scale_noise(self, sample: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """:meth:`add_noise`, under the name that flows have for it."""
        return self.add_noise(sample, noise, timestep)

    def _index_of(self, timestep) -> int:
        distances = (self.timesteps - torch.as_tensor(timestep, device=self.timesteps.device)).abs()
        index = int(distances.argmin())
        if float(distances[index]) > 1e-3 * max(1.0, float(self.timesteps[index])):
            raise ValueError(f"timestep {float(timestep):.6g} is none of this scheduler's: {self.timesteps.tolist()}")
        return index

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[torch.Tensor]:
        """The next sample, like ``sample``, after the model's output for it at ``timestep``.

        The state is kept in float32 (float64 for float64); a sample that the pipeline has changed is taken as it is.
        ``generator`` draws the noise of a stochastic Plan.
        """
        if self._run is None:
            self._begin(model_output, timestep, sample)
        elif self._position >= len(self._run.plan.stages):
            raise ValueError("the plan's steps are over; call set_timesteps for another run")
        run, stage = self._run, self._run.plan.stages[self._position]
        self._generator = generator
        if sample is not self._result:  # ours is the same in more digits
            run.registers[stage.calls[0].input] = sample.to(run.state)
        run.update(self._position, [model_output])
        self._generator = None
        self._position += 1
        self._step_index += 1
        left = run.plan.stages[self._position :]
        self._result = run.registers[left[0].calls[0].input if left else run.plan.output].to(sample.dtype)
        return SchedulerOutput(prev_sample=self._result) if return_dict else (self._result,)

    def _begin(self, model_output: torch.Tensor, timestep, sample: torch.Tensor) -> None:
        if self.num_inference_steps is None:
            raise ValueError("call set_timesteps before step")
        index = self._begin_index if self._begin_index is not None else self._index_of(timestep)
        plan = self._plan if index == 0 else self._rest(index)
        self._drawn = sample.shape, sample.device, torch.promote_types(sample.dtype, torch.float32)
        source = GivenNoise(plan, self._draw)
        like = SimpleNamespace(dtype=model_output.dtype, prediction=self.config.prediction)
        self._run = run = PlanRun(plan, like, sample, source)
        self._step_index, self._position = index, 0
        first = {row.target: row.new[0] for row in plan.start}
        size = first[plan.stages[0].calls[0].input]
        for register, factor in first.items():
            (run.registers[register],) = ops.linear_combination([sample], [[factor / size]], dtype=run.state)

    def _rest(self, index: int) -> Plan:
        """The Plan from entry ``index`` of the timesteps on: made anew, as it has no history there."""
        if self._fixed is not None:
            raise ValueError(
                f"this PlanScheduler runs one plan, from its first time on, and was asked to begin at step {index}; "
                f"PlanScheduler.like(scheduler, {self._fixed.solver!r}) can begin anywhere"
            )
        schedule = schedules.from_name(self._plan.schedule[0], **self._plan.schedule[1])
        return self._made(schedule, times=list(self._plan.times[index // self.order :]))

    def _draw(self, _) -> torch.Tensor:
        shape, device, dtype = self._drawn
        return randn_tensor(shape, generator=self._generator, device=device, dtype=dtype)

    # -- for caches ---------------------------------------------------------------------------------------------------

    def pyaccel_position(self) -> StepContext | None:
        """The StepContext of the model call that is under way, or None outside of a run."""
        if self.num_inference_steps is None:
            return None
        first = self._begin_index or 0
        steps, done = len(self._plan.stages) - first, 0 if self._run is None else self._position
        if done >= steps:
            return None
        return StepContext(self._identity, done, steps, self._plan.stages[first + done].t)

    def pyaccel_summary(self) -> str:
        """The Plan in a line."""
        return f"PlanScheduler: {self._plan.solver}, {self._plan.steps} steps, {self._plan.calls} model calls"
