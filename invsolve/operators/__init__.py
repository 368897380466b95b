"""Forward models: what the data are of the signal. Bring your own by subclassing, or with `from_callable`."""

from invsolve.core.public_names import found_later
from invsolve.operators.algebra.frames import Frames
from invsolve.operators.algebra.stack import NonlinearStack, Stack
from invsolve.operators.base import BlackBox, LinearOperator, Operator
from invsolve.operators.bridges.deepinv import from_deepinv, to_deepinv
from invsolve.operators.bridges.neuralop import from_neuralop
from invsolve.operators.bridges.scipy import from_scipy, to_scipy
from invsolve.operators.callable import from_callable
from invsolve.operators.ct.cone import ConeBeam
from invsolve.operators.ct.fan import FanBeam
from invsolve.operators.ct.parallel import ParallelBeam
from invsolve.operators.ct.vectors import VectorBeam
from invsolve.operators.family import Family
from invsolve.operators.identity import Identity
from invsolve.operators.mask import Mask, Subsample
from invsolve.operators.matrix import Matrix
from invsolve.operators.mri.cartesian import MRI
from invsolve.operators.mri.noncartesian import NonCartesianMRI
from invsolve.operators.mri.soft_sense import SoftSense
from invsolve.operators.optics.blur import Blur
from invsolve.operators.optics.diffraction import Diffraction, random_codes
from invsolve.operators.optics.downsample import Downsample
from invsolve.operators.optics.gaussian_blur import GaussianBlur
from invsolve.operators.optics.mosaic import Mosaic
from invsolve.operators.optics.nonlinear_blur import NonlinearBlur
from invsolve.operators.optics.phase_retrieval import PhaseRetrieval
from invsolve.operators.optics.point_spread import diffraction_kernel, motion_kernel
from invsolve.operators.optics.ptychography import Ptychography
from invsolve.operators.optics.saturation import Saturation
from invsolve.operators.optics.super_resolution import SuperResolution
from invsolve.operators.optics.varying_blur import VaryingBlur
from invsolve.operators.pde.advection_diffusion import AdvectionDiffusion
from invsolve.operators.pde.burgers import Burgers
from invsolve.operators.pde.diffusion import Darcy
from invsolve.operators.pde.evolution import Evolution
from invsolve.operators.pde.heat import Heat
from invsolve.operators.pde.helmholtz import HelmholtzMedium, HelmholtzSource
from invsolve.operators.pde.linear_solve import solve_linear
from invsolve.operators.pde.navier_stokes import NavierStokes
from invsolve.operators.pde.observation import BoxAverages, PointValues
from invsolve.operators.pde.poisson import Helmholtz, Poisson
from invsolve.operators.pde.reaction_diffusion import ReactionDiffusion
from invsolve.operators.pde.scattering import BornScattering, Scattering
from invsolve.operators.pde.wave import Wave, ricker
from invsolve.operators.simulator import from_simulator
from invsolve.operators.sparse import Sparse
from invsolve.operators.spectrum import Spectrum
from invsolve.operators.structured_random import StructuredRandom
from invsolve.operators.unpack import Unpack
from invsolve.operators.visibilities import Visibilities

__all__ = [
    "AdvectionDiffusion",
    "BlackBox",
    "Blur",
    "BornScattering",
    "BoxAverages",
    "Burgers",
    "ConeBeam",
    "Darcy",
    "Diffraction",
    "Downsample",
    "Evolution",
    "Family",
    "FanBeam",
    "Frames",
    "GaussianBlur",
    "Heat",
    "Helmholtz",
    "HelmholtzMedium",
    "HelmholtzSource",
    "Identity",
    "LinearOperator",
    "MRI",
    "Mask",
    "Matrix",
    "Mosaic",
    "NavierStokes",
    "NonCartesianMRI",
    "NonlinearBlur",
    "NonlinearStack",
    "Operator",
    "ParallelBeam",
    "PhaseRetrieval",
    "PointValues",
    "Poisson",
    "Ptychography",
    "ReactionDiffusion",
    "Saturation",
    "Scattering",
    "SoftSense",
    "Sparse",
    "Spectrum",
    "Stack",
    "StructuredRandom",
    "Subsample",
    "SuperResolution",
    "Unpack",
    "VaryingBlur",
    "VectorBeam",
    "Visibilities",
    "Wave",
    "diffraction_kernel",
    "from_callable",
    "from_deepinv",
    "from_neuralop",
    "from_scipy",
    "from_simulator",
    "motion_kernel",
    "random_codes",
    "ricker",
    "solve_linear",
    "to_deepinv",
    "to_scipy",
]

__getattr__ = found_later(__name__)
