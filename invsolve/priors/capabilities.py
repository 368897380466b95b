"""What a prior can do beyond denoising, as types: ``isinstance(prior, HasLaw)``.

Whether a prior can may depend on its options (a denoiser with or without a stated ``law``) or on a prior that it wraps,
so `isinstance` asks the object, not its class. A prior never inherits from these types: it says what it can do by what
it defines, as each type tells. A type checker knows what the answer promises: after ``isinstance(prior, HasLaw)`` its
``law`` is no longer optional.

>>> import torch
>>> from invsolve.priors import from_denoiser
>>> isinstance(from_denoiser(lambda x, sigma: x / (1 + sigma**2), shape=(3,), scale=1.0), HasLaw)
False
"""

from __future__ import annotations

import abc

from torch import Tensor

from invsolve.gaussian.law import GaussianLaw
from invsolve.priors.base import Prior


class _AsksThePrior(abc.ABCMeta):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, Prior) and cls._offered(instance)

    def _offered(cls, prior: Prior) -> bool:
        """Whether this prior has it: every type below says when."""
        return False


class HasLaw(Prior, metaclass=_AsksThePrior):
    """A Gaussian with about the prior's mean and covariance is stated: ``law`` is not None."""

    law: GaussianLaw

    @classmethod
    def _offered(cls, prior: Prior) -> bool:
        return prior.law is not None


class IsGaussian(HasLaw):
    """The prior *is* its ``law``: ``exact_law`` is True."""

    @classmethod
    def _offered(cls, prior: Prior) -> bool:
        return prior.exact_law and prior.law is not None


class HasTransport(Prior, metaclass=_AsksThePrior):
    """An exact map from white noise, ``transport``: ``_transport`` is defined, or the prior is Gaussian."""

    @classmethod
    def _offered(cls, prior: Prior) -> bool:
        return prior.has_transport


class HasPosterior(Prior, metaclass=_AsksThePrior):
    """Linear data with Gaussian noise have a closed-form ``posterior``: ``_posterior`` is defined."""

    @classmethod
    def _offered(cls, prior: Prior) -> bool:
        return prior.has_posterior


class HasDensity(Prior, metaclass=_AsksThePrior):
    """The density is known at every noise level: ``log_prob`` is defined."""

    @abc.abstractmethod
    def log_prob(self, x: Tensor, sigma: float) -> Tensor:
        """Log density of ``x0 + sigma noise`` at ``x`` ``(batch, *shape)``, ``(batch,)`` nats."""

    @classmethod
    def _offered(cls, prior: Prior) -> bool:
        return callable(getattr(prior, "log_prob", None))


class HasModeMoments(HasLaw):
    """The covariance of x0 given ``x_t`` is diagonal in the modes of the law: ``mode_moments`` is defined."""

    @abc.abstractmethod
    def mode_moments(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """``D(x, sigma)`` and the variances of the modes, ``(batch, *shape)``."""

    @classmethod
    def _offered(cls, prior: Prior) -> bool:
        return prior.law is not None and callable(getattr(prior, "mode_moments", None))


class Learned(Prior, metaclass=_AsksThePrior):
    """Made from signals, and so with a scale that the user did not state: ``learned`` is True."""

    @classmethod
    def _offered(cls, prior: Prior) -> bool:
        return prior.learned
