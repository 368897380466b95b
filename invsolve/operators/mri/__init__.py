"""Magnetic resonance imaging: trajectories in k-space, and the density of their samples."""

from invsolve.operators.mri.density import pipe_menon, radial_density
from invsolve.operators.mri.trajectories import kooshball, radial, spiral, stack_of_stars

__all__ = ["kooshball", "pipe_menon", "radial", "radial_density", "spiral", "stack_of_stars"]
