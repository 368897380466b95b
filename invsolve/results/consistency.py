"""What the fields of a result must be, so that its statistics can be computed."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from invsolve.core.packing import Layout, Part
from invsolve.core.validation import Shape
from invsolve.errors import invalid, invalid_type
from invsolve.gaussian.marginals import Marginals, Moments
from invsolve.results.status import Status


def check_fields(
    samples: Tensor,
    *,
    batched: bool,
    shape: Shape,
    failed: Tensor,
    status: Status,
    power: Tensor | None,
    log_weights: Tensor | None,
    rows: Mapping[str, Tensor],
    marginals: Marginals | None,
    parameter_marginals: Mapping[str, Marginals],
) -> None:
    """Raise unless shapes, types, status and failed rows fit together.

    ``rows``: what else has a value for each; ``power`` of the likelihood of every row.
    """
    x = samples
    if not isinstance(x, Tensor) or not (x.is_floating_point() or x.is_complex()):
        raise invalid_type("Result", "samples", "a floating or complex tensor", _type_of(x))
    lead = 2 if batched else 1
    if x.ndim != lead + len(shape) or tuple(x.shape[lead:]) != shape or 0 in x.shape[:lead]:
        want = ", ".join(("num_samples", *(("batch",) if batched else ()), *map(str, shape)))
        raise invalid("Result", "samples", f"of shape ({want})", tuple(x.shape))
    rows = {"failed": failed, **rows, **({} if log_weights is None else {"log_weights": log_weights})}
    for name, value in rows.items():
        if not isinstance(value, Tensor) or value.is_complex() or (name == "failed" and value.dtype != torch.bool):
            kind = "a bool tensor" if name == "failed" else "a real tensor"
            raise invalid_type("Result", name, kind, _type_of(value))
        if value.shape != x.shape[:lead]:
            raise invalid("Result", name, f"of shape {tuple(x.shape[:lead])}", tuple(value.shape))
    if status is not (said := Status.from_failures(failed, power)):
        raise invalid("Result", "status", f"{said}, as `failed` and info['beta'] say", status)
    if bool((~finite_rows(x, lead) & ~failed).any()):
        raise invalid("Result", "failed", "True for every sample with NaN or infinite values", "False for one")
    if log_weights is not None:  # -inf is a weight of zero; NaN and +inf are no weights
        bad = (torch.isnan(log_weights) | (log_weights == math.inf)) & ~failed
        if bool(bad.any()):
            want = "below infinity and not NaN where `failed` is False"
            raise invalid("Result", "log_weights", want, log_weights[bad][0].item())
    whole = {"marginals": (marginals, x.shape[1:])}
    of_scalars = {f"parameter_marginals[{key!r}]": (v, failed.shape[1:]) for key, v in parameter_marginals.items()}
    for of, (found, shape_) in (whole | of_scalars).items():
        for name in ("mean", "std"):
            known = getattr(found, name, None)
            if known is not None and known.shape != shape_:
                raise invalid("Result", f"{of}.{name}", f"of shape {tuple(shape_)}", tuple(known.shape))


def finite_rows(value: Tensor, lead: int) -> Tensor:
    """Which rows, ``lead`` axes, hold finite values only."""
    return torch.isfinite(value).reshape(*value.shape[:lead], math.prod(value.shape[lead:])).all(-1)


def part_of(marginals: Marginals, layout: Layout, part: Part) -> Marginals:
    """Of one part of a packed signal; the variance of a complex entry is the sum of those of its parts."""
    if part.kind == "real":
        return marginals.selected(lambda v: layout.split(v)[part.name])
    std = marginals.std
    variance = None if std is None else torch.view_as_real(layout.split(std.square())[part.name]).sum(-1)
    return Moments(
        mean=layout.split(marginals.mean)[part.name],
        std=None if variance is None else variance.sqrt(),
        known=marginals.known,
    )


def _type_of(value: object) -> object:
    return str(value.dtype) if isinstance(value, Tensor) else value
