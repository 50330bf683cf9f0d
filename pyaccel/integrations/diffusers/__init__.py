"""diffusers: fused schedulers, and Plans as schedulers. Importing this imports diffusers."""

from .fused import FusedScheduler, fuse
from .plan_scheduler import PlanScheduler
from .schedules import prediction_of, schedule_of

__all__ = ["FusedScheduler", "PlanScheduler", "fuse", "prediction_of", "schedule_of"]
