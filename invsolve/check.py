"""`result.check()`: is *this* posterior right for *this* data? The first, cheap tests; each states its false-alarm
rate.

All rest on one fact (Johnson 2007, Bayesian Analysis 2, 719-734; Yuan & Johnson 2012): if model and sampler are right,
a posterior sample x and the data y are a draw from the joint law, so the whitened residual G^-1/2 (y - A x) of one
sample is *exactly* white standard normal noise, and x itself is a draw from the prior. Samples of one posterior are not
independent, so their p-values are combined by twice their mean, which is valid for any dependence (Rueschendorf 1982).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Tensor

from invsolve.arrays import to_real
from invsolve.errors import UnsupportedError
from invsolve.noise import Gaussian
from invsolve.priors.base import Prior
from invsolve.problem import Problem

if TYPE_CHECKING:
    from invsolve.result import Result

LEVEL = 0.02  # false alarms of one report, over all of its tests and items together
_SAMPLES = 32  # tests look at this many samples at most: more add cost and, being dependent, little power


@final
@dataclass(frozen=True, kw_only=True)
class Check:
    """One test: ``value`` is what was measured, ``p_value`` is for the worst item, ``passed`` at the report's level."""

    name: str
    passed: bool
    value: float
    p_value: float | None
    text: str


@final
@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """The tests of one result. ``report.passed`` is False if any failed; ``str(report)`` is for people."""

    checks: tuple[Check, ...]
    level: float

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        """The test called ``name``; KeyError lists the names."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no test {name!r}; there are {', '.join(c.name for c in self.checks)}")

    def __str__(self) -> str:
        head = (
            "No conflict found"
            if self.passed
            else "Conflict: " + ", ".join(c.name for c in self.checks if not c.passed)
        )
        lines = [f"{head} (at most {self.level:.0%} false alarms over all tests)"]
        for c in self.checks:
            p = "" if c.p_value is None else f", p = {c.p_value:.2g}"
            lines.append(f"  {'ok  ' if c.passed else 'FAIL'}  {c.name}: {c.text}{p}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"CheckReport({sum(c.passed for c in self.checks)} of {len(self.checks)} passed)"


@torch.no_grad()  # an operator may hold a network
def check_result(result: Result) -> CheckReport:
    """The report of a result that still holds its problem and prior (one loaded from a file does not).

    Raises UnsupportedError without them, or with noise whose residual cannot be whitened.
    """
    problem, prior = result.problem, result.prior
    if not isinstance(problem, Problem) or not isinstance(prior, Prior):
        raise UnsupportedError(
            "Result.check: the problem and prior are not in a loaded or derived result. Call check() on "
            "what `solve` returned, before saving or mapping it."
        )
    if result.parameters:
        names = ", ".join(result.parameters)
        raise UnsupportedError(
            f"Result.check: the tests are for a model whose scalars are known, and {names} vary from sample to sample. "
            "Solve with them fixed at their posterior mean, and check that result."
        )
    if not isinstance(problem.noise, Gaussian):
        raise UnsupportedError(f"Result.check: no whitened residual for {type(problem.noise).__name__} noise.")
    samples = result.samples if result.batched else result.samples[:, None]
    failed = result.failed if result.batched else result.failed[:, None]
    # The first samples that are good for every item: the tests are one per item and sample.
    alive = torch.nonzero(~failed.all(0))[:, 0]  # an item without any sample says nothing about the others
    problem, samples, failed = problem.take(alive), samples[:, alive], failed[:, alive]
    if result.log_weights is not None:
        weights = result.weights if result.batched else result.weights[:, None]
        samples, failed = _unweighted(samples, weights[:, alive]), torch.zeros(_SAMPLES, len(alive), dtype=torch.bool)
    good = torch.nonzero(~failed.any(1))[:_SAMPLES, 0]
    rows, lost = result.failed.numel(), int(result.failed.sum())
    checks = [
        Check(
            name="rows",
            passed=lost == 0,
            value=float(lost),
            p_value=None,
            text=f"{lost} of {rows} samples are not finite",
        )
    ]
    if result.log_weights is not None:
        ess = float(result.ess.min())
        checks.append(
            Check(
                name="ess",
                passed=ess >= 16,
                value=ess,
                p_value=None,
                text=f"effective sample size {ess:.0f} of {len(samples)} (16 are needed for an interval)",
            )
        )
    if len(good):
        raw = [*_residual_tests(problem, samples[good]), *_prior_tests(prior, samples[good])]
        items = samples.shape[1]
        for name, value, p_each, text in raw:
            p = float(np.min(np.minimum(1.0, 2 * p_each.mean(0))))  # worst item
            checks.append(Check(name=name, passed=p >= LEVEL / (len(raw) * items), value=value, p_value=p, text=text))
    return CheckReport(checks=tuple(checks), level=LEVEL)


def _unweighted(samples: Tensor, weights: Tensor) -> Tensor:
    """As many equally weighted samples of every item as the tests look at: systematic resampling, without a draw."""
    ladder = (torch.arange(_SAMPLES, dtype=weights.dtype, device=weights.device) + 0.5) / _SAMPLES
    edges = weights.cumsum(0).T.contiguous()  # (items, samples)
    chosen = torch.searchsorted(edges, ladder.expand(len(edges), -1).contiguous()).clamp_max(edges.shape[1] - 1).T
    return torch.stack([samples[index, item] for item, index in enumerate(chosen.T)], dim=1)


_Raw = tuple[str, float, np.ndarray, str]  # name, value, p (samples, items), text


def _residual_tests(problem: Problem, samples: Tensor) -> list[_Raw]:
    """Is the whitened residual white standard normal noise?"""
    from scipy import stats

    count = problem.num_data.double().cpu().numpy()
    if not count.all():
        return []
    sizes, peaks, lags = [], [], []
    total = square = torch.zeros((), dtype=torch.float64, device=samples.device)
    for x in samples:  # one batch of items at a time: the data may be large
        white = problem.whiten(problem.data - problem.operator(x))
        real = to_real(white).double()
        total, square = total + real, square + real.square()
        sizes.append(real.square().sum(1))
        peaks.append(real.abs().amax(1))
        lags.append(torch.stack([real.new_zeros(len(real)), *_lag_one(white, problem.operator.observed)]))
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
            f"largest whitened residual {float(peak.max()):.2f}; would notice a datum off by "
            f"{stats.norm.isf(0.005 / count.max()) + 1.3:.1f} std",
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
                f"neighbouring residuals correlate by {worst:+.1f} standard errors: "
                "a wrong operator or prior shows here",
            )
        )
    return found


def _noticed_noise(total: Tensor, square: Tensor, samples: int, count: np.ndarray) -> str:
    """What error of the noise level this test would notice nine times in ten, in words.

    A fit follows the noise: with the hat matrix H of the posterior mean, a noise variance wrong by f^2 changes the
    expected chi^2 of m data by (f^2 - 1) tr((I - H)^2) >= (f^2 - 1) (m - tr H)^2 / m, and tr H is the spread of the
    predictions.
    """
    if samples < 2:
        return "its power needs two samples"
    spread = ((square - total * total / samples) / (samples - 1)).sum(1).cpu().numpy()
    free = np.clip(count - spread, 1.0, None) ** 2 / count
    f2 = float((1 + (3.3 + 1.3) * np.sqrt(2 * count) / free).max())  # 3.3: the test's threshold; 1.3: nine in ten
    return (
        f"would notice a noise std {np.sqrt(f2):.2f} times what was stated"
        if f2 < 100
        else "the data leave no freedom to test the noise level"
    )


def _lag_one(white: Tensor, observed: Tensor | None) -> list[Tensor]:
    """Correlation of neighbours along each data axis that has them, in standard errors, (items,) each."""
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
    """For exactly Gaussian priors: are the samples' modes standard normal, in bands from the strongest to the
    weakest?
    """
    from scipy import stats

    law = prior.law
    if law is None or not prior.exact_law:
        return []
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
    return [
        (
            "prior",
            worst,
            p.min(1),
            f"power of the samples relative to the prior, worst of {len(bands)} bands of modes: {worst:.2f}, "
            "expected 1",
        )
    ]
