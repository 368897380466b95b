"""How reports show themselves in a notebook."""

from __future__ import annotations

import html


class TextInNotebook:
    """An object whose ``str`` is its report: a notebook shows that, line by line, in place of the ``repr``."""

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"
