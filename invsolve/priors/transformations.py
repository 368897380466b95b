"""What can be made of any prior by a method: ``prior.exp()`` is `iv.priors.exp(prior)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar


class Transformable:
    """The functions of `invsolve.priors.transformed` as methods; it enters them here, as it knows priors."""

    _transformations: ClassVar[dict[str, Callable[..., Any]]] = {}

    def exp(self) -> Any:
        """The prior of ``exp(u)``, positive, for u from this prior: `iv.priors.exp`."""
        return self._transformations["exp"](self)

    def softplus(self, *, width: float = 1.0) -> Any:
        """The prior of ``w log(1 + exp(u / w))``, positive, for u from this prior: `iv.priors.softplus`."""
        return self._transformations["softplus"](self, width=width)

    def sigmoid(self) -> Any:
        """The prior of ``1 / (1 + exp(-u))``, between 0 and 1, for u from this prior: `iv.priors.sigmoid`."""
        return self._transformations["sigmoid"](self)

    def bounded(self, *, low: float, high: float) -> Any:
        """The prior of a signal between two bounds, a function of u from this prior: `iv.priors.bounded`."""
        return self._transformations["bounded"](self, low=low, high=high)
