"""Solvers: functions that return a Plan. A sampler is a table."""

from .adams import deis, ipndm, ipndm_v, lms, pndm, rho_ab
from .ancestral import ddpm, euler_ancestral
from .builder import Builder
from .ddim import ddim, euler
from .dpmpp import dpm, dpm_fast, dpmpp, dpmpp_sde
from .family import SOLVERS, About, from_name, solver
from .plan import Call, Cost, Draw, Plan, Row, Stage, Threshold
from .reverse_sde import euler_maruyama
from .runge_kutta import epd, heun, rho_rk, rk4
from .unipc import unic, unipc

__all__ = [
    "SOLVERS",
    "About",
    "Builder",
    "Call",
    "Cost",
    "Draw",
    "Plan",
    "Row",
    "Stage",
    "Threshold",
    "ddim",
    "ddpm",
    "deis",
    "dpm",
    "dpm_fast",
    "dpmpp",
    "dpmpp_sde",
    "epd",
    "euler",
    "euler_ancestral",
    "euler_maruyama",
    "from_name",
    "heun",
    "ipndm",
    "ipndm_v",
    "lms",
    "pndm",
    "rho_ab",
    "rho_rk",
    "rk4",
    "solver",
    "unic",
    "unipc",
]
