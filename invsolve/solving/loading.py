"""Results from files, with what was solved if the caller says it."""

from __future__ import annotations

import os
from dataclasses import replace

from invsolve import strategies
from invsolve.core.torch_state import in_defined_state
from invsolve.errors import UnsupportedError, invalid, invalid_type
from invsolve.hyperparameters.unknowns import Unknowns
from invsolve.priors.base import Prior
from invsolve.priors.compatibility import check_pair, not_a_prior
from invsolve.priors.inferred import as_inferred
from invsolve.problem import Problem, data_fingerprint
from invsolve.results.reading import read_result
from invsolve.results.result import Result
from invsolve.solving.solver import StrategySolver
from invsolve.strategies.base import Strategy


@in_defined_state
def load_result(
    path: str | os.PathLike[str],
    *,
    problem: Problem | None = None,
    prior: Prior | None = None,
    strategy: Strategy | None = None,
) -> Result:
    """Read a file of ``Result.save``: bit for bit, but for ``problem``, ``prior`` and ``solver``, which are None.

    With the problem and the prior that were solved the result has these, and ``check()`` tests it. Other programs open
    the same files with ``xarray.open_dataset(path, engine="h5netcdf")``.

    Parameters
    ----------
    path : str or path
        The file.
    problem : Problem, optional
        ``iv.Problem(A, y, noise)`` that was solved; its data are compared with a hash in the file.
    prior : Prior, optional
        With ``problem``.
    strategy : Strategy, optional
        What ``check()`` solves again with; unless given, the one that the file names, with its default options.

    Returns
    -------
    Result

    Raises
    ------
    FileError
        For a file that is missing, cut short, foreign or not what it claims to be; it says which. Nothing in a file is
        ever run.
    InputError, InputTypeError
        If problem and prior are not those of the file, as far as it tells.
    UnsupportedError
        For a prior of a transformed signal (`iv.priors.exp`), whose tests look at more than the file holds.
    """
    found = read_result(path)
    if problem is None and prior is None:
        return found
    if not isinstance(problem, Problem):
        raise invalid_type("load_result", "problem", "an iv.Problem, given with the prior", problem)
    if not isinstance(prior, Prior):
        raise not_a_prior("load_result", prior)
    check_pair("load_result", problem.operator, prior)
    if tuple(problem.shape) != found.shape or found.settings.get("data") not in (None, data_fingerprint(problem)):
        raise invalid("load_result", "problem", "of the data that the result is of", "other data, or another signal")
    if as_inferred(problem, prior)[2] is not None:
        raise UnsupportedError(
            "load_result: the tests of a signal with a transformed prior look at what is behind it, which the file "
            "does not hold. Load the result alone, or call check() before it is saved."
        )
    unknowns = Unknowns.from_problem(problem, prior)
    typical = prior if unknowns is None else unknowns.prior_at(unknowns.medians)
    solver = StrategySolver(prior=typical, strategy=strategy or _named(found.strategy))
    return replace(found, problem=problem, prior=prior, solver=solver)


def _named(name: str) -> Strategy:
    """The strategy of a name with its default options; the closed form for one that is not in the package."""
    make = getattr(strategies, name, None) if name in strategies.__all__ else None
    found = make() if callable(make) else None
    return found if isinstance(found, Strategy) else strategies.Exact()
