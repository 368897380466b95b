from invsolve.operators.base import BlackBox, LinearOperator, Operator
from invsolve.operators.mask import Mask, Subsample
from invsolve.operators.matrix import Matrix
