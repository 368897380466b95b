"""What ``strategy="auto"`` runs, in which order, and why: decided by what is known of the problem, never by timing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import final

from invsolve.errors import UnsupportedError
from invsolve.gaussian.posterior import not_linear_gaussian
from invsolve.operators.base import BlackBox
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasTransport, IsGaussian, Learned
from invsolve.problem import Problem
from invsolve.strategies.base import Strategy
from invsolve.strategies.exact import Exact, by_quadrature
from invsolve.strategies.guidance.guided import Guided
from invsolve.strategies.guidance.mmps import MMPS
from invsolve.strategies.mcmc.noise_mcmc import NoiseMCMC
from invsolve.strategies.mcmc.spike_slab import has_sites
from invsolve.strategies.smc.smc import DENSE_SIZE, SMC

ISLANDS = 8  # independent runs of an SMC whose disagreement is the error
_CHAIN_VALUES = 2**24  # values of the chains of one item at most
_EXACTNESS = "exact for Gaussian priors and linear operators, an approximation here"
_LARGEST = 2**16  # unknowns beyond which chains would take hours
_SPREAD = 3.0  # stds of the prior in noise space: a wider start
_DEARER = 1.5  # than chains from prior draws: more rises
_RELINEARISED = 3  # times that data that are not linear are made so at every level, under a Gaussian prior
_WIDEST = 1024  # real unknowns for which there is one: it is the further away the more there are


@final
@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One strategy to try. ``islands`` > 1: so many independent runs of ``particles`` samples each, pooled."""

    strategy: Strategy
    why: str
    islands: int = 1
    particles: int = 0
    tested: bool = True  # its info says how right it is
    cost: float = 1.0  # expected, relative to the first candidate of its kind
    name: str = ""  # of what was run, where that is more than the strategy
    is_fallback: bool = False  # taken for items of which chains saw less than a fifth of the likelihood's power


def candidates(
    problem: Problem, prior: Prior, num_samples: int, *, rows_alone: bool = False, quadrature: bool = True
) -> list[Candidate]:
    """The strategies to try until one is certified.

    ``rows_alone``: only such whose samples do not see each other; without ``quadrature``: a closed form only where
    linear algebra gives it, if anything else would do.

    Raises UnsupportedError if none of the package's would do.
    """
    lacking = Exact().missing(problem, prior)
    if not lacking and not quadrature and by_quadrature(problem, prior):
        lacking = "quadrature would not end within the budget"
    if not lacking:
        why = "Prior, operator and noise have a closed-form posterior: independent exact draws."
        return [Candidate(strategy=Exact(), why=why)]
    if not rows_alone:
        found = [*_particles(problem, prior, num_samples, lacking), *_chains(problem, prior, lacking)]
        if found:
            return [*found, *_fallback(problem, prior, lacking)]
    guided = guidance_for(problem, prior)
    if missing := guided.missing(problem, prior):
        if not quadrature:
            return candidates(problem, prior, num_samples, rows_alone=rows_alone)
        chains = (
            "its samples see each other" if rows_alone else f"{prod(problem.shape)} unknowns are too many for chains"
        )
        raise UnsupportedError(
            f"solve: strategy 'auto' finds none that would do: not Exact, because {lacking}; not NoiseMCMC, because "
            f"{chains}; not MMPS, which needs {missing}."
        )
    why = f"No closed form ({lacking}), so moment-matching guidance: {_EXACTNESS}."
    return [Candidate(strategy=guided.settled(problem, prior), why=why, tested=False)]


def guidance_for(problem: Problem, prior: Prior) -> Guided:
    """Moment matching; with damped Gauss-Newton iterations where only the data keep the posterior from being Gaussian.

    On a diffusion equation whose log-coefficient has a std of 2 (8 data, noise 1 %) one full step gives 6 times the
    right std in places, three give 0.86 to 1.15 of it.
    """
    curved = isinstance(prior, IsGaussian) and bool(not_linear_gaussian(problem))
    return MMPS(iterations=_RELINEARISED) if curved else MMPS()


def _fallback(problem: Problem, prior: Prior, lacking: str) -> list[Candidate]:
    """Guidance, for items whose chains stay far from the data: taken where its samples fit them better."""
    guided = guidance_for(problem, prior)
    if guided.missing(problem, prior):
        return []
    why = (
        f"No closed form ({lacking}), and the chains were not led to the data, so moment-matching guidance: "
        f"{_EXACTNESS}."
    )
    return [Candidate(strategy=guided.settled(problem, prior), why=why, tested=False, is_fallback=True)]


def _particles(problem: Problem, prior: Prior, num_samples: int, lacking: str) -> list[Candidate]:
    """SMC where the prior is known through its denoiser only; with a transport, chains need no network at all."""
    if isinstance(prior, HasTransport) or _size(problem) > DENSE_SIZE or SMC().missing(problem, prior):
        return []
    why = f"No closed form ({lacking}), so guided particles whose weights correct the guidance"
    most = max(256, -(-num_samples // ISLANDS))
    return [
        Candidate(strategy=SMC(), why=f"{why}.", islands=ISLANDS, particles=most),
        Candidate(
            strategy=SMC(num_steps=50),
            why=f"{why}; more of them after a first try.",
            islands=ISLANDS,
            particles=4 * most,
            cost=8,
        ),
    ]


def _chains(problem: Problem, prior: Prior, lacking: str) -> list[Candidate]:
    n = _size(problem)
    # A flow costs 25 evaluations and as many pullbacks a step.
    affordable = isinstance(prior, HasTransport) or n <= 4 * DENSE_SIZE
    if isinstance(prior, Learned) and n > DENSE_SIZE:  # a network: hours, and so only where guidance would be a guess
        affordable = affordable and bool(not_linear_gaussian(problem) or MMPS().missing(problem, prior))
    if n > _LARGEST or not affordable or NoiseMCMC().missing(problem, prior):
        return []
    most = max(64, min(16384, _CHAIN_VALUES // n) // 64 * 64)
    chains = max(1024, min(4096, 2**16 // n) // 64 * 64)  # of short signals more, at the same cost: modes are counted
    how = "without a gradient" if isinstance(problem.operator, BlackBox) else "with gradients"
    why = f"No closed form ({lacking}), so tempered Markov chains in the prior's noise space, {how}"
    number, longer, longest = (min(k * chains, most) for k in (1, 2, 4))
    first = Candidate(strategy=NoiseMCMC(chains=number), why=f"{why}.")
    slower = NoiseMCMC(chains=longer, keep=0.7, forget=0.2, patience=30, rounds=16)
    slowest = NoiseMCMC(chains=longest, keep=0.8, forget=0.1, patience=100, rounds=32, num_steps=10000)
    others = [
        Candidate(strategy=slower, why=f"{why}; longer after a first try.", cost=8),
        Candidate(strategy=slowest, why=f"{why}; longest after several tries.", cost=60),
    ]
    if wider(first, problem, prior):  # what one start did not certify is better known from another one
        others = [w for c in (first, *others) if (w := wider(c, problem, prior))]
    return [first, *others]


def wider(candidate: Candidate, problem: Problem, prior: Prior) -> Candidate | None:
    """The same chains from a start so wide that modes in the tails of the prior are met; None where that is no use."""
    first = candidate.strategy
    if not isinstance(first, NoiseMCMC) or first.start is not None or first.spread != 1 or _size(problem) > _WIDEST:
        return None
    if has_sites(problem, prior):  # chains with exact moves between modes, which need the prior's own noise
        return None
    why = f"{candidate.why.removesuffix('.')}; from a wider start, which meets modes in the tails of the prior."
    return replace(candidate, strategy=replace(first, spread=_SPREAD), why=why, cost=_DEARER * candidate.cost)


def _size(problem: Problem) -> int:
    return prod(problem.shape) * (2 if problem.signal_dtype.is_complex else 1)


def alternatives(problem: Problem, prior: Prior) -> str:
    """The names of the strategies that would do for this problem, for an error message."""
    from invsolve.strategies.guidance.tmpd import TMPD
    from invsolve.strategies.published.pigdm import PiGDM

    known: dict[str, Strategy] = {
        "Exact()": Exact(),
        "MMPS()": MMPS(),
        "TMPD()": TMPD(),
        "PiGDM()": PiGDM(),
        "SMC()": SMC(),
        "NoiseMCMC()": NoiseMCMC(),
    }
    return ", ".join(name for name, s in known.items() if not s.missing(problem, prior))
