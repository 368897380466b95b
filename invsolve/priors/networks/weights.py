"""Named weights of a network, compared with those that are wanted."""

from __future__ import annotations

from collections.abc import Mapping

Shapes = Mapping[str, tuple[int, ...]]
LARGEST = 2**31  # parameters
_SHOWN = 5  # differences of keys that a message names


def key_differences(wanted: Shapes, found: Shapes) -> str:
    """What differs between two sets of named shapes, in words; '' if nothing."""
    lists = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "of another shape": [
            f"{k} {found[k]} instead of {wanted[k]}"
            for k in sorted(wanted.keys() & found.keys())
            if tuple(wanted[k]) != tuple(found[k])
        ],
    }
    parts = []
    for what, names in lists.items():
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            parts.append(f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}")
    return "; ".join(parts)
