"""The demo: an undersampled 8-coil scan of a real T1 slice, its exact posterior, and what everybody else would show.

Nothing is fitted to the slice: the spectrum of the prior and the weights of the baselines come from head phantoms, and
the scan is simulated from a finer grid than the unknown's, with the coil maps multiplied there. See `docs/demo.md`.
"""

from invsolve.demo.job import Demo, run
from invsolve.demo.phantoms import FULL, QUICK, Size, head_spectrum
from invsolve.demo.scores import Row

__all__ = ["FULL", "QUICK", "Demo", "Row", "Size", "head_spectrum", "run"]
