"""Feature caching: where · when · how. Each published method is a choice of the three."""

from .attaching import attach
from .auto import auto
from .blockcache import blockcache
from .calibration import Calibration, calibrate
from .dbcache import dbcache, fbcache
from .deepcache import centred, deepcache
from .delta_dit import delta_dit
from .dicache import dicache
from .easycache import easycache
from .engine import Cache
from .fora import fora
from .hicache import hicache
from .how import How, hermite, newton, reuse, taylor
from .magcache import magcache
from .moment import Moment, When
from .pab import pab
from .ranges import blocks, first_blocks, modulated_input, spans
from .registry import CACHES, options_of
from .scale_shift import ScaleShift, fit_scale_shift
from .speca import speca
from .statistics import Summary
from .taylorseer import taylorseer
from .teacache import FLUX, teacache
from .unet import below_branch
from .when import every, full_steps, mask, on_steps
from .where import Probe, Site, branches

__all__ = [
    "CACHES", "FLUX", "Cache", "Calibration", "How", "Moment", "Probe", "ScaleShift", "Site", "Summary", "When",
    "attach", "auto", "below_branch", "blockcache", "blocks", "branches", "calibrate", "centred", "dbcache",
    "deepcache", "delta_dit", "dicache", "easycache", "every", "fbcache", "first_blocks", "fit_scale_shift",
    "fora", "full_steps", "hermite", "hicache", "magcache", "mask", "modulated_input", "newton", "on_steps",
    "options_of", "pab", "reuse", "spans", "speca", "taylor", "taylorseer", "teacache",
]  # fmt: skip
