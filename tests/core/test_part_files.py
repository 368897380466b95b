"""Files that grow beside their place."""

import errno
import os

import pytest

from invsolve.core import part_files
from invsolve.core.part_files import part_file
from invsolve.errors import FileError, InputError, InputTypeError, WriteError

ABOUT = {"of": "letters"}


def grown(path, about=ABOUT, size=6):
    return part_file(path, owner="me", head={0: b"ab"}, size=size, about=about)


def begun(path):
    with pytest.raises(KeyboardInterrupt), grown(path) as file:
        file.write(2, b"cd")
        file.reached(4)
        file.write(4, b"??")
        raise KeyboardInterrupt
    return path.with_name(f"{path.name}.part")


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "x.h5"
    with grown(path) as file:
        file.write(2, b"cdef")
        file.reached(6)
        assert not path.exists()
    assert path.read_bytes() == b"abcdef"
    assert os.listdir(tmp_path) == ["x.h5"]


def test_an_interrupted_one_goes_on(tmp_path):
    path = tmp_path / "x.h5"
    begun(path)
    assert not path.exists()
    with grown(path) as file:
        assert file.done == 4
        file.write(4, b"ef")
        file.reached(6)
    assert path.read_bytes() == b"abcdef"


def test_a_part_of_other_data_is_refused(tmp_path):
    part = begun(path := tmp_path / "x.h5")
    kept = part.read_bytes()
    for about, size in (({"of": "numbers"}, 6), (ABOUT, 7)):
        with pytest.raises(InputError, match=r"x\.h5\.part.*go on with it, or delete it"), grown(path, about, size):
            pass
    assert part.read_bytes() == kept
    for damaged in (kept[:-30] + b"\xff" * 30, b"?", b"[]".ljust(1030), kept.replace(b'"done": 4', b'"done":-4')):
        part.write_bytes(damaged)
        with pytest.raises(InputError, match=r"x\.h5\.part"), grown(path):
            pass


def test_what_exists_is_not_overwritten(tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match="`path` must be free.*Delete it"), grown(path):
        pass
    assert path.read_bytes() == b"mine"
    with pytest.raises(InputTypeError, match="path"), grown(3):
        pass


@pytest.mark.skipif(part_files.fcntl is None, reason="no locks")
def test_two_writers_are_one_too_many(tmp_path):
    with grown(tmp_path / "x") as _, pytest.raises(FileError, match="another process"), grown(tmp_path / "x"):
        pass


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space is not reserved here")
def test_a_full_disk_is_noticed_first(tmp_path, monkeypatch):
    def full(handle, start, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(WriteError, match=r"x\.part.*no space left"), grown(tmp_path / "x"):
        pass
    assert os.listdir(tmp_path) == []
