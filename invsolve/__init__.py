"""invsolve: posteriors of inverse problems with diffusion priors, and how right they are.

>>> import torch
>>> import invsolve as iv
>>> prior = iv.priors.GaussianPrior(mean=torch.zeros(3), covariance=torch.eye(3))
>>> A = iv.operators.Mask(mask=torch.tensor([True, True, False]))
>>> result = iv.solve(A, torch.tensor([1.0, 2.0, 0.0]), prior, noise=0.5, num_samples=8, seed=0)
>>> result.samples.shape
torch.Size([8, 3])
"""

from invsolve import (
    baselines,
    datasets,
    errors,
    metrics,
    noise,
    operators,
    plotting,
    posterior_metrics,
    priors,
    progress,
    samplers,
    strategies,
    testing,
)
from invsolve.calibrate import calibrate
from invsolve.calibration import Calibration
from invsolve.certificate import Certificate
from invsolve.checkpoint import Checkpoint
from invsolve.cite import Citation, cite
from invsolve.climb import Budget
from invsolve.compare import Comparison, compare
from invsolve.distributions import Distribution, LogNormal, LogUniform, Normal, Uniform
from invsolve.hierarchical import Hierarchy
from invsolve.layout import Layout, Part
from invsolve.likelihood import log_likelihood
from invsolve.problem import Problem
from invsolve.result import Result, Status
from invsolve.result_io import load_result
from invsolve.solve import sample, solve

__all__ = [
    "Budget",
    "Certificate",
    "Calibration",
    "Checkpoint",
    "Citation",
    "Comparison",
    "Distribution",
    "Hierarchy",
    "Layout",
    "LogNormal",
    "LogUniform",
    "Normal",
    "Part",
    "Problem",
    "Result",
    "Status",
    "Uniform",
    "baselines",
    "calibrate",
    "cite",
    "compare",
    "datasets",
    "errors",
    "load_result",
    "log_likelihood",
    "metrics",
    "noise",
    "operators",
    "plotting",
    "posterior_metrics",
    "priors",
    "progress",
    "sample",
    "samplers",
    "solve",
    "strategies",
    "testing",
]
