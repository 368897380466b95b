"""HDF5 without trust: h5py says what is in a file and where, and the bytes are read, and inflated, here.

HDF5 follows links and storage in other files, runs filters of any plugin, lets a stream of a small chunk grow without
bound, and reads text of variable length through a heap that a damaged file makes endless. So: only what lies in the
file itself, at the place that h5py names; deflate, shuffle and checksums only, of as many bytes as a chunk has; the
heap is parsed here.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from invsolve.datasets.readers.checks import Source

MAGIC = b"\x89HDF\r\n\x1a\n"
_CHUNKS = 2**20  # more are no measurement
_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])  # of values of variable length
_DEFLATE, _SHUFFLE, _CHECKSUM = 1, 2, 3
_DEPTH = 8
_NUMBERS = "fciub"


@final
class HDF5File:
    """A file that begins with `MAGIC`, looked at."""

    def __init__(self, source: Source) -> None:
        import h5py

        self.source = source
        head = source.read("the file", 0, min(source.size, 16))
        offsets, lengths = head[13:15] if head[8] < 2 else head[9:11]
        if (offsets, lengths) != (8, 8):
            raise source.refuse("the file", f"has addresses of {offsets} bytes, where 8 are usual")
        with source.guarded("the file"):
            self._file = h5py.File(source.path, "r")

    def __enter__(self) -> HDF5File:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def names(self, most: int = 100) -> list[str]:
        """What lies at the top: at most the first ``most`` names."""
        with self.source.guarded("the file"):
            return [str(name) for name in itertools.islice(self._file, most)]

    def is_array(self, name: str) -> bool:
        """Whether it is an array that lies in the file itself."""
        import h5py

        with self.source.guarded(name):
            link = self._file.get(name, getlink=True)
            return isinstance(link, h5py.HardLink) and isinstance(self._file[name], h5py.Dataset)

    def attribute_names(self) -> list[str]:
        """Of the attributes of the file, at most the first hundred."""
        with self.source.guarded("the attributes"):
            return [str(name) for name in itertools.islice(self._file.attrs, 100)]

    def has(self, name: str) -> bool:
        """Whether something of this path is there, be it only a link."""
        node = self._file
        with self.source.guarded(name):
            for part in name.split("/"):
                if not hasattr(node, "keys") or node.get(part, getlink=True) is None:
                    return False
                if part != name.split("/")[-1]:
                    node = self._own(node, part, name)
        return True

    def attribute(self, name: str) -> float | None:
        """A number among the attributes of the file; None if there is none."""
        with self.source.guarded(f"the attribute {name!r}"):
            attributes = self._file.attrs
            if name not in attributes:
                return None
            found = attributes.get_id(name)
            if found.dtype.kind not in "fiu" or math.prod(found.shape) != 1:
                return None
            return float(np.asarray(attributes[name]).reshape(()))

    def array(self, name: str, kinds: str = "fc", rank: Sequence[int] = ()) -> Stored:
        """An array of numbers, not yet read."""
        from h5py import h5t

        data = self._dataset(name)
        with self.source.guarded(name):
            dtype = data.dtype
            odd = dtype.kind in _NUMBERS and not data.id.get_type().equal(h5t.py_create(dtype, logical=True))
        if odd:
            raise self.source.refuse(name, f"has numbers that are no {dtype}, of another format")
        found = self._stored(name, data, dtype, kinds)
        if rank and len(found.shape) not in rank:
            wanted = " or ".join(map(str, rank))
            raise self.source.refuse(name, f"has {len(found.shape)} axes, expected {wanted}")
        return found

    def records(self, name: str) -> Stored:
        """A table whose entries may be lists of variable length: these as references, for `lists`."""
        data = self._dataset(name)
        with self.source.guarded(name):
            dtype = _on_disk(self.source, name, data.id.get_type(), 0)
        return self._stored(name, data, dtype, "")

    def text(self, name: str) -> str:
        """One text, of fixed or variable length."""
        data = self._dataset(name)
        with self.source.guarded(name):
            dtype = _on_disk(self.source, name, data.id.get_type(), 0)
        if dtype != _REFERENCE and dtype.kind != "S":
            raise self.source.refuse(name, f"has values of type {dtype}, where text is read")
        self.source.text(name, dtype.itemsize)
        stored = self._stored(name, data, dtype, "")
        if math.prod(stored.shape) != 1:
            raise self.source.refuse(name, f"has shape {stored.shape}, where one text is read")
        value = stored.all().reshape(())
        content = Heap(self.source, name).value(value, 1, text=True) if dtype == _REFERENCE else bytes(value.item())
        try:
            return content.rstrip(b"\0").decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.source.refuse(name, "is no text in UTF-8") from error

    # --- looking ------------------------------------------------------------------------------------------------------
    def _own(self, group: Any, part: str, name: str) -> Any:
        import h5py

        link = group.get(part, getlink=True)
        if link is None:
            raise self.source.refuse(name, "is not there")
        if isinstance(link, h5py.ExternalLink):
            raise self.source.refuse(name, "is a link into another file")
        if not isinstance(link, h5py.HardLink):
            raise self.source.refuse(name, "is a link, where only what lies at its own place is read")
        return group[part]

    def _dataset(self, name: str) -> Any:
        import h5py

        node: Any = self._file
        if name.count("/") >= _DEPTH:
            raise self.source.refuse(name, f"lies in more than {_DEPTH} groups")
        with self.source.guarded(name):
            for part in name.split("/"):
                if not isinstance(node, h5py.Group):
                    raise self.source.refuse(name, "is not there")
                node = self._own(node, part, name)
            if not isinstance(node, h5py.Dataset):
                raise self.source.refuse(name, "is no array")
            if node.shape is None:
                raise self.source.refuse(name, "is empty")
        return node

    def _stored(self, name: str, data: Any, dtype: np.dtype[Any], kinds: str) -> Stored:
        from h5py import h5d

        source, shape = self.source, tuple(int(n) for n in data.shape)
        if kinds:
            size = source.numbers(name, shape, dtype, kinds)
        else:
            size = math.prod(shape) * dtype.itemsize
            if len(shape) > 1 or size > source.limit:
                raise source.refuse(name, f"has shape {shape}") if len(shape) > 1 else source.too_large(name, size)
        with source.guarded(name):
            plan = data.id.get_create_plist()
            layout = plan.get_layout()
            if plan.get_external_count():
                raise source.refuse(name, "has its values in another file (external storage)")
            if layout == h5d.VIRTUAL:
                raise source.refuse(name, "is virtual: its values are those of other data sets or files")
            stored = int(data.id.get_storage_size())
            if layout == h5d.CHUNKED:
                return self._chunked(name, data, dtype, shape, size, stored)
            if layout == h5d.COMPACT:
                if not kinds:
                    raise source.refuse(name, "lies in its header (compact), where such tables are not read")
                values: NDArray[Any] = data[()]
                return Stored(source, name, shape, dtype, values=values)
            if stored != size:
                raise source.refuse(name, f"declares {size:,} bytes and has {stored:,}: it was never written")
            offset = data.id.get_offset()
            if offset is None or offset + size > source.size:
                raise source.refuse(name, f"declares {size:,} bytes and ends behind the file: it is cut short")
        return Stored(source, name, shape, dtype, offset=int(offset))

    def _chunked(
        self, name: str, data: Any, dtype: np.dtype[Any], shape: tuple[int, ...], size: int, stored: int
    ) -> Stored:
        source, plan = self.source, data.id.get_create_plist()
        chunk = tuple(int(n) for n in data.chunks)
        filters = [plan.get_filter(i) for i in range(plan.get_nfilters())]
        for code, _, _, title in filters:
            if code not in (_DEFLATE, _SHUFFLE, _CHECKSUM):
                words = (title or b"").decode("ascii", "replace") or f"number {code}"
                raise source.refuse(name, f"has the filter {words!r}; gzip, shuffle and fletcher32 are read")
        bytes_ = math.prod(chunk) * dtype.itemsize
        if any(c < 1 for c in chunk) or bytes_ > source.limit:
            raise source.too_large(name, bytes_)
        counts = [-(-n // c) for n, c in zip(shape, chunk, strict=True)]
        expected = math.prod(counts)
        if expected > _CHUNKS:
            raise source.refuse(name, f"has {expected:,} chunks, where at most {_CHUNKS:,} are read")
        source.expansion(name, stored, size)
        places: dict[tuple[int, ...], tuple[int, int, int]] = {}

        def note(info: Any) -> None:
            at = tuple(int(o) for o in info.chunk_offset)
            if any(o % c or o >= n for o, c, n in zip(at, chunk, shape, strict=True)):
                raise source.refuse(name, f"has a chunk at {at}, outside of its shape {shape}")
            places[at] = (int(info.byte_offset), int(info.size), int(info.filter_mask))

        if data.id.get_num_chunks() == expected:
            data.id.chunk_iter(note)
        if len(places) != expected:
            raise source.refuse(name, f"declares {expected:,} chunks and has {len(places):,}: it is incomplete")
        codes = tuple(int(code) for code, *_ in filters)
        return Stored(source, name, shape, dtype, chunk=chunk, places=places, filters=codes)


@final
@dataclass(frozen=True)
class Stored:
    """An array in a file: what it is and where its bytes are."""

    source: Source
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int = 0
    chunk: tuple[int, ...] = ()
    places: dict[tuple[int, ...], tuple[int, int, int]] = field(default_factory=dict)  # offset, bytes, filters left out
    filters: tuple[int, ...] = ()
    values: NDArray[Any] | None = None

    def all(self) -> NDArray[Any]:
        """The whole array."""
        if not self.shape:
            return Stored(**{**vars(self), "shape": (1,)}).rows([0])[0] if self.values is None else self.values
        return self.rows(range(self.shape[0]))

    def rows(self, index: Sequence[int]) -> NDArray[Any]:
        """Some entries of the first axis."""
        if self.values is not None:
            found: NDArray[Any] = self.values[list(index)]
            return found
        if self.chunk:
            return self._from_chunks(index)
        each = math.prod(self.shape[1:]) * self.dtype.itemsize
        if len(index) == self.shape[0] and list(index) == list(range(self.shape[0])):
            content = self.source.read(self.name, self.offset, each * len(index))
        else:
            content = b"".join(self.source.read(self.name, self.offset + i * each, each) for i in index)
        return np.frombuffer(content, self.dtype).reshape(len(index), *self.shape[1:])

    def _from_chunks(self, index: Sequence[int]) -> NDArray[Any]:
        out = np.zeros((len(index), *self.shape[1:]), self.dtype)
        where: dict[int, list[int]] = {}
        for place, row in enumerate(index):
            where.setdefault(row, []).append(place)
        for at, entry in self.places.items():
            rows = [r for r in range(at[0], min(at[0] + self.chunk[0], self.shape[0])) if r in where]
            if not rows:
                continue
            block = self._decoded(*entry)
            inner = tuple(
                slice(o, min(o + c, n)) for o, c, n in zip(at[1:], self.chunk[1:], self.shape[1:], strict=True)
            )
            cut = tuple(slice(0, s.stop - s.start) for s in inner)
            for r in rows:
                here: tuple[Any, ...] = (r - at[0], *cut)
                for place in where[r]:
                    there: tuple[Any, ...] = (place, *inner)
                    out[there] = block[here]
        return out

    def _decoded(self, offset: int, stored: int, skipped: int) -> NDArray[Any]:
        size = math.prod(self.chunk) * self.dtype.itemsize
        if stored > size + size // 8 + 1024:
            raise self.source.refuse(self.name, f"has a chunk of {stored:,} bytes for {size:,}")
        content = self.source.read(self.name, offset, stored)
        for i, code in reversed(list(enumerate(self.filters))):
            if skipped >> i & 1:
                continue
            if code == _CHECKSUM:
                content = content[:-4]
            elif code == _DEFLATE:
                before = sum(c == _CHECKSUM and not skipped >> j & 1 for j, c in enumerate(self.filters[:i]))
                content = self.source.inflate(self.name, content, size + 4 * before)
            elif len(content) == size and self.dtype.itemsize > 1:  # shuffle: first bytes of all values, second, ...
                content = np.frombuffer(content, np.uint8).reshape(self.dtype.itemsize, -1).T.tobytes()
        if len(content) != size:
            raise self.source.refuse(self.name, f"has a chunk of {len(content):,} bytes, expected {size:,}")
        return np.frombuffer(content, self.dtype).reshape(self.chunk)


@final
class Heap:
    """Values of variable length: in collections somewhere in the file, each found by its address and number."""

    def __init__(self, source: Source, name: str) -> None:
        self.source, self.name = source, name
        self._collections: dict[int, dict[int, bytes]] = {}
        self._left = 4 * source.size + 2**20  # bytes: collections do not overlap, and lists come in their order

    def value(self, reference: NDArray[Any], itemsize: int, *, text: bool = False) -> bytes:
        """The bytes of one value, as many as its reference says."""
        size = int(reference["length"]) * itemsize
        if text:
            self.source.text(self.name, size)
        if size > self.source.size:
            rule = f"has a list of {size:,} bytes in a file of {self.source.size:,}: its length is wrong"
            raise self.source.refuse(self.name, rule)
        if size == 0:
            return b""
        address = int(reference["address"])
        if address not in self._collections:
            while len(self._collections) > 7:
                del self._collections[next(iter(self._collections))]
            self._collections[address] = self._collection(address)
        found = self._collections[address].get(int(reference["index"]))
        if found is None or len(found) < size:
            raise self.source.refuse(self.name, f"has a list of {size:,} bytes where the file holds none such")
        return found[:size]

    def _collection(self, address: int) -> dict[int, bytes]:
        head = self.source.read(self.name, address, 16)
        size = int.from_bytes(head[8:], "little")
        if head[:5] != b"GCOL\x01" or size < 16 or size > self.source.limit:
            raise self.source.refuse(self.name, "has a list that leads to no heap: it is damaged")
        self._left -= size
        if self._left < 0:
            raise self.source.refuse(self.name, "has heaps that overlap: it is damaged")
        content = self.source.read(self.name, address, size)
        found: dict[int, bytes] = {}
        at = 16
        while at + 16 <= size:
            index, _, length = struct.unpack_from("<HH4xQ", content, at)
            if index == 0:
                break  # what is free
            if length > size - at - 16 or index in found:
                raise self.source.refuse(self.name, "has a list in a damaged heap")
            found[index] = content[at + 16 : at + 16 + length]
            at += 16 + -(-length // 8) * 8
        return found


def _on_disk(source: Source, name: str, kind: Any, depth: int) -> np.dtype[Any]:
    """The numpy type of what lies in the file; lists and text of variable length as references."""
    from h5py import h5t

    if depth > 4:
        raise source.refuse(name, "has a type that is nested too deeply")
    if isinstance(kind, (h5t.TypeIntegerID, h5t.TypeFloatID)):
        plain: np.dtype[Any] = kind.dtype
        return plain
    if isinstance(kind, h5t.TypeVlenID):
        if not isinstance(kind.get_super(), h5t.TypeFloatID) or kind.get_super().dtype != np.dtype("<f4"):
            raise source.refuse(name, "has lists of something else than float32")
        return _REFERENCE
    if isinstance(kind, h5t.TypeStringID):
        return _REFERENCE if kind.is_variable_str() else np.dtype(f"S{kind.get_size()}")
    if isinstance(kind, h5t.TypeArrayID):
        return np.dtype((_on_disk(source, name, kind.get_super(), depth + 1), tuple(kind.get_array_dims())))
    if isinstance(kind, h5t.TypeCompoundID):
        members = range(kind.get_nmembers())
        parts = [_on_disk(source, name, kind.get_member_type(i), depth + 1) for i in members]
        names = [kind.get_member_name(i).decode("utf-8") for i in members]
        layout = {
            "names": names,
            "formats": parts,
            "offsets": [int(kind.get_member_offset(i)) for i in members],
            "itemsize": int(kind.get_size()),
        }
        return np.dtype(layout)  # type: ignore[call-overload, no-any-return]
    raise source.refuse(name, f"has values of a type that is not read, {type(kind).__name__}")
