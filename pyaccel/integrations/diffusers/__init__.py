"""diffusers: fused schedulers, Plans as schedulers, and networks as Denoisers. Importing this imports diffusers."""

from .denoiser import PipelineNetwork, denoiser_of
from .fused import FusedScheduler, fuse
from .plan_scheduler import PlanScheduler
from .schedules import prediction_of, schedule_of

__all__ = [
    "FusedScheduler", "PipelineNetwork", "PlanScheduler", "denoiser_of", "fuse", "prediction_of", "schedule_of",
]  # fmt: skip
