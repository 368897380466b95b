"""The tests that look at the samples alone: noise level, outliers, structure of the residual, bands of the prior.

All rest on one fact (Johnson 2007, Bayesian Analysis 2, 719-734; Yuan & Johnson 2012): if model and sampler are right,
a posterior sample x and the data y are a draw from the joint distribution, so the whitened residual G^-1/2 (y - A x) of
one sample is *exactly* white standard normal noise, and x itself is a draw from the prior. Samples of one posterior are
not independent, so their p-values are combined by twice their mean, which is valid for any dependence (Rueschendorf
1982).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from invsolve.core.arrays import to_real
from invsolve.core.resampling import systematic
from invsolve.diagnostics.report import Measured, fail_z
from invsolve.noise import Gaussian
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import IsGaussian
from invsolve.problem import Problem

LOOKED_AT = 32  # tests look at this many samples at most: more add cost and, being dependent, little power


def sample_tests(problem: Problem, prior: Prior, samples: Tensor) -> list[Measured]:
    """All tests of ``samples`` ``(n, items, *shape)``, which are finite and of equal weight."""
    found = [*_residual_tests(problem, samples), *_prior_tests(prior, samples)]
    return [
        Measured(name=name, value=value, p=np.minimum(1.0, 2 * p.mean(0)), text=text) for name, value, p, text in found
    ]


def unweighted(samples: Tensor, weights: Tensor, number: int = LOOKED_AT) -> Tensor:
    """``number`` equally weighted samples of every item: systematic resampling, without a draw.

    ``samples`` ``(n, items, *shape)``, ``weights`` ``(n, items)``, normalised.
    """
    chosen = systematic(weights, 0.5, number)
    return torch.stack([samples[index, item] for item, index in enumerate(chosen.T)], dim=1)


_Raw = tuple[str, float, np.ndarray, str]  # name, value, p (samples, items), text


def _residual_tests(problem: Problem, samples: Tensor) -> list[_Raw]:
    """Is the whitened residual white standard normal noise?"""
    from scipy import stats

    count = problem.num_data.double().cpu().numpy()
    if not count.all() or not isinstance(problem.noise, Gaussian):  # the distribution of the residual would be another
        return []
    sizes, peaks, lags = [], [], []
    total = square = torch.zeros((), dtype=torch.float64, device=samples.device)
    for x in samples:  # one batch of items at a time: the data may be large
        white = problem.whiten(problem.data - problem.operator(x))
        real = to_real(white).double()
        total, square = total + real, square + real.square()
        sizes.append(real.square().sum(1))
        peaks.append(real.abs().amax(1))
        lags.append(torch.stack([real.new_zeros(len(real)), *lag_one(white, problem.operator.observed)]))
    size, peak = (torch.stack(v).cpu().numpy() for v in (sizes, peaks))
    ratio = float((size / count).mean())
    notice = _noticed_noise(total, square, len(samples), count)
    below = stats.chi2.cdf(size, count)
    found: list[_Raw] = [
        ("noise level", ratio, 2 * np.minimum(below, 1 - below), f"chi^2 per datum {ratio:.3f}, expected 1; {notice}"),
        (
            "outliers",
            float(peak.max()),
            -np.expm1(count * np.log1p(-np.minimum(2 * stats.norm.sf(peak), 1 - 1e-16))),
            f"largest whitened residual {float(peak.max()):.2f}; can detect a datum off by "
            f"{_threshold('outliers', len(count) * int(count.max())) + 1.3:.1f} std",
        ),
    ]
    lag = torch.stack(lags).cpu().numpy()[:, 1:]  # (samples, axes, items)
    if lag.shape[1]:
        p = np.minimum(1.0, lag.shape[1] * (2 * stats.norm.sf(np.abs(lag))).min(1))
        worst = float(lag.flat[np.abs(lag).argmax()])
        found.append(
            (
                "structure",
                worst,
                p,
                f"neighbouring residuals correlate by {worst:+.1f} standard errors, as a wrong operator or prior "
                f"leaves them; can detect a correlation of "
                f"{(_threshold('structure', lag[0].size) + 1.3) / np.sqrt(count.min()):.2g}",
            )
        )
    return found


def _threshold(name: str, tests: int) -> float:
    """Standard deviations at which samples that agree fail: twice their mean p-value is at the limit."""
    return fail_z(name, 2 * tests)


def _noticed_noise(total: Tensor, square: Tensor, samples: int, count: np.ndarray) -> str:
    """What error of the noise level this test can detect nine times in ten, in words.

    A fit follows the noise: with the hat matrix H of the posterior mean, a noise variance wrong by f^2 changes the
    expected chi^2 of m data by (f^2 - 1) tr((I - H)^2) >= (f^2 - 1) (m - tr H)^2 / m, and tr H is the spread of the
    predictions.
    """
    if samples < 2:
        return "its power needs two samples"
    spread = ((square - total * total / samples) / (samples - 1)).sum(1).cpu().numpy()
    free = np.clip(count - spread, 1.0, None) ** 2 / count
    threshold = _threshold("noise level", len(count)) + 1.3  # 1.3: nine times in ten
    f2 = float((1 + threshold * np.sqrt(2 * count) / free).max())
    return (
        f"can detect a noise std {np.sqrt(f2):.2f} times what was stated"
        if f2 < 100
        else "the data leave no freedom to test the noise level"
    )


def lag_one(white: Tensor, observed: Tensor | None) -> list[Tensor]:
    """Correlation of neighbours along each data axis with enough of them, in standard errors, (items,) each."""
    mask = torch.ones_like(white.real) if observed is None else observed.expand(white.shape).to(white.real.dtype)
    out = []
    for axis in range(1, white.ndim):
        n = white.shape[axis] - 1
        pairs = (mask.narrow(axis, 0, n) * mask.narrow(axis, 1, n)).flatten(1).sum(1) * (2 if white.is_complex() else 1)
        if n < 1 or not bool((pairs >= 64).all()):  # fewer products are not nearly normal
            continue
        product = (white.narrow(axis, 0, n).conj() * white.narrow(axis, 1, n)).real.flatten(1).double().sum(1)
        out.append(product / pairs.double().sqrt())
    return out


def _prior_tests(prior: Prior, samples: Tensor) -> list[_Raw]:
    """Are the samples' modes standard normal, in bands from the strongest to the weakest? For Gaussian priors."""
    from scipy import stats

    if not isinstance(prior, IsGaussian):
        return []
    law = prior.law
    variances = law.variances.flatten()
    order = variances.argsort(descending=True)
    order = order[variances[order] > 1e-6 * variances.max()]  # rounding decides what is left of weaker modes
    edges = [0, *sorted({min(len(order), 4**k) for k in range(1, 12)})]
    bands = [order[a:b] for a, b in zip(edges[:-1], edges[1:], strict=True) if b > a]
    values, tails = [], []
    for x in samples:
        u = law.modes.analysis(x - law.mean).flatten(1).abs().double().square() / variances.double()
        parts = 2 if x.is_complex() else 1
        size = torch.stack([u[:, band].sum(1) for band in bands]).cpu().numpy()
        degrees = np.array([parts * len(band) for band in bands])[:, None]
        below = stats.chi2.cdf(size, degrees)
        values.append(size / degrees)
        tails.append(np.minimum(1.0, len(bands) * 2 * np.minimum(below, 1 - below)))
    p = np.stack(tails)  # (samples, bands, items)
    means = np.stack(values).mean((0, 2))
    worst = float(means[np.abs(np.log(means)).argmax()])
    z = _threshold("prior", p.shape[1] * p.shape[2]) + 1.3
    return [
        (
            "prior",
            worst,
            p.min(1),
            f"power of the samples relative to the prior, worst of {len(bands)} bands of modes: {worst:.2f}, "
            f"expected 1; can detect a power {1 + z * np.sqrt(2 / degrees.max()):.2g} times as large in the widest "
            "band, where the data determine it",
        )
    ]
