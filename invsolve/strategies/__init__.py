"""How prior and data are combined: exact draws, guidance with any sampler, the published methods, particles and chains,
and the base class for your own."""

from typing import TYPE_CHECKING

from invsolve.strategies.advise import Advice, Advised, advise
from invsolve.strategies.base import Bound, Info, Run, Strategy
from invsolve.strategies.exact import Exact
from invsolve.strategies.guided import BoundGuidance, Guidance, Guided, NoGuidance
from invsolve.strategies.mmps import MMPS, MomentMatching
from invsolve.strategies.noise_mcmc import NoiseMCMC
from invsolve.strategies.pigdm import PiGDM, PseudoinverseGuidance
from invsolve.strategies.pigdm_published import PublishedPiGDM
from invsolve.strategies.smc import SMC
from invsolve.strategies.tmpd import TMPD, TweedieMoment
from invsolve.strategies.unconditional import Unconditional

if TYPE_CHECKING:  # imported where they are first used: a dozen modules that most programs do not need
    from invsolve.strategies.adaptive_sde import AdaptiveSDE
    from invsolve.strategies.daps import DAPS
    from invsolve.strategies.ddnm import DDNM
    from invsolve.strategies.ddrm import DDRM
    from invsolve.strategies.deq_parallel import DeqParallel
    from invsolve.strategies.diffpir import DiffPIR
    from invsolve.strategies.dps import DPS
    from invsolve.strategies.lanpaint import LanPaint
    from invsolve.strategies.lgd import LGD
    from invsolve.strategies.mcg_diff import FPS, MCGDiff
    from invsolve.strategies.pnpdm import PnPDM
    from invsolve.strategies.reddiff import REDDiff

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

_LATER = {
    "AdaptiveSDE": "adaptive_sde",
    "DAPS": "daps",
    "DDNM": "ddnm",
    "DDRM": "ddrm",
    "DPS": "dps",
    "DeqParallel": "deq_parallel",
    "DiffPIR": "diffpir",
    "FPS": "mcg_diff",
    "LGD": "lgd",
    "LanPaint": "lanpaint",
    "MCGDiff": "mcg_diff",
    "PnPDM": "pnpdm",
    "REDDiff": "reddiff",
}


def __getattr__(name: str) -> object:
    """What `_LATER` names, on first use."""
    from importlib import import_module

    if name not in _LATER:
        raise AttributeError(f"module 'invsolve.strategies' has no attribute {name!r}")
    value: object = getattr(import_module(f"invsolve.strategies.{_LATER[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
