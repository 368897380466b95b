"""Forward models: what the data are of the signal. Bring your own by subclassing, or with `from_callable`."""

from invsolve.operators.base import BlackBox, LinearOperator, Operator
from invsolve.operators.blur import Blur, GaussianBlur
from invsolve.operators.callable import from_callable
from invsolve.operators.deepinv_bridge import from_deepinv, to_deepinv
from invsolve.operators.diffraction import Diffraction, random_codes
from invsolve.operators.downsample import Downsample
from invsolve.operators.family import Family
from invsolve.operators.mask import Mask, Subsample
from invsolve.operators.matrix import Matrix
from invsolve.operators.mri import MRI
from invsolve.operators.nonlinear_blur import NonlinearBlur
from invsolve.operators.phase_retrieval import PhaseRetrieval
from invsolve.operators.saturation import Saturation
from invsolve.operators.scipy_bridge import from_scipy, to_scipy
from invsolve.operators.sparse import Sparse
from invsolve.operators.spectrum import Spectrum
from invsolve.operators.stack import NonlinearStack, Stack

__all__ = [
    "BlackBox",
    "Blur",
    "Diffraction",
    "Downsample",
    "Family",
    "GaussianBlur",
    "LinearOperator",
    "MRI",
    "Mask",
    "Matrix",
    "NonlinearBlur",
    "NonlinearStack",
    "Operator",
    "PhaseRetrieval",
    "Saturation",
    "Sparse",
    "Spectrum",
    "Stack",
    "Subsample",
    "from_callable",
    "from_deepinv",
    "from_scipy",
    "random_codes",
    "to_deepinv",
    "to_scipy",
]
