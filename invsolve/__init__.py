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

from invsolve import errors, metrics, noise, operators, priors, progress, samplers, strategies
from invsolve.calibration.calibrate import calibrate
from invsolve.calibration.report import Calibration
from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.checkpoint import Checkpoint
from invsolve.core.distributions import Distribution, LogNormal, LogUniform, Normal, Uniform
from invsolve.core.grid import Grid
from invsolve.core.packing import Layout, Part
from invsolve.core.public_names import found_later
from invsolve.core.torch_workarounds import warm_up_mkl
from invsolve.hyperparameters.request import Hierarchy
from invsolve.problem import Problem
from invsolve.results.certificate import Certificate
from invsolve.results.citations import Citation, cite
from invsolve.results.model_comparison import Comparison, compare
from invsolve.results.result import Result
from invsolve.results.status import Status
from invsolve.solving.solve import sample, solve
from invsolve.solving.spending import Budget

if TYPE_CHECKING:  # imported where they are first used: the package must not cost seconds that nobody asked for
    from invsolve import baselines, datasets, plotting, posterior_metrics, problems, testing
    from invsolve.datasets.readers import open_scan as open
    from invsolve.priors.density import log_density
    from invsolve.priors.density import log_density as log_likelihood
    from invsolve.solving.loading import load_result

__all__ = [
    "Budget",
    "Certificate",
    "Calibration",
    "CartesianGrid",
    "Checkpoint",
    "Citation",
    "Comparison",
    "Distribution",
    "Grid",
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
    "log_density",
    "log_likelihood",
    "metrics",
    "noise",
    "open",
    "operators",
    "plotting",
    "posterior_metrics",
    "priors",
    "problems",
    "progress",
    "sample",
    "samplers",
    "solve",
    "strategies",
    "testing",
]

warm_up_mkl()  # at import, so that it comes before the first computation of most programs

__getattr__ = found_later(
    __name__,
    {
        "load_result": "solving.loading",
        "log_density": "priors.density",
        "log_likelihood": "priors.density:log_density",  # its old name
        "open": "datasets.readers:open_scan",
        **{name: name for name in ("baselines", "datasets", "plotting", "posterior_metrics", "problems", "testing")},
    },
)

vars(metrics)["__getattr__"] = found_later(metrics.__name__)


def __dir__() -> list[str]:
    return sorted(__all__)
