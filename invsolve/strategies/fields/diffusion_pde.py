"""DiffusionPDE: guidance of a joint diffusion by the norm of the misfit and of the residual of the equation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

from torch import Tensor

from invsolve.core.validation import check_choice, check_positive
from invsolve.samplers.base import Level
from invsolve.strategies.base import Run
from invsolve.strategies.fields.heun_walk import HeunTools, HeunWalk, Residual, row_norm
from invsolve.strategies.published.annealed import WalkBound, check_share

# (zeta, unit of the signal, its std, unit of the data, their std, zeta of the residual): the authors' configurations,
# whose losses are in physical units, and the statistics of their data sets.
_PUBLISHED = {
    "darcy_forward": (5.0, 5.0, 4.5, 5.0, 4.5, 100.0),
    "darcy_inverse": (5000.0, 5.0, 4.5, 1 / 115, 3.790e-3, 100.0),
    "poisson_forward": (0.8, 2.15, 0.29195, 2.15, 0.29195, 1.0),
    "poisson_inverse": (40.0, 2.15, 0.29195, 1 / 36.5, 4.175e-3, 1.0),
    "helmholtz_forward": (0.8, 2.15, 0.28445, 2.15, 0.28445, 1.0),
    "helmholtz_inverse": (60.0, 2.15, 0.28445, 0.028, 4.280e-3, 1.0),
    "navier_stokes_forward": (1.0, 1.6, 0.26211, 1.6, 0.26211, 1.0),
    "navier_stokes_inverse": (1.0, 1.6, 0.26211, 1.6, 0.25613, 1.0),
    "bounded_flow_forward": (0.5, 10.0, 1.00997, 10.0, 1.00997, 1.0),
    "bounded_flow_inverse": (0.5, 10.0, 1.00997, 10.0, 1.72194, 1.0),
}
_LATE = 0.1  # what is left of the weight of the data once the residual has one


@final
@dataclass(frozen=True, kw_only=True)
class DiffusionPDE(HeunWalk):
    """DiffusionPDE: Heun steps of the diffusion, each followed by a step down the norm of the misfit.

    With z the signal and r the misfit in their units: ``z'' = z' - weight grad_z ||r(D)||_2``, and in the last fifth of
    the steps ``z' - weight / 10 grad_z ||r(D)||_2 - residual_weight grad_z ||residual(D)||_2 / n``; D is the last
    denoiser call of the step, and the gradient goes through both.

    Parameters
    ----------
    num_steps : int
        Heun steps, at least 2, of two evaluations and two vector-Jacobian products each; 2000 unless given.
    grid : Tensor, shape (N + 1,), optional
        Noise levels in the units of the signal, falling to 0, in place of EDM's between sigma_max and sigma_min.
    weight : float
        Of the misfit, >= 0; 1 unless given. The paper's are in `published`: one for each task and direction.
    residual : callable, optional
        Of the equation that the signal obeys: from ``(rows, *shape)`` to ``(rows, ...)``, differentiable by torch; n is
        how many numbers it gives for a row.
    residual_weight : float
        Of its norm, >= 0; 0 unless given.
    early : float
        The share of the steps before the residual counts, from 0 to 1; 0.8 unless given.
    unit : float, optional
        Of z, > 0: twice the std of an entry of the signal unless given.
    data_unit : float, optional
        Of r, > 0: twice the root mean square of the data of the item unless given.
    sigma_max, sigma_min : float
        The largest and the smallest noise level in units of z, > 0; 80 and 0.002 unless given.
    corrected : bool
        True: without weights, as in `FunDPS`. False unless given.

    Raises
    ------
    InputError, InputTypeError
        If an option is out of range, or a residual is given with ``corrected``.

    Notes
    -----
    Biased by design: a step of nearly constant length, in which no noise level appears. The paper's prior is of a pair
    (coefficient, solution) with white diffusion noise, and the operator a mask; here both are whatever they are. Of
    data that are two kinds of things the paper has two norms, here there is one.

    References
    ----------
    Huang, Yang, Wang & Park 2024, DiffusionPDE: Generative PDE-Solving under Partial Observation, arXiv 2406.17763.
    """

    num_steps: int = 2000
    early: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("DiffusionPDE", "early", self.early)

    @classmethod
    def published(
        cls,
        task: str,
        *,
        std: float,
        data_std: float,
        residual: Residual | None = None,
        num_steps: int = 2000,
    ) -> Self:
        """The authors' weights and units for a task, of 500 data.

        Parameters
        ----------
        task : str
            "darcy", "poisson", "helmholtz", "navier_stokes" or "bounded_flow", then "_forward" or "_inverse".
        std : float
            Of an entry of the signal, > 0.
        data_std : float
            Of a datum, > 0.
        residual : callable, optional
            As for `DiffusionPDE`, in the physical units of the authors' data; their weight of it is used.
        num_steps : int
            2000 in the paper.
        """
        owner = "DiffusionPDE.published"
        check_choice(owner, "task", task, tuple(_PUBLISHED))
        check_positive(owner, "std", std)
        check_positive(owner, "data_std", data_std)
        zeta, unit, of_signal, data_unit, of_data, of_residual = _PUBLISHED[task]
        return cls(
            num_steps=num_steps,
            weight=zeta * data_unit,
            residual=residual,
            residual_weight=0.0 if residual is None else of_residual,
            unit=unit / of_signal * std,
            data_unit=data_unit / of_data * data_std,
        )

    def slope(self, run: Run[WalkBound[HeunTools]], value: Tensor, a: Level, b: Level, i: int) -> Tensor | None:
        late = i > self.early * self.num_steps
        rest, back = self.misfit(run, value)
        size = row_norm(rest)
        found = (_LATE if late else 1.0) * self.weight * back(rest / size.where(size > 0, 1.0))
        if late and self.residual is not None and self.residual_weight:
            off, pull = self.equation(value)
            length = row_norm(off)
            found = found + self.residual_weight / max(1, off[0].numel()) * pull(off / length.where(length > 0, 1.0))
        return found
