"""Forward models: what the data are of the signal. Bring your own by subclassing, or with `from_callable`."""

from invsolve.operators.base import BlackBox, LinearOperator, Operator
from invsolve.operators.mask import Mask, Subsample
from invsolve.operators.matrix import Matrix

__all__ = ["BlackBox", "LinearOperator", "Mask", "Matrix", "Operator", "Subsample"]
