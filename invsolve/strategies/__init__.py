"""How prior and data are combined: exact draws, guidance with any sampler, the published methods, particles and chains,
and the base class for your own."""

from invsolve.strategies.adaptive_sde import AdaptiveSDE
from invsolve.strategies.advise import Advice, Advised, advise
from invsolve.strategies.base import Bound, Info, Run, Strategy
from invsolve.strategies.daps import DAPS
from invsolve.strategies.ddnm import DDNM
from invsolve.strategies.ddrm import DDRM
from invsolve.strategies.deq_parallel import DeqParallel
from invsolve.strategies.diffpir import DiffPIR
from invsolve.strategies.dps import DPS
from invsolve.strategies.exact import Exact
from invsolve.strategies.guided import BoundGuidance, Guidance, Guided, NoGuidance
from invsolve.strategies.lanpaint import LanPaint
from invsolve.strategies.lgd import LGD
from invsolve.strategies.mcg_diff import FPS, MCGDiff
from invsolve.strategies.mmps import MMPS, MomentMatching
from invsolve.strategies.noise_mcmc import NoiseMCMC
from invsolve.strategies.pigdm import PiGDM, PseudoinverseGuidance
from invsolve.strategies.pigdm_published import PublishedPiGDM
from invsolve.strategies.pnpdm import PnPDM
from invsolve.strategies.reddiff import REDDiff
from invsolve.strategies.smc import SMC
from invsolve.strategies.tmpd import TMPD, TweedieMoment
from invsolve.strategies.unconditional import Unconditional

__all__ = [
    "AdaptiveSDE",
    "Advice",
    "Advised",
    "Bound",
    "BoundGuidance",
    "DAPS",
    "DDNM",
    "DDRM",
    "DPS",
    "DiffPIR",
    "DeqParallel",
    "Exact",
    "FPS",
    "Guidance",
    "Guided",
    "Info",
    "LGD",
    "LanPaint",
    "MCGDiff",
    "MMPS",
    "MomentMatching",
    "NoGuidance",
    "NoiseMCMC",
    "PiGDM",
    "PnPDM",
    "PseudoinverseGuidance",
    "PublishedPiGDM",
    "REDDiff",
    "Run",
    "SMC",
    "Strategy",
    "TMPD",
    "TweedieMoment",
    "Unconditional",
    "advise",
]
