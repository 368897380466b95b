"""Random heads made of formulas, in three dimensions: to train and to tune on. Nothing is fitted to a real image."""

from invsolve.datasets.heads.anatomy import TISSUES, Head
from invsolve.datasets.heads.images import ct, slices, tissues, volume

__all__ = ["TISSUES", "Head", "ct", "slices", "tissues", "volume"]
