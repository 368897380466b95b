"""The report of the demo as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

from invsolve.results.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}
table{border-collapse:collapse}td,th{border-bottom:1px solid #ddd;padding:.2em .7em;text-align:right}
td:first-child,th:first-child{text-align:left}img{max-width:100%}pre{background:#f5f5f5;padding:1em;overflow-x:auto}"""


def page(title: str, text: str, figure: Figure, result: Result) -> str:
    """``text`` in the Markdown of the report (paragraphs, lists, one table, fenced text), the figure, the result."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    picture = base64.b64encode(buffer.getvalue()).decode()
    samples = _samples(result)
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head><body>"
        f"<h1>{html.escape(title)}</h1>{_body(text)}"
        f"<h2>Images, and their errors</h2><img alt='reconstructions and errors' src='data:image/png;base64,{picture}'>"
        f"<h2>Samples of the last posterior</h2><img alt='posterior samples' src='data:image/png;base64,{samples}'>"
        f"<h2>The result</h2>{result._repr_html_()}</body></html>\n"
    )


def _samples(result: Result) -> str:
    from matplotlib.figure import Figure

    shown = result.samples[: min(6, result.num_samples)].abs().cpu()
    figure = Figure(figsize=(2 * len(shown), 2.2), layout="constrained")
    for ax, x in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        ax.imshow(x.numpy(), cmap="gray", vmin=0, vmax=float(shown.max()))
        ax.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return base64.b64encode(buffer.getvalue()).decode()


def _body(text: str) -> str:
    out: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("```"):
            inner = []
            for inside in lines:
                if inside.startswith("```"):
                    break
                inner.append(inside)
            out.append(f"<pre>{html.escape(chr(10).join(inner))}</pre>")
        elif line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if set("".join(cells)) <= set("-:"):
                continue
            tag = "td" if out and out[-1].startswith("<tr") else "th"
            out.append("<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>")
        elif line.startswith("- "):
            out.append(f"<li>{html.escape(line[2:])}</li>")
        elif line:
            out.append(f"<p>{html.escape(line)}</p>")
    return _joined(out)


def _joined(parts: list[str]) -> str:
    """Rows of a table and items of a list get their parents."""
    done, opened = [], ""
    for part in [*parts, ""]:
        wanted = "table" if part.startswith("<tr") else "ul" if part.startswith("<li") else ""
        if wanted != opened:
            done += [f"</{opened}>"] if opened else []
            done += [f"<{wanted}>"] if wanted else []
            opened = wanted
        done.append(part)
    return "".join(done)
