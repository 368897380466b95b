"""A random field seen at a few places of the unit square, on any grid: the posterior is known in its modes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import invsolve as iv
from invsolve.core.transforms import Transform
from invsolve.priors.fields.bases import laplace_eigenvalues

DTYPE = torch.float64
MODES, PLACES, STD = 16, 20, 0.02


def spectrum(k2: Tensor) -> Tensor:
    """``9 (k^2 + 9)^-2`` without its mean."""
    return torch.where(k2 > 0, 9 * (k2 + 9) ** -2.0, 0.0)


def field_prior(n: int = MODES, modes: int | None = None) -> iv.priors.GaussianFieldPrior:
    """Of ``modes`` cosines along each axis; the diffusion noise is a rougher field of mean variance 1."""
    eigenvalues = laplace_eigenvalues("neumann", (n, n), (1.0, 1.0))
    size = float((laplace_eigenvalues("neumann", (MODES, MODES), (1.0, 1.0)) + 100).pow(-1.5).sum())
    s = spectrum(eigenvalues)
    if modes is not None:
        s[modes:], s[:, modes:] = 0.0, 0.0
    noise = iv.priors.Spectrum(lambda k2: (k2 + 100) ** -1.5 / size)
    law = iv.priors.Spectrum(spectrum) if modes is None else s
    return iv.priors.GaussianFieldPrior(shape=(n, n), spectrum=law, noise_spectrum=noise, dtype=DTYPE)


def places(count: int = PLACES, seed: int = 0) -> Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def at_places(n: int, xy: Tensor) -> iv.operators.LinearOperator:
    """The field of the grid's cosines at places that are no nodes."""
    k = torch.arange(n, dtype=DTYPE)
    root = torch.where(k > 0, math.sqrt(2), 1.0)
    first, second = (root * torch.cos(math.pi * k * x[:, None]) for x in xy.mT)
    basis = first[:, :, None] * second[:, None, :] / n
    transform = Transform(name="cosine", shape=(n, n), dtype=DTYPE)
    return iv.operators.from_callable(
        lambda x: torch.einsum("bij,mij->bm", transform.forward(x), basis),
        (n, n),
        (len(xy),),
        kind="linear",
        adjoint=lambda y: transform.inverse(torch.einsum("bm,mij->bij", y, basis)),
        dtype=DTYPE,
    )


def measured(
    n: int = MODES, count: int = PLACES, std: float = STD, seed: int = 0
) -> tuple[iv.priors.GaussianFieldPrior, iv.operators.LinearOperator, Tensor]:
    """Prior, operator and data ``(count,)``."""
    prior, A = field_prior(n), at_places(n, places(count, seed))
    noise = torch.randn(1, count, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)
    return prior, A, (A(prior.sample(1, seed=seed)) + std * noise)[0]


def exact(prior: iv.priors.Prior, A: iv.operators.LinearOperator, y: Tensor, std: float) -> tuple[Tensor, Tensor]:
    """Mean and std of the posterior, ``(*shape)``."""
    posterior = prior.posterior(A, y, std)
    return posterior.mean[0], posterior.std[0]


def off(x: Tensor, mean: Tensor, std: Tensor) -> tuple[float, float, float]:
    """Of samples: relative errors of mean and std, and the first's expectation for independent draws."""
    floor = float((std.square().sum() / len(x)).sqrt() / mean.norm())
    return float((x.mean(0) - mean).norm() / mean.norm()), float((x.std(0) - std).norm() / std.norm()), floor
