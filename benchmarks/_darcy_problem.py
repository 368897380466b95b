"""Darcy's equation with a coefficient of two values, seen by 64 sensors: the problem, and its reference's file.

``-div(a grad u) = 1`` on the unit square, u = 0 on the walls, finite volumes with harmonic faces; a is 12 where a
Gaussian field of spectrum ``(k^2 + 9)^-2`` (cosines, no mean) is above 0, else 3. Seen is u at random points, with noise
of 1 % of its root mean square.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import invsolve as iv

FILE = Path(__file__).resolve().parent.parent / "tests" / "references" / "darcy-posterior.npz"
LOW, HIGH, MIDDLE = 3.0, 12.0, 7.5
SENSORS = 64


def level_set(n: int, width: float | None = None, dtype: torch.dtype = torch.float32) -> iv.priors.LevelSet:
    """The law of a on n x n cells; ``width`` in stds of the field behind it, at a point, on average."""
    field = iv.priors.GaussianFieldPrior((n, n), iv.priors.Whittle(3.0, 2.0, zero_mode=False), dtype=dtype)
    if width is not None:
        law = field.law
        width *= float(law.modes.marginal_variances(law.variances).mean().sqrt())
    return iv.priors.LevelSet(field, values=(LOW, HIGH), width=width)


@dataclass(frozen=True, kw_only=True, eq=False)
class DarcyCase:
    """One field and its data, the same for a seed on every machine."""

    n: int = 64
    seed: int = 0
    noise: float = 0.01  # relative to the root mean square of u

    @property
    def grid(self) -> iv.CartesianGrid:
        return iv.CartesianGrid((self.n, self.n))

    @cached_property
    def points(self) -> Tensor:
        return torch.from_numpy(np.random.default_rng([self.seed, 1]).random((SENSORS, 2)))

    @cached_property
    def operator(self) -> iv.operators.Operator:
        return iv.operators.PointValues(self.grid, self.points) @ iv.operators.Darcy(self.grid)

    @cached_property
    def truth(self) -> Tensor:
        """``(n, n)``, float64."""
        return level_set(self.n, dtype=torch.float64).sample(1, seed=self.seed)[0]

    @cached_property
    def std(self) -> float:
        u = iv.operators.Darcy(self.grid)(self.truth[None])
        return self.noise * float(u.square().mean().sqrt())

    @cached_property
    def data(self) -> Tensor:
        """``(sensors,)``, float64."""
        white = torch.from_numpy(np.random.default_rng([self.seed, 2]).standard_normal(SENSORS))
        return self.operator(self.truth[None])[0] + self.std * white


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """What the long chains found: mean and std of a, samples in the order of time, and how well they agree."""

    mean: Tensor  # (n, n)
    std: Tensor
    samples: Tensor  # (m, n, n)
    chains: int
    rhat: float  # the largest of the leading modes
    mean_error: float  # relative standard errors of mean and std, by the spread of the chains
    std_error: float

    def halves(self) -> tuple[Tensor, Tensor]:
        """Samples of one half of the chains, and of the other."""
        chain = torch.arange(len(self.samples)) % self.chains
        return self.samples[chain < self.chains // 2], self.samples[chain >= self.chains // 2]


def write(path: Path, reference: Reference, data: Tensor) -> None:
    bits = np.packbits((reference.samples > MIDDLE).flatten(1).numpy(), axis=1)
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        path,
        mean=reference.mean.numpy().astype(np.float32),
        std=reference.std.numpy().astype(np.float32),
        bits=bits,
        data=data.numpy(),
        facts=np.array([reference.chains, reference.rhat, reference.mean_error, reference.std_error]),
    )


def read(path: Path = FILE, data: Tensor | None = None) -> Reference:
    """The reference; ``data`` are compared with those that it is for."""
    with np.load(path, allow_pickle=False) as file:
        mean, std = (torch.from_numpy(file[k]).double() for k in ("mean", "std"))
        bits, own, facts = file["bits"], torch.from_numpy(file["data"]), file["facts"]
    if data is not None and not torch.allclose(own, data, rtol=1e-6, atol=0):
        raise SystemExit(f"{path.name} is the posterior of other data: write it anew by darcy_posterior_reference.py.")
    inside = np.unpackbits(bits, axis=1)[:, : mean.numel()].reshape(-1, *mean.shape)
    samples = LOW + (HIGH - LOW) * torch.from_numpy(inside).double()
    return Reference(
        mean=mean,
        std=std,
        samples=samples,
        chains=int(facts[0]),
        rhat=float(facts[1]),
        mean_error=float(facts[2]),
        std_error=float(facts[3]),
    )
