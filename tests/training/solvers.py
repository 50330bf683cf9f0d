"""What the tests of solvers' training share: the Gaussian mixture as model and its teacher's samples."""

import torch

from pyaccel import Denoiser, schedules, solvers
from pyaccel.seeding import sample_noise
from pyaccel.solvers import TrainablePlan
from pyaccel.training.distances import l2
from pyaccel.training.solver_config import SolverConfig
from pyaccel.training.solver_trainer import SolverTrainer
from pyaccel.training.teacher import TeacherData
from tests.mixture import exact_denoiser

SCHEDULE = schedules.vp_linear()


def mixture(shift: float = 0.0) -> Denoiser:
    """The exact model of the mixture, which looks at no label."""
    exact = exact_denoiser(SCHEDULE, "epsilon")
    return Denoiser(lambda x, t, label=None: exact(x, t) + shift, SCHEDULE, "epsilon")


def teacher(count: int, size: int = 4) -> TeacherData:
    """Samples of it by 64 steps of UniPC."""
    noise = sample_noise(5, range(count), (size,))
    samples = solvers.unipc(SCHEDULE, 64, grid="log_snr", end=1e-3).sample(mixture(), noise)
    return TeacherData(noise, samples, {"label": torch.arange(count) % 10})


def trainer(folder, *, plan=None, data=None, distance=l2, discriminator=None, denoiser=None, report=None, **changes):
    """A trainer of a 4-step DPM-Solver++(3M) on the mixture."""
    config = SolverConfig(**{"steps": 20, "batch_size": 32, "validate_every": 5, "warmup": 5, **changes})
    train, held = (teacher(160) if data is None else data).split(64)
    trainable = TrainablePlan(plan or solvers.dpmpp(SCHEDULE, 4, order=3, end=1e-3))
    return SolverTrainer(
        trainable, denoiser or mixture(), train, held, distance, config, folder, discriminator=discriminator,
        report=report,
    )  # fmt: skip
