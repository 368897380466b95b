"""Figures that show themselves in a notebook. Imported where a figure is drawn: it loads matplotlib."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A Figure without pyplot that is a picture as the last line of a cell.

    IPython draws Figures only once its inline backend was loaded, which pyplot does and a Figure alone does not.
    """

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure, *, dpi: float = 110.0) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
