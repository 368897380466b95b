"""A learned prior on another problem's grid and scale: what can be matched is, and said; the rest is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor

from invsolve.core.random import Draws
from invsolve.errors import UnsupportedError, invalid, invalid_type
from invsolve.gaussian.law import GaussianLaw
from invsolve.gaussian.spectral_modes import SpectralModes
from invsolve.noise import Gaussian
from invsolve.operators.base import BlackBox
from invsolve.priors.base import Prior
from invsolve.priors.learned.resampled import ResampledPrior, continued
from invsolve.problem import Problem

Keep = Literal["pixel", "field of view"]
_OWNER = "prior.on"
_SAME = 2.0  # factor of scale up to which a prior is left as it is: signals of one kind differ by as much
_SPREAD = 4.0  # factor between items above which no single scale fits them
_CLOSE = 1.05  # factor of the size of pixels up to which they are alike
_DRAWS = 8
FOREIGN = 10.0  # factor of scale that `solve` refuses for a learned prior


class Movable(Protocol):
    """A prior whose unit and number of pixels can be changed: what `on_problem` asks of one beside being a `Prior`."""

    @property
    def channels(self) -> str:
        """Whether the first axis of the shape is "first" the channels, or they are "hidden"."""

    @property
    def offset(self) -> Any:
        """Of the standardised signals: a tensor, ``()`` or ``(*shape)``."""

    @property
    def _needs_law(self) -> bool:
        """Whether it is defined by its stated law."""

    @property
    def _tiles(self) -> list[str]:
        """Whether it works on its signals piece by piece, in words; nothing if not."""

    def rescaled(self, factor: float) -> Self:
        """The distribution of ``factor`` times the signal."""

    def _resized(self, mean: Tensor, law: GaussianLaw | None, scale: float) -> Self:
        """The same on the grid of ``mean``, on which ``law`` and ``scale`` are stated."""


P = TypeVar("P", bound=Movable)


def scale_factor(problem: Problem, prior: Prior) -> Tensor | None:
    """By which factor the signal behind each item is larger than signals of the prior, (batch,); None if unknown.

    The root of the energy of the whitened data, less that of the noise, over its mean for draws of the prior's stated
    law. Unknown without Gaussian noise, a stated law or an operator that can be evaluated, and 0 where the data are no
    larger than their noise.
    """
    if not isinstance(problem.noise, Gaussian) or problem.noise.unknown or prior.law is None:
        return None
    if isinstance(problem.operator, BlackBox):
        return None
    draws = Draws.for_rows(0, [0] * _DRAWS, list(range(_DRAWS)), prior.device, purpose="scale")
    z = draws.normal(tuple(prior.law.modes.mode_shape), prior.mean.dtype, step=0)
    signals = prior.law.sample(z)

    def energy(rows: Tensor) -> Tensor:
        return rows.abs().square().flatten(1).double().sum(1)

    expected = torch.zeros(len(problem.data), dtype=torch.float64, device=prior.device)
    for x in signals:
        clean = problem.operator(x.expand(len(problem.data), *prior.shape).contiguous())
        expected += energy(problem.whiten(clean)) / _DRAWS
    seen = (energy(problem.whiten(problem.data)) - problem.num_data.double()).clamp_min(0)
    return (seen / expected.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()


def on_problem(prior: P, problem: Problem, keep: Keep | None) -> tuple[P | ResampledPrior, list[str]]:
    """``prior`` on the grid and in the units of ``problem``, and what was done; see `NetworkPrior.on`."""
    if not isinstance(problem, Problem):
        raise invalid_type(_OWNER, "problem", "an iv.Problem: iv.Problem(A, y, noise=...)", problem)
    assert isinstance(prior, Prior)
    if problem.operator.in_kind != prior.kind:
        raise invalid(
            _OWNER,
            "problem",
            f"about {prior.kind} signals, as the prior is",
            problem.operator.in_kind,
            "A prior of complex images does not know which phase a real one would have.",
        )
    known: tuple[float, float] | None = getattr(prior, "voxel_size", None)
    if keep is None and known is not None and problem.grid is not None and prior.channels == "hidden":
        fitted, notes = on_voxels(prior, problem.shape, problem.grid.voxel_size, known)
    else:
        fitted, notes = on_grid(prior, problem.shape, keep)
    assert isinstance(fitted, Prior)
    factor = scale_factor(problem, fitted)
    seen = torch.ones(0, dtype=torch.float64, device="cpu") if factor is None else factor[factor > 0]
    if factor is None:
        notes.append("the scale of the data cannot be inferred: left as it is")
    elif not len(seen):
        notes.append("the data are no larger than their noise: the scale is left as it is")
    elif float(seen.max() / seen.min()) > _SPREAD:
        raise invalid(
            _OWNER,
            "problem",
            "of items of one scale",
            f"items {float(seen.min()):.3g} to {float(seen.max()):.3g} times the prior's",
            "Bring the data to one scale, or solve them apart.",
        )
    else:
        f = float(seen.median())
        if 1 / _SAME <= f <= _SAME:
            notes.append(f"the data are those of signals {f:.2g} times the prior's: the scale is left as it is")
        else:
            fitted = fitted.rescaled(f)
            notes.append(f"rescaled by {f:.4g}: the data are those of signals so many times the prior's")
    return fitted, notes


def check_scale(problem: Problem, prior: Prior) -> None:
    """Raise if data and a learned prior live on scales that have nothing to do with each other."""
    factor = scale_factor(problem, prior)
    if factor is None or not bool((factor > 0).any()):
        return
    known = factor[factor > 0]
    far = known.log().abs().max()
    if float(far) > math.log(FOREIGN):
        worst = float(known[known.log().abs().argmax()])
        raise invalid(
            "solve",
            "prior",
            "on the scale of the data",
            f"one of signals {1 / worst:.3g} times as large",
            "prior.on(problem) brings it there, and says what it did.",
        )


def on_voxels(
    prior: P, shape: tuple[int, ...], voxel: tuple[float, ...], known: tuple[float, float]
) -> tuple[P | ResampledPrior, list[str]]:
    """The prior on a grid whose pixels have a size, mm, where those of its training had sizes between two.

    Pixels of that size it takes as they are, on as many of them as there are; finer ones are those of a grid of its own
    pixels over the same field of view, resampled.
    """
    low, high = known
    words = f"pixels of {' x '.join(f'{v:.3g}' for v in voxel)} mm, the prior's are {low:.3g} to {high:.3g} mm"
    if max(voxel) > _CLOSE * high:
        raise invalid(
            _OWNER,
            "problem",
            f"of pixels up to {_CLOSE * high:.3g} mm, as the prior was trained on",
            f"{max(voxel):.4g} mm",
            "Compose the operator with one that makes coarse signals of fine ones, or state keep=.",
        )
    assert isinstance(prior, Prior)
    own = []
    for n, v, m in zip(shape, voxel, prior.shape, strict=True):
        if v * _CLOSE < low:  # finer: as many as the prior has, where these have its size, or a number that gives it
            same = low / _CLOSE <= n * v / m <= high * _CLOSE
            n = m if same else max(2, 2 * round(n * v / math.sqrt(low * high) / 2))
        own.append(n)
    fitted, notes = on_grid(prior, tuple(own), "pixel")
    if own == list(shape) or isinstance(fitted, ResampledPrior):
        return fitted, [words, *notes]
    resampled, more = on_grid(fitted, shape, "field of view")
    return resampled, [words, *notes, *more]


def on_grid(prior: P, shape: tuple[int, ...], keep: Keep | None) -> tuple[P | ResampledPrior, list[str]]:
    """The prior on another grid, of which ``keep`` says what it shares with the prior's, and what was done."""
    assert isinstance(prior, Prior)
    here, there = tuple(prior.shape), tuple(shape)
    if keep not in (None, "pixel", "field of view"):
        raise invalid(_OWNER, "keep", "'pixel' or 'field of view'", repr(keep))
    if there == here:
        return prior, []
    if len(there) != len(here) or (prior.channels == "first" and there[0] != here[0]):
        raise invalid(_OWNER, "problem", f"about signals with axes like {here}", there)
    if keep is None:
        raise invalid(
            _OWNER,
            "keep",
            f"stated, for signals {there} and a prior on {here}",
            "None",
            "keep='field of view' resamples, keep='pixel' takes another number of pixels of the same size.",
        )
    if keep == "field of view":
        if any(b < a for a, b in zip(here, there, strict=True)):
            raise invalid(
                _OWNER,
                "problem",
                f"on a grid at least as fine as the prior's, {here}",
                there,
                "Compose the operator with one that makes coarse signals of fine ones, or train on the coarser grid.",
            )
        beyond = continued(prior.law, there) if prior.law is not None and _fourier(prior.law) else 0.0
        words = "by the power law of its spectrum" if isinstance(beyond, Tensor) else "by nothing"
        note = f"resampled from {here} to {there} pixels of the same field of view, finer detail continued {words}"
        return ResampledPrior(prior=prior, shape=there, beyond=beyond), [note]
    if not bool((prior.mean == prior.mean.flatten()[0]).all()) or prior.offset.ndim:
        raise UnsupportedError(f"{_OWNER}: a prior with a mean image cannot be moved from {here} to {there} pixels.")
    if min(b / a for a, b in zip(here, there, strict=True)) < 0.5:
        raise invalid(
            _OWNER,
            "problem",
            f"at least half as large as the prior's grid {here}",
            there,
            "Patches that small have nothing in common with what the network has seen: train on them.",
        )
    mean = prior.mean.flatten()[0].expand(there).clone()
    law = None if prior.law is None else _stretched(prior.law, there)
    if law is None and prior._needs_law:
        raise UnsupportedError(f"{_OWNER}: a network beside a law that is not of Fourier modes has one grid, {here}.")
    gain = math.sqrt(math.prod(there) / math.prod(here))
    seen = "a patch, less than" if gain < 1 else "more than"
    note = f"from {here} to {there} pixels of the same size: {seen} the network saw at once in training"
    resized = prior._resized(mean, law, prior.scale * max(1.0, gain))
    return resized, [note, *resized._tiles]


def _fourier(law: GaussianLaw) -> bool:
    modes = law.modes
    return isinstance(modes, SpectralModes) and modes.transform.name == "fourier" and modes.colour is None


def _stretched(law: GaussianLaw, shape: tuple[int, ...]) -> GaussianLaw | None:
    """The stationary law with the same spectral density on another number of pixels of the same size.

    Modes have equal wavelength, and between them the log variance is interpolated.
    """
    if not _fourier(law):
        return None
    assert isinstance(law.modes, SpectralModes)
    values = law.variances.double()
    values = values.clamp_min(1e-15 * float(values.max())).log()
    for axis, n in enumerate(shape):
        m = values.shape[axis]
        if m == n:
            continue
        values = values.movedim(axis, -1)
        k = torch.div(torch.arange(n, dtype=torch.float64, device=values.device) + 1, 2, rounding_mode="floor")
        place = k * m / n  # in units of the old frequencies 0, 1, ..., m // 2, which are entries 0, 1, 3, 5, ...
        half = values[..., [0, *range(1, m, 2)]]
        low = place.floor().long().clamp_max(half.shape[-1] - 1)
        high, share = (low + 1).clamp_max(half.shape[-1] - 1), place - place.floor()
        values = ((1 - share) * half[..., low] + share * half[..., high]).movedim(-1, axis)
    modes = SpectralModes(transform=replace(law.modes.transform, shape=tuple(shape)))
    mean = law.mean.flatten()[0].expand(shape).clone()
    return GaussianLaw(mean=mean, modes=modes, variances=values.exp().to(law.variances.dtype).contiguous())
