"""Grey pictures of nothing in particular, made of formulas: what a prior for any image is trained on."""

from invsolve.datasets.scenes.pictures import grey

__all__ = ["grey"]
