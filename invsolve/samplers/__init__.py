"""Samplers (how noise is removed), grids of noise levels, and the plan that joins them."""

from invsolve.core.public_names import found_later
from invsolve.samplers.ancestral import Ancestral
from invsolve.samplers.base import Denoise, Level, Noise, Sampler, SamplerState
from invsolve.samplers.churn import Churn
from invsolve.samplers.deis import DEIS
from invsolve.samplers.dpm_solver import DPMSolver2M, DPMSolver3M
from invsolve.samplers.er_sde import ERSDE
from invsolve.samplers.euler import Euler
from invsolve.samplers.grids import check_grid, custom_grid, ddpm_grid, karras_grid, log_grid, vp_grid
from invsolve.samplers.heun import Heun
from invsolve.samplers.plan import Plan
from invsolve.samplers.predictor_corrector import PredictorCorrector
from invsolve.samplers.prior_sampling import prior_range, sample_prior
from invsolve.samplers.sde_dpm_solver import SDEDPMSolver2M
from invsolve.samplers.unipc import UniPC

__all__ = [
    "Ancestral",
    "Churn",
    "DEIS",
    "DPMSolver2M",
    "DPMSolver3M",
    "Denoise",
    "ERSDE",
    "Euler",
    "Heun",
    "Level",
    "Noise",
    "Plan",
    "PredictorCorrector",
    "SDEDPMSolver2M",
    "Sampler",
    "SamplerState",
    "UniPC",
    "check_grid",
    "custom_grid",
    "karras_grid",
    "ddpm_grid",
    "log_grid",
    "prior_range",
    "sample_prior",
    "vp_grid",
]

__getattr__ = found_later(__name__)
