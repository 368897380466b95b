"""A second look at what chains certified, from a start so wide that modes in the tails of the prior are met.

Independent islands that start as prior draws share what none of them meets: a mode of the likelihood where the prior
has hardly any mass. Chains that start three times as wide, fewer of them, are led by tempering to the same posterior;
what they find beyond the first ones is mass that those missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import to_real
from invsolve.results.strategy_output import StrategyOutput
from invsolve.strategies.choice.candidates import Candidate
from invsolve.strategies.mcmc.noise_mcmc import NoiseMCMC

DRAWS = 256  # samples of a look, which are compared
_FEWEST, _SHARE = 256, 4  # chains that look, at least; one for so many of the first
_APART = 3.0  # standard errors of a difference, beyond what the worst of so many components has by chance
_MORE = 3.0  # the same of the log-evidence, where only a gain counts


def fewer(candidate: Candidate) -> Candidate:
    """The chains that look, a quarter of them."""
    strategy = candidate.strategy
    assert isinstance(strategy, NoiseMCMC)
    chains = min(strategy.chains, max(_FEWEST, strategy.chains // _SHARE // strategy.islands * strategy.islands))
    return replace(candidate, strategy=replace(strategy, chains=chains), cost=candidate.cost * chains / strategy.chains)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """What a wider start found, of every item."""

    gain: Tensor  # (items,): of the log-evidence, beyond its error
    apart: Tensor  # (items,): of the means, the worst component, in standard errors beyond chance

    @classmethod
    def at(cls, first: StrategyOutput, wide: StrategyOutput, items: Tensor, batch: int) -> Look:
        """``wide`` is of the ``items`` of the ``batch`` that ``first`` is of."""
        every = torch.arange(len(items), device="cpu")
        (z, z_se), (w, w_se) = _evidence(first, items, batch), _evidence(wide, every, len(items))
        gain = w - z - _MORE * (z_se.square() + w_se.square()).sqrt()
        (mean, variance, error), (other, width, noise) = (
            _moments(first, items, batch),
            _moments(wide, every, len(items)),
        )
        scale = torch.maximum(variance, width).clamp_min(torch.finfo(torch.float64).tiny).sqrt()
        apart = ((mean - other).abs() / scale).amax(1) / (error.square() + noise.square()).sqrt()
        apart = apart - math.sqrt(2 * math.log(mean.shape[1]))  # what the worst of them has by chance
        return cls(gain=gain.nan_to_num(nan=0.0), apart=apart.nan_to_num(nan=0.0))

    @property
    def missed(self) -> Tensor:
        """Items ``(items,)`` of which the first chains missed mass, or the two disagree."""
        return (self.gain > 0) | (self.apart > _APART)


def _evidence(found: StrategyOutput, items: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    log, se = found.info.log_evidence, found.info.log_evidence_se
    assert log is not None and se is not None  # chains without a `start` state both
    return log.view(-1, batch)[0, items].double().cpu(), se.view(-1, batch)[0, items].double().cpu()


def _moments(found: StrategyOutput, items: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Means and variances ``(items, n)`` of the samples, and the error of the means ``(items,)`` in stds."""
    real = to_real(found.samples).double().cpu().view(-1, batch, to_real(found.samples[:1]).numel())[:, items]
    own = found.info.mean_error
    assert own is not None
    error = (1 / len(real) + own.view(-1, batch)[0, items].double().cpu().square()).sqrt()
    return real.mean(0), real.var(0, correction=0), error
