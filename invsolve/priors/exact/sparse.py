"""Sparse priors: independent heavy-tailed coefficients in an orthonormal transform, with exact denoisers.

The honest test beyond Gaussian priors: everything reduces to one dimension, where it is a formula or a quadrature.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Literal, Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import real_parameter, several
from invsolve.core.counting import count
from invsolve.core.random import DrawLike
from invsolve.core.transforms import Transform, TransformName
from invsolve.core.validation import Shape, check_choice, check_dims, check_finite, check_number
from invsolve.errors import invalid, invalid_type
from invsolve.gaussian.law import GaussianLaw
from invsolve.gaussian.spectral_modes import SpectralModes
from invsolve.priors.base import Prior, Pullback
from invsolve.priors.exact.coefficients import ScalarLaw
from invsolve.separable.laws import EntryLaw

_REACH, _HALVINGS = 9.0, 60  # of the bisection of a monotone map of normal numbers, in stds

TransformChoice = Literal["identity", "dct", "haar"]
_NAMES: dict[str, TransformName] = {"identity": "identity", "dct": "cosine", "haar": "haar"}


@final
@dataclass(frozen=True, eq=False, repr=False)
class SparsePrior(Prior):
    """``x = mean + T^T c``: independent coefficients c, `Laplace`, `Student` or `SpikeSlab`, T orthonormal.

    Denoiser, Jacobian and density are exact: one-dimensional formulas (Laplace), a sum of two (spike-slab), or
    quadrature to 1e-10 (Student), evaluated in float64. A noise level for every entry has no closed form unless the
    transform is the identity: refused.

    Parameters
    ----------
    shape : tuple of int
        Shape of one signal, 1 to 3 axes.
    coefficients : Laplace, Student or SpikeSlab
        The distribution of the coefficients; its parameters are numbers or tensors ``(*shape)``, in the units of the
        signal.
    transform : {"identity", "dct", "haar"}
        T: none; the DCT-II; or the Haar wavelets of axes that are powers of two. They are orthonormal, with all
        ``log2 n`` levels down to one mean; pairs ``(a + b, a - b) / sqrt(2)`` of neighbours need no rule for the
        boundary. For several axes it is the product of the one-dimensional bases, each with all its levels: the
        "standard" or anisotropic transform, not the square one of pyramids of images. Coefficients are in the order
        mean, coarsest details, ..., finest.
    mean : float or Tensor, shape (*shape)
        Mean of the signal, finite; 0 by default.
    dtype : torch.dtype, optional
        float32 or float64; that of a tensor ``mean``, or float32, unless given.

    Raises
    ------
    InputError, InputTypeError
        Naming the argument that is wrong.

    Examples
    --------
    >>> from invsolve.priors.exact.coefficients import Laplace
    >>> prior = SparsePrior(shape=(8,), transform="dct", coefficients=Laplace(scale=0.5))
    >>> prior.sample(2, seed=0).shape
    torch.Size([2, 8])
    """

    shape: Shape
    coefficients: ScalarLaw
    _: KW_ONLY
    transform: TransformChoice = "identity"
    mean: Tensor | float = 0.0  # type: ignore[assignment]  # a tensor once constructed
    dtype: torch.dtype | None = None  # type: ignore[assignment]
    law: GaussianLaw = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shape = check_dims("SparsePrior", "shape", self.shape)
        if not 1 <= len(shape) <= 3:
            raise invalid("SparsePrior", "shape", "of 1 to 3 axes", shape)
        check_choice("SparsePrior", "transform", self.transform, _NAMES)
        if not isinstance(self.coefficients, ScalarLaw):
            raise invalid_type("SparsePrior", "coefficients", "a Laplace, Student or SpikeSlab law", self.coefficients)
        for name, value in vars(self.coefficients).items():
            if isinstance(value, Tensor) and value.ndim and tuple(value.shape) != shape:
                raise invalid(
                    "SparsePrior", f"coefficients.{name}", f"a number or of shape {shape}", tuple(value.shape)
                )
        if several(self.mean):
            object.__setattr__(self, "mean", real_parameter("SparsePrior", "mean", self.mean, dtype=self.dtype))
        dtype = self.dtype or (self.mean.dtype if isinstance(self.mean, Tensor) else torch.float32)
        if dtype not in (torch.float32, torch.float64):
            raise invalid_type("SparsePrior", "dtype", "torch.float32 or torch.float64", str(dtype))
        mean = (
            self.mean
            if isinstance(self.mean, Tensor)
            else torch.full(shape, check_number("SparsePrior", "mean", self.mean), dtype=dtype, device="cpu")
        )
        if tuple(mean.shape) != shape:
            raise invalid("SparsePrior", "mean", f"a number or of shape {shape}", tuple(mean.shape))
        check_finite("SparsePrior", "mean", mean)
        mean = mean.to(dtype)
        modes = SpectralModes(
            transform=Transform(name=_NAMES[self.transform], shape=shape, dtype=dtype, device=mean.device), colour=None
        )
        variances = self.coefficients.variance.expand(shape).to(mean.device, dtype)
        for name, value in (
            ("shape", shape),
            ("dtype", dtype),
            ("mean", mean),
            ("law", GaussianLaw(mean=mean, modes=modes, variances=variances)),
        ):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        own = ""
        if self.transform == "haar":
            levels = " x ".join(str(n.bit_length() - 1) for n in self.shape)
            product = ", product of one-dimensional bases" if len(self.shape) > 1 else ""
            own = f", haar: orthonormal, {levels} levels{product}"
        elif self.transform == "dct":
            own = ", dct: orthonormal DCT-II"
        law = type(self.coefficients).__name__
        return f"SparsePrior(shape={self.shape}, {self.kind}, {law}{own}, scale={self.scale:.4g})"

    @property
    def scale(self) -> float:  # type: ignore[override]
        """The largest standard deviation of a coefficient."""
        return math.sqrt(float(self.law.variances.max()))

    @property
    def detail(self) -> float:  # type: ignore[override]
        """The smallest standard deviation of a coefficient that matters."""
        return float(self.coefficients.detail.min())

    def log_prob(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """Log density of ``x0 + sigma z`` at ``x`` ``(batch, *shape)``, ``(batch,)`` nats, float64."""
        # The determinant of the transform is 1.
        x = self._taken("x", x)
        level = self._check(x, sigma or 1.0).double()
        u = self._analysis(x)
        log = self.coefficients.moments(u, level)[0] if sigma else self.coefficients.log_prob(u)
        return log.flatten(1).sum(1)

    def mode_moments(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """`moments` in the transform, where V is diagonal: ``D(x, sigma)``, and variances ``(batch, *shape)``, float64.

        ``sigma``: a number or ``(batch,)``.
        """
        x = self._taken("x", x)
        level = self._level(x, self._check(x, sigma))
        count("denoise", len(x))
        _, mean, variance = self.coefficients.moments(self._analysis(x), level)
        return self._synthesis(mean), variance

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        return replace(self, mean=self.law.mean.to(device=device, dtype=dtype), dtype=dtype or self.dtype)

    @property
    def entry_laws(self) -> tuple[EntryLaw, ...]:
        """One, without a transform."""
        if self.transform != "identity":
            return ()
        return (EntryLaw(log_weight=0.0, transport=_Shifted(self.law.mean.double(), self.coefficients)),)

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self._synthesis(self.coefficients.moments(self._analysis(x), self._level(x, sigma))[1])

    def _pullback(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Pullback]:
        level = self._level(x, sigma)
        _, mean, variance = self.coefficients.moments(self._analysis(x), level)
        gain = variance / level**2  # Tweedie: dD/du = Var / sigma^2, diagonal in the transform
        transform = self._transform

        def pull(v: Tensor) -> Tensor:
            return transform.inverse((gain * transform.forward(v).double()).to(v.dtype))

        return self._synthesis(mean), pull

    def _moments(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        if sigma.shape[1:].numel() > 1:  # a level for every entry
            return super()._moments(x, sigma)
        _, mean, variance = self.coefficients.moments(self._analysis(x), self._level(x, sigma))
        unit = torch.eye(x[0].numel(), dtype=torch.float64, device=x.device).to(x.dtype)
        T = self._transform.inverse(unit.view(-1, *self.shape)).flatten(1).double()  # rows T^T e_k
        return self._synthesis(mean), (T.mT * variance.flatten(1)[:, None]) @ T

    def _sample(self, n: int, draws: DrawLike) -> Tensor:
        z, w = (draws.normal(self.shape, torch.float64, step=0, index=i) for i in range(2))
        return self._synthesis(self.coefficients.sample(z, w))

    def _transport(self, z: Tensor) -> tuple[Tensor, Pullback]:
        c, slope = self.coefficients.transport(z.double())
        transform = self._transform

        def pull(v: Tensor) -> Tensor:
            return (slope * transform.forward(v).double()).to(v.dtype)

        return self._synthesis(c), pull

    def _inverse_transport(self, x: Tensor) -> Tensor:
        c = self._analysis(x)
        low, high = torch.full_like(c, -_REACH), torch.full_like(c, _REACH)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            above = self.coefficients.transport(middle)[0] > c
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return ((low + high) / 2).to(x.dtype)

    @property
    def _transform(self) -> Transform:
        assert isinstance(self.law.modes, SpectralModes)
        return self.law.modes.transform

    def _analysis(self, x: Tensor) -> Tensor:
        return self._transform.forward(x - self.mean).double()

    def _synthesis(self, u: Tensor) -> Tensor:
        return self.mean + self._transform.inverse(u.to(self.law.mean.dtype))

    def _level(self, x: Tensor, sigma: Tensor) -> Tensor:
        if sigma.shape[1:].numel() > 1 and self.transform != "identity":
            raise invalid(
                "SparsePrior", "sigma", f"0-d or ({len(x)},) in a transform that mixes entries", tuple(sigma.shape)
            )
        return sigma.double()


@final
@dataclass(frozen=True, eq=False)
class _Shifted:
    """Coefficients about a mean."""

    mean: Tensor
    coefficients: ScalarLaw

    def __call__(self, z: Tensor) -> Tensor:
        return self.mean + self.coefficients.transport(z)[0]
