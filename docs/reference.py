"""Writes docs/reference.md: every public name with its arguments and the first line of its docstring.

python docs/reference.py            # a test fails when the page is not what this prints
"""

from __future__ import annotations

import inspect
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import invsolve as iv

PAGES = (
    "operators",
    "operators.ct",
    "operators.mri",
    "priors",
    "strategies",
    "samplers",
    "noise",
    "metrics",
    "posterior_metrics",
    "baselines",
    "datasets",
    "plotting",
    "problems",
    "progress",
    "testing",
    "errors",
)


def public(module: ModuleType) -> list[str]:
    """The names a module offers: its ``__all__``, or what it defines itself."""
    if hasattr(module, "__all__"):
        return [n for n in module.__all__ if not isinstance(getattr(module, n), ModuleType)]
    defined = {n: v for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__}
    return sorted((n for n in defined if not n.startswith("_") and callable(defined[n])), key=str.lower)


def entry(prefix: str, name: str, value: object) -> str | None:
    """One line; None for type aliases, which have no docstring of their own."""
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return None
    words = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    try:
        names = [p.name if p.default is p.empty else f"{p.name}=" for p in inspect.signature(value).parameters.values()]
    except (TypeError, ValueError):
        names = []
    if inspect.isclass(value) and issubclass(value, Exception):
        names = []
    arguments = ", ".join(n for n in names if n not in ("args", "kwargs"))
    return f"- **`{prefix}{name}`**`({arguments})` {words}"


def text() -> str:
    lines = [
        "# Reference",
        "",
        "Written by `python docs/reference.py`. Names with `=` have a default; most arguments are keyword-only.",
        "The docstrings (`help(name)`) give shapes, units, ranges, errors and sources.",
        "",
        "## invsolve",
        "",
    ]
    top = [entry("iv.", n, getattr(iv, n)) for n in public(iv)]
    lines += [line for line in top if line]
    for page in PAGES:
        module = attrgetter(page)(iv)
        found = [entry(f"iv.{page}.", n, getattr(module, n)) for n in public(module)]
        lines += ["", f"## iv.{page}", "", " ".join((module.__doc__ or "").split("\n\n")[0].split()), ""]
        lines += [line for line in found if line]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "reference.md").write_text(text(), encoding="utf-8")
