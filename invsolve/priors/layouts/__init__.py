"""Layouts of other people's weight files: what `invsolve.priors.load` reads besides its own."""

from invsolve.priors.layouts.adm import ADMLayout
from invsolve.priors.layouts.base import Layout
from invsolve.priors.layouts.diffusers import DiffusersLayout
from invsolve.priors.layouts.edm import EDMLayout

__all__ = ["ADMLayout", "DiffusersLayout", "EDMLayout", "Layout"]
