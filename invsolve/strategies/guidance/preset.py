"""Classes that stand for a guidance with its usual sampler: `MMPS`, `TMPD`, `PiGDM`, `Unconditional`."""

from __future__ import annotations

import abc

from torch import Tensor

from invsolve.samplers import Sampler, SDEDPMSolver2M
from invsolve.strategies.base import Strategy
from invsolve.strategies.guidance.guided import Guidance, Guided


class Preset(abc.ABCMeta):
    """The metaclass of named choices of `Guided`: calling one gives a `Guided`, which is an instance of it.

    So is any `Guided` with the same kind of guidance, however it was made: results, messages and citations go by the
    guidance too. The parts stay visible and replaceable (``dataclasses.replace``), and there is one class of states,
    fingerprints and checkpoints for all of them.
    """

    guidance_type: type[Guidance]  # of its instances; each class states it
    other_form: type[Strategy] | tuple[()] = ()  # what it gives beside `Guided`

    def __instancecheck__(cls, value: object) -> bool:
        guided = isinstance(value, Guided) and isinstance(value.guidance, cls.guidance_type)
        return guided or isinstance(value, cls.other_form)


def guided(guidance: Guidance, sampler: Sampler | None, num_steps: int | None, grid: Tensor | None) -> Guided:
    """The strategy of a guidance with the package's default sampler: second order and stochastic.

    Stochastic kernels forget the start and the errors of rough guidance (Karras et al. 2022, arXiv 2206.00364).
    """
    kernel = sampler or SDEDPMSolver2M()
    return Guided(guidance=guidance, sampler=kernel, num_steps=num_steps, grid=grid)  # type: ignore[arg-type]
