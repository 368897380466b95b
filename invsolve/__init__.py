"""invsolve: posteriors of inverse problems with diffusion priors, and how right they are.

>>> import torch
>>> import invsolve as iv
>>> prior = iv.priors.GaussianPrior(mean=torch.zeros(3), covariance=torch.eye(3))
>>> A = iv.operators.Mask(mask=torch.tensor([True, True, False]))
>>> result = iv.solve(A, torch.tensor([1.0, 2.0, 0.0]), prior, noise=0.5, num_samples=8, seed=0)
>>> result.samples.shape
torch.Size([8, 3])
"""

from typing import TYPE_CHECKING

from invsolve import elementary, errors, metrics, noise, operators, priors, progress, samplers, strategies
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
from invsolve.problem import Problem
from invsolve.result import Result, Status
from invsolve.solve import sample, solve

if TYPE_CHECKING:  # imported where they are first used: the package must not cost seconds that nobody asked for
    from invsolve import baselines, datasets, plotting, posterior_metrics, testing
    from invsolve.likelihood import log_likelihood
    from invsolve.result_io import load_result

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

elementary.settle()  # at import, so that it comes before the first computation of most programs

_LATER = {"load_result": "result_io", "log_likelihood": "likelihood"}
_MODULES = ("baselines", "datasets", "plotting", "posterior_metrics", "testing")


def __getattr__(name: str) -> object:
    """What `_LATER` and `_MODULES` name, on first use."""
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"invsolve.{name}")
    if name in _LATER:
        value: object = getattr(import_module(f"invsolve.{_LATER[name]}"), name)
        return value
    raise AttributeError(f"module 'invsolve' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
