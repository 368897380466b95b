"""How many samples an item gets where the caller does not say."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from invsolve.priors.base import Prior
from invsolve.priors.capabilities import Learned
from invsolve.problem import Problem
from invsolve.strategies.base import Strategy
from invsolve.strategies.choice.candidates import Candidate
from invsolve.strategies.exact import Exact
from invsolve.strategies.mcmc.noise_mcmc import NoiseMCMC

FEWEST = 19  # whose smallest and largest are a 90 % interval, exactly
MANY = 199  # 99 % intervals, and a std that is known to 5 %
PICKED = 999  # of chains, which are run anyway: quantiles of the samples are all that is known of the posterior's
_VALUES = 2**18  # of the samples of all items together, up to which many are cheap: 1 MiB in float32


def default_samples(problem: Problem, prior: Prior, candidates: Sequence[Candidate]) -> int:
    """199 or 999 where they are cheap, else 19: by sizes and what a sample takes, never by the clock.

    They are cheap where they are drawn from a closed form (199, since its quantiles are known without them), or picked
    from chains or particles that are run anyway, as long as the samples of all items are at most 2^18 values; not where
    every sample is a run of its own, as with guidance, or may become one, with a network.
    """
    values = prod(problem.shape) * len(problem.data) * (2 if problem.signal_dtype.is_complex else 1)
    learned = isinstance(prior, Learned)
    picked = all(
        isinstance(c.strategy, (Exact, NoiseMCMC)) or c.islands > 1 or (c.is_fallback and not learned)
        for c in candidates
    )
    most = MANY if isinstance(candidates[0].strategy, Exact) else picked_from(candidates[0].strategy)
    return next((n for n in (most, MANY) if picked and n * values <= _VALUES), FEWEST)


def picked_from(strategy: Strategy) -> int:
    """As many as that, unless there are not so many different ones."""
    if isinstance(strategy, NoiseMCMC) and strategy.chains * strategy.rounds < PICKED:
        return MANY
    return PICKED
