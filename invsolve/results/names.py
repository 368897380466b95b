"""Names of axes and variables in datasets and NetCDF files, whatever users call their axes and diagnostics.

True names are kept in the file's account of the run (JSON); those of axes and variables must be legal and different.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

_RESERVED = ("_NC", "_Netcdf4", "phony_dim_")  # beginnings that mean something in NetCDF-4 files


def legal(name: str) -> str:
    """``name`` with what HDF5 cannot hold in a name percent-encoded; different names stay different.

    >>> legal("lat/deg"), legal("50 %")
    ('lat%2Fdeg', '50 %25')
    """
    kept = name.strip() if name.strip(".") else ""  # neither spaces around a name nor the folders "." and ".."
    first = len(name) - len(name.lstrip())
    inside = range(first, first + len(kept))
    plain = "".join(printable(c) if i in inside and c not in "/%" else _encoded(c) for i, c in enumerate(name))
    return plain.replace("_nc4_non_coord_", "%5Fnc4_non_coord_")  # which h5netcdf takes out of names


def printable(text: str) -> str:
    """``text`` with what is not printable (NUL, half a surrogate) percent-encoded: any NetCDF attribute can hold it."""
    return "".join(c if c.isprintable() else _encoded(c) for c in text)


def _encoded(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def axis_names(dims: Sequence[str], taken: Collection[str]) -> tuple[str, ...]:
    """Legal names for the signal's axes, different from each other and from those ``taken`` by variables.

    A name that cannot stay gets "axis_" before it, as often as is needed.

    >>> axis_names(("sample", "axis_sample", ""), {"sample", "item"})
    ('axis_axis_sample', 'axis_sample', 'axis_')
    """
    wanted = [legal(name) for name in dims]
    free = [bool(name) and name not in taken and not name.startswith(_RESERVED) for name in wanted]
    used = {*taken, *(name for name, keeps in zip(wanted, free, strict=True) if keeps)}
    names = []
    for name, keeps in zip(wanted, free, strict=True):
        while not keeps and (name in used or not name or name.startswith(_RESERVED)):
            name = f"axis_{name}"
        used.add(name)
        names.append(name)
    return tuple(names)
