"""Computed tomography: scans by parallel and by fan beams, Hounsfield units."""

from invsolve.core.public_names import found_later
from invsolve.operators.ct.derivative import GeometryDerivative
from invsolve.operators.ct.geometry import Geometry
from invsolve.operators.ct.hounsfield import from_hounsfield, to_hounsfield

__all__ = ["Geometry", "GeometryDerivative", "from_hounsfield", "to_hounsfield"]

__getattr__ = found_later(__name__)
