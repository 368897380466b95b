"""Laws of images that are known exactly, to train priors on: their denoisers and posteriors are the references."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

import invsolve as iv
from invsolve.priors import GaussianFieldPrior, GaussianMixturePrior, Laplace, Matern, SparsePrior

SIDE = 32
KEPT, NOISE, ITEMS = 0.3, 0.2, 4  # share of the pixels that are measured, their noise, and images


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Law:
    """``prior`` is the law itself, in float32; `data` are pixels of other draws of it, with noise."""

    name: str
    text: str
    prior: iv.priors.Prior

    @property
    def operator(self) -> iv.operators.LinearOperator:
        keep = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(1)) < KEPT
        return iv.operators.Mask(mask=keep)

    @property
    def data(self) -> Tensor:
        clean = self.operator(self.prior.sample(ITEMS, seed=10**6))
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
        return self.operator(clean + NOISE * noise)


def gaussian() -> Law:
    prior = GaussianFieldPrior(shape=(SIDE, SIDE), spectrum=Matern(std=1.0, length=0.1), basis="periodic")
    return Law(name="Gaussian field", text="Matern, std 1, length 0.1, periodic", prior=prior)


def two_fields() -> Law:
    """A ring or a stripe, each with a Gaussian field of its own roughness around it."""
    place = (torch.arange(SIDE, dtype=torch.float64) + 0.5) / SIDE - 0.5
    radius = (place[:, None] ** 2 + place**2).sqrt()
    ring = 1.5 * torch.exp(-(((radius - 0.3) / 0.08) ** 2))
    stripe = 1.5 * torch.exp(-(((place[:, None] + 0.5 * place) / 0.08) ** 2))
    covariances = torch.stack([_covariance(0.5, 0.15), _covariance(0.5, 0.07)])
    prior = GaussianMixturePrior(
        weights=torch.tensor([0.4, 0.6], dtype=torch.float64),
        means=torch.stack([ring, stripe]),
        covariances=covariances,
    )
    return Law(
        name="two fields",
        text="a ring (0.4) or a stripe, each with a field of its own roughness",
        prior=prior.to(dtype=torch.float32),
    )


def sparse() -> Law:
    """Laplace coefficients of the discrete cosine transform, their scale that of a rough field."""
    k = torch.arange(SIDE, dtype=torch.float64)
    scale = (1 + (k[:, None] ** 2 + k**2) / 4) ** -0.75
    scale = scale * SIDE / math.sqrt(float((2 * scale.square()).sum()))  # mean variance of a pixel 1
    prior = SparsePrior(shape=(SIDE, SIDE), transform="dct", coefficients=Laplace(scale=scale), dtype=torch.float32)
    return Law(name="sparse field", text="independent Laplace coefficients of the cosine transform", prior=prior)


def _covariance(std: float, length: float) -> Tensor:
    field = GaussianFieldPrior(shape=(SIDE, SIDE), spectrum=Matern(std=std, length=length), dtype=torch.float64)
    modes = field.law.modes
    basis = modes.synthesis(torch.eye(SIDE * SIDE, dtype=torch.float64).view(-1, SIDE, SIDE)).flatten(1)
    return basis.mT @ (field.law.variances.flatten()[:, None] * basis)


LAWS = {"gaussian": gaussian, "two": two_fields, "sparse": sparse}
