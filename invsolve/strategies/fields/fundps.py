"""FunDPS: guidance of a function-space diffusion by the mean squared misfit, or by the likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self, final

from torch import Tensor

from invsolve.core.conjugate_gradients import expand
from invsolve.core.validation import check_choice
from invsolve.samplers.base import Level, is_zero
from invsolve.strategies.base import Run
from invsolve.strategies.fields.heun_walk import HeunTools, HeunWalk, Residual, row_norm
from invsolve.strategies.published.annealed import WalkBound

# (weight of the data, of the residual, loss, sigma_max, sigma_min) of the authors' configurations.
_PUBLISHED: dict[str, tuple[float, float, Literal["mse", "rms"], float, float]] = {
    "darcy_forward": (1e4, 0.0, "mse", 80.0, 0.002),
    "darcy_inverse": (5e4, 0.0, "mse", 80.0, 0.002),
    "poisson_forward": (1e4, 0.0, "mse", 80.0, 0.002),
    "poisson_inverse": (2e4, 0.0, "mse", 10.0, 0.01),
    "helmholtz_forward": (1e4, 1.0, "mse", 80.0, 0.002),
    "helmholtz_inverse": (5e3, 1.0, "rms", 80.0, 0.002),
    "navier_stokes_forward": (5e3, 1.0, "mse", 80.0, 0.002),
    "navier_stokes_inverse": (7.5e3, 10.0, "rms", 80.0, 0.002),
    "bounded_flow_forward": (3e3, 100.0, "mse", 80.0, 0.002),
    "bounded_flow_inverse": (2e3, 15.0, "mse", 80.0, 0.002),
}


@final
@dataclass(frozen=True, kw_only=True)
class FunDPS(HeunWalk):
    """FunDPS: Heun steps of the diffusion, each followed by a step down the misfit of the denoised function.

    With z the signal and r the misfit, both in units of twice their std, and s the noise level in that of z: ``z'' = z'
    - weight g(s) grad_z mean r(D)^2``, ``g = min(1, s)``; D is the second denoiser call of the Heun step, and the
    gradient goes through both.

    Parameters
    ----------
    num_steps : int
        Heun steps, at least 2, of two evaluations and two vector-Jacobian products each; 500 unless given.
    grid : Tensor, shape (N + 1,), optional
        Noise levels in the units of the signal, falling to 0, in place of EDM's between sigma_max and sigma_min.
    weight : float
        Of the misfit, >= 0; 1e4 unless given. The paper's are in `published`: one for each task, direction and number
        of data.
    loss : {"mse", "rms"}
        The mean squared misfit over the data, or its root.
    residual : callable, optional
        Of the equation that the signal obeys: from ``(rows, *shape)`` to ``(rows, ...)``, differentiable by torch. Its
        mean Huber loss (quadratic below 1) is added at levels s below 1.
    residual_weight : float
        Of that loss, >= 0; 0 unless given.
    unit : float, optional
        Of z, > 0: twice the std of an entry of the signal unless given.
    data_unit : float, optional
        Of r, > 0: twice the std of the data, in the paper that of the data set. Twice the root mean square of the data
        of the item unless given.
    sigma_max, sigma_min : float
        The largest and the smallest level s, > 0; 80 and 0.002 unless given.
    corrected : bool
        True: without weights. Both calls of a Heun step are replaced by ``D + V A^H (A V A^H + G)^-1 (y - A D)`` with
        the covariances C of the diffusion noise, V of the signal given the noisy one, and G of the noise of the data
        (`MomentMatching`): the likelihood's own step, the same on every grid. False unless given.

    Raises
    ------
    InputError, InputTypeError
        If an option is out of range, or a residual is given with ``corrected``.

    Notes
    -----
    Biased by design: no noise level enters, and neither C nor V, so that the right weight changes with the task, the
    data and the grid. In the paper the signal is a pair (coefficient, solution) and the operator a mask; any operator
    will do. Row by row, as there: one mask, or one for every item.

    References
    ----------
    Yao, Mammadov, Berner, Kerrigan, Ye, Azizzadenesheli & Anandkumar 2025, Guided Diffusion Sampling on Function Spaces
    with Applications to PDEs, arXiv 2505.17004.
    """

    weight: float = 1e4
    loss: Literal["mse", "rms"] = "mse"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("FunDPS", "loss", self.loss, ("mse", "rms"))

    @classmethod
    def published(
        cls,
        task: str,
        *,
        residual: Residual | None = None,
        unit: float | None = None,
        data_unit: float | None = None,
        num_steps: int = 500,
    ) -> Self:
        """The authors' weights, loss and levels for a task, of 500 data.

        Parameters
        ----------
        task : str
            "darcy", "poisson", "helmholtz", "navier_stokes" or "bounded_flow", then "_forward" or "_inverse".
        residual : callable, optional
            As for `FunDPS`; the paper's weight of it is used. Left out unless given.
        unit, data_unit : float, optional
            As for `FunDPS`.
        num_steps : int
            500 in the paper, or 200.
        """
        check_choice("FunDPS.published", "task", task, tuple(_PUBLISHED))
        weight, of_residual, loss, high, low = _PUBLISHED[task]
        return cls(
            num_steps=num_steps,
            weight=weight,
            loss=loss,
            residual=residual,
            residual_weight=0.0 if residual is None else of_residual,
            unit=unit,
            data_unit=data_unit,
            sigma_max=high,
            sigma_min=low,
        )

    def slope(self, run: Run[WalkBound[HeunTools]], value: Tensor, a: Level, b: Level, i: int) -> Tensor | None:
        if is_zero(b):
            return None
        level = float(a) * run.bound.tools.level
        rest, back = self.misfit(run, value)
        count = expand(run.problem.num_data.clamp_min(1).to(rest.real.dtype), rest)
        if self.loss == "mse":
            grad = 2 * rest / count
        else:
            size = row_norm(rest)
            grad = rest / (size * count.sqrt()).where(size > 0, 1.0)
        found = self.weight * min(1.0, level) * back(grad)
        if self.residual is not None and self.residual_weight and level <= 1:
            off, pull = self.equation(value)
            huber = off / off.abs().clamp_min(1.0)
            found = found + self.residual_weight * level * pull(huber / max(1, off[0].numel()))
        return found
