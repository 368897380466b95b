"""How prior and data are combined: `Exact` draws, guidance with any sampler, and the base class for your own."""

from invsolve.strategies.adaptive_sde import AdaptiveSDE
from invsolve.strategies.base import Bound, Info, Run, Strategy
from invsolve.strategies.deq_parallel import DeqParallel
from invsolve.strategies.exact import Exact
from invsolve.strategies.guided import BoundGuidance, Guidance, Guided, NoGuidance
from invsolve.strategies.mmps import MMPS, MomentMatching
from invsolve.strategies.noise_mcmc import NoiseMCMC
from invsolve.strategies.pigdm import PiGDM, PseudoinverseGuidance
from invsolve.strategies.smc import SMC
from invsolve.strategies.tmpd import TMPD, TweedieMoment
from invsolve.strategies.unconditional import Unconditional

__all__ = [
    "AdaptiveSDE",
    "Bound",
    "BoundGuidance",
    "DeqParallel",
    "Exact",
    "Guidance",
    "Guided",
    "Info",
    "MMPS",
    "MomentMatching",
    "NoGuidance",
    "NoiseMCMC",
    "PiGDM",
    "PseudoinverseGuidance",
    "Run",
    "SMC",
    "Strategy",
    "TMPD",
    "TweedieMoment",
    "Unconditional",
]
