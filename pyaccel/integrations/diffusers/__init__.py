"""diffusers: fused schedulers and Plans as schedulers. Importing this imports diffusers."""

from .fused import FusedScheduler, fuse

__all__ = ["FusedScheduler", "fuse"]
