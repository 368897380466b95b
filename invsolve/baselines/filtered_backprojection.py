"""Filtered backprojection: the inverse of scans with many views, parallel and fan."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from invsolve.baselines.inputs import checked
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_choice
from invsolve.errors import invalid, invalid_type
from invsolve.operators.base import LinearOperator
from invsolve.operators.ct.beam import Beam
from invsolve.operators.ct.geometry import Geometry, radius

Window = Literal["ram-lak", "shepp-logan", "cosine", "hamming", "hann"]
WINDOWS = ("ram-lak", "shepp-logan", "cosine", "hamming", "hann")


@in_defined_state
def fbp(A: LinearOperator, y: Tensor, *, window: Window = "ram-lak") -> Tensor:
    """Filtered backprojection of a `ParallelBeam` or `FanBeam`, in the units of the image.

    Parameters
    ----------
    A : ParallelBeam or FanBeam
        The scan; one set of angles, in any order. Rays that are parallel: over half a turn or more. A fan: over a whole
        turn, or over a short scan, half a turn and the angle of the fan at least; its detector in the middle.
    y : Tensor, shape (batch, views, bins)
        Line integrals, finite.
    window : {'ram-lak', 'shepp-logan', 'cosine', 'hamming', 'hann'}
        What the ramp filter is multiplied with; 'ram-lak' by default, which is nothing: the sharpest and noisiest.

    Returns
    -------
    Tensor, shape (batch, H, W)
        The image.

    Raises
    ------
    InputTypeError
        If ``A`` is no such operator, or ``y`` of another kind or precision.
    InputError
        If ``y`` does not fit, the window is none of these, or the views of a fan are too few of a turn.

    See Also
    --------
    fdk : scans by cones.

    Notes
    -----
    The ramp is the band-limited one, sampled in space [1]_, so that means are right; pixels take filtered data by
    linear interpolation. Views count by the angle between their neighbours. A line that a fan measures twice counts
    half each time; in a short scan by Parker's weights [2]_. Views over less than half a turn of parallel rays are
    taken as they are, each for the angle between two views: what is missing stays missing.

    References
    ----------
    .. [1] Kak & Slaney 1988, Principles of computerized tomographic imaging, chapter 3.
    .. [2] Parker 1982, Optimal short scan convolution reconstruction for fan beam CT, Medical Physics 9, 254.
    """
    if not isinstance(A, Beam):
        raise invalid_type("fbp", "A", "an iv.operators.ParallelBeam or FanBeam", A)
    y = checked("fbp", A, y)
    check_choice("fbp", "window", window, WINDOWS)
    if A.batch is not None:
        raise invalid(
            "fbp", "A", "of one set of angles", f"{A.batch} items", "Take one: A.take([i]), or build it anew."
        )
    g = A.geometry
    if g.source_to_center is None or g.source_to_detector is None:
        share = angles_between(g.angles, math.pi)[:, None]
        weighted = y * share.to(y.real.dtype)
        return _backproject(g, ramp(weighted, g.bin_size, window, curved=0.0))
    if g.detector_tilt:
        expected = "a fan with a detector that is not tilted"
        raise invalid("fbp", "A", expected, f"a tilt of {g.detector_tilt:.4g} radians", "Use sirt, cgls, or iv.solve.")
    slant = g.slants
    share = angles_between(g.angles, 2 * math.pi)[:, None] * redundancy(g, slant)
    # Data on a line through the axis of rotation, or by the angle from the source: the spacing of the ramp.
    spacing = g.bin_size / g.source_to_detector * (1 if g.curved else g.source_to_center)
    weighted = y * (share * slant.cos() * (g.source_to_center if g.curved else 1)).to(y.real.dtype)
    return _backproject(g, ramp(weighted, spacing, window, curved=spacing if g.curved else 0.0))


def ramp(y: Tensor, spacing: float, window: Window, *, curved: float) -> Tensor:
    """The sampled ramp, convolved along the detector; ``curved``: the angle between two bins of an arc."""
    bins = y.shape[-1]
    n = 2 ** math.ceil(math.log2(2 * bins))
    k = torch.arange(n, dtype=torch.float64, device=y.device)
    k = torch.minimum(k, n - k)
    odd = k.remainder(2) == 1
    lag = torch.sin(k * curved) / curved if curved else k * 1.0
    kernel = torch.where(odd & (k < bins), -1 / (torch.pi * spacing * torch.where(odd, lag, 1)) ** 2, 0)
    kernel[0] = 0.25 / spacing**2
    transfer = torch.fft.rfft(kernel).real * spacing
    f = torch.arange(len(transfer), dtype=torch.float64, device=y.device) / n  # cycles a bin, up to 1/2
    gain = {
        "ram-lak": torch.ones_like(f),
        "shepp-logan": torch.sinc(f),
        "cosine": torch.cos(torch.pi * f),
        "hamming": 0.54 + 0.46 * torch.cos(2 * torch.pi * f),
        "hann": 0.5 + 0.5 * torch.cos(2 * torch.pi * f),
    }[window]
    return _along(y, (transfer * gain).to(y.real.dtype), n)[..., :bins]


def _along(y: Tensor, transfer: Tensor, n: int) -> Tensor:
    if y.is_complex():
        return torch.complex(_along(y.real, transfer, n), _along(y.imag, transfer, n))
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(y, n) * transfer, n)
    return filtered


def _backproject(g: Geometry, q: Tensor) -> Tensor:
    """Every pixel takes from every view what is at its place on the detector, with the fan's weights of distance."""
    (H, W), (height, width) = g.in_shape, g.pixel_size
    x = (torch.arange(W, dtype=torch.float64, device=q.device) - (W - 1) / 2) * width - g.center[0]
    y = ((H - 1) / 2 - torch.arange(H, dtype=torch.float64, device=q.device))[:, None] * height - g.center[1]
    columns = torch.cat([q.real, q.imag]) if q.is_complex() else q
    columns = columns.permute(1, 2, 0).contiguous()  # (views, bins, images)
    out = columns.new_zeros(H * W, columns.shape[-1])
    for angle, row in zip(g.angles.tolist(), columns, strict=True):
        c, s = math.cos(angle), math.sin(angle)
        u, ahead = x * c + y * s, y * c - x * s
        weight = torch.ones_like(u)
        if g.source_to_center is not None and g.source_to_detector is not None:
            far = g.source_to_center + ahead
            if g.curved:
                weight, u = 1 / (far**2 + u**2), g.source_to_detector * torch.atan2(u, far)
            else:
                weight, u = (g.source_to_center / far) ** 2, g.source_to_detector * u / far
        at = ((u - g.detector_offset) / g.bin_size + (g.bins - 1) / 2).flatten()
        low = at.floor()
        share = (at - low).to(row.dtype)[:, None]
        low, weight = low.long(), weight.flatten().to(row.dtype)[:, None]
        for tap, part in ((low, 1 - share), (low + 1, share)):
            inside = ((tap >= 0) & (tap < g.bins))[:, None]
            out += row[tap.clamp(0, g.bins - 1)] * (part * weight * inside)
    image = out.mT.reshape(-1, H, W)
    return torch.complex(image[: len(q)], image[len(q) :]) if q.is_complex() else image


def angles_between(angles: Tensor, turn: float) -> Tensor:
    """The angle that each view stands for: half of those to its neighbours, modulo a turn, ``(views,)``.

    A gap of more than twice the usual one is no view's: it counts as a usual one.
    """
    if len(angles) == 1:
        return torch.full_like(angles, turn)
    order = angles.remainder(turn).argsort()
    gap = torch.cat(
        [
            angles.remainder(turn)[order].diff(),
            turn - (angles.remainder(turn)[order[-1:]] - angles.remainder(turn)[order[:1]]),
        ]
    )
    usual = gap[gap > 1e-9].median()
    gap = torch.where(gap > 2 * usual, usual, gap)
    out = torch.empty_like(angles)
    out[order] = (gap + gap.roll(1)) / 2
    return out


def redundancy(g: Geometry, slant: Tensor) -> Tensor:
    """How much each ray of a fan counts, ``(views, bins)`` or ``()``: what measures a line counts 1 together."""
    turned = g.angles.remainder(2 * math.pi)
    order = turned.argsort()
    gap = torch.cat([turned[order].diff(), 2 * math.pi - (turned[order[-1:]] - turned[order[:1]])])
    usual = gap[gap > 1e-9].median() if len(gap) > 1 else gap[0]
    widest = int(gap.argmax())
    if gap[widest] <= 2 * usual:
        return torch.full((), 0.5, dtype=torch.float64, device=g.angles.device)
    # A short scan: it begins behind the widest gap, and each view stands for half a step more at both ends.
    begin = turned[order[(widest + 1) % len(order)]] - usual / 2
    span = 2 * math.pi - float(gap[widest]) + float(usual)
    assert g.source_to_center is not None
    seen = math.asin(min(1.0, radius(g.in_shape, g.pixel_size, g.center) / g.source_to_center))
    fan = min(float(slant.abs().max()), seen)
    if span < math.pi + 2 * fan - float(usual):
        expected = (
            f"over a whole turn, or {math.degrees(math.pi + 2 * fan):.1f} degrees at least, half a turn and the fan"
        )
        raise invalid("fbp", "A", expected, f"{math.degrees(span):.1f} degrees", "Use sirt, cgls, or iv.solve.")
    half = max((span - math.pi) / 2, 1e-9)
    beta = (turned - begin).remainder(2 * math.pi)[:, None]
    gamma = slant.clamp(-half, half)
    return _parker(beta, gamma, half)


def _parker(beta: Tensor, gamma: Tensor, half: float) -> Tensor:
    """Parker's weights of a scan over half a turn and ``2 half``, at source angle beta and ray angle gamma.

    The ray (beta, gamma) is measured again at (beta + pi - 2 gamma, -gamma), with the source turning counterclockwise.
    """
    rising = torch.sin(torch.pi / 4 * beta / (half + gamma).clamp_min(1e-12)).square()
    falling = torch.sin(torch.pi / 4 * (torch.pi + 2 * half - beta) / (half - gamma).clamp_min(1e-12)).square()
    out = torch.ones_like(rising)
    out = torch.where(beta < 2 * (half + gamma), rising, out)
    return torch.where(beta > torch.pi + 2 * gamma, falling, out)
