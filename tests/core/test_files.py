"""Files: whole or not at all, with the modes they had; a full disk is an exception, and no more."""

from __future__ import annotations

import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading

import pytest
import torch

import invsolve as iv
from invsolve.core.checkpoint import save_state
from invsolve.core.files import append_line, atomic_write, check_target, write_or_warn
from invsolve.errors import FileError, InputError, InputTypeError, WriteError

posix = pytest.mark.skipif(os.name != "posix", reason="needs modes, pipes and devices")


def text(words: str):
    return lambda file: file.write(words.encode())


def never(_):
    raise AssertionError("must not be called")


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    old = os.umask(0o027)
    yield
    os.umask(old)


# --- whole or not at all ---------------------------------------------------------------------------------------------
def test_write_replaces_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "a.txt"
    for words in ("first", "second", ""):
        atomic_write(path, text(words))
        assert path.read_text() == words
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_the_writer_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(file):
        file.write(b"half of the n")
        raise error

    with pytest.raises(error):
        atomic_write(path, write)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_exception_on_the_disk_leaves_the_old_file(tmp_path, monkeypatch, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(error))
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else WriteError):
        atomic_write(path, text("new"))
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


@posix
def test_a_kill_before_the_rename_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = (
        "import os, signal, sys\nfrom invsolve.core.files import atomic_write\n"
        "os.replace = lambda a, b: print(open(a).read(), flush=True) or signal.pause()\n"
        "atomic_write(sys.argv[1], lambda file: file.write(b'written'))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "written\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert path.read_text() == "old"


def test_a_name_of_full_length_can_be_written(tmp_path):
    path = tmp_path / ("n" * 250 + ".nc")
    atomic_write(path, text("x"))
    assert path.read_text() == "x"


# --- modes, links, and what is no file -------------------------------------------------------------------------------
@posix
def test_the_umask_applies_to_new_files_and_links_are_followed(tmp_path, umask):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "real" / "a.txt")
    for _ in range(2):  # a new file, then one that exists
        atomic_write(link, text("x"))
        assert link.is_symlink() and mode(tmp_path / "real" / "a.txt") == 0o640
    assert os.listdir(tmp_path / "real") == ["a.txt"]


@posix
@pytest.mark.parametrize("bits", [0o600, 0o664, 0o777, 0o200])
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path, bits, umask):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(bits)
    atomic_write(path, text("new"))
    assert mode(path) == bits
    path.chmod(0o600)
    assert path.read_text() == "new"


@posix
def test_a_private_file_is_never_public_while_it_is_written(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o600)
    seen, opened = [], os.open

    def spy(name, flags, *given):
        handle = opened(name, flags, *given)
        if flags & os.O_CREAT:
            seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
        return handle

    monkeypatch.setattr(os, "open", spy)
    atomic_write(path, text("secret"))
    assert seen == [0o600] and mode(path) == 0o600


@posix
@pytest.mark.parametrize("bits", [0o444, 0o400, 0o500])
def test_a_read_only_file_is_refused_before_anything_is_computed(tmp_path, bits):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(bits)
    with pytest.raises(WriteError, match=r"Result.save: '.*a.txt' could not be written: the file is read-only\."):
        atomic_write(path, never, owner="Result.save")
    assert path.read_text() == "old" and mode(path) == bits


@posix
def test_a_pipe_gets_the_bytes_and_stays_a_pipe(tmp_path):
    path, got = tmp_path / "pipe", bytearray()
    content = bytes(range(256)) * 2**10  # four times what a pipe holds
    os.mkfifo(path)
    reader = os.open(path, os.O_RDWR)  # writing too: otherwise a read before the writer comes would be the end

    def read():
        while len(got) < len(content):
            got.extend(os.read(reader, 2**16))

    with pytest.raises(InputError, match="`checkpoint` must be a file, got a named pipe"):
        check_target("solve", "checkpoint", path, regular=True)
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    atomic_write(path, lambda file: file.write(content))
    thread.join(timeout=10)
    os.close(reader)
    assert bytes(got) == content and stat.S_ISFIFO(path.stat().st_mode) and os.listdir(tmp_path) == ["pipe"]


@posix
def test_a_pipe_that_nobody_reads_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WriteError, match="pipe' could not be written: no such device"):
        atomic_write(tmp_path / "pipe", text("x"))


@posix
def test_devices_are_written_to_and_a_socket_is_refused(tmp_path):
    before = os.stat("/dev/null")
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    atomic_write(link, text("x"))
    after = os.stat("/dev/null")
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode) and link.is_symlink()
    with pytest.raises(InputError, match="`checkpoint` must be a file, got a device, '/dev/null'"):
        check_target("solve", "checkpoint", "/dev/null", regular=True)
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind(str(tmp_path / "plug"))
        with pytest.raises(InputError, match="`path` must be a file, got a socket"):
            atomic_write(tmp_path / "plug", never)


def test_bad_paths_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputTypeError, match="atomic_write: `path` must be a path, got int"):
        atomic_write(3, never)
    with pytest.raises(InputError, match="`path` must be a file, got the folder"):
        atomic_write(tmp_path, never)
    with pytest.raises(InputError, match="`path` must be in a folder that exists, got .*missing.*Make the folder"):
        atomic_write(tmp_path / "missing" / "a.txt", never)
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match="could not be written: not a directory"):
        atomic_write(tmp_path / "file" / "a.txt", never)


# --- full disks ------------------------------------------------------------------------------------------------------
full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")


@full
def test_a_full_device_is_an_exception_of_ours_and_of_the_systems():
    with pytest.raises(WriteError, match="'/dev/full' could not be written: no space left on device") as caught:
        atomic_write("/dev/full", text("x"))
    assert isinstance(caught.value, OSError) and isinstance(caught.value, FileError)
    with pytest.raises(WriteError, match="append_line: '/dev/full' could not be written"):
        append_line("/dev/full", "x")


@full
def test_work_in_progress_goes_on_with_a_warning():
    assert write_or_warn(lambda: None, "It goes on.") is None
    with pytest.warns(RuntimeWarning, match=r"/dev/full' could not be .* device\. It goes on\.") as caught:
        words = write_or_warn(lambda: atomic_write("/dev/full", text("x")), "It goes on.")
    assert words == str(caught[0].message)
    with pytest.raises(InputError):  # a mistake is no full disk
        write_or_warn(lambda: atomic_write(os.getcwd(), text("x")), "")


@pytest.fixture
def disk_is_full():
    """No file of this process can grow beyond a kilobyte: what a full disk or a quota does, without either."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def problem():
    prior = iv.priors.GaussianPrior(torch.zeros(512), torch.eye(512))
    return iv.operators.Mask(torch.ones(512, dtype=torch.bool)), torch.zeros(512), prior


@posix
def test_files_that_cannot_grow_are_exceptions_in_every_format(tmp_path, request):
    path = tmp_path / "old"
    path.write_bytes(b"old")
    result = iv.solve(*problem(), noise=1.0)
    request.getfixturevalue("disk_is_full")
    for name, write in {
        "Result.save": lambda: result.save(path),
        "checkpoint": lambda: save_state(path, {"x": torch.zeros(512)}, {}),
    }.items():
        with pytest.raises(WriteError, match=f"{name}: '{path}' could not be written: file too large"):
            write()
        assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["old"]


@posix
def test_a_solve_goes_on_without_a_checkpoint(tmp_path, disk_is_full):
    options = {"noise": 1.0, "strategy": iv.strategies.MMPS(num_steps=5), "num_samples": 2}
    saved = iv.Checkpoint(tmp_path / "c", every_steps=1)
    with pytest.warns(RuntimeWarning, match="c' could not be written: file too large. The solve goes on without"):
        result = iv.solve(*problem(), checkpoint=saved, **options)
    assert [w for w in result.warnings if "checkpoint" in w] == [
        f"checkpoint: '{tmp_path / 'c'}' could not be written: file too large. The solve goes on without this checkpoint"
    ]
    assert torch.equal(result.samples, iv.solve(*problem(), **options).samples) and os.listdir(tmp_path) == []


@posix
def test_a_checkpoint_that_could_never_be_written_is_refused_at_once(tmp_path):
    path = tmp_path / "c"
    path.touch(0o400)
    with pytest.raises(WriteError, match="solve: '.*c' could not be written: the file is read-only"):
        iv.solve(*problem(), noise=1.0, checkpoint=path)
    with pytest.raises(InputError, match="solve: `checkpoint` must be a file, got a device"):
        iv.solve(*problem(), noise=1.0, checkpoint="/dev/null")
    with pytest.raises(InputError, match="calibrate: `checkpoint` must be a file, got the folder"):
        A, _, prior = problem()
        iv.calibrate(A, prior, noise=1.0, checkpoint=tmp_path)


@posix
def test_a_calibration_goes_on_without_a_checkpoint(tmp_path, disk_is_full):
    A, prior = iv.operators.Mask(torch.ones(2, dtype=torch.bool)), iv.priors.GaussianPrior(torch.zeros(2), torch.eye(2))
    with pytest.warns(RuntimeWarning, match="could not be written: file too large. The calibration goes on"):
        report = iv.calibrate(A, prior, noise=1.0, runs=20, num_samples=19, checkpoint=tmp_path / "c")
    assert any("file too large" in warning for warning in report.warnings)


@posix
def test_a_training_ends_with_its_prior(tmp_path, disk_is_full):
    network = iv.priors.networks.UNetConfig(width=8, blocks=1)
    with pytest.warns(RuntimeWarning) as caught:
        made = iv.priors.training.train(torch.randn(8, 8, 8), steps=2, network=network, out=tmp_path)
    said = "\n".join(str(warning.message) for warning in caught)
    for name, then in {
        "state": "it cannot be resumed from here",
        "snapshot-00000001": "resumed, it would lack this one",
        "prior": "Save the prior that is returned: iv.priors.save_prior",
    }.items():
        assert f"{name}.safetensors' could not be written: file too large" in said and then in said
    assert made.denoise(torch.randn(1, 8, 8), torch.tensor(1.0)).shape == (1, 8, 8)
