"""The engine: public operations, each with one contract and an implementation per backend (see :mod:`.backend`)."""

from .adaln import adaln_modulate, gated_residual_adaln
from .attention import attention, attention_jvp
from .backend import CODES
from .blend import blend
from .ema import ema_update
from .gated_combination import gated_combination
from .linear_combination import Prepared, linear_combination, prepare
from .noise import Noise, normal
from .qk_norm_rope import qk_norm_rope
from .quantize import Quantized, quantize
from .relative_l1 import relative_l1
from .threshold import threshold

DTYPES = tuple(CODES)
"""Element types that the operations take."""

__all__ = [
    "DTYPES", "Noise", "Prepared", "Quantized", "adaln_modulate", "attention", "attention_jvp", "blend",
    "ema_update", "gated_combination", "gated_residual_adaln", "linear_combination", "normal", "prepare",
    "qk_norm_rope", "quantize", "relative_l1", "threshold",
]  # fmt: skip
