"""Plain float64 loops of the papers' algorithms, written over tensors, to compare Plans with.

``schedule`` gives alpha, sigma and lam at the ``times``, ``model(x, t)`` is E[x0 | x_t], and ``draw(s, t)``, where
there is one, the unit Gaussian noise for the step between two values of sigma/alpha.
"""

from .adams import deis, lms, pndm
from .dpm import dpm_fast, dpm_multistep, dpm_singlestep, sde_multistep, sde_singlestep
from .first_order import ddim, ddpm, euler_ancestral, euler_maruyama
from .multistep import dpmpp_2m, dpmpp_3m
from .runge_kutta import epd, runge_kutta_in_ratio, runge_kutta_in_time
from .unipc import unic, unip_singlestep, unipc

__all__ = [
    "ddim",
    "ddpm",
    "deis",
    "dpm_fast",
    "dpm_multistep",
    "dpm_singlestep",
    "dpmpp_2m",
    "dpmpp_3m",
    "epd",
    "euler_ancestral",
    "euler_maruyama",
    "lms",
    "pndm",
    "runge_kutta_in_ratio",
    "runge_kutta_in_time",
    "sde_multistep",
    "sde_singlestep",
    "unic",
    "unip_singlestep",
    "unipc",
]
