"""A denoiser of fields that is the same map on every grid: pointwise networks and spectral layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from invsolve.core.validation import check_choice, check_int
from invsolve.errors import invalid
from invsolve.priors.networks.modulation import modulated
from invsolve.priors.networks.spectral_layer import SpectralLayer

_FREQUENCIES = 16  # of the embedding of the noise level
_UNIT = 8


@final
@dataclass(frozen=True, kw_only=True)
class NeuralOperatorConfig:
    """The sizes of a `NeuralOperator`; the default has 0.9 million parameters.

    Parameters
    ----------
    channels : int
        Of the field, >= 1.
    width : int
        Channels inside, a multiple of 8.
    layers : int
        Blocks, >= 1: each adds to the field what a spectral layer and two pointwise ones make of it.
    modes : int
        Frequencies along an axis that the spectral layers mix, >= 1.
    knots : int
        Frequencies between which their weights are interpolated, 2 to ``modes``.
    basis : {"cosine", "fourier"}
        Of the grids: cell centres between walls, or a torus.

    Raises
    ------
    InputError, InputTypeError
        If a value is out of its range or of another type.
    """

    channels: int = 1
    width: int = 40
    layers: int = 5
    modes: int = 24
    knots: int = 9
    basis: Literal["cosine", "fourier"] = "cosine"

    def __post_init__(self) -> None:
        owner = "NeuralOperatorConfig"
        for name in ("channels", "layers", "modes"):
            check_int(owner, name, getattr(self, name), minimum=1)
        if check_int(owner, "width", self.width, minimum=_UNIT) % _UNIT:
            raise invalid(owner, "width", f"a multiple of {_UNIT}", self.width)
        if not 2 <= check_int(owner, "knots", self.knots, minimum=2) <= self.modes:
            raise invalid(owner, "knots", f"2 to modes, {self.modes}", self.knots)
        check_choice(owner, "basis", self.basis, ("cosine", "fourier"))


@final
class NeuralOperator(nn.Module):
    """``F(x, c)`` for fields ``x`` ``(batch, channels, n, m)`` on any grid, and ``c = ln(sigma) / 4`` ``(batch,)``.

    ``x`` is a standardised field with noise of level sigma, divided by ``sqrt(1 + sigma^2)``, as `BesideLaw` gives it.

    Parameters
    ----------
    config : NeuralOperatorConfig
        Its sizes.

    Notes
    -----
    Nothing in it knows the distance of neighbouring points: a finer grid shows the same map in more detail. It sees its
    input also in units of its noise, bent over at three. The last layer starts at zero, so that an untrained network
    returns zero.

    References
    ----------
    Li et al. 2021, Fourier neural operator for parametric partial differential equations, arXiv 2010.08895; Lim et al.
    2023, Score-based diffusion models in function space, arXiv 2302.07400.
    """

    def __init__(self, config: NeuralOperatorConfig) -> None:
        super().__init__()
        self.config = config
        embedding = 2 * config.width
        self.register_buffer("frequencies", 2.0 ** torch.linspace(-2, 4, _FREQUENCIES), persistent=False)
        self.embed = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.stem = nn.Linear(2 * config.channels, config.width)
        self.blocks = nn.ModuleList(_Block(config, embedding) for _ in range(config.layers))
        self.gain, self.shift = nn.Parameter(torch.ones(config.width)), nn.Parameter(torch.zeros(config.width))
        self.head = nn.Linear(config.width, config.channels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """F for noisy fields ``x`` ``(batch, channels, n, m)`` and ``c`` ``(batch,)``, shape of ``x``."""
        angle = c.to(x.dtype)[:, None] * self.frequencies.to(x.dtype)  # type: ignore[operator]
        emb = self.embed(torch.cat([angle.cos(), angle.sin()], 1))
        sigma = (4 * c.double()).exp().to(x.dtype)[:, None, None, None]
        v = x * ((1 + sigma**2).sqrt() / sigma)
        h = _pointwise(self.stem, torch.cat([x, v / (1 + (v / 3) ** 2).sqrt()], 1))
        for block in self.blocks:
            h = block(h, emb)
        return _pointwise(self.head, modulated(h, self.gain[:, None, None], self.shift[:, None, None]))


@final
class _Block(nn.Module):
    def __init__(self, config: NeuralOperatorConfig, embedding: int) -> None:
        super().__init__()
        width = config.width
        self.film = nn.Linear(embedding, 4 * width)
        self.spectral = SpectralLayer(width, width, modes=config.modes, knots=config.knots, basis=config.basis)
        self.mixed = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        gain, shift, gain2, shift2 = self.film(emb)[:, :, None, None].chunk(4, 1)
        h = modulated(x, 1 + gain, shift)
        h = self.spectral(h) + _pointwise(self.mixed, h)
        return x + _pointwise(self.out, modulated(h, 1 + gain2, shift2))


def _pointwise(layer: nn.Linear, x: Tensor) -> Tensor:
    mixed: Tensor = functional.linear(x.movedim(1, -1), layer.weight, layer.bias)
    return mixed.movedim(-1, 1)
