"""The strategies that are measured and advised, each with its name in code."""

from __future__ import annotations

from functools import cache

from invsolve.strategies.base import Strategy
from invsolve.strategies.exact import Exact
from invsolve.strategies.guidance.mmps import MMPS
from invsolve.strategies.guidance.tmpd import TMPD
from invsolve.strategies.mcmc.noise_mcmc import NoiseMCMC
from invsolve.strategies.published.daps import DAPS
from invsolve.strategies.published.ddnm import DDNM
from invsolve.strategies.published.ddrm import DDRM
from invsolve.strategies.published.diffpir import DiffPIR
from invsolve.strategies.published.dps import DPS
from invsolve.strategies.published.lanpaint import LanPaint
from invsolve.strategies.published.lgd import LGD
from invsolve.strategies.published.pigdm import PiGDM
from invsolve.strategies.published.pnpdm import PnPDM
from invsolve.strategies.published.reddiff import REDDiff
from invsolve.strategies.smc.mcg_diff import FPS, MCGDiff
from invsolve.strategies.smc.smc import SMC


@cache
def catalogue() -> tuple[tuple[str, Strategy | None], ...]:
    """What is measured and advised: its name in code, and the strategy (None: "auto")."""
    return (
        ("auto", None),
        ("Exact()", Exact()),
        ("NoiseMCMC()", NoiseMCMC()),
        ("SMC()", SMC()),
        ("MMPS()", MMPS()),
        ("TMPD()", TMPD()),
        ("PiGDM()", PiGDM()),
        ('PiGDM(form="published")', PiGDM(form="published")),
        ("DPS()", DPS()),
        ('DPS(form="paper", scale=0.3)', DPS(form="paper", scale=0.3)),
        ("LGD()", LGD()),
        ("DDNM()", DDNM()),
        ("DDRM()", DDRM()),
        ("DiffPIR()", DiffPIR()),
        ("DiffPIR(lam=8, zeta=1)", DiffPIR(lam=8.0, zeta=1.0)),
        ("REDDiff()", REDDiff()),
        ("DAPS()", DAPS()),
        ("PnPDM()", PnPDM()),
        ("LanPaint()", LanPaint()),
        ("MCGDiff()", MCGDiff()),
        ("FPS()", FPS()),
    )
