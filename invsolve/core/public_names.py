"""The names of a public module: some are imported on first use, and one that is not there is looked for elsewhere.

A module says ``__getattr__ = found_later(__name__, {...})``. Where a name is missing, the error names those that may be
meant, in any public module: the same name elsewhere, names that are spelt alike or contain it, and those whose
description uses the word. They are looked for when the message is read, and not before: to ask a module whether it has
a name (as Python does for every ``from module import name``) costs nothing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, final

_ROOT = __name__.partition(".")[0]
_PAGES = (
    *("", "operators", "priors", "noise", "strategies", "samplers", "baselines", "datasets", "metrics", "plotting"),
    *("posterior_metrics", "progress", "testing", "priors.training", "priors.networks", "operators.ct"),
)
_MOST = 4  # names that a message has
_UNLIKE, _FAR = 0.2, 0.4  # 1 - ratio of difflib: a letter or two in another place; in a short name
_SHORTEST = 3  # letters of a name that is looked for inside of others
_STEM = 6  # letters of a word that is looked for in descriptions, of which "convolve" and "convolution" have one


def found_later(module: str, later: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """The ``__getattr__`` of a public module.

    ``later`` has the names that are imported on first use, and in which module below it each is: under the same name
    or, behind a colon, another; a name that is the module's own stands for that.
    """
    places = dict(later or {})

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
        meant = alike(module, name)
        if not meant:
            return f"{text}. dir({_shown(module)}) lists what there is."
        return f"{text}. Did you mean {' or '.join(filter(None, (', '.join(meant[:-1]), meant[-1])))}?"


def alike(module: str, name: str) -> list[str]:
    """Public names that may be meant by one that a module has not, the likeliest first."""
    wanted, ranked, described, others = name.casefold(), [], [], []
    whole = re.compile(rf"\b{re.escape(wanted)}\b")
    word = re.compile(rf"\b{re.escape(wanted[:_STEM])}") if len(wanted) >= _STEM else whole
    for page, own, value in _public():
        unlike = 1 - difflib.SequenceMatcher(None, wanted, own.casefold()).ratio()
        entry = (unlike, page != module, len(own), f"{_shown(page)}.{own}")
        if unlike <= _UNLIKE or _inside(wanted, own.casefold()):
            ranked.append((unlike > _UNLIKE, *entry))
        elif (word if page == module or module == _ROOT else whole).search(_described(value)):
            described.append((page != module, *entry[2:]))
        elif unlike <= _FAR:
            others.append(entry)
    own_page = [entry for entry in described if not entry[0]]
    found = sorted(ranked) or sorted(own_page or described) or sorted(others)
    return list(dict.fromkeys(str(entry[-1]) for entry in found))[:_MOST]


def _inside(wanted: str, name: str) -> bool:
    """Whether one of two names is a part of the other."""
    return min(len(wanted), len(name)) >= _SHORTEST and (wanted in name or name in wanted)


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


def _shown(module: str) -> str:
    return f"iv{module.removeprefix(_ROOT)}"
