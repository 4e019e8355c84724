"""One map by several workers: each byte once, all rows, and workers that die."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from object_servers import OurServer
from perdure.cli import perdure
from perdure.errors import HostError, MalformedError, StorageError, UnsupportedError
from perdure.fleet.scan import Scan, export_in_parts, processes, work
from perdure.fleet.workers import Worker
from perdure.inspection import Rows, find, open_source, open_table, parse_schema
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager, StableBTreeMap, StableVec, types

SCHEMA = """memories:
  0: {name: balances, key: u64, value: u64}
  1: {name: names, key: text, value: text}
  2: {name: numbers, value: u64}
  3: {name: messages, key: u64, value: candid}
"""
ROWS = 60_000


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps whose buckets lie among each other's."""
    memory = BytesMemory()
    manager = MemoryManager.create(memory, bucket_wasm_pages=4)
    balances = StableBTreeMap.create(manager.get(0), types.u64, types.u64)
    names = StableBTreeMap.create(manager.get(1), types.text, types.text)
    for start in range(0, ROWS, 10_000):
        balances.apply((key, 3 * key) for key in range(start, start + 10_000))
        names.apply((f"name {key}", f"{key} " * 150) for key in range(start // 100, start // 100 + 100))
    StableVec.create(manager.get(2), types.u64).extend(range(10))
    StableBTreeMap.create(manager.get(3), types.u64, types.raw)[1] = b"DIDL\0\1\x7d\5"
    path = tmp_path_factory.mktemp("scan") / "dump.bin"
    path.write_bytes(memory.data)
    return path


def table_of(source: str, label: str = "0") -> Rows:
    return open_table(find(open_source(source)).structure(label), parse_schema(SCHEMA))


@pytest.mark.parametrize("label", ["0", "1"])
@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_the_same_rows(dump: Path, tmp_path: Path, label: str, form: str) -> None:
    table = table_of(str(dump), label)
    path = tmp_path / f"rows.{form}"
    scan = Scan(str(dump), table, part_bytes=200_000)
    assert len(scan.parts) >= 3
    assert export_in_parts(scan, path, form) == len(table)
    found = pq.read_table(path) if form == "parquet" else pa.ipc.open_file(path).read_all()
    assert found.sort_by(table.columns[0]).equals(table.to_arrow().sort_by(table.columns[0]))


@pytest.mark.slow
def test_four_workers_read_each_byte_once(bucket: OurServer, dump: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PERDURE_OBJECT_CACHE", "0")
    bucket.put("dump.bin", dump)
    table = table_of("s3://bucket/dump.bin")
    assert table.tree is not None
    map_bytes = table.tree.header.allocator.used_bytes
    bucket.reset()
    scan = Scan("s3://bucket/dump.bin", table, processes(4))
    assert len(scan.parts) == 4
    assert export_in_parts(scan, tmp_path / "rows.parquet", "parquet") == ROWS
    assert map_bytes <= bucket.sent <= 1.05 * map_bytes


def test_the_command(dump: Path, tmp_path: Path) -> None:
    (tmp_path / "stable.yaml").write_text(SCHEMA)
    common = ["stable", "export", str(dump), "--schema", str(tmp_path / "stable.yaml"), "-o", str(tmp_path / "rows")]
    for more, words in (
        (["balances", "--format", "csv"], "Parquet or Arrow"),
        (["numbers", "--format", "parquet"], "no map|is none"),
        (["messages", "--format", "parquet"], "known only after all values"),
    ):
        refused = CliRunner().invoke(perdure, [*common, *more, "--workers", "1"])
        assert refused.exit_code != 0
        assert any(word in f"{refused.output} {refused.exception}" for word in words.split("|"))


def test_what_changes_meanwhile(bucket: OurServer, dump: Path, tmp_path: Path) -> None:
    bucket.put("dump.bin", dump)
    scan = Scan("s3://bucket/dump.bin", table_of("s3://bucket/dump.bin"), part_bytes=200_000)

    def replace(method: str, key: str) -> None:
        if bucket.requests > asked + 4:
            bucket.put("dump.bin", bytes(dump.stat().st_size))

    asked = bucket.requests
    bucket.before = replace
    with pytest.raises(StorageError, match="replaced"):
        export_in_parts(scan, tmp_path / "rows.parquet", "parquet")
    assert not (tmp_path / "rows.parquet").exists()


def test_counts_that_differ_leave_no_file(dump: Path, tmp_path: Path) -> None:
    table = table_of(str(dump))
    assert table.tree is not None
    scan = Scan(str(dump), table)
    first, count = scan.parts.pop()
    scan.parts.append((first, count - 2))
    with pytest.raises(MalformedError, match="the header counts"):
        export_in_parts(scan, tmp_path / "rows.parquet", "parquet")
    assert list(tmp_path.iterdir()) == []


class Dying:
    """Workers in this process, of which one dies of its first request, or all of every one."""

    tries = 1
    count = 2

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths
        self.started: list[One] = []

    def start(self) -> Worker:
        self.started.append(One(self))
        return self.started[-1]

    def heard(self, workers: Collection[Worker], seconds: float | None) -> Sequence[tuple[Worker, bytes | None]]:
        return [one.answer() for one in workers if isinstance(one, One)]


class One:
    def __init__(self, dying: Dying) -> None:
        self.dying = dying
        self.request: bytes | None = None
        self.ended = False

    def give(self, request: bytes) -> None:
        self.request = request

    def answer(self) -> tuple[Worker, bytes | None]:
        if self.request is None:
            return self, b""
        if self.dying.deaths:
            self.dying.deaths -= 1
            return self, None
        return self, work(self.request)

    def end(self) -> str:
        self.ended = True
        return "signal 9"


def test_workers_that_die(dump: Path, tmp_path: Path) -> None:
    workers = Dying(1)
    scan = Scan(str(dump), table_of(str(dump)), workers, part_bytes=200_000)
    assert export_in_parts(scan, tmp_path / "rows.parquet", "parquet") == ROWS
    assert all(one.ended for one in workers.started)
    workers = Dying(100)
    scan = Scan(str(dump), table_of(str(dump)), workers, part_bytes=200_000)
    with pytest.raises(HostError, match="signal 9"):
        export_in_parts(scan, tmp_path / "other.parquet", "parquet")
    assert all(one.ended for one in workers.started)
    assert not (tmp_path / "other.parquet").exists()


def test_what_is_no_map(dump: Path) -> None:
    with pytest.raises(UnsupportedError, match="is no map"):
        Scan(str(dump), table_of(str(dump), "2"))
