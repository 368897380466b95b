"""The names of a public module: some are imported on first use, and one that is not there is looked for elsewhere.

A module says ``__getattr__ = found_later(__name__, {...})``. Where a name is missing, the error names those that may be
meant, in any public module: the same name elsewhere, names that are spelt alike or contain it, and those whose
description uses the word. They are looked for when the message is read, and not before: to ask a module whether it has
a name (as Python does for every ``from module import name``) costs nothing.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any, final

from invsolve.core.signatures import explained

_ROOT = __name__.partition(".")[0]
_PAGES = (
    *("", "operators", "priors", "noise", "strategies", "samplers", "baselines", "datasets", "metrics", "plotting"),
    *("posterior_metrics", "progress", "testing", "priors.training", "priors.networks", "operators.ct"),
    *("operators.mri", "problems"),
)
_MOST = 4  # names that a message has
_UNLIKE, _FAR = 0.2, 0.4  # 1 - ratio of difflib: a letter or two in another place; in a short name
_SHORTEST = 3  # letters of a name that is looked for inside of others
_STEM = 6  # letters of a word that is looked for in descriptions, of which "convolve" and "convolution" have one


def found_later(module: str, later: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """The ``__getattr__`` of a public module, the last line of it: its classes are told to explain their arguments.

    ``later`` has the names that are imported on first use, and in which module below it each is: under the same name
    or, behind a colon, another; a name that is the module's own stands for that.
    """
    places = dict(later or {})
    for value in list(vars(sys.modules[module]).values()):
        if isinstance(value, type) and value.__module__.partition(".")[0] == _ROOT:
            explained(value)

    def __getattr__(name: str) -> Any:
        if name not in places:
            raise MissingName(module, name)
        path, _, inside = places[name].partition(":")
        found = import_module(f"{module}.{path}")
        return found if path == name else getattr(found, inside or name)

    return __getattr__


@final
class MissingName(AttributeError):
    """A public module has no such name."""

    def __init__(self, module: str, name: str) -> None:
        super().__init__(module, name, name=name, obj=None)  # of None Python has no suggestions of its own to add

    def __str__(self) -> str:
        module, name = self.args
        text = f"module {module!r} has no attribute {name!r}"
        if name.startswith("_"):
            return text
        return f"{text}. {_suggested(alike(module, name), _shown(module))}"


@final
class MissingAttribute(AttributeError):
    """An object of a class has no such attribute; ``meant``: how that is written, where it is known."""

    def __init__(self, kind: type, name: str, meant: str = "") -> None:
        super().__init__(kind, name, meant, name=name, obj=None)

    def __str__(self) -> str:
        kind, name, meant = self.args
        text = f"{kind.__name__!r} object has no attribute {name!r}"
        if name.startswith("_"):
            return text
        names = {own for own in (*dir(kind), *getattr(kind, "__dataclass_fields__", ())) if not own.startswith("_")}
        members = [(own, own, getattr(kind, own, None), True) for own in sorted(names)]
        found = [meant] if meant else _likeliest(name, members, anywhere=False)
        return f"{text}. {_suggested(found, kind.__name__.lower())}"


def alike(module: str, name: str) -> list[str]:
    """Public names that may be meant by one that a module has not, the likeliest first."""
    names = ((f"{_shown(page)}.{own}", own, value, page == module) for page, own, value in _public())
    return _likeliest(name, names, anywhere=module == _ROOT)


def _likeliest(name: str, names: Iterable[tuple[str, str, Any, bool]], *, anywhere: bool) -> list[str]:
    """Of names (as shown, itself, its value, whether it is where it was looked for) those that may be meant."""
    wanted = name.casefold()
    ranked: list[tuple[Any, ...]] = []
    described: list[tuple[Any, ...]] = []
    others: list[tuple[Any, ...]] = []
    whole = re.compile(rf"\b{re.escape(wanted)}\b")
    word = re.compile(rf"\b{re.escape(wanted[:_STEM])}") if len(wanted) >= _SHORTEST else whole
    for shown, own, value, here in names:
        unlike = 1 - difflib.SequenceMatcher(None, wanted, own.casefold()).ratio()
        entry = (unlike, not here, len(own), shown)
        if unlike <= _UNLIKE or _inside(wanted, own):
            ranked.append((unlike > _UNLIKE, *entry))
        elif (word if here or anywhere else whole).search(_described(value)):
            described.append((not here, *entry[2:]))
        elif unlike <= _FAR:
            others.append(entry)
    own_page = [entry for entry in described if not entry[0]]
    only_inside = all(entry[0] and entry[2] for entry in ranked)  # of longer names, which are on other pages
    found = sorted(ranked)[: _MOST - 1] + sorted(own_page) if only_inside else sorted(ranked)
    found = found or sorted(described) or sorted(others)
    return list(dict.fromkeys(str(entry[-1]) for entry in found))[:_MOST]


def _inside(wanted: str, name: str) -> bool:
    """Whether one of two names is a part of the other; of the longer one from the start of a word on."""
    if min(len(wanted), len(name)) < _SHORTEST:
        return False
    words = (match.start() for match in re.finditer(r"[A-Z]+|(?<![A-Za-z])[a-z]", name))
    return name.casefold() in wanted or any(name[start:].casefold().startswith(wanted) for start in words)


def _public() -> Iterator[tuple[str, str, Any]]:
    """Every public name: its module, itself, its value."""
    for path in _PAGES:
        page = import_module(f"{_ROOT}.{path}".rstrip("."))
        own = (n for n, v in vars(page).items() if getattr(v, "__module__", "") == page.__name__ and n[0] != "_")
        for name in getattr(page, "__all__", None) or list(own):
            yield page.__name__, name, getattr(page, name)


def _described(value: Any) -> str:
    """What a docstring says before its first section."""
    return re.split(r"\n\s*-{3,}", getattr(value, "__doc__", None) or "")[0].casefold()


def _suggested(meant: list[str], place: str) -> str:
    if not meant:
        return f"dir({place}) lists what there is."
    return f"Did you mean {' or '.join(filter(None, (', '.join(meant[:-1]), meant[-1])))}?"


def _shown(module: str) -> str:
    return f"iv{module.removeprefix(_ROOT)}"
