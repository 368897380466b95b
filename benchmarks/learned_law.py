"""The proof that learned priors work: networks trained on laws that are known exactly, beside those laws.

    python benchmarks/learned_law.py --out docs              # about an hour; writes learned-law.md and .csv
    python benchmarks/learned_law.py --laws gaussian --minutes 1   # prints only

A network is trained on draws of a law; its denoiser is compared with the exact one, its samples with the spectrum of
the law, and posteriors under it with those under the law itself.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import torch
from _laws import LAWS, NOISE, Law
from _tables import ruled, save
from torch import Tensor

import invsolve as iv
from invsolve.priors import NetworkPrior
from invsolve.priors.networks import UNetConfig
from invsolve.priors.training import Made, Options, train

SIGMAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
TESTED = 256  # draws on which denoisers are compared
UNCONDITIONAL = 512  # samples whose spectrum is compared
BANDS = 8
WIDTH = 32
SAMPLES = 128  # of a posterior


@final
@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """rms(D - D_exact) over pixels and draws, in prior stds, by noise level in prior stds; of the samples' power in
    rings of wavenumbers the largest relative deviation from the law's, and what exact draws have."""

    law: str
    skip: str
    minutes: float
    signals: int
    worst: float
    errors: tuple[float, ...]
    spectrum: float
    spectrum_exact: float


@final
@dataclass(frozen=True, kw_only=True)
class Posterior:
    """Samples beside those of the exact law's posterior: rms over pixels of the difference of the means, in posterior
    stds; mean std over mean std; share of the reference's samples inside the central 90 % of these."""

    law: str
    prior: str
    method: str
    samples: int
    e_mean: float
    floor: float  # e_mean of as many independent draws
    std_ratio: float
    cov90: float
    seconds: float


def trained(law: Law, skip: Literal["law", "white"], minutes: float, folder: Path) -> tuple[NetworkPrior, int]:
    """A prior trained on draws of the law for so many minutes; goes on with what ``folder`` holds."""
    made = Made(lambda numbers, seed: torch.cat([law.prior.sample(1, seed=(seed << 32) + i) for i in numbers]))
    options = Options(batch=64, skip=skip, learning_rate=2e-3)
    where = folder / f"{law.name}-{skip}".replace(" ", "-")
    prior = train(made, hours=minutes / 60, network=UNetConfig(width=WIDTH), options=options, out=where)
    return prior, int(prior.card["training"]["signals"])


def compared(law: Law, prior: NetworkPrior, skip: str, minutes: float, signals: int) -> Denoiser:
    x0 = law.prior.sample(TESTED, seed=10**7)
    std = float((x0 - x0.mean(0)).square().mean().sqrt())
    rng = torch.Generator().manual_seed(3)
    errors = []
    for sigma in SIGMAS:
        x = x0 + sigma * std * torch.randn(x0.shape, generator=rng)
        t = sigma * std
        gap = torch.cat([prior.denoise(part, t) - law.prior.denoise(part, t) for part in x.split(64)])
        errors.append(float(gap.square().mean().sqrt()) / std)
    samples = prior.sample(UNCONDITIONAL, seed=1)
    others = [law.prior.sample(UNCONDITIONAL, seed=s) for s in (2, 3)]
    truth = rings(torch.cat([law.prior.sample(2048, seed=100 + s) for s in range(16)]))
    spectrum, exact = (max(float((rings(x) / truth - 1).abs().max()) for x in xs) for xs in ([samples], others))
    return Denoiser(
        law=law.name,
        skip=skip,
        minutes=minutes,
        signals=signals,
        worst=max(errors),
        errors=tuple(errors),
        spectrum=spectrum,
        spectrum_exact=exact,
    )


def rings(x: Tensor) -> Tensor:
    """Mean power of `x` ``(n, H, W)`` in rings of wavenumbers, ``(BANDS,)``."""
    power = torch.fft.fft2(x.double()).abs().square().mean(0)
    k = torch.fft.fftfreq(x.shape[-1], dtype=torch.float64) * x.shape[-1]
    radius = (k[:, None] ** 2 + k**2).sqrt()
    edges = torch.linspace(0, x.shape[-1] / 2, BANDS + 1, dtype=torch.float64)
    return torch.stack([power[(radius >= a) & (radius < b)].mean() for a, b in zip(edges[:-1], edges[1:], strict=True)])


def posteriors(law: Law, learned: NetworkPrior) -> list[Posterior]:
    operator, data = law.operator, law.data

    def solved(prior: iv.priors.Prior, strategy: iv.strategies.base.Strategy | Literal["auto"], seed: int) -> iv.Result:
        return iv.solve(operator, data, prior, noise=NOISE, strategy=strategy, num_samples=SAMPLES, seed=seed)

    reference = solved(law.prior, "auto", 1).samples.double()
    runs: list[tuple[str, iv.priors.Prior, str, iv.strategies.base.Strategy | Literal["auto"]]] = [
        ("the law", law.prior, "auto", "auto"),
        ("the law", law.prior, "MMPS, Jacobian", iv.strategies.MMPS(covariance="jacobian", rtol=1e-2)),
        ("learned", learned, "auto", "auto"),
        ("learned", learned, "MMPS, stated covariance", iv.strategies.MMPS(covariance="law")),
    ]
    if not law.prior.has_posterior:  # chains: minutes, and tested by themselves
        runs = runs[1:]
    rows = []
    for name, prior, method, strategy in runs:
        started = time.perf_counter()
        samples = solved(prior, strategy, 2).samples.double()
        seconds = time.perf_counter() - started
        gap = (samples.mean(0) - reference.mean(0)) / reference.std(0)
        low, high = samples.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64), 0)
        inside = ((low <= reference) & (reference <= high)).double().mean()
        rows.append(
            Posterior(
                law=law.name,
                prior=name,
                method=method,
                samples=SAMPLES,
                e_mean=float(gap.square().mean().sqrt()),
                floor=(2 / SAMPLES) ** 0.5,
                std_ratio=float(samples.std(0).mean() / reference.std(0).mean()),
                cov90=float(inside),
                seconds=seconds,
            )
        )
    return rows


LEGEND = f"""# Learned priors on laws that are known

Written by `python benchmarks/learned_law.py`. Networks of {WIDTH} channels at 32 x 32, trained on draws of a law whose
denoiser and posterior are known. Then {SAMPLES} samples each of the posterior of 4 images of which 30 % of the pixels
are measured with noise of std {NOISE}, under the network and under the law itself.

- **skip**: what the network is added to; *law*: the Wiener filter of the covariance of the training images
  (`BesideLaw`), *white*: EDM's multiple of the noisy image.
- **rms(D - D_exact)**: over pixels and 256 draws, in prior stds, at noise levels of so many prior stds.
- **spectrum**: largest relative deviation of the power of 512 samples from the law's, in {BANDS} rings; in brackets
  that of two sets of 512 exact draws.
- **mean**: rms over pixels of the difference of posterior means, in posterior stds (in brackets what independent draws
  have); **std**: mean posterior std over the law's; **cov90**: share of the law's posterior samples inside the central
  90 % of these, pixel by pixel (0.89 to be expected of so few samples).
"""


def tables(denoisers: list[Denoiser], rows: list[Posterior]) -> str:
    lines = [["law", "skip", "minutes", "images seen", "worst", *(f"{s:g}" for s in SIGMAS), "spectrum"]]
    lines += [
        [
            d.law,
            d.skip,
            f"{d.minutes:g}",
            f"{d.signals:,}",
            f"{d.worst:.4f}",
            *(f"{e:.4f}" for e in d.errors),
            f"{d.spectrum:.3f} ({d.spectrum_exact:.3f})",
        ]
        for d in denoisers
    ]
    others = [["law", "prior", "method", "mean", "std", "cov90", "s"]]
    others += [
        [
            r.law,
            r.prior,
            r.method,
            f"{r.e_mean:.3f} ({r.floor:.3f})",
            f"{r.std_ratio:.3f}",
            f"{r.cov90:.3f}",
            f"{r.seconds:.0f}",
        ]
        for r in rows
    ]

    return f"## rms(D - D_exact)\n\n{ruled(lines)}\n\n## Posteriors\n\n{ruled(others)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laws", nargs="+", choices=list(LAWS), default=list(LAWS))
    parser.add_argument("--minutes", type=float, default=8.0, help="of training, for each network")
    parser.add_argument("--weights", type=Path, help="a folder that keeps the trainings, and goes on with them")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    denoisers: list[Denoiser] = []
    rows: list[Posterior] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.weights or Path(temporary)
        for name in options.laws:
            law = LAWS[name]()
            skips: tuple[Literal["law", "white"], ...] = ("white", "law") if name == "gaussian" else ("law",)
            for skip in skips:
                prior, signals = trained(law, skip, options.minutes, folder)
                denoisers.append(compared(law, prior, skip, options.minutes, signals))
                print(denoisers[-1], flush=True)
            rows += posteriors(law, prior)
            print(tables(denoisers, rows), flush=True)
            if options.out:
                save(options.out, "learned-law", f"{LEGEND}\n{tables(denoisers, rows)}", rows)


if __name__ == "__main__":
    main()
