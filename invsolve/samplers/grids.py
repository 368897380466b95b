"""Grids of noise levels: float64 on the CPU, strictly decreasing, ending in 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from invsolve.core.arrays import real_parameter, several
from invsolve.core.validation import check_choice, check_finite, check_int, check_number, check_positive
from invsolve.errors import invalid, invalid_type


def log_grid(high: float | Tensor, low: float | Tensor, num_steps: int) -> Tensor:
    """``num_steps`` levels from ``high`` to ``low`` in equal ratios, then 0; best for exponential multistep methods.

    Parameters
    ----------
    high, low : float or Tensor, shape (rows,)
        The first and the last positive noise level, ``high > low > 0``; tensors give a grid for every row.
    num_steps : int
        Steps, >= 1; the last one goes from ``low`` to 0. A single step has only the level ``high``.

    Returns
    -------
    Tensor, shape (num_steps + 1,) or (rows, num_steps + 1)
        float64, on the CPU.

    Raises
    ------
    InputError, InputTypeError
        If an end is not a positive number, or ``high`` is not above ``low``.

    Examples
    --------
    >>> log_grid(100.0, 1.0, 3)
    tensor([100.,  10.,   1.,   0.], dtype=torch.float64)
    """
    high, low, u = _ends("log_grid", high, low, num_steps)
    return _closed(high * (low / high) ** u, high, low)


def karras_grid(high: float | Tensor, low: float | Tensor, num_steps: int, *, rho: float = 7.0) -> Tensor:
    """Levels whose ``1/rho``-th powers are evenly spaced, then 0.

    Parameters
    ----------
    high, low : float or Tensor, shape (rows,)
        The first and the last positive noise level, ``high > low > 0``; tensors give a grid for every row.
    num_steps : int
        Steps, >= 1; the last one goes from ``low`` to 0. A single step has only the level ``high``.
    rho : float
        > 0: 1 is evenly spaced, 7 is EDM's; large values tend to `log_grid`.

    Returns
    -------
    Tensor, shape (num_steps + 1,) or (rows, num_steps + 1)
        float64, on the CPU.

    Raises
    ------
    InputError, InputTypeError
        As `log_grid`, and if ``rho`` is not positive.

    References
    ----------
    Karras et al. 2022, Elucidating the design space of diffusion-based generative models,
    arXiv:2206.00364, eq. 5.

    Examples
    --------
    >>> karras_grid(9.0, 1.0, 3, rho=2.0)
    tensor([9., 4., 1., 0.], dtype=torch.float64)
    """
    rho = check_number("karras_grid", "rho", rho)
    if rho <= 0:
        raise invalid("karras_grid", "rho", "positive", rho)
    high, low, u = _ends("karras_grid", high, low, num_steps)
    roots = high ** (1 / rho), low ** (1 / rho)
    return _closed((roots[0] + u * (roots[1] - roots[0])) ** rho, high, low)


def vp_grid(num_steps: int, *, beta_min: float = 0.1, beta_max: float = 20.0, last: float = 1e-3) -> Tensor:
    """Levels of the variance-preserving schedule, then 0, for signals of unit variance.

    ``sigma = sqrt(exp(B(t)) - 1)``, ``B = beta_min t + (beta_max - beta_min) t^2 / 2``, for even times from 1 to
    ``last``.

    Parameters
    ----------
    num_steps : int
        Steps, >= 1.
    beta_min, beta_max : float
        Rates of the schedule at times 0 and 1, > 0.
    last : float
        Time of the last positive level, between 0 and 1.

    Returns
    -------
    Tensor, shape (num_steps + 1,)
        float64, on the CPU.

    Raises
    ------
    InputError
        If an option is out of its range.

    References
    ----------
    Song et al. 2021, Score-based generative modeling through stochastic
    differential equations, arXiv:2011.13456.

    Examples
    --------
    >>> [round(level, 2) for level in vp_grid(3).tolist()]
    [152.17, 3.42, 0.01, 0.0]
    """
    count = check_int("vp_grid", "num_steps", num_steps, minimum=1)
    low, high, end = (
        check_positive("vp_grid", name, value)
        for name, value in (("beta_min", beta_min), ("beta_max", beta_max), ("last", last))
    )
    if end >= 1 and count > 1:
        raise invalid("vp_grid", "last", "below 1", end)
    t = torch.linspace(1, end, count, dtype=torch.float64, device="cpu")
    return custom_grid(torch.expm1(low * t + (high - low) * t**2 / 2).sqrt())


def ddpm_grid(
    num_steps: int,
    *,
    spacing: Literal["even", "quadratic"] = "even",
    beta_min: float = 1e-4,
    beta_max: float = 0.02,
    timesteps: int = 1000,
) -> Tensor:
    """Levels ``sqrt((1 - abar) / abar)`` of DDPM's linear schedule, then 0, for signals of unit variance.

    Parameters
    ----------
    num_steps : int
        How many of the ``timesteps`` are taken, >= 2. Steps that fall together are taken once.
    spacing : {"even", "quadratic"}
        Evenly spaced, or (the spacing of DiffPIR's public code) at ``sqrt(T^2 i / (N - 1))`` from the noisiest down, so
        that most of them have little noise.
    beta_min, beta_max : float
        Rates of the first and the last timestep, ``0 < beta_min < beta_max < 1``.
    timesteps : int
        Steps T of the schedule, at least ``num_steps``.

    Returns
    -------
    Tensor, shape (num_steps + 1,)
        float64, on the CPU; shorter where steps fell together.

    Raises
    ------
    InputError
        If an option is out of its range.

    References
    ----------
    Ho, Jain & Abbeel 2020, Denoising diffusion probabilistic models, arXiv:2006.11239.

    Examples
    --------
    >>> [round(level, 2) for level in ddpm_grid(3, spacing="quadratic").tolist()]
    [157.41, 1.19, 0.01, 0.0]
    """
    count = check_int("ddpm_grid", "num_steps", num_steps, minimum=2)
    total = check_int("ddpm_grid", "timesteps", timesteps, minimum=count)
    check_choice("ddpm_grid", "spacing", spacing, ("even", "quadratic"))
    low, high = (check_positive("ddpm_grid", n, v) for n, v in (("beta_min", beta_min), ("beta_max", beta_max)))
    if not low < high < 1:
        raise invalid("ddpm_grid", "beta_max", f"between beta_min = {low:g} and 1", high)
    u = torch.linspace(0, 1, count, dtype=torch.float64, device="cpu")
    down = (total * (u.sqrt() if spacing == "quadratic" else u)).long().clamp_max(total - 1)
    log_kept = torch.log1p(-torch.linspace(low, high, total, dtype=torch.float64, device="cpu")).cumsum(0)
    return custom_grid(torch.expm1(-log_kept[total - 1 - torch.unique(down)]).sqrt())


def custom_grid(levels: Sequence[float] | Tensor) -> Tensor:
    """Your own levels as a grid; the closing 0 is added if it is missing.

    Parameters
    ----------
    levels : sequence of float or Tensor, shape (num_steps,) or (rows, num_steps)
        Noise levels, positive and strictly decreasing.

    Returns
    -------
    Tensor, shape (num_steps + 1,) or (rows, num_steps + 1)
        float64, on the CPU.

    Raises
    ------
    InputError, InputTypeError
        If levels are no numbers, not positive or not decreasing.

    Examples
    --------
    >>> custom_grid([4.0, 1.0])
    tensor([4., 1., 0.], dtype=torch.float64)
    """
    grid = _tensor("custom_grid", "levels", levels)
    if grid.ndim not in (1, 2) or grid.numel() == 0:
        want = "of shape (num_steps,) or (rows, num_steps), not empty"
        raise invalid("custom_grid", "levels", want, tuple(grid.shape))
    if bool((grid[..., -1] != 0).any()):
        grid = torch.cat((grid, torch.zeros_like(grid[..., :1])), dim=-1)
    return check_grid("custom_grid", "levels", grid)


def check_grid(owner: str, name: str, grid: object) -> Tensor:
    """A grid as samplers want it, or an error that says what is wrong with it.

    Parameters
    ----------
    owner : str
        Who asks, for the message.
    name : str
        The name of the argument, for the message.
    grid : Tensor, shape (N + 1,) or (rows, N + 1)
        Noise levels, N >= 1, finite, strictly decreasing to a last 0.

    Returns
    -------
    Tensor, shape (N + 1,) or (rows, N + 1)
        The grid in float64, on the CPU.

    Raises
    ------
    InputError, InputTypeError
        If it is no such tensor.
    """
    if not several(grid):
        expected = "levels in a tensor, an array or a list"
        raise invalid_type(owner, name, expected, grid, "Build it with log_grid, karras_grid or custom_grid.")
    out = _tensor(owner, name, grid)
    if out.ndim not in (1, 2) or out.shape[-1] < 2:
        raise invalid(owner, name, "of shape (N + 1,) or (rows, N + 1), N at least 1", tuple(out.shape))
    check_finite(owner, name, out)
    if bool((out[..., -1] != 0).any()):
        last = float(out[..., -1].abs().max())
        raise invalid(owner, name, "ending in 0", last, "Build it with custom_grid, which adds the 0.")
    rising = out[..., :-1] <= out[..., 1:]
    if bool(rising.any()):
        at = tuple(rising.nonzero()[0].tolist())
        pair = f"{float(out[..., :-1][at]):g} followed by {float(out[..., 1:][at]):g} at index {at}"
        raise invalid(owner, name, "strictly decreasing and positive before its last 0", pair)
    return out


def _tensor(owner: str, name: str, value: object) -> Tensor:
    return real_parameter(owner, name, value, dtype=torch.float64).detach().to("cpu", torch.float64, copy=True)


def _ends(owner: str, high: float | Tensor, low: float | Tensor, num_steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Both ends ``(..., 1)`` and the positions 0..1 of the levels ``(num_steps,)``."""
    ends = []
    for name, value in (("high", high), ("low", low)):
        value = _tensor(owner, name, value if isinstance(value, Tensor) else check_number(owner, name, value))
        if value.ndim > 1 or value.numel() == 0:
            raise invalid(owner, name, "a number or of shape (rows,)", tuple(value.shape))
        ends.append(check_finite(owner, name, value))
    top, bottom = ends
    if top.ndim == bottom.ndim == 1 and len(top) != len(bottom):
        raise invalid(owner, "low", f"of shape ({len(top)},) like `high`", tuple(bottom.shape))
    if not bool((bottom > 0).all()):
        raise invalid(owner, "low", "positive", float(bottom.min()), "The closing 0 is added by the grid itself.")
    if not bool((top > bottom).all()):
        raise invalid(owner, "high", f"above low = {float(bottom.max()):g}", float(top.min()))
    count = check_int(owner, "num_steps", num_steps, minimum=1)
    return top[..., None], bottom[..., None], torch.linspace(0, 1, count, dtype=torch.float64, device="cpu")


def _closed(levels: Tensor, high: Tensor, low: Tensor) -> Tensor:
    """Append 0, with the ends exactly as they were asked for."""
    levels = levels.clone()
    if levels.shape[-1] > 1:
        levels[..., -1:] = low
    levels[..., :1] = high
    return torch.cat((levels, torch.zeros_like(levels[..., :1])), dim=-1)
