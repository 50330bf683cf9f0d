"""Solvers: functions that return a Plan. A sampler is a table."""

from .adams import deis, ipndm, ipndm_v, lms, pndm, rho_ab
from .adaptive import AdaptiveSolver, Attempt, dpm_adaptive
from .amed import amed
from .ancestral import ddpm, euler_ancestral
from .builder import Builder
from .chosen_times import dmn_times, gits_times
from .ddim import ddim, euler
from .dpm_v3 import dpm_v3
from .dpmpp import dpm, dpm_fast, dpmpp, dpmpp_sde
from .edm import edm_stochastic, restart
from .family import SOLVERS, About, from_name, solver
from .model_statistics import ModelStatistics, model_statistics
from .plan import Call, Cost, Draw, Plan, Row, Stage, Threshold
from .reverse_sde import euler_maruyama
from .runge_kutta import epd, heun, rho_rk, rk4
from .sa_solver import sa_solver
from .students import ctm, flow_map, lcm, tcd
from .tracing import NotLinear
from .trainable import TrainablePlan
from .unipc import unic, unipc

__all__ = [
    "SOLVERS",
    "About",
    "AdaptiveSolver",
    "Attempt",
    "Builder",
    "Call",
    "Cost",
    "Draw",
    "ModelStatistics",
    "NotLinear",
    "Plan",
    "Row",
    "Stage",
    "Threshold",
    "TrainablePlan",
    "amed",
    "ctm",
    "ddim",
    "ddpm",
    "deis",
    "dmn_times",
    "dpm",
    "dpm_adaptive",
    "dpm_fast",
    "dpm_v3",
    "dpmpp",
    "dpmpp_sde",
    "edm_stochastic",
    "epd",
    "euler",
    "euler_ancestral",
    "euler_maruyama",
    "flow_map",
    "from_name",
    "gits_times",
    "heun",
    "ipndm",
    "ipndm_v",
    "lcm",
    "lms",
    "model_statistics",
    "pndm",
    "restart",
    "rho_ab",
    "rho_rk",
    "rk4",
    "sa_solver",
    "solver",
    "tcd",
    "unic",
    "unipc",
]
