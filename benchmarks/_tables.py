"""Tables as Markdown and CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")


def ruled(lines: list[list[str]]) -> str:
    """A Markdown table; the first line is its head."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])


def save(folder: Path, name: str, text: str, rows: Sequence[Any]) -> None:
    """``name``.md with ``text``, and ``name``.csv with the dataclasses ``rows``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(f"{text}\n", encoding="utf-8")
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(r) for r in rows)


def read(path: Path, kind: type[_T]) -> list[_T]:
    """The rows of an earlier run, none where there is no file; NaN in columns of numbers that it did not have."""
    if not path.exists():
        return []
    casts: dict[str, Callable[[str], object]] = {"str": str, "int": int, "float": float}
    names = {f.name: str(f.type) for f in fields(kind)}  # type: ignore[arg-type]
    with path.open(newline="") as file:
        return [kind(**{k: casts[v](line.get(k, "nan")) for k, v in names.items()}) for line in csv.DictReader(file)]
