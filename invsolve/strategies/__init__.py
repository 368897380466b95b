"""How prior and data are combined: exact draws, guidance, published methods, particles and chains.

Also the base class for a strategy of your own.
"""

from typing import TYPE_CHECKING

from invsolve.core.public_names import found_later
from invsolve.strategies.base import Bound, Info, Run, Strategy
from invsolve.strategies.choice.advise import Advice, Advised, advise
from invsolve.strategies.diagnostics import Diagnostics
from invsolve.strategies.exact import Exact
from invsolve.strategies.guidance.guided import BoundGuidance, Guidance, Guided, NoGuidance
from invsolve.strategies.guidance.mmps import MMPS, MomentMatching
from invsolve.strategies.guidance.tmpd import TMPD, TweedieMoment
from invsolve.strategies.guidance.unconditional import Unconditional
from invsolve.strategies.mcmc.noise_mcmc import NoiseMCMC
from invsolve.strategies.published.pigdm import PiGDM, PseudoinverseGuidance
from invsolve.strategies.published.pigdm_published import PublishedPiGDM
from invsolve.strategies.smc.smc import SMC

if TYPE_CHECKING:  # imported where they are first used: a dozen modules that most programs do not need
    from invsolve.strategies.fields.diffusion_pde import DiffusionPDE
    from invsolve.strategies.fields.fundps import FunDPS
    from invsolve.strategies.fields.multi_resolution import MultiResolution
    from invsolve.strategies.integrators.adaptive_sde import AdaptiveSDE
    from invsolve.strategies.integrators.deq_parallel import DeqParallel
    from invsolve.strategies.published.daps import DAPS
    from invsolve.strategies.published.ddnm import DDNM
    from invsolve.strategies.published.ddrm import DDRM
    from invsolve.strategies.published.diffpir import DiffPIR
    from invsolve.strategies.published.dps import DPS
    from invsolve.strategies.published.lanpaint import LanPaint
    from invsolve.strategies.published.lgd import LGD
    from invsolve.strategies.published.pnpdm import PnPDM
    from invsolve.strategies.published.reddiff import REDDiff
    from invsolve.strategies.smc.mcg_diff import FPS, MCGDiff

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
    "Diagnostics",
    "DiffusionPDE",
    "Exact",
    "FPS",
    "FunDPS",
    "Guidance",
    "Guided",
    "Info",
    "LGD",
    "LanPaint",
    "MCGDiff",
    "MMPS",
    "MomentMatching",
    "MultiResolution",
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

__getattr__ = found_later(
    __name__,
    {
        "AdaptiveSDE": "integrators.adaptive_sde",
        "DAPS": "published.daps",
        "DDNM": "published.ddnm",
        "DDRM": "published.ddrm",
        "DPS": "published.dps",
        "DeqParallel": "integrators.deq_parallel",
        "DiffPIR": "published.diffpir",
        "DiffusionPDE": "fields.diffusion_pde",
        "FPS": "smc.mcg_diff",
        "FunDPS": "fields.fundps",
        "LGD": "published.lgd",
        "LanPaint": "published.lanpaint",
        "MCGDiff": "smc.mcg_diff",
        "MultiResolution": "fields.multi_resolution",
        "PnPDM": "published.pnpdm",
        "REDDiff": "published.reddiff",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
