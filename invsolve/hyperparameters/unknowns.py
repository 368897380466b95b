"""Hyperparameters: scalars that are not known, their names and distributions, and the problem that values make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.distributions import Distribution
from invsolve.errors import UnsupportedError
from invsolve.noise import Gaussian
from invsolve.operators.family import Family as OperatorFamily
from invsolve.priors.base import Prior
from invsolve.priors.family import Family as PriorFamily
from invsolve.problem import Problem

NOISE = "noise.std"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Unknowns:
    """``names`` ("noise.std", "prior.length", "operator.width", ...) with their ``distributions``, p of them.

    Values are rows ``theta`` ``(..., p)`` float64 in the units of the user, or ``z`` of the same shape: coordinates in
    which the prior is standard normal (`transport`). Every item of the data has values of its own.
    """

    problem: Problem  # with what is unknown in it
    prior: Prior
    names: tuple[str, ...]
    distributions: tuple[Distribution, ...]

    @classmethod
    def from_problem(cls, problem: Problem, prior: Prior) -> Self | None:
        """What is unknown in a problem and its prior; None if nothing is."""
        found: dict[str, Distribution] = {}
        if isinstance(problem.noise, Gaussian):
            found |= {f"noise.{name}": value for name, value in problem.noise.scalars.items()}
        if isinstance(prior, PriorFamily):
            found |= {f"prior.{name}": value for name, value in prior.unknown.items()}
        if isinstance(problem.operator, OperatorFamily):
            found |= {f"operator.{name}": value for name, value in problem.operator.unknown.items()}
        if not found:
            return None
        return cls(problem=problem, prior=prior, names=tuple(found), distributions=tuple(found.values()))

    def transport(self, z: Tensor) -> Tensor:
        """The values at standard normal coordinates ``z`` ``(..., p)``."""
        return torch.stack([d.transport(z[..., i]) for i, d in enumerate(self.distributions)], -1)

    def columns(self, part: str) -> list[int]:
        """Which of the p values belong to "noise", "prior" or "operator"."""
        return [i for i, name in enumerate(self.names) if name.startswith(f"{part}.")]

    @property
    def level(self) -> int | None:
        """Which of the p values is the std of white noise, that rows of one problem may differ in; None: none is."""
        return self.names.index(NOISE) if NOISE in self.names and not self._correlated else None

    @property
    def model(self) -> list[int]:
        """Which of the p values, beside the prior's, rows of one problem must share: the operator's, a covariance's."""
        return self.columns("operator") + (self.columns("noise") if self._correlated else [])

    @property
    def _correlated(self) -> bool:
        noise = self.problem.noise
        return isinstance(noise, Gaussian) and bool(noise.discrepancy)

    @property
    def medians(self) -> Tensor:
        """``(p,)``."""
        return self.transport(torch.zeros(len(self.names), dtype=torch.float64, device="cpu"))

    def at(self, theta: Tensor) -> tuple[Problem, Prior]:
        """The problem, of all items, and the prior for one set of values ``(p,)``."""
        return self.problem_only(theta), self.prior_at(theta)

    def problem_only(self, theta: Tensor) -> Problem:
        """The problem of all items for one set of values ``(p,)``."""
        return self._problem(self.problem, theta[None])

    def prior_at(self, theta: Tensor) -> Prior:
        """The prior for one set of values ``(p,)``."""
        if not isinstance(self.prior, PriorFamily):
            return self.prior
        return self.prior.at(**self.named("prior", theta))

    def problem_at(self, theta: Tensor, index: Tensor) -> Problem:
        """The problem of the rows ``index`` ``(rows,)`` (the item of each), a row with values ``theta`` ``(rows, p)``.

        Rows may differ in the noise level. Raises UnsupportedError where they differ in a scalar of the operator, or of
        the covariance of the noise: group them first.
        """
        columns = self.model
        if bool((theta[:, columns] != theta[:1, columns]).any()):
            raise UnsupportedError(
                "Unknowns.problem_at: rows of one problem must share the scalars of the operator and of a covariance."
            )
        return self._problem(self.problem.take(index), theta)

    def _problem(self, problem: Problem, theta: Tensor) -> Problem:
        operator, noise = problem.operator, problem.noise
        if isinstance(operator, OperatorFamily):
            operator = operator.at(**self.named("operator", theta[0]))
        if self._correlated:
            assert isinstance(noise, Gaussian)
            noise = noise.known(self.named("noise", theta[0]))
        elif self.level is not None:
            std = theta[:, self.level]
            if len(std) == 1:
                noise = Gaussian(std=float(std))
            else:
                shape = (len(std), *([1] * len(operator.out_shape)))
                noise = Gaussian(std=std.view(shape).to(problem.data.device, problem.data.real.dtype))
        return problem.replaced(operator=operator, noise=noise)

    def named(self, part: str, theta: Tensor) -> dict[str, float]:
        """The values of one part, by name."""
        return {self.names[i].removeprefix(f"{part}."): float(theta[i]) for i in self.columns(part)}
