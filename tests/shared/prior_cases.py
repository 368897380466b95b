"""Small exact priors of every kind: real, in one to three dimensions, with white diffusion noise."""

from __future__ import annotations

import torch

import invsolve as iv

F64 = torch.float64
_MEANS = torch.tensor([[-1.0, 0.5], [1.5, 0.0]], dtype=F64)
_ROOT = torch.tensor([[0.8, 0.0, 0.0], [0.3, 0.5, 0.0], [0.1, -0.2, 0.4]], dtype=F64)
_SQUARES = torch.stack([0.2 * torch.eye(2, dtype=F64), 0.5 * torch.eye(2, dtype=F64)])

CASES: dict[str, iv.priors.Prior] = {
    "gaussian": iv.priors.GaussianPrior(torch.tensor([1.0, 0.0, -2.0], dtype=F64), _ROOT @ _ROOT.mT),
    "mixture": iv.priors.GaussianMixturePrior(torch.tensor([0.3, 0.7], dtype=F64), _MEANS, _SQUARES),
    "laplace": iv.priors.SparsePrior((2,), iv.priors.Laplace(0.7), dtype=F64),
    "student": iv.priors.SparsePrior((2,), iv.priors.Student(0.5, 5.0), dtype=F64),
    "spike-slab": iv.priors.SparsePrior((2,), iv.priors.SpikeSlab(0.4, 1.5, spike=0.2), dtype=F64),
    "haar": iv.priors.SparsePrior((2,), iv.priors.Laplace(0.7), transform="haar", dtype=F64),
    "field": iv.priors.GaussianFieldPrior((3,), iv.priors.Matern(std=1.0, length=0.5), dtype=F64),
}
