"""A problem in the singular coordinates of its operator, for the methods that work there one coordinate at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from invsolve.noise import Gaussian
from invsolve.operators.algebra.algebra import name_of
from invsolve.operators.base import LinearOperator
from invsolve.operators.spectrum import Spectrum, too_large
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.samplers.base import Level
from invsolve.strategies.published.annealed import Walk


def needs_spectrum(problem: Problem, prior: Prior) -> str:
    """What a method in singular coordinates lacks; '' if nothing."""
    noise = problem.noise
    if not isinstance(problem.operator, LinearOperator):
        return f"a linear operator ({name_of(problem.operator)} is not)"
    if not isinstance(noise, Gaussian) or not isinstance(noise.std, (float, Tensor)):
        return "Gaussian noise of a known std"
    if isinstance(noise.std, Tensor) and (noise.std[0] if noise.per_item else noise.std).numel() > 1:
        return "one noise std for all data of an item"
    if not prior.white_noise:
        return f"white diffusion noise (that of {type(prior).__name__} is not)"
    if type(problem.operator)._svd is LinearOperator._svd:  # no closed form: only a small one is decomposed
        return too_large(problem.operator)
    return ""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class SpectralData:
    """``A = U S V^H`` with the data as ``y_i = (U^H y)_i / s_i``, whose noise has the std ``noise_i = sigma / s_i``."""

    spectrum: Spectrum
    data: Tensor  # (rows, *spectrum.shape): 0 where nothing is seen
    noise: Tensor  # (rows or 1, *spectrum.shape): infinite where nothing is seen
    std: Tensor  # (rows or 1, 1, ..., 1): sigma

    @classmethod
    def from_problem(cls, problem: Problem) -> SpectralData:
        operator, noise = problem.operator, problem.noise
        assert isinstance(operator, LinearOperator) and isinstance(noise, Gaussian)
        spectrum = operator.svd(like=problem.data.real)
        values = spectrum.values if spectrum.batch is not None else spectrum.values[None]
        seen = values > 0
        data = spectrum.data_to_spectrum(problem.data) * torch.where(seen, 1 / values, 0.0)
        assert isinstance(noise.std, (float, Tensor))
        std = torch.as_tensor(noise.std, dtype=values.dtype, device=values.device)
        std = std.reshape(-1, *([1] * len(spectrum.shape)))
        return cls(spectrum=spectrum, data=data, noise=torch.where(seen, std / values, torch.inf), std=std)

    def level(self, level: Level) -> Level:
        """With the axes of the coordinates, which a dense decomposition has fewer of than the signal."""
        return level.view(-1, *([1] * len(self.spectrum.shape))) if isinstance(level, Tensor) else level

    @property
    def seen(self) -> Tensor:
        return self.noise.isfinite()

    def take(self, index: Tensor) -> Self:
        index = index.to(self.data.device)
        noise, std = (v if len(v) == 1 else v[index] for v in (self.noise, self.std))
        return replace(self, spectrum=self.spectrum.take(index), data=self.data[index], noise=noise, std=std)


@dataclass(frozen=True, kw_only=True)
class SpectralWalk(Walk[SpectralData]):
    """A walk in singular coordinates: ``run.bound.tools`` is `SpectralData`."""

    def missing(self, problem: Problem, prior: Prior) -> str:
        return needs_spectrum(problem, prior)

    def prepare(self, problem: Problem, prior: Prior) -> SpectralData:
        return SpectralData.from_problem(problem)
