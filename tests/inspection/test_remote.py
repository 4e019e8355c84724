"""Sources in object storage: as those on this machine, and how little of them is read."""

from __future__ import annotations

import gzip
import json
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from large_memory import large_memory
from object_servers import OWNER, OurServer, environment, moto_server
from perdure.canister import PageDelta
from perdure.cli import perdure
from perdure.demo import experiment
from perdure.errors import StorageError, UnsupportedError
from perdure.inspection import Source, find, open_source, open_table, parse_schema, remote
from perdure.inspection.canister import open_canister
from perdure.inspection.remote import localized
from perdure.storage import (
    CanisterChange,
    Message,
    SnapshotMetadata,
    StateDirectory,
    TemporaryImage,
    TemporaryStore,
    archive_state,
    versions_in,
    write_snapshot,
)
from perdure.storage.objects import Objects
from perdure.storage.pushing import push_snapshot
from perdure.subnet import Subnet

SCHEMA = parse_schema("memories: {0: {name: balances, key: u64, value: u64}}")


def look(url: str) -> tuple[int, list[str]]:
    """What `stable ls` and a point query do."""
    with open_source(url) as source:
        inventory = find(source)
        source.declared()
        kinds = [structure.kind for structure in inventory.structures]
        found = open_table(inventory.structure("0"), SCHEMA).get((12_345).to_bytes(8, "big"))
    assert found is not None
    return int.from_bytes(found, "big"), kinds


KINDS = ["btreemap", "btreemap", "unknown", "vec", "unknown", "btreemap"]


def test_little_of_a_hundred_gibibytes_is_read(bucket: OurServer, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PERDURE_OBJECT_CACHE", "0")
    large_memory(tmp_path / "dump.bin", 100 << 10)
    bucket.put("dump.bin", tmp_path / "dump.bin")
    assert look("s3://bucket/dump.bin") == (3 * 12_345, KINDS)
    assert bucket.objects["dump.bin"].size_bytes > 100 << 30
    assert bucket.requests <= 60
    assert bucket.sent <= 4 << 20


@pytest.mark.slow
def test_the_same_counts_with_moto(bucket: OurServer, tmp_path: Path, monkeypatch) -> None:
    """Of a smaller memory, because moto reads an object whole for each range: of 1 GiB that takes it a minute."""
    import boto3

    monkeypatch.setenv("PERDURE_OBJECT_CACHE", "0")
    large_memory(tmp_path / "large.bin", 100 << 10)
    bucket.put("dump.bin", tmp_path / "large.bin")
    assert look("s3://bucket/dump.bin") == (3 * 12_345, KINDS)
    counted = bucket.requests, bucket.sent
    large_memory(tmp_path / "dump.bin", 32)
    with moto_server(tmp_path) as endpoint:
        for name, value in environment(endpoint, *OWNER).items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        client.put_object(Bucket="bucket", Key="dump.bin", Body=(tmp_path / "dump.bin").read_bytes())
        opened: list[Objects] = []
        monkeypatch.setattr(remote, "Objects", lambda place: opened.append(Objects(place)) or opened[-1])
        assert look("s3://bucket/dump.bin") == (3 * 12_345, KINDS)
    assert [(one.requests, one.bytes_read) for one in opened] == [counted]


def test_a_gzip_dump(bucket: OurServer, every_structure: bytes) -> None:
    bucket.put("dump.bin.gz", gzip.compress(every_structure))
    with open_source("s3://bucket/dump.bin.gz") as source:
        assert source.memory.read(0, len(every_structure)) == every_structure


@pytest.fixture
def snapshot(tmp_path: Path, every_structure: bytes) -> Path:
    """One with every structure in stable memory, and as much in the heap."""
    with closing(TemporaryStore()) as store:
        heap, stable = TemporaryImage(store), TemporaryImage(store)
        pages = len(every_structure) >> 16
        heap.commit(PageDelta(1, [(0, b"heap" * 1024)]))
        stable.commit(PageDelta(pages, [(0, every_structure)]))
        write_snapshot(
            tmp_path / "snapshot",
            wasm_module=experiment.wasm(),
            heap=heap,
            stable=stable,
            chunks={},
            metadata=SnapshotMetadata(7, 0, 0, 0),
        )
    return tmp_path / "snapshot"


def kinds_of(source: Source) -> list[tuple[str, str, int | None]]:
    return [(one.label, one.kind, one.entries) for one in find(source).structures]


@pytest.mark.parametrize("where", ["s3://bucket/ledger/monday", "s3://bucket/ledger/monday/", "file"])
def test_a_snapshot(bucket: OurServer, snapshot: Path, where: str) -> None:
    url = f"file://{snapshot}" if where == "file" else where
    if where != "file":
        push_snapshot(snapshot, url)
    with open_source(url) as there, open_source(str(snapshot)) as here:
        assert kinds_of(there) == kinds_of(here)
    with open_source(f"{url}#heap") as heap:
        assert heap.memory.read(0, 8) == b"heapheap"
    with pytest.raises(StorageError, match="no memory 'users'"):
        open_source(f"{url}#users")


def test_it_runs(bucket: OurServer, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    with Subnet() as subnet:
        subnet.install(b"\0asm\1\0\0\0").write_snapshot(snapshot)
    push_snapshot(snapshot, "s3://bucket/ledger")
    with open_canister("s3://bucket/ledger") as canister:
        assert canister.module is not None
        assert canister.module.wasm == b"\0asm\1\0\0\0"
    with localized("s3://bucket/ledger#heap") as local:
        assert local.endswith("#heap")
        place = Path(local.removesuffix("#heap"))
        assert place.is_dir()
    assert not place.exists()
    with localized(f"file://{snapshot}") as local:
        assert local == str(snapshot)


def test_what_is_not_there(bucket: OurServer) -> None:
    bucket.put("dump.bin", bytes(65_536))
    for url in ("s3://bucket/other", "s3://bucket/", "s3://bucket/dump.bin/"):
        with pytest.raises(StorageError, match="no object, and no snapshot below it"):
            open_source(url)
    with pytest.raises(StorageError, match="a dump is one memory"):
        open_source("s3://bucket/dump.bin#heap")
    with pytest.raises(StorageError, match="no such file"):
        open_source("file:///nonexistent")


def test_a_snapshot_of_which_a_part_is_missing(bucket: OurServer, snapshot: Path) -> None:
    push_snapshot(snapshot, "s3://bucket/ledger")
    del bucket.objects["ledger/stable_memory.bin"]
    with pytest.raises(StorageError, match=r"nothing found for stable_memory\.bin"):
        open_source("s3://bucket/ledger")


def test_other_kinds_of_objects(bucket: OurServer) -> None:
    bucket.put("notes.txt", b"a text, and no memory")
    with pytest.raises(StorageError, match="a text"):
        open_source("s3://bucket/notes.txt")


def test_the_size_of_the_cache(bucket: OurServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put("dump.bin", bytes(1 << 20))
    monkeypatch.setenv("PERDURE_OBJECT_CACHE", "much")
    with pytest.raises(UnsupportedError, match="PERDURE_OBJECT_CACHE"):
        open_source("s3://bucket/dump.bin")
    monkeypatch.setenv("PERDURE_OBJECT_CACHE", "200 KiB")
    with open_source("s3://bucket/dump.bin") as source:
        source.memory.read(0, 1 << 20)
    assert 0 < sum(one.stat().st_size for one in (tmp_path / "cache" / "objects").iterdir()) <= 200 << 10


def test_commands_take_urls_and_tell_no_secret(bucket: OurServer, snapshot: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    pushed = run(perdure, ["snapshot", "push", str(snapshot), "s3://bucket/ledger", "--json"])
    assert json.loads(pushed.output)["size_bytes"] == sum(one.size_bytes for one in bucket.objects.values())
    listed = run(perdure, ["stable", "ls", "s3://bucket/ledger", "--json"])
    assert listed.exit_code == 0
    shown = run(perdure, ["memory", "show", "s3://bucket/ledger", "heap", "--bytes", "8"])
    assert shown.exit_code == 0
    assert "heapheap" in shown.output
    assert run(perdure, ["snapshot", "pull", "s3://bucket/ledger", "-o", str(tmp_path / "pulled")]).exit_code == 0
    bucket.before = lambda method, key: 403
    for command in (["stable", "ls", "s3://bucket/ledger"], ["snapshot", "push", str(snapshot), "s3://bucket/other"]):
        refused = run(perdure, command)
        assert refused.exit_code != 0
        told = f"{refused.output} {refused.exception!r} {refused.exception}"
        assert "refuses these credentials" in told
        assert "AKIDOFTESTS" not in told


# -- archives


@pytest.fixture
def archived(bucket: OurServer, tmp_path: Path, every_structure: bytes) -> str:
    """The id of a canister in an archive of two versions, called `shop`."""
    with Subnet(tmp_path / "state") as subnet:
        canister = subnet.install(b"\0asm\1\0\0\0")
        Path(tmp_path / "state" / "names.json").write_text(json.dumps({"shop": str(canister.id)}))
    for size in (0, len(every_structure)):
        with StateDirectory.open(tmp_path / "state") as state:
            change = CanisterChange({"stable": PageDelta(size >> 16, [(0, every_structure)] if size else [])})
            state.commit(Message(), {canister.id.raw_bytes: change}, apply=True)
        archive_state(tmp_path / "state", "s3://bucket/archive")
        archive_state(tmp_path / "state", f"file://{tmp_path}/archive")
    return str(canister.id)


def test_a_canister_of_an_archive(archived: str, tmp_path: Path) -> None:
    with open_source(f"{tmp_path}/state:shop") as here:
        expected = kinds_of(here)
    for url in ("s3://bucket/archive", "s3://bucket/archive/", f"file://{tmp_path}/archive"):
        for name in (archived, "shop"):
            with open_source(f"{url}:{name}") as there:
                assert kinds_of(there) == expected
    oldest = versions_in("s3://bucket/archive")[-1].version
    with open_source(f"s3://bucket/archive:shop@{oldest}") as old:
        assert old.memory.size() == 0
    with open_source("s3://bucket/archive:shop#heap") as heap:
        assert heap.memory.size() == 0
    with open_canister(f"s3://bucket/archive:shop@{oldest}") as canister:
        assert canister.module is not None
    with localized("s3://bucket/archive:shop#heap") as local, open_source(local) as source:
        assert source.memory.size() == 0


def test_what_an_archive_has_not(archived: str) -> None:
    for url, words in (
        ("s3://bucket/archive:other", f"no canister 'other' in it, found {archived}"),
        ("s3://bucket/archive:shop@77", "no version 77 is in it"),
        ("s3://bucket/archive:shop#users", "no memory 'users'"),
        ("s3://bucket/nowhere:shop", "no object"),
    ):
        with pytest.raises(StorageError, match=words):
            open_source(url)


def test_commands_of_archives(bucket: OurServer, archived: str, tmp_path: Path, monkeypatch) -> None:
    run = CliRunner().invoke
    key = tmp_path / "key"
    key.write_text("ab" * 32)
    monkeypatch.setenv("PERDURE_ARCHIVE_KEY_FILE", str(key))
    directory, url = str(tmp_path / "state"), "s3://bucket/sealed"
    first = run(perdure, ["state", "archive", directory, url, "--json"])
    assert json.loads(first.output)["sequence"] == 1
    assert "nothing, it was there" in run(perdure, ["state", "archive", directory, url]).output
    (row,) = json.loads(run(perdure, ["state", "archives", url, "--json"]).output)["versions"]
    with open_source(f"{url}:shop") as source:
        assert source.memory.read(0, 3) == b"MGR"
    restored = run(
        perdure, ["state", "restore", url, "-o", str(tmp_path / "restored"), "--version", str(row["version"])]
    )
    assert restored.exit_code == 0
    with StateDirectory.open(tmp_path / "restored", read_only=True) as state:
        assert state.state_hash().hex() == row["state_hash"]
    pruned = run(perdure, ["state", "prune", "s3://bucket/archive", "--keep", "1", "--grace", "0s", "--json"])
    assert "sealed with no key" in str(pruned.exception)
    monkeypatch.delenv("PERDURE_ARCHIVE_KEY_FILE")
    pruned = run(perdure, ["state", "prune", "s3://bucket/archive", "--keep", "1", "--grace", "0s", "--json"])
    assert json.loads(pruned.output)["kept"] == 1
    assert len(versions_in("s3://bucket/archive")) == 1
    assert "'long' is not a number" in run(perdure, ["state", "prune", url, "--grace", "long"]).output
