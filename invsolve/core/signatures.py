"""Calls with arguments that are not taken: the error gets a note of those that are, and which one may be meant."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from typing import Any

_UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")
_BINDING = re.compile(r"\(\) (got|takes|missing) ")
_PARAMETER = re.compile(r"^(\w[\w, ]*) : .*$")
_CODE = re.compile(r"`+[^`]*`+")  # in a description: no words of it
_STEM, _ALIKE = 6, 0.7


def explain(error: TypeError, called: Any) -> None:
    """Add a note to an error of the arguments of ``called``, a function or a class; none to other errors."""
    if getattr(called, "__name__", "") == "__init__":  # that of a class, which says it better
        return
    text = str(error)
    function = vars(called).get("__init__") if isinstance(called, type) else called
    if not text.startswith(f"{getattr(function, '__qualname__', '')}()") or _BINDING.search(text) is None:
        return
    try:
        parameters = list(inspect.signature(called).parameters.values())
    except (TypeError, ValueError):  # of C
        return
    own = [p for p in parameters if p.name != "self"]
    name = called.__name__
    note = f"It is called as {name}({', '.join(_listed(own))})."
    if (unknown := _UNKNOWN.search(text)) and (meant := _meant(unknown[1], own, inspect.getdoc(called) or "")):
        note = f"Did you mean {meant}=? {note}"
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)


def _listed(parameters: list[inspect.Parameter]) -> list[str]:
    shown, before = [], None
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and before not in (p.KEYWORD_ONLY, p.VAR_POSITIONAL):
            shown.append("*")
        star = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")  # type: ignore[call-overload]
        value = "" if p.default is p.empty else f"={p.default!r}"
        shown.append(f"{star}{p.name}{value if len(value) < 30 and '<' not in value else '=...'}")
        before = p.kind
    return shown


def _meant(unknown: str, parameters: list[inspect.Parameter], doc: str) -> str:
    """The parameter that is spelt most alike or, of those whose description has the word, the first; "" for none."""
    names = [p.name for p in parameters]
    inside = [name for name in names if min(len(name), len(unknown)) > 2 and (unknown in name or name in unknown)]
    if alike := difflib.get_close_matches(unknown, names, 1, _ALIKE) or inside:
        return alike[0]
    first = unknown.split("_")[0].rstrip("s")
    for word in (unknown.replace("_", " "), first[:_STEM]):
        pattern = re.compile(rf"\b{re.escape(word)}" + (r"s?\b" if len(word) < _STEM else ""), re.IGNORECASE)
        described = ""
        for line in doc.split("\n"):
            if found := _PARAMETER.match(line):
                described = found[1].split(",")[0]
            if described in names and line.startswith(" ") and pattern.search(_CODE.sub("", line)):
                return described
    return ""


def explained(cls: type) -> None:
    """Let the constructor of a class say what it takes, where it is called with something else."""
    own = vars(cls).get("__init__")
    if not inspect.isfunction(own) or getattr(own, "_explained", False):
        return

    @functools.wraps(own)
    def init(*args: Any, **kwargs: Any) -> None:
        try:
            own(*args, **kwargs)
        except TypeError as error:
            explain(error, cls)
            raise

    init._explained = True  # type: ignore[attr-defined]
    type.__setattr__(cls, "__init__", init)
