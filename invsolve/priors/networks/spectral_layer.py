"""Linear maps of fields that are the same on every grid: products with weights in the modes of a box."""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from torch import Tensor, nn

from invsolve.core.validation import check_choice, check_int
from invsolve.errors import invalid

Modes = Literal["cosine", "fourier"]


@final
class SpectralLayer(nn.Module):
    """``y = sum_k W_k <phi_k, x> phi_k``: a matrix over channels for each of the lowest modes of a box.

    Fields ``(batch, channels, n, m)`` on grids of any size, odd or even. What lies in the modes is treated alike on all
    of them; higher modes are dropped, and a grid that does not have a mode goes without.

    Parameters
    ----------
    inside, outside : int
        Channels, >= 1.
    modes : int
        How many frequencies along an axis, >= 1: cosines 0 to ``modes`` - 1 of cell centres, and for "fourier" all
        frequencies up to ``modes`` - 1, of both signs, of a torus.
    basis : {"cosine", "fourier"}
        Of the field: for walls through which nothing flows, or for a torus.
    knots : int, optional
        The weights are interpolated between so many frequencies along an axis (of each sign), denser at low ones;
        unless given each mode has weights of its own.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.

    Notes
    -----
    Frequencies are addressed without shifts, and the half-spectrum of "fourier" is made Hermitian where the inverse
    transform leaves it to the library how to read it: the output is the same for odd sizes, and on a CPU and a GPU.

    References
    ----------
    Li et al. 2021, Fourier neural operator for parametric partial differential equations, arXiv 2010.08895.
    """

    def __init__(
        self, inside: int, outside: int, *, modes: int, basis: Modes = "cosine", knots: int | None = None
    ) -> None:
        super().__init__()
        owner = "SpectralLayer"
        for name, value in (("inside", inside), ("outside", outside), ("modes", modes)):
            check_int(owner, name, value, minimum=1)
        check_choice(owner, "basis", basis, ("cosine", "fourier"))
        if knots is not None and check_int(owner, "knots", knots, minimum=2) > modes:
            raise invalid(owner, "knots", f"at most the {modes} modes", knots)
        self.modes, self.basis, self.outside = modes, basis, outside
        self.fourier = basis == "fourier"
        signs = 2 if self.fourier else 1
        number = modes if knots is None else knots
        scale = 1 / math.sqrt(inside)
        self.sizes = (signs * number, number, signs, inside, outside)
        self.weight = nn.Parameter(scale * torch.randn(signs * number * number * signs, inside, outside))
        hats = torch.eye(modes) if knots is None else _hats(modes, knots)
        self.register_buffer("hats", hats, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Fields ``(batch, inside, n, m)`` to ``(batch, outside, n, m)``."""
        return self._fourier(x) if self.fourier else self._cosine(x)

    def _cosine(self, x: Tensor) -> Tensor:
        # Channels last: both transforms are then products of matrices without a copy.
        x = x.movedim(1, -1).contiguous()
        batch, n, m, inside = x.shape
        rows, columns = cosines(n, min(n, self.modes), x), cosines(m, min(m, self.modes), x)
        high, wide = rows.shape[1], columns.shape[1]
        u = (rows.mT / (n * m)) @ x.view(batch, n, m * inside)
        u = columns.mT @ u.view(batch * high, m, inside)
        h = self.hats[:high], self.hats[:wide]  # type: ignore[index]
        weight = torch.einsum("ar,bs,rsio->abio", *h, self.weight.view(self.sizes)[:, :, 0])
        v = torch.einsum("nkli,klio->nklo", u.view(batch, high, wide, inside), weight).contiguous()
        v = columns @ v.view(batch * high, wide, self.outside)
        v = rows @ v.view(batch, high, m * self.outside)
        return v.view(batch, n, m, self.outside).movedim(-1, 1)

    def _fourier(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[-2:]
        # Nyquist frequencies are left out: a grid cannot tell their sign.
        high, wide = (min(self.modes, (n + 1) // 2) for n in (rows, columns))
        spectrum = torch.fft.rfft2(x, norm="forward")[..., :wide]
        index = torch.cat([torch.arange(high), torch.arange(rows - high + 1, rows)]).to(x.device)
        u = spectrum[..., index, :]
        up, across = self.hats[:high], self.hats[:wide]  # type: ignore[index]
        count, all_weights = self.sizes[1], self.weight.view(self.sizes)
        both = [
            torch.einsum("ar,bs,rscio->abcio", h, across, w)
            for h, w in ((up, all_weights[:count]), (up[1:].flip(0), all_weights[count:]))
        ]
        weight = torch.view_as_complex(torch.cat(both).movedim(2, -1).contiguous())
        v = torch.einsum("nikl,klio->nokl", u, weight)
        zero = v[..., 0]
        opposite = torch.cat([zero[..., :1], zero[..., 1:].flip(-1)], -1).conj()
        v = torch.cat([((zero + opposite) / 2)[..., None], v[..., 1:]], -1)
        full = v.new_zeros(*v.shape[:2], rows, columns // 2 + 1)
        full[..., index, :wide] = v
        made: Tensor = torch.fft.irfft2(full, s=(rows, columns), norm="forward")
        return made


def cosines(n: int, modes: int, like: Tensor) -> Tensor:
    """1, sqrt(2) cos(pi k x) at the centres of n cells, ``(n, modes)``."""
    i = torch.arange(n, dtype=torch.float64, device=like.device)
    k = torch.arange(modes, dtype=torch.float64, device=like.device)
    # reduced modulo the period before it becomes an angle, which keeps all digits
    table = torch.cos(math.pi / (2 * n) * torch.outer(2 * i + 1, k).remainder(4 * n)) * math.sqrt(2)
    table[:, 0] = 1.0
    return table.to(like.dtype)


def _hats(modes: int, knots: int) -> Tensor:
    """Linear interpolation from ``knots`` frequencies, even in log(1 + k), to all of them: ``(modes, knots)``."""
    place = torch.log1p(torch.arange(modes, dtype=torch.float64)) / math.log(modes) * (knots - 1)
    low = place.floor().long().clamp_max(knots - 2)
    share = place - low
    table = torch.zeros(modes, knots, dtype=torch.float64)
    table[torch.arange(modes), low] = 1 - share
    table[torch.arange(modes), low + 1] = share
    return table.float()
