from invsolve.priors.base import Prior
from invsolve.priors.gaussian import GaussianPrior
