"""Several unknowns as one real vector: `Layout` names its parts, packs them and takes them apart again.

For an unknown that is more than one array, such as an image and a shift: operator and prior then act on the vector, and
``result["image"]`` is a part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from math import prod
from typing import final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.validation import Kind, Shape, check_choice, check_dims, check_kind, kind_dtype
from invsolve.errors import invalid, invalid_type


@final
@dataclass(frozen=True)
class Part:
    """One unknown of several that are packed into one vector.

    Parameters
    ----------
    name : str
        What it is called, not empty.
    shape : tuple of int
        Without a batch axis; ``()`` is a scalar.
    kind : {"real", "complex"}
        Of its entries.
    unit : str
        For labels only.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.
    """

    name: str
    shape: Shape
    _: KW_ONLY
    kind: Kind = "real"
    unit: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise invalid_type("Part", "name", "a string", self.name)
        if not self.name:
            raise invalid("Part", "name", "a non-empty string", repr(self.name))
        object.__setattr__(self, "shape", check_dims("Part", "shape", self.shape))
        check_choice("Part", "kind", self.kind, ("real", "complex"))

    @property
    def size(self) -> int:
        """Its dimension in the vector: a complex entry counts twice."""
        return prod(self.shape) * (2 if self.kind == "complex" else 1)


@final
@dataclass(frozen=True)
class Layout:
    """How several unknowns are packed into one real vector ``(..., n)``: its parts, in order.

    Complex parts are interleaved re, im, re, im. Because noise levels are per real component, white noise on the vector
    is white noise on every part.

    Parameters
    ----------
    parts : sequence of Part
        One or more, of different names.

    Raises
    ------
    InputError, InputTypeError
        If there is none, one is no `Part`, or a name comes twice.

    Examples
    --------
    >>> layout = Layout([Part("image", (2, 2)), Part("shift", (2,), unit="mm")])
    >>> layout.size, layout.names
    (6, ('image', 'shift'))
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        parts = tuple(self.parts)
        for part in parts:
            if not isinstance(part, Part):
                raise invalid_type("Layout", "parts", "a tuple of Part", part)
        if not parts:
            raise invalid("Layout", "parts", "one part or more", "none")
        names = [part.name for part in parts]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise invalid("Layout", "parts", "of different names", f"{twice[0]!r} twice")
        object.__setattr__(self, "parts", parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parts, in order."""
        return tuple(part.name for part in self.parts)

    @property
    def size(self) -> int:
        """The dimension n of the packed vector."""
        return sum(part.size for part in self.parts)

    @property
    def labels(self) -> tuple[str, ...]:
        """What every entry of the vector is: "shift[0]" of a part with axes, "field[2, 3].im" of a complex one."""
        found = []
        for part in self.parts:
            places = [f"[{', '.join(map(str, place))}]" for place in np.ndindex(*part.shape)] if part.shape else [""]
            halves = (".re", ".im") if part.kind == "complex" else ("",)
            found += [f"{part.name}{place}{half}" for place in places for half in halves]
        return tuple(found)

    def __getitem__(self, name: str) -> Part:
        """The part called ``name``."""
        for part in self.parts:
            if part.name == name:
                return part
        raise invalid("Layout", "name", "one of " + ", ".join(map(repr, self.names)), repr(name))

    def slice(self, name: str) -> slice:
        """Where the entries of a part are in the vector."""
        part = self[name]
        start = sum(p.size for p in self.parts[: self.parts.index(part)])
        return slice(start, start + part.size)

    def pack(self, values: Mapping[str, Tensor]) -> Tensor:
        """The vector of these parts.

        Parameters
        ----------
        values : mapping of str to Tensor, shape (..., *part.shape)
            All parts, with the same leading axes and precision.

        Returns
        -------
        Tensor, shape (..., n)
            Real.

        Raises
        ------
        InputError, InputTypeError
            If a part is missing, unknown, or of another shape, kind or precision.
        """
        if not isinstance(values, Mapping):
            raise invalid_type("Layout.pack", "values", "a mapping of names to tensors", values)
        if set(values) != set(self.names):
            want = f"a mapping with the names {sorted(self.names)}"
            raise invalid("Layout.pack", "values", want, sorted(map(str, values)))
        leading, dtype, flat = None, None, []
        for part in self.parts:
            value = values[part.name]
            if not isinstance(value, Tensor):
                raise invalid_type("Layout.pack", part.name, "a torch.Tensor", value)
            check_kind("Layout.pack", part.name, value, part.kind)
            split = value.ndim - len(part.shape)
            if split < 0 or tuple(value.shape[split:]) != part.shape:
                want = ", ".join(map(str, ("...", *part.shape)))
                raise invalid("Layout.pack", part.name, f"of shape ({want})", tuple(value.shape))
            if leading is not None and tuple(value.shape[:split]) != leading:
                raise invalid(
                    "Layout.pack",
                    part.name,
                    f"with leading axes {leading}, as the part before",
                    tuple(value.shape[:split]),
                )
            if dtype is not None and kind_dtype(value.dtype, "real") != dtype:
                want = f"of precision {dtype}, as the part before"
                raise invalid_type("Layout.pack", part.name, want, str(value.dtype))
            leading, dtype = tuple(value.shape[:split]), kind_dtype(value.dtype, "real")
            # Not view_as_real, whose derivative after a part of odd size is an error in torch.
            numbers = torch.stack([value.real, value.imag], -1) if value.is_complex() else value
            flat.append(numbers.reshape(*leading, part.size))
        return torch.cat(flat, dim=-1)

    def split(self, x: Tensor) -> dict[str, Tensor]:
        """The parts of a vector.

        Parameters
        ----------
        x : Tensor, shape (..., n)
            Real.

        Returns
        -------
        dict of str to Tensor, shape (..., *part.shape)
            Real parts are views of ``x``, complex parts are complex tensors.

        Raises
        ------
        InputError, InputTypeError
            If ``x`` is of another shape, or complex.
        """
        if not isinstance(x, Tensor):
            raise invalid_type("Layout.split", "x", "a torch.Tensor", x)
        check_kind("Layout.split", "x", x, "real")
        if x.ndim == 0 or x.shape[-1] != self.size:
            raise invalid("Layout.split", "x", f"of shape (..., {self.size})", tuple(x.shape))
        out, leading = {}, x.shape[:-1]
        for part, piece in zip(self.parts, torch.split(x, [part.size for part in self.parts], dim=-1), strict=True):
            if part.kind == "complex":
                # torch.complex copies; a view would need an even offset, which a part after an odd one has not.
                pair = piece.reshape((*leading, *part.shape, 2))
                out[part.name] = torch.complex(pair[..., 0], pair[..., 1])
            else:
                out[part.name] = piece.reshape((*leading, *part.shape))
        return out
