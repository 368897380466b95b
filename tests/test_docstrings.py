"""Every public name has a docstring in numpydoc's sections that names each of its arguments, and no other."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import pytest

import invsolve as iv

_SPEC = importlib.util.spec_from_file_location(
    "reference", Path(__file__).resolve().parents[1] / "docs" / "reference.py"
)
assert _SPEC is not None and _SPEC.loader is not None
reference = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(reference)

PAGES: dict[str, ModuleType] = {"": iv, **{f"{page}.": attrgetter(page)(iv) for page in reference.PAGES}}
PUBLIC = {
    f"iv.{prefix}{name}": getattr(page, name)
    for prefix, page in PAGES.items()
    for name in reference.public(page)
    if inspect.isclass(getattr(page, name)) or inspect.isfunction(getattr(page, name))
}
SECTIONS = (
    "Parameters",
    "Attributes",
    "Returns",
    "Yields",
    "Raises",
    "Warns",
    "See Also",
    "Notes",
    "References",
    "Examples",
)
DESCRIBED = {n: v for n, v in PUBLIC.items() if not (inspect.isclass(v) and issubclass(v, BaseException))}


def sections(value: object) -> dict[str, list[str]]:
    """The lines of every section of a docstring, by its title; "" holds what comes before the first."""
    lines = (inspect.getdoc(value) or "").split("\n")
    found: dict[str, list[str]] = {"": []}
    title = ""
    for i, line in enumerate(lines):
        if i + 1 < len(lines) and line and re.fullmatch("-{3,}", lines[i + 1]) and len(lines[i + 1]) == len(line):
            title = line
            found[title] = []
        elif not re.fullmatch("-{3,}", line):
            found[title].append(line)
    return found


def described(lines: list[str]) -> set[str]:
    """The names that a section explains: "x, y : Tensor, shape (n,)" at the margin, its text indented below it."""
    heads = [line.split(" : ")[0] for line in lines if line and not line.startswith(" ")]
    return {name.strip().lstrip("*") for head in heads for name in head.split(",")}


def arguments(value: object) -> set[str]:
    """What a caller may give."""
    built = dataclasses.is_dataclass(value) or "__init__" in getattr(value, "__dict__", {})
    if inspect.isclass(value) and (not built or getattr(value, "_is_protocol", False)):
        return set()  # abstract classes, enumerations, protocols
    return set(inspect.signature(value).parameters) - {"self"}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", DESCRIBED)
def test_sections_name_every_argument(name):
    value = DESCRIBED[name]
    own = value if not inspect.isclass(value) or value.__doc__ else None
    assert own is not None, f"{name} has no docstring"
    found = sections(value)
    assert [t for t in found if t and t not in SECTIONS] == [], "not numpydoc's sections"
    stated = described(found.get("Parameters", [])) | described(found.get("Attributes", []))
    assert arguments(value) - stated == set(), "not described"
    if not inspect.isclass(value):
        assert described(found.get("Parameters", [])) - arguments(value) == set(), "described, but no argument"
        if inspect.signature(value).return_annotation not in (None, "None"):
            assert "Returns" in found or "Yields" in found


@pytest.mark.parametrize("name", [n for n, v in PUBLIC.items() if inspect.isclass(v)])
def test_public_methods_are_described(name):
    """A method that overrides another is described there."""
    value = PUBLIC[name]
    if getattr(value, "__module__", "").split(".")[0] == "invsolve":
        members = {n: m for n, m in vars(value).items() if not n.startswith("_")}
        functions = {n: getattr(m, "__func__", getattr(m, "fget", m)) for n, m in members.items()}
        bare = [n for n, m in functions.items() if inspect.isfunction(m) and not inspect.getdoc(getattr(value, n))]
        assert bare == []
