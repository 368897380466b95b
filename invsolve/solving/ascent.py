"""Many points at once to the maxima above them: BFGS, each row for itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.stopping import ask
from invsolve.solving.noise_density import NoiseDensity

_ENOUGH = 1e-3  # nats that a step promises, below which a row has arrived
_LONGEST = 1.0  # length of a step over the root of the dimension, in stds of the noise
_ARMIJO = 1e-4
_SHORTEST = 1e-6  # share of a step, below which a row is stuck
_CURVED = 1e-10  # cosine of a step and the change of the gradient, below which they say nothing
_TINY = 1e-300


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Ends:
    """Where rows ended: ``u`` ``(rows, n)``, the log density, and about minus its inverse Hessian ``(rows, n, n)``."""

    u: Tensor
    log: Tensor
    covariance: Tensor
    item: Tensor

    def take(self, rows: Tensor) -> Ends:
        return Ends(u=self.u[rows], log=self.log[rows], covariance=self.covariance[rows], item=self.item[rows])

    def of(self, item: int) -> Ends:
        return self.take((self.item == item).nonzero()[:, 0])

    def joined(self, more: Ends) -> Ends:
        return Ends(
            u=torch.cat((self.u, more.u)),
            log=torch.cat((self.log, more.log)),
            covariance=torch.cat((self.covariance, more.covariance)),
            item=torch.cat((self.item, more.item)),
        )


def ascended(density: NoiseDensity, u: Tensor, item: Tensor, steps: int) -> Ends:
    """From ``u`` ``(rows, n)`` in at most so many gradients a row (Broyden, Fletcher, Goldfarb & Shanno 1970).

    A step that does not rise by Armijo's rule is shortened by a parabola. Rows whose density is 0 stay.
    """
    rows, n = u.shape
    log, grad = density.gradient(u, item)
    eye = torch.eye(n, dtype=u.dtype, device=u.device)
    inverse = eye / grad.norm(dim=1).clamp_min(1.0)[:, None, None]
    fresh = torch.ones(rows, dtype=torch.bool, device=u.device)
    share = torch.ones(rows, dtype=u.dtype, device=u.device)
    u, going = u.clone(), log.isfinite()
    for _ in range(steps - 1):
        ask()
        on = going.nonzero()[:, 0]
        if not len(on):
            break
        g, x, f = grad[on], u[on], log[on]
        p = (inverse[on] @ g[..., None])[..., 0]
        p = p * (_LONGEST * math.sqrt(n) / p.norm(dim=1).clamp_min(_TINY)).clamp_max(1.0)[:, None]
        slope, t = (g * p).sum(1), share[on]
        there = x + t[:, None] * p
        new, new_grad = density.gradient(there, item[on])
        good = new >= f + _ARMIJO * t * slope
        # The maximum of the parabola through both values and the slope.
        best = 0.5 * t.square() * slope / (f + t * slope - new).clamp_min(_TINY)
        share[on] = torch.where(good, 1.0, best.nan_to_num(0.0).clamp(0.1 * t, 0.5 * t))
        at = on[good]
        inverse[at], fresh[at] = _updated(inverse[at], there[good] - x[good], g[good] - new_grad[good], fresh[at], eye)
        u[at], log[at], grad[at] = there[good], new[good], new_grad[good]
        promised = 0.5 * (grad[on] * (inverse[on] @ grad[on][..., None])[..., 0]).sum(1)
        going[on] = ((promised > _ENOUGH) | fresh[on]) & (share[on] > _SHORTEST) & (slope > 0)
    return Ends(u=u, log=log, covariance=inverse, item=item)


def _updated(inverse: Tensor, s: Tensor, y: Tensor, fresh: Tensor, eye: Tensor) -> tuple[Tensor, Tensor]:
    """After steps ``s`` that changed minus the gradients by ``y``; a first one sets the scale."""
    sy, yy = (s * y).sum(1), y.square().sum(1)
    curved = sy > _CURVED * (s.norm(dim=1) * yy.sqrt())
    scale = (sy / yy.clamp_min(_TINY))[:, None, None] * eye
    inverse = torch.where((curved & fresh)[:, None, None], scale, inverse)
    rho = 1 / torch.where(curved, sy, 1.0)
    back = (inverse @ y[..., None])[..., 0]
    cross = back[..., None] * s[:, None]
    long = (rho * (1 + rho * (y * back).sum(1)))[:, None, None]
    new = inverse + long * s[..., None] * s[:, None] - rho[:, None, None] * (cross + cross.mT)
    return torch.where(curved[:, None, None], new, inverse), fresh & ~curved
