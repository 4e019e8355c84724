"""The operating system's files: durable writes under way, with and without direct writes."""

from __future__ import annotations

import errno
import gc
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest
from interrupting import is_interrupted, no_hang

from perdure.storage.aio import CAPACITY_BYTES
from perdure.storage.disk import DIRECT_AFTER_WRITES, RealDisk, RealFile

BLOCK = 4096


@pytest.fixture
def file(tmp_path: Path) -> Iterator[RealFile]:
    file = RealDisk().open(str(tmp_path / "file"), write=True, create=True)
    file.pwrite(bytes(4 << 20), 0)
    _write_until_direct(file)
    yield file
    file.close()


def _write_until_direct(file: RealFile) -> None:
    for _ in range(DIRECT_AFTER_WRITES):
        file.start([bytes(BLOCK)], 0)
        file.finish()


def _blocks(*letters: str) -> list[bytes]:
    return [letter.encode() * BLOCK for letter in letters]


@pytest.mark.parametrize(("writes", "is_direct"), [(DIRECT_AFTER_WRITES, False), (DIRECT_AFTER_WRITES + 1, True)])
def test_few_writes_set_up_nothing(tmp_path: Path, writes: int, is_direct: bool) -> None:
    made: list[int] = []
    file = RealFile(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT), "file", made.append)
    for _ in range(writes):
        file.start(_blocks("a"), 0)
        file.finish()
    assert bool(made) == is_direct
    file.close()


@pytest.mark.parametrize("direct", [True, False])
def test_what_is_started_is_there_when_finished(file: RealFile, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not direct:
        monkeypatch.setenv("PERDURE_PORTABLE", "1")
    for number in range(8):
        buffers = [bytearray(data) for data in _blocks("a", "b")]
        file.start(buffers, number * 2 * BLOCK)
        for buffer in buffers:
            buffer[:] = b"!" * BLOCK  # it was copied
        file.finish()
    file.finish()
    assert file.pread(16 * BLOCK, 0) == b"".join(_blocks("a", "b")) * 8


def test_a_write_that_was_cut_off_anywhere_is_done_again(file: RealFile) -> None:
    def write() -> None:
        file.start(_blocks("a", "b"), 0)
        file.finish()

    for place in count(1, 2):
        file.pwrite(bytes(2 * BLOCK), 0)
        with no_hang(20):
            was_there = is_interrupted(write, place)
            file.finish()
            write()
        assert file.pread(2 * BLOCK, 0) == b"".join(_blocks("a", "b"))
        if not was_there:
            break
    assert place > 30


def test_a_file_that_nobody_has_any_more_is_closed(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    assert RealDisk().open(path, write=True, create=True).lock(exclusive=True)
    assert RealDisk().open(path, write=True).lock(exclusive=True)


def test_more_than_a_direct_write_can_have(file: RealFile) -> None:
    large = os.urandom(CAPACITY_BYTES + BLOCK)
    file.start(_blocks("a"), 0)
    file.finish()
    file.start([large], BLOCK)
    file.finish()
    file.start(_blocks("z"), BLOCK)
    file.finish()
    assert file.pread(2 * BLOCK, 0) == b"".join(_blocks("a", "z"))
    assert file.pread(len(large) - BLOCK, 2 * BLOCK) == large[BLOCK:]


class Refusing:
    """A direct writer whose file system refuses the write once it comes to it."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.written, self.offset = memoryview(b""), 0

    def start(self, buffers: Sequence[bytes], offset: int) -> None:
        self.written, self.offset = memoryview(b"".join(buffers)), offset

    def finish(self) -> None:
        raise OSError(self.code, os.strerror(self.code))

    def close(self) -> None:
        pass


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_a_file_system_that_takes_no_direct_writes(tmp_path: Path, code: int) -> None:
    file = RealFile(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT), "file", lambda _: Refusing(code))
    file.pwrite(bytes(4 << 20), 0)
    _write_until_direct(file)
    file.start(_blocks("a", "b"), BLOCK)
    if code == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(code)):
            file.finish()
        file.close()
        return
    file.finish()
    assert file._writer is None
    file.start(_blocks("c"), 3 * BLOCK)
    file.finish()
    assert file.pread(3 * BLOCK, BLOCK) == b"".join(_blocks("a", "b", "c"))
    file.close()


def test_a_removed_file_is_noticed(file: RealFile, tmp_path: Path) -> None:
    file.start(_blocks("a"), 0)
    file.finish()
    (tmp_path / "file").unlink()
    file.start(_blocks("b"), 0)
    with pytest.raises(FileNotFoundError, match="removed"):
        file.finish()
    with pytest.raises(FileNotFoundError, match="removed"):
        file.sync()


# -- what somebody else may have put there


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "inside" / "images").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    return outside


PUT: dict[str, Callable[[Path, Path], object]] = {
    "a symbolic link": lambda place, outside: place.symlink_to(outside / "precious"),
    "symbolic link": lambda place, outside: place.symlink_to(outside / "nowhere"),
    "a FIFO": lambda place, outside: os.mkfifo(place),
    "a socket": lambda place, outside: os.mknod(place, 0o600 | stat.S_IFSOCK),
    "a directory": lambda place, outside: place.mkdir(),
    "hard links": lambda place, outside: place.hardlink_to(outside / "precious"),
}


@pytest.mark.parametrize("where", ["log", "images/0-heap-1.img"])
@pytest.mark.parametrize("what", PUT)
def test_nothing_but_files_is_opened_within(
    outside: Path, what: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = outside.parent / "inside"
    monkeypatch.chdir(root / where.rpartition("/")[0])  # names of sockets are short
    PUT[what](Path(Path(where).name), outside)
    disk = RealDisk().within(str(root))
    for create in (False, True):
        with pytest.raises(OSError, match=what) as error:
            disk.open(f"{root}/{where}", write=True, create=create)
        assert error.value.filename == f"{root}/{where}"
    if what == "hard links":
        disk.open(f"{root}/{where}").close()  # of a copy made of links; reading changes nothing
    else:
        with pytest.raises(OSError, match=what):
            disk.open(f"{root}/{where}")
    assert [file.name for file in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_bytes() == b"precious"
    disk.close()


def test_a_device_is_not_opened_within(outside: Path) -> None:
    if os.geteuid():
        pytest.skip("only root makes devices")
    root = outside.parent / "inside"
    try:
        os.mknod(root / "log", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("not even root makes devices here")
    with pytest.raises(OSError, match=r"a device|not permitted|denied"):
        RealDisk().within(str(root)).open(f"{root}/log", write=True)


def test_no_directory_is_followed_within(outside: Path) -> None:
    root = outside.parent / "inside"
    (root / "images").rmdir()
    (root / "images").symlink_to(outside)
    disk = RealDisk().within(str(root))
    actions: list[Callable[[], object]] = [
        lambda: disk.open(f"{root}/images/precious"),
        lambda: disk.open(f"{root}/images/new", write=True, create=True),
        lambda: disk.exists(f"{root}/images/precious"),
        lambda: disk.list_directory(f"{root}/images"),
        lambda: disk.list_directory(str(root)),
        lambda: disk.make_directory(f"{root}/images"),
        lambda: disk.make_directory(f"{root}/images/new"),
        lambda: disk.remove(f"{root}/images/precious"),
        lambda: disk.rename(f"{root}/images/precious", f"{root}/log"),
        lambda: disk.sync_directory(f"{root}/images"),
    ]
    for action in actions:
        with pytest.raises(OSError, match="a symbolic link"):
            action()
    assert [file.name for file in outside.iterdir()] == ["precious"]
    disk.close()


def test_links_on_the_way_to_a_directory_are_the_users(outside: Path) -> None:
    (outside / "way").symlink_to(outside.parent / "inside")
    disk = RealDisk().within(f"{outside}/way/")
    disk.open(f"{outside}/way/images/new", write=True, create=True).close()
    assert disk.list_directory(f"{outside}/way/images") == ["new"]
    assert (outside.parent / "inside" / "images" / "new").exists()


def test_what_is_removed_or_replaced_is_the_link(outside: Path) -> None:
    root = outside.parent / "inside"
    for name in ("one", "two"):
        (root / name).symlink_to(outside / "precious")
    (root / "new").write_bytes(b"new")
    disk = RealDisk().within(str(root))
    disk.remove(f"{root}/one")
    disk.rename(f"{root}/new", f"{root}/two")
    assert (root / "two").read_bytes() == b"new"
    assert (outside / "precious").read_bytes() == b"precious"


def test_a_directory_stays_the_one_that_was_opened(outside: Path) -> None:
    root = outside.parent / "inside"
    disk = RealDisk().within(str(root))
    file = disk.open(f"{root}/lock", write=True, create=True)
    assert file.is_at(f"{root}/lock")
    root.rename(outside.parent / "moved")
    assert not file.is_at(f"{root}/lock")
    root.mkdir()
    (root / "lock").write_bytes(b"another one")
    assert not file.is_at(f"{root}/lock")
    assert disk.open(f"{root}/lock").size() == 0
    assert disk.list_directory(str(root)) == ["images", "lock"]


def descriptors() -> int:
    gc.collect()  # what other tests have left open
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_are_given_back(outside: Path) -> None:
    root = outside.parent / "inside"
    disk = RealDisk().within(str(root))
    (root / "link").symlink_to(outside)

    def use() -> None:
        disk.open(f"{root}/images/one", write=True, create=True).close()
        for name in ("link", "link/precious", "images"):
            with pytest.raises(OSError, match=r"link|directory"):
                disk.open(f"{root}/{name}")
        disk.exists(f"{root}/images/one")

    use()
    before = descriptors()
    use()
    assert descriptors() == before
    disk.close()
    assert descriptors() == before - 1
