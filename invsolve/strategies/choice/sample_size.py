"""How many samples an item gets where the caller does not say."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from invsolve.priors.base import Prior
from invsolve.priors.capabilities import Learned
from invsolve.problem import Problem
from invsolve.strategies.choice.candidates import Candidate
from invsolve.strategies.exact import Exact
from invsolve.strategies.mcmc.noise_mcmc import NoiseMCMC

FEWEST = 19  # whose smallest and largest are a 90 % interval, exactly
MANY = 199  # 99 % intervals, and a std that is known to 5 %
_VALUES = 2**18  # of the samples of all items together, up to which many are cheap: 1 MiB in float32


def default_samples(problem: Problem, prior: Prior, candidates: Sequence[Candidate]) -> int:
    """199 where samples are cheap, else 19: by the size of the signals and what a sample takes, never by the clock.

    They are cheap where they are drawn from a closed form, or picked from an ensemble that is run anyway, as long as
    the samples of all items are at most 2^18 values; not where every sample is a run of its own, as with guidance, or
    may become one, with a network.
    """
    values = prod(problem.shape) * len(problem.data) * (2 if problem.signal_dtype.is_complex else 1)
    learned = isinstance(prior, Learned)
    picked = all(
        isinstance(c.strategy, (Exact, NoiseMCMC)) or c.islands > 1 or (c.is_fallback and not learned)
        for c in candidates
    )
    return MANY if picked and MANY * values <= _VALUES else FEWEST
