"""The page of benchmarks/darcy.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from _darcy_law import Law
from _darcy_problem import Reference
from _tables import ruled

if TYPE_CHECKING:
    from darcy import Row

TEXT = """# Darcy's equation, a coefficient of two values

Written by `python benchmarks/darcy.py`; the figures of every row are in [darcy-posterior.csv](darcy-posterior.csv).

`-div(a grad u) = 1` on the unit square, u = 0 on the walls, 64 x 64 cells. a is 12 where a Gaussian field is above 0, else 3
(`LevelSet` of `Whittle(3.0, 2.0, zero_mode=False)`). Data: u at 64 random points, with noise of 1 % of the root mean square of u.
One field; its posterior is known from long chains (`benchmarks/darcy_posterior_reference.py`).

{reference}

## Posteriors

{rows}

- **error rate**: share of cells on the wrong side of 7.5, of the posterior mean and of single samples.
- **chi^2**: of the data per datum, mean over samples; about 1 for samples of the posterior.
- **mean, std, MMD (floor), sliced Wasserstein, spectrum**: the five errors of PosteriorBench (`iv.posterior_metrics`), against the
  reference. Samples are set to the nearer of 3 and 12 first; *std, raw* is that of the samples as they came. Errors of mean and
  std have a floor from the number of samples: about sqrt(1/samples) of the std, which the first row shows for its own number.
- **evaluations**: of the denoiser (each with products of Jacobians), which chains do not use; of the operator for ES-MDA.
- **width**: smoothed jumps, in stds of the Gaussian field: another prior, with a derivative.
- Seconds are of one core, single precision.

{reading}

## The learned prior beside its law

{laws}

Standard errors in brackets. **together**: the probability that two points at a distance of so many sides, along an axis, both have 12.
**power**: of (a - 7.5) / 9, mean over wave numbers of a band (cycles per side), in units of 1e-3. **between**: share of cells farther
than 1 from both values.
"""

READING = """The reference has not converged: its R-hat says so, and the first row, where one half of its chains is further from the
other (std error 0.57) than ES-MDA's ensemble is from all of them (0.43). Differences of the mean below 0.07 and of the std
below 0.6 say nothing yet; a row far above them has lost.

No row reaches a std error of 0.15. Chains of the package were given so few moves that they ended at less than a hundredth
of the likelihood: their rows show what such a budget gives, not what the method does. MMPS fits the data badly under
the smoothed and under the learned prior: one Gauss-Newton step at each level does not follow this operator. Of what was
tried the ensemble smoother is best, at 3 s per 100 samples.

On 32 x 32 cells the learned prior is within 8 % of the law's spectrum; on 64 x 64 and 96 x 96 it is rougher than the law:
18 and 26 % less power in the lowest band, 33 and 49 % more between 8 and 16 cycles."""


def _number(value: float, form: str = ".3f") -> str:
    return f"{value:{form}}" if math.isfinite(value) else "-"


def text_of(rows: Sequence[Row], laws: Sequence[Law], reference: Reference) -> str:
    return TEXT.format(reference=_about(reference), rows=_rows(rows), reading=READING, laws=_laws(laws))


def _about(r: Reference) -> str:
    return (
        f"The reference: {r.chains} chains, largest R-hat of the 64 leading modes {_number(r.rhat)}; standard error of its "
        f"mean {_number(100 * r.mean_error, '.1f')} %, of its std {_number(100 * r.std_error, '.1f')} % (relative, by the "
        f"spread of the chains); {len(r.samples)} thinned samples are kept."
    )


def _rows(rows: Sequence[Row]) -> str:
    lines = [
        [
            "method",
            "prior",
            "samples",
            "error rate, %",
            "of samples, %",
            "chi^2",
            "mean",
            "std",
            "MMD (floor)",
            "sliced Wasserstein",
            "spectrum",
            "std, raw",
            "evaluations",
            "seconds per 100",
            "note",
        ]
    ]
    for r in rows:
        lines.append(
            [
                r.method,
                r.prior,
                str(r.samples),
                _number(100 * r.error_rate, ".2f"),
                _number(100 * r.single_rate, ".2f"),
                _number(r.misfit, ".2f"),
                _number(r.mean_error),
                _number(r.std_error),
                f"{_number(r.mmd)} ({_number(r.mmd_floor)})",
                _number(r.sliced),
                _number(r.spectral),
                _number(r.raw_std_error),
                _number(r.nfe, ",.0f"),
                _number(r.seconds, ".0f"),
                r.note or "-",
            ]
        )
    return ruled(lines)


def _laws(laws: Sequence[Law]) -> str:
    if not laws:
        return "Not computed yet."
    heads = ["cells", "draws of", "share of 12", "its std", "together, 1/16", "1/8", "1/4"]
    lines = [[*heads, "power, 1 to 2", "2 to 4", "4 to 8", "8 to 16", "between, %", "seconds"]]
    for law in laws:

        def pair(name: str, scale: float = 1.0, form: str = ".3f", law: Law = law) -> str:
            return f"{scale * getattr(law, name):{form}} ({scale * getattr(law, f'{name}_error'):{form}})"

        lines.append(
            [
                f"{law.n} x {law.n}",
                f"{law.of}, {law.draws}",
                pair("fraction"),
                f"{law.fraction_std:.3f}",
                *(pair(name) for name in ("near", "middle", "far")),
                *(pair(f"band{i}", 1e3, ".4f" if i > 2 else ".3f") for i in range(1, 5)),
                f"{100 * law.between:.2f}",
                f"{law.seconds:.0f}",
            ]
        )
    return ruled(lines)
