"""An inverse problem whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from invsolve.core.random import Draws
from invsolve.core.validation import check_int
from invsolve.priors.base import Prior
from invsolve.problem import Problem


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class InverseProblem:
    """Operator, data and noise (`problem`), prior and truth of a problem of the literature.

    ``iv.solve(case.problem, case.prior)`` solves it.

    Attributes
    ----------
    problem : Problem
        Operator, data ``(1, ...)`` and noise.
    prior : Prior
        As published.
    truth : Tensor, shape (*shape)
        What the data were made of, without a batch axis; it need not be a typical draw of the prior.
    reference : str
        Where it is published.
    """

    problem: Problem
    prior: Prior
    truth: Tensor
    reference: str

    def simulate(self, count: int = 1, *, seed: int = 0) -> tuple[Tensor, Problem]:
        """Draw other truths from the prior, and data of them.

        Parameters
        ----------
        count : int
            How many, >= 1.
        seed : int
            Of truths and noise.

        Returns
        -------
        truths : Tensor, shape (count, *shape)
            From the prior.
        problem : Problem
            Of ``count`` items, their data with noise.

        Raises
        ------
        InputError, InputTypeError
            If ``count`` or ``seed`` are no such numbers.
        """
        owner = "InverseProblem.simulate"
        check_int(owner, "count", count, minimum=1)
        truths = self.prior.sample(count, seed=check_int(owner, "seed", seed))
        own = self.problem
        draws = Draws.for_rows(seed, [0] * count, list(range(count)), truths.device, purpose="simulate")
        return truths, Problem(own.operator, own.noise.sample(own.operator(truths), draws), own.noise)

    def __repr__(self) -> str:
        return f"InverseProblem({self.problem.operator}, {self.prior}; {self.reference})"
