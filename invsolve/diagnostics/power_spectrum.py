"""Is the power of the data over the directions that the model sees what prior and noise say?

In the eigenvectors of ``S = I + K K^T`` (see `evidence`) the data are independent with variances ``1 + g`` (g: gain,
signal over noise power). Two tests, both exact: chi^2 in bands of directions, and the evidence ratio to a mixture of
other models, with variances ``f^2 + s^2 g (g / g0)^a``: noise std times f, prior std times s, the prior's spectrum
steeper or flatter by a power. The second is far stronger where such a model is right, and names it. Its null
distribution is simulated.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from numpy.typing import NDArray

from invsolve.core.random import Draws
from invsolve.diagnostics.report import SHARES, Measured

Array = NDArray[np.float64]

_FACTORS = tuple(2.0 ** (k / 2) for k in range(-3, 4))  # of the noise std and of the prior std
_TILTS = (-0.5, -0.25, 0.0, 0.25, 0.5)
_SIMULATED = 3999  # draws of the null distribution of the largest ratio: p-values down to 1/4000
_RATIO = 0.7  # its part of the level, the bands have the rest
_POWER = 1.3  # standard deviations between "half of the time" and "nine times in ten"


def spectrum_test(gains: Array, squares: Array, rest: Array, left: int, *, seed: int) -> Measured:
    """``gains`` ``(directions,)``, falling; ``squares`` ``(items, directions)``: chi^2_1 numbers if the model is right.

    ``rest`` ``(items,)``: power in ``left`` directions without signal.
    """
    from scipy.special import logsumexp

    gains, squares = np.append(gains, 0.0), np.concatenate([squares, rest[:, None]], 1)
    degrees = np.append(np.ones(len(gains) - 1), float(left))
    p_band, where, worst = _bands(squares, degrees)
    models, weights, offsets, odds = _family(gains, degrees)
    null = np.sort(logsumexp(_null(len(gains) - 1, left, seed) @ weights.T + offsets, axis=1))
    ratios = squares @ weights.T + offsets
    mixture = logsumexp(ratios, axis=1)
    p_ratio = (1 + len(null) - np.searchsorted(null, mixture)) / (1 + len(null))
    # Beyond every simulated ratio: a ratio r has a probability of at most 1 / r (Markov, its expectation is 1).
    p_ratio = np.where(mixture > null[-1], np.minimum(p_ratio, np.exp(-np.maximum(mixture, 0.0))), p_ratio)
    p = np.minimum(1.0, np.minimum(p_ratio / _RATIO, p_band / (1 - _RATIO)))
    item = int(p.argmin())
    likeliest = int(ratios[item].argmax())
    best = float(ratios[item, likeliest] - odds[likeliest])
    noise, prior, tilt = models[likeliest]
    words = [
        f"{value:.2g} times the {name} std" for name, value in (("noise", noise), ("prior", prior)) if value != 1
    ] + ([f"a {'steeper' if tilt > 0 else 'flatter'} spectrum of the signal"] if tilt else [])
    found = f"likelier by exp({best:.1f}) with {', '.join(words)}" if words else "likeliest as stated"
    return Measured(
        name="evidence",
        value=best,
        p=p,
        text=f"the data are {found}; their power is {worst[item]:.2f} of that expected in {where[item]}, the worst "
        f"band; can detect {_notice(gains, degrees, null, len(squares))}",
    )


def _bands(squares: Array, degrees: Array) -> tuple[Array, list[str], Array]:
    """P per item, Bonferroni over bands of 1, 1, 2, 4, ... directions; the worst band and its power."""
    from scipy import stats

    total = len(degrees) - 1
    edges = [0, *sorted({min(total, 2**k) for k in range(12)}), total + 1]
    bands = [(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True) if degrees[a:b].sum() > 0]
    size = np.stack([squares[:, a:b].sum(1) for a, b in bands])  # (bands, items)
    dof = np.array([degrees[a:b].sum() for a, b in bands])[:, None]
    tails = 2 * np.minimum(stats.chi2.cdf(size, dof), stats.chi2.sf(size, dof))
    worst = tails.argmin(0)
    names = [f"directions {a + 1} to {b} of {total}" if b <= total else "directions without signal" for a, b in bands]
    return (len(bands) * tails.min(0), [names[k] for k in worst], (size / dof)[worst, np.arange(size.shape[1])])


def _family(gains: Array, degrees: Array) -> tuple[list[tuple[float, float, float]], Array, Array, Array]:
    """Other models; weights and offsets that make log (odds times evidence ratio) of chi^2 numbers; the log odds.

    The stated model is one of them. A model that changes one, two or three numbers has prior odds in proportion to
    1, 1/4, 1/16 of what its kind has in all: simple explanations first.
    """
    seen = gains / (1 + gains)
    logs = np.log(gains.clip(1e-12))
    centre = (seen * logs).sum() / max(seen.sum(), 1e-12)
    models = list(itertools.product(_FACTORS, _FACTORS, _TILTS))
    variances = np.stack([f**2 + s**2 * gains * np.exp(a * (logs - centre)) for f, s, a in models]) / (1 + gains)
    changed = [(f != 1, s != 1, a != 0) for f, s, a in models]
    odds = np.array([4.0 ** -sum(kind) / changed.count(kind) for kind in changed])
    logs_odds = np.log(odds / odds.sum())
    return models, 0.5 * (1 - 1 / variances), logs_odds - 0.5 * (degrees * np.log(variances)).sum(1), logs_odds


def _null(directions: int, left: int, seed: int) -> Array:
    """Chi^2 numbers of data of the stated model, ``(draws, directions + 1)``."""
    from scipy import stats

    draws = Draws.for_rows(seed, [0], [0], torch.device("cpu"), purpose="check evidence")
    z = draws.normal((_SIMULATED, directions + 1), torch.float64, step=0)[0].numpy()
    squares = z**2
    squares[:, -1] = stats.chi2.ppf(stats.norm.cdf(z[:, -1]), left) if left else 0.0
    return np.asarray(squares)


def _notice(gains: Array, degrees: Array, null: Array, items: int) -> str:
    """Which models can be detected.

    Those whose log ratio, on average a Kullback-Leibler divergence, is above the threshold by 1.3 of its std, after
    odds of about 1/50 for one model of a kind.
    """
    level = _RATIO * SHARES["evidence"] / items
    threshold = float(np.quantile(null, max(0.0, 1 - max(level, 1 / len(null)))))
    words = []
    for name, part in (("noise", 1 / (1 + gains)), ("prior", gains / (1 + gains))):
        for factor in np.geomspace(1.02, 2**1.5, 60):
            change = (factor**2 - 1) * part
            mean = 0.5 * float((degrees * (change - np.log1p(change))).sum())
            if mean - _POWER * math.sqrt(0.5 * float((degrees * change**2).sum())) > threshold + math.log(50):
                words.append(f"{factor:.2g} times the {name} std stated")
                break
    return " or ".join(words) or "no factor below 2.8 of noise or prior std: there are too few data"
