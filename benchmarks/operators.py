"""How fast the operators are, ours beside those of peers, on one thread and on two.

    python benchmarks/operators.py --out docs                      # minutes; writes operators.md and .csv
    python benchmarks/operators.py --parts ct --threads 1 --quick  # prints only

Every part is a module ``_operators_<name>`` with

- ``rows(threads, quick=False) -> list[dict]``: what was measured, a mapping of columns a row. It runs in a process of its
  own, in which torch and OpenMP have so many threads. Columns that parts share have the same names: ``case``, ``batch``,
  ``threads``, ``method``, ``forward`` and ``adjoint`` (milliseconds of an image), ``build`` (seconds), ``memory`` (MiB),
  and ``note``: why a method was not measured, where its numbers are NaN;
- ``LEGEND``, the words above its table, and ``table(rows) -> str``, the table.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import multiprocessing
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

PARTS = ("ct", "mri")
Row = dict[str, Any]


def measured(part: str, threads: int, quick: bool) -> list[Row]:
    """The rows of a part, in a fresh process with so many threads."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, part, threads, quick).result()


def _measured(part: str, threads: int, quick: bool) -> list[Row]:
    torch.set_num_threads(threads)
    found: list[Row] = importlib.import_module(f"_operators_{part}").rows(threads, quick=quick)
    return found


def page(found: dict[str, list[Row]]) -> str:
    sections = []
    for part, rows in found.items():
        module = importlib.import_module(f"_operators_{part}")
        sections.append(f"{module.LEGEND.strip()}\n\n{module.table(rows)}")
    here = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    head = f"# How fast the operators are\n\nWritten by `python benchmarks/operators.py` on {here}."
    return "\n\n".join([head, *sections])


def save(folder: Path, found: dict[str, list[Row]]) -> None:
    """operators.md and operators.csv, with the columns of all parts."""
    rows = [{"part": part, **row} for part, some in found.items() for row in some]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "operators.md").write_text(f"{page(found)}\n", encoding="utf-8")
    with (folder / "operators.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = {
        part: [row for threads in options.threads for row in measured(part, threads, options.quick)]
        for part in options.parts
    }
    print(page(found))
    if options.out:
        save(options.out, found)


if __name__ == "__main__":
    main()
