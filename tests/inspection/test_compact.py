"""Memories left out and buckets slid down: what is there stays, crates 0.5, 0.6 and 0.7 go on with it."""

from __future__ import annotations

import gzip
import json
import resource
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from perdure import Subnet
from perdure.cli import perdure
from perdure.errors import MalformedError, RejectError, StorageError, UnsupportedError
from perdure.inspection.compact import compact
from perdure.memory import BytesMemory, ReadOnlyMemory
from perdure.stable import ManagerHeader, MemoryManager, StableBTreeMap, StableLog, types
from perdure.stable.layout import MAX_BUCKETS, OWNERS_ADDRESS
from perdure.subnet import Canister
from perdure.values.schema import parse_schema

MODULES = Path(__file__).parents[1] / "canisters" / "modules"
CRATES = ["0_5", "0_6", "0_7"]
BUCKET_PAGES = 128


def managed(crate: str) -> Canister:
    return Subnet().install(MODULES / f"managed_{crate}.wasm.gz")


def listed(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def upgraded(version: bytes) -> bytes:
    """The canister in many versions: a letter says which."""
    data = gzip.decompress((MODULES / "upgraded.wasm.gz").read_bytes())
    return data.replace(b"perdure-version:a", b"perdure-version:" + version)


def fill(canister: Canister, memory_id: int, count: int, more: int) -> None:
    canister.update("fill", bytes([memory_id]) + struct.pack("<QQ", count, more))


def digests(canister: Canister) -> dict[int, tuple[int, int]]:
    """Pages and digest of each memory, as the crate reads it."""
    return {number: (pages, digest) for number, pages, digest in struct.iter_unpack("<BQQ", canister.query("read"))}


def entries(canister: Canister, memory_id: int) -> tuple[int, int]:
    return struct.unpack("<QQ", canister.query("map", bytes([memory_id])))


def grow(canister: Canister, pages: int) -> list[int]:
    return list(canister.update("grow", pages.to_bytes(8, "little")))


@pytest.mark.parametrize("crate", CRATES)
def test_the_crate_opens_reads_and_grows_what_is_left(crate, tmp_path):
    made = managed(crate)
    for memory_id, count in ((0, 50), (9, 400), (3, 300), (254, 200)):
        fill(made, memory_id, count, memory_id)
    grow(made, 128)  # a second bucket for each, behind all first ones
    made.write_snapshot(tmp_path / "before")
    before = digests(made)
    outcome = compact(str(tmp_path / "before"), tmp_path / "after", drop=["9"])
    assert outcome.freed_buckets == 2
    assert outcome.wasm_pages == (1 + 8 * BUCKET_PAGES, 1 + 6 * BUCKET_PAGES)
    (after,) = Subnet.open(tmp_path / "after").canisters
    assert digests(after) == {number: found for number, found in before.items() if number != 9}
    assert [entries(after, number) for number in (0, 3, 254)] == [
        (50, sum(range(50))),
        (300, sum(range(300)) + 3 * 300),
        (200, sum(range(200)) + 254 * 200),
    ]
    assert grow(after, 130) == [0, 3, 254]
    assert {number: pages for number, (pages, _) in digests(after).items()} == {
        number: pages + 130 for number, (pages, _) in before.items() if number != 9
    }
    fill(after, 9, 10, 1)  # the id is free again
    assert entries(after, 9) == (10, sum(range(10)) + 10)
    assert entries(after, 254) == (200, sum(range(200)) + 254 * 200)
    manager = MemoryManager.load(after.stable)
    assert [bucket.index for bucket in manager.buckets() if bucket.memory_id is None] == []


def test_one_crate_goes_on_with_what_another_one_has_left(tmp_path):
    made = managed("0_5")
    for memory_id in (0, 1, 2):
        fill(made, memory_id, 100, 7)
    made.write_snapshot(tmp_path / "before")
    compact(str(tmp_path / "before"), tmp_path / "after", drop=["0"])
    (after,) = Subnet.open(tmp_path / "after").canisters
    for crate in ("0_6", "0_7"):
        after.upgrade(MODULES / f"managed_{crate}.wasm.gz")
        assert [entries(after, number) for number in (1, 2)] == [(100, sum(range(100)) + 700)] * 2
        assert grow(after, 1) == [1, 2]


# dumps


def memory(*sizes: int, bucket_pages: int = 2) -> BytesMemory:
    """A memory with as many virtual ones, in the order of `sizes`, whose pages say whose they are."""
    below = BytesMemory()
    manager = MemoryManager.create(below, bucket_wasm_pages=bucket_pages)
    for number, size in enumerate(sizes):
        for page in range(size):
            part = manager.get(number)
            part.grow(1)
            part.write(page << 16, bytes([number + 1, page % 251]) * 100)
    return below


def contents(below: BytesMemory | ReadOnlyMemory) -> dict[int, bytes]:
    return {number: part.read(0, part.size() << 16) for number, part in MemoryManager.load(below).memories()}


def dump(path: Path, below: BytesMemory) -> str:
    path.write_bytes(below.data)
    return str(path)


def test_255_memories_keep_their_bytes(tmp_path):
    below = memory(*[1 + (number % 16 == 0) for number in range(255)], bucket_pages=1)
    source = dump(tmp_path / "a.bin", below)
    dropped = {str(number) for number in range(0, 255, 7)}
    compact(source, tmp_path / "b.bin", drop=dropped)
    found = contents(ReadOnlyMemory((tmp_path / "b.bin").read_bytes()))
    assert found == {number: data for number, data in contents(below).items() if str(number) not in dropped}
    assert Path(source).read_bytes() == bytes(below.data)


def test_holes_and_buckets_that_no_size_reaches_go(tmp_path):
    below = memory(3, 4, 1)
    below.write(OWNERS_ADDRESS + 1, b"\xff")  # as crate 0.7.1 leaves what it reclaims: memory 0 keeps one bucket
    below.write(40, (2).to_bytes(8, "little"))
    before = contents(below)
    outcome = compact(dump(tmp_path / "a.bin", below), tmp_path / "b.bin")
    assert outcome.freed_buckets == 1
    assert contents(ReadOnlyMemory((tmp_path / "b.bin").read_bytes())) == before
    again = compact(str(tmp_path / "b.bin"), tmp_path / "c.bin")
    assert again.freed_buckets == 0
    assert (tmp_path / "c.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


def test_all_of_it_can_go(tmp_path):
    compact(dump(tmp_path / "a.bin", memory(1, 1)), tmp_path / "b.bin", drop=["0", "1"])
    assert contents(ReadOnlyMemory((tmp_path / "b.bin").read_bytes())) == {}
    assert (tmp_path / "b.bin").stat().st_size == 1 << 16


def test_a_log_goes_whole(tmp_path):
    below = BytesMemory()
    manager = MemoryManager.create(below, bucket_wasm_pages=1)
    StableBTreeMap.create(manager.get(0), types.u64, types.u64)[1] = 2
    StableLog.create(manager.get(1), manager.get(2), types.text).append("x")
    source = dump(tmp_path / "a.bin", below)
    with pytest.raises(UnsupportedError, match="memory 2 is the data of the log events"):
        compact(source, tmp_path / "b.bin", drop=["2"], schema=parse_schema("memories: {1: {name: events, kind: log}}"))
    compact(source, tmp_path / "b.bin", drop=["1"])
    assert list(contents(ReadOnlyMemory((tmp_path / "b.bin").read_bytes()))) == [0]


def test_100_gib_of_holes_take_no_time_and_no_memory(tmp_path):
    buckets, bucket_pages = 140, 12_000
    huge = 1 + buckets * bucket_pages
    owners = bytes([0, 1, *[2] * (buckets - 2)]).ljust(MAX_BUCKETS, b"\xff")
    sizes = (5, bucket_pages, (buckets - 2) * bucket_pages, *[0] * 252)
    path = tmp_path / "a.bin"
    with path.open("wb") as file:
        file.write(ManagerHeader(1, buckets, bucket_pages, sizes, owners).encode() + owners)
        for bucket in (0, 1, 2, 139):
            file.seek((1 + bucket * bucket_pages) << 16)
            file.write(b"bucket %d" % bucket)
        file.truncate(huge << 16)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = compact(str(path), tmp_path / "b.bin", drop=["0"])
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert outcome.wasm_pages == (huge, huge - 12_000)
    assert (tmp_path / "b.bin").stat().st_blocks * 512 < 32 << 20
    assert grown_kib < 200 << 10  # files that are mapped and looked at count
    with (tmp_path / "b.bin").open("rb") as file:
        for bucket in (1, 2, 139):
            file.seek((1 + (bucket - 1) * bucket_pages) << 16)
            assert file.read(10).rstrip(b"\0") == b"bucket %d" % bucket


# what cannot be


def test_what_cannot_be_done_is_refused_and_leaves_nothing(tmp_path):
    source = dump(tmp_path / "a.bin", memory(1, 2))
    named = parse_schema("memories: {0: {name: users}, 1: {name: orders}}")
    taken = tmp_path / "taken.bin"
    taken.write_bytes(b"x")
    behind = bytearray(Path(source).read_bytes()) + bytes(1 << 16)
    behind[-5] = 1
    (tmp_path / "behind.bin").write_bytes(behind)
    damaged = bytearray(Path(source).read_bytes())
    damaged[40] = 77
    (tmp_path / "damaged.bin").write_bytes(damaged)
    (tmp_path / "none.bin").write_bytes(bytes(1 << 16))
    out = tmp_path / "out.bin"
    cases = [
        (lambda: compact(source, out, drop=["user"], schema=named), UnsupportedError, "did you mean 'users'"),
        (lambda: compact(source, out, drop=["9"]), UnsupportedError, "no memory '9' here, found 0, 1"),
        (lambda: compact(source, taken), StorageError, "exists already"),
        (lambda: compact(source, tmp_path / "no" / "b.bin"), StorageError, "no such directory"),
        (lambda: compact(str(tmp_path / "nothing"), out), StorageError, "no such snapshot"),
        (lambda: compact(str(tmp_path / "behind.bin"), out), UnsupportedError, "behind the last bucket, at 0x"),
        (lambda: compact(str(tmp_path / "damaged.bin"), out), MalformedError, "memory 0 has 77 Wasm pages"),
        (lambda: compact(str(tmp_path / "none.bin"), out), UnsupportedError, "no memory manager"),
    ]
    names = listed(tmp_path)
    for act, error, message in cases:
        with pytest.raises(error, match=message):
            act()
    assert listed(tmp_path) == names


def test_a_manager_behind_pages_of_its_own_takes_them_along(tmp_path):
    inner, below = memory(1, 2, 1), BytesMemory()
    below.grow(1 + inner.size())
    below.write(0, b"IIC" + bytes(range(200)))
    below.write(1 << 16, bytes(inner.data))
    compact(dump(tmp_path / "a.bin", below), tmp_path / "b.bin", drop=["0"])
    data = (tmp_path / "b.bin").read_bytes()
    assert data[: 1 << 16] == bytes(below.data[: 1 << 16])
    found = contents(ReadOnlyMemory(data[1 << 16 :]))
    assert found == {number: held for number, held in contents(inner).items() if number}


def test_buckets_that_overlap_what_is_there_are_refused(tmp_path):
    for offset, value, message in (
        (4, 200, "do not fit into"),
        (OWNERS_ADDRESS + 9, 1, "bucket 9 is owned by memory 1"),
    ):
        below = memory(1, 2)
        below.write(offset, bytes([value]))
        with pytest.raises(MalformedError, match=message):
            compact(dump(tmp_path / "a.bin", below), tmp_path / "b.bin")


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    from perdure.storage.disk import RealFile

    source = dump(tmp_path / "a.bin", memory(1, 2))

    def fails(self, data, offset):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(RealFile, "pwrite", fails)
    with pytest.raises(StorageError, match="no space left"):
        compact(source, tmp_path / "b.bin")
    assert listed(tmp_path) == ["a.bin"]


def test_a_hook_that_traps_is_told(tmp_path):
    made = Subnet().install(upgraded(b"j"))
    made.actor().put_order(3, 70)
    made.write_snapshot(tmp_path / "before")
    with pytest.raises(RejectError, match=r"(?s)the heap could not be made anew .*no more values in the argument"):
        compact(str(tmp_path / "before"), tmp_path / "after")
    assert listed(tmp_path) == ["before"]
    outcome = compact(str(tmp_path / "before"), tmp_path / "kept", keep_heap=True)
    assert outcome.heap == "kept"
    assert compact(str(tmp_path / "before"), tmp_path / "after", arg="(5 : nat64)").heap == "renewed"


# the command


def run(*words: str) -> Result:
    return CliRunner().invoke(perdure, ["stable", *words])


def test_the_command_warns_of_what_is_in_use(tmp_path, monkeypatch):
    made = managed("0_7")
    for memory_id in (0, 1):
        fill(made, memory_id, 20, 1)
    monkeypatch.chdir(tmp_path)
    made.write_snapshot("before")
    Path("stable.yaml").write_text("memories: {0: {name: users, kind: btreemap}, 1: {name: old, state: removed}}\n")
    done = run("drop", "before", "users", "-o", "after", "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 0
    assert told["freed_buckets"] == 1
    assert [one["memory"] for one in told["dropped"]] == ["0"]
    assert "users is active in the schema: declare it as removed" in done.stderr
    assert "users is in use: the code reads it, and finds it empty now" in done.stderr
    done = run("drop", "before", "usres", "-o", "other")
    assert isinstance(done.exception, UnsupportedError)
    assert "did you mean 'users'" in str(done.exception)
    done = run("compact", "after", "-o", "again", "--quiet")
    assert (done.exit_code, done.stdout) == (0, "")
    (canister,) = Subnet.open("again").canisters
    assert entries(canister, 1) == (20, sum(range(20)) + 20)
