"""Computed tomography: scans by parallel and by fan beams, Hounsfield units."""

from invsolve.operators.ct.derivative import GeometryDerivative
from invsolve.operators.ct.geometry import Geometry
from invsolve.operators.ct.hounsfield import from_hounsfield, to_hounsfield

__all__ = ["Geometry", "GeometryDerivative", "from_hounsfield", "to_hounsfield"]
