"""A result in words: the lines of ``summary()`` and the table of a notebook."""

from __future__ import annotations

import base64
import html as markup
import io

import torch
from torch import Tensor

from invsolve.plotting import central_image, plot_result
from invsolve.progress import duration
from invsolve.results.named import named_rows
from invsolve.results.posterior_samples import PosteriorSamples

_THUMBNAILS = 4  # items shown
_ORDERED = ("quantile", "interval")  # statistics of real numbers
_COLOURS = {"certified": "green", "not certified": "red", "not tested": "darkorange"}


def summary(result: PosteriorSamples) -> str:
    """Several lines: what the result is, what was assumed, how it fits the data, what it cost."""
    return "\n".join([_heading(result), *(f"  {key}: {value}" for key, value in _rows(result))])


def _heading(result: PosteriorSamples) -> str:
    count = result.samples.shape[1] if result.batched else 0
    items = f" for each of {count} items" if count > 1 else ""
    whole = ", in a batch of one" if count == 1 else ""
    kind = "complex" if result.samples.is_complex() else "real"
    shape = " x ".join(map(str, result.shape)) or "one number"
    name = str(result.samples.dtype).removeprefix("torch.")
    return f"Posterior: {result.num_samples} samples{items} of a {kind} signal, {shape} ({name}){whole}"


def _rows(result: PosteriorSamples) -> list[tuple[str, str]]:
    rows = [("certificate", result.certified), ("status", f"{result.status.name}. {result.status.value}")]
    if result.tempered:
        rows.append(("mean and std", f"{result.tempered}: not those of the posterior, the std is too large"))
    if bool(result.failed.any()):
        rows.append(("failed", f"{int(result.failed.sum())} of {result.failed.numel()} samples"))
    rows.append(("strategy", f"{result.strategy}: {result.why}"))
    if result.problem is not None:
        rows.append(("problem", repr(result.problem)))
    if result.prior is not None:
        rows.append(("prior", repr(result.prior)))
    if result.units:
        rows.append(("units", result.units))
    rows.extend(named_rows(result))
    rows.append(("chi^2 per datum", _chi2(result)))
    rows.extend((name, _parameter(result, name)) for name in result.parameters)
    if (evidence := _evidence(result)) is not None:
        rows.append(("log evidence", evidence))
    rows.append(("statistics", _statistics(result)))
    rows.append(("effective samples", _range(result.ess) + (" per item" if result.batched else "")))
    calls = ", ".join(f"{name} {number}" for name, number in result.operator_calls.items())
    each = f"{result.nfe:g} denoiser evaluations and {result.vjps:g} differentiations a sample"
    cost = f"{each}, {duration(result.seconds)}"
    rows.append(("cost", cost + (f"; operator rows: {calls}" if calls else "")))
    rows.append(("seed", str(result.seed)))
    settings = ", ".join(f"{name}={value!r}" for name, value in result.settings.items())
    rows.append(("settings", settings or "none"))
    rows.append(("versions", ", ".join(f"{name} {value}" for name, value in result.versions.items()) or "not recorded"))
    rows.extend(("warning", warning) for warning in result.warnings)
    return rows


def _statistics(result: PosteriorSamples) -> str:
    """What mean, std and quantiles are of."""
    known = {n: of for n, of in result.statistics.items() if not (result.samples.is_complex() and n in _ORDERED)}
    exact = [name for name, of in known.items() if of == "closed form"]
    sampled = [name for name, of in known.items() if of == "samples"]
    words = [f"{' and '.join(exact[:2])}{', quantiles and intervals' * (len(exact) > 2)} exact, of the closed form"]
    words = words if exact else []
    if other := [name for name, of in known.items() if of == "lattice"]:
        words.append(f"{_joined(other)} by integration over a lattice")
    if other := [name for name, of in known.items() if of == "ensemble"]:
        words.append(f"{_joined(other)} of the whole ensemble behind the samples{_ensemble_error(result)}")
    if sampled:
        least = float(result.ess.min())
        mean = [f"{2 * least**-0.5:.2g} posterior std in the mean"] if "mean" in sampled and least > 0 else []
        std = [f"{2 * (2 * least) ** -0.5:.0%} in the std"] if "std" in sampled and least > 0 else []
        error = f", whose number alone leaves {' and '.join(mean + std)} (two standard errors)" if mean or std else ""
        words.append(f"{_joined(sampled)} of the samples{error}")
    return "; ".join(words) + (f"; {result.tempered}: std too large" if result.tempered else "")


def _ensemble_error(result: PosteriorSamples) -> str:
    """What the ensemble says of its own moments: two standard errors, as the certificate."""
    errors = [result.info[name] for name in ("mean_error", "std_error") if name in result.info]
    if len(errors) < 2 or not all(bool(e.isfinite().all()) for e in errors):
        return ""
    mean, std = (2 * float(e.max()) for e in errors)
    return f", within {mean:.2g} posterior std and {100 * std:.2g} % (two standard errors)"


def _joined(names: list[str]) -> str:
    names = [{"quantile": "quantiles", "interval": "intervals"}.get(name, name) for name in names]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _chi2(result: PosteriorSamples) -> str:
    chi2 = result.chi2[~result.failed]
    chi2 = chi2[torch.isfinite(chi2)]
    if not len(chi2):
        return "not known"
    return f"median {float(chi2.median()):.3g}, {_range(chi2)} (about 1 if model and noise level are right)"


def _parameter(result: PosteriorSamples, name: str) -> str:
    """Mean and std of an unknown scalar: over the samples, and for several items the range of both."""
    posterior = result[name]
    if posterior.num_samples < 2:
        return _range(posterior.mean)
    words = f"{_range(posterior.mean)}, std {_range(posterior.std)}"
    return words + (" per item" if result.batched and posterior.mean.numel() > 1 else "")


def _evidence(result: PosteriorSamples) -> str | None:
    log, se = result.log_evidence, result.log_evidence_se
    if log is None:
        return None
    known = ~log.isnan()
    if not bool(known.any()):
        return "not known"
    error = "" if se is None else f", standard error at most {float(se[known].max()):.2g}"
    lost = "" if bool(known.all()) else f", not known for {int((~known).sum())} of {known.numel()} items"
    return f"{_range(log[known], digits=6)} nats" + (" per item" if log.numel() > 1 else "") + error + lost


def _range(value: Tensor, *, digits: int = 3) -> str:
    low, high = float(value.min()), float(value.max())
    return f"{low:.{digits}g}" if low == high else f"{low:.{digits}g} to {high:.{digits}g}"


def html(result: PosteriorSamples) -> str:
    """Self-contained HTML: a table, and for images the mean and std as embedded PNGs. Strings are escaped."""
    cells = "".join(
        f"<tr><th style='text-align:left;vertical-align:top'>{markup.escape(key)}</th>"
        f"<td style='text-align:left'>{markup.escape(value)}</td></tr>"
        for key, value in _rows(result)
    )
    return (
        f"<div><p><b>{markup.escape(_heading(result))}</b></p>"
        f"<p style='color:{_COLOURS[result.certified_word]}'><b>{markup.escape(result.certified)}</b></p>"
        f"{_thumbnails(result)}"
        f"<table style='font-size:smaller'>{cells}</table></div>"
    )


def _thumbnails(result: PosteriorSamples) -> str:
    if sum(n > 1 for n in result.shape) < 2:
        return _lines(result)
    items = min(_THUMBNAILS, result.samples.shape[1]) if result.batched else 1
    figures = []
    for item in range(items):
        for name, value, cmap in (("mean", result.mean, "gray"), ("std", result.std, "magma")):
            image, where = central_image(value[item] if result.batched else value)
            words = name + (f", item {item}" if result.batched else "") + (f", {where}" if where else "")
            words += " (tempered)" if bool(result.unfinished.reshape(-1)[item]) else ""
            figures.append(
                f"<figure style='display:inline-block;margin:2px;text-align:center;font-size:smaller'>"
                f"<img alt='{words}' style='width:128px;image-rendering:pixelated' "
                f"src='data:image/png;base64,{_png(image, cmap)}'><figcaption>{words}</figcaption></figure>"
            )
    more = result.samples.shape[1] - items if result.batched else 0
    return "<div>" + "".join(figures) + (f"<p>and {more} more items</p>" if more else "") + "</div>"


def _lines(result: PosteriorSamples) -> str:
    """Of signals along one axis, or numbers, the figures of `plot`."""
    from invsolve.core.notebook_figure import png

    good = (~result.failed).any(0).reshape(-1).nonzero()[:, 0].tolist()  # items
    images = []
    for b in good[:_THUMBNAILS]:
        code = base64.b64encode(png(plot_result(result, item=b), dpi=80)).decode()
        images.append(f"<img alt='item {b}' src='data:image/png;base64,{code}'>")
    more = len(good) - len(images)
    return "<div>" + "".join(images) + (f"<p>and {more} more items</p>" if more else "") + "</div>"


def _png(image: Tensor, cmap: str) -> str:
    from matplotlib.image import imsave

    value = (image.abs() if image.is_complex() else image).detach().cpu().float()
    value = value[:: max(1, value.shape[0] // 256), :: max(1, value.shape[1] // 256)]  # a thumbnail, not the data
    finite = value[torch.isfinite(value)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    buffer = io.BytesIO()
    imsave(buffer, value.numpy(), cmap=cmap, vmin=low, vmax=high if high > low else low + 1, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
