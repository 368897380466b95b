"""The initial particles of SMC: at the highest level, with the density they are drawn from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invsolve.core.arrays import to_real
from invsolve.priors.capabilities import HasDensity, HasLaw
from invsolve.strategies.base import Run
from invsolve.strategies.smc.coordinates import Coordinates
from invsolve.strategies.smc.proposals import Setting
from invsolve.strategies.smc.twisted import DiagonalLocal, Linear, Local


def first_particles(run: Run, setting: Setting, top: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` ``(rows, *shape)`` at level ``top``, and the log density (rows,) of what they are drawn from."""
    local = _law_given_data(run, setting)
    return _unguided(run, top) if local is None else _guided(run, setting.coordinates, local, top)


def _law_given_data(run: Run, setting: Setting) -> Local | None:
    """x0 given the data without any x: the prior's stated distribution, of level infinity.

    Where V is diagonal, operator and noise linear and Gaussian and the density known. Then particles start with the
    data, and have equal weights where the prior is that distribution.
    """
    prior = run.prior
    linear = setting.jacobian is not None and setting.fixed_noise
    if setting.form != "diagonal" or not linear:
        return None
    if not (isinstance(prior, HasLaw) and isinstance(prior, HasDensity)):
        return None
    V = setting.coordinates.law_variances()
    assert setting.jacobian is not None
    rows = torch.arange(run.rows, device=V.device)
    linearised = Linear.at(
        run.problem,
        setting.coordinates,
        setting.jacobian.take(rows % setting.batch),
        prior.mean.expand(run.rows, *prior.shape),
        None,
    )
    infinity = torch.full((), torch.inf, dtype=torch.float64, device=V.device)
    return DiagonalLocal.given(linearised, V.new_zeros(run.rows, V.shape[1]), V, infinity)


def _unguided(run: Run, top: Tensor) -> tuple[Tensor, Tensor]:
    """Particles at the highest level, and their log density."""
    prior = run.prior
    parts = 2 if run.problem.signal_dtype.is_complex else 1
    z = run.normal(-1)
    size = 0.5 * to_real(z).double().square().sum(1)
    dimension = to_real(z).shape[1]
    constant = -0.5 * dimension * math.log(2 * math.pi) - size
    if not isinstance(prior, HasLaw):
        level = top.to(prior.dtype).view(-1, *([1] * (z.ndim - 1))) if top.ndim else top.to(prior.dtype)
        return prior.mean + level * z, constant - dimension * top.log()
    law = prior.law
    z = z.reshape(len(z), *law.modes.mode_shape)
    level = top.to(prior.dtype).view(-1, *([1] * (z.ndim - 1))) if top.ndim else top.to(prior.dtype)
    total = (law.variances.double() + level.double() ** 2).reshape(-1, law.variances.numel())
    return law.sample(z, level), constant - parts * (0.5 * total.log().sum(1) + law.modes.log_det)


def _guided(run: Run, coordinates: Coordinates, local: Local, top: Tensor) -> tuple[Tensor, Tensor]:
    """Particles at the highest level given the data, for a Gaussian prior; and their log density, in the signal."""
    z = to_real(run.normal(-1)).double()
    kernel = local.guided(torch.zeros_like(z), top)
    return coordinates.synthesis(kernel.draw(z)), kernel.log_prob_of(z) - coordinates.constant
