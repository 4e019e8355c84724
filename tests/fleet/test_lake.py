"""Delta tables: each version has the rows of its state, however the state came about, and what was cut off goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from deltalake import DeltaTable, write_deltalake

from object_servers import OWNER, OurServer, environment, moto_server
from perdure import Subnet
from perdure.canister import PageDelta
from perdure.cli import perdure
from perdure.errors import StorageError, UnsupportedError
from perdure.fleet.lake import Written, commits_of, export_delta, sources_of
from perdure.ic.principal import Principal
from perdure.inspection import parse_schema
from perdure.kit import canister as canister_class
from perdure.kit import nat64, stable, update
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager, StableBTreeMap, StableVec, types
from perdure.storage import CanisterChange, Message, StateDirectory

TEXT = """memories:
  0: {name: balances, key: u64, value: u64}
  1: {name: names, key: text, value: text}
  2: {name: numbers, value: u32}
"""
SCHEMA = parse_schema(TEXT)
LARGE = (1 << 64) - 1


class Memory:
    """A memory with two maps and a vector, of which dumps are taken."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.memory = BytesMemory()
        manager = MemoryManager.create(self.memory, bucket_wasm_pages=2)
        self.balances = StableBTreeMap.create(manager.get(0), types.u64, types.u64)
        self.names = StableBTreeMap.create(manager.get(1), types.text, types.text)
        self.numbers = StableVec.create(manager.get(2), types.u32)
        self.expected: list[dict[str, Any]] = []

    def dump(self) -> str:
        path = self.directory / f"dump{len(self.expected)}.bin"
        path.write_bytes(self.memory.data)
        self.expected.append(
            {
                "balances": {Decimal(key): Decimal(value) for key, value in self.balances.items()},
                "names": dict(self.names.items()),
                "numbers": dict(enumerate(self.numbers)),
            }
        )
        return str(path)


@pytest.fixture
def dumps(tmp_path: Path) -> tuple[Memory, list[str]]:
    """Four states: rows come, change, go; nothing happens; a vector grows."""
    made = Memory(tmp_path)
    made.balances.apply((key, LARGE - key) for key in range(300))
    made.names.apply((f"name {key}", "x" * key) for key in range(50))
    sources = [made.dump()]
    made.balances.apply([(7, 1), (1000, LARGE), (8, None), (9, None)])
    made.names['it\'s "quoted"'] = "né"
    sources.append(made.dump())
    sources.append(made.dump())
    made.numbers.extend([5, (1 << 32) - 1])
    made.balances.apply((key, None) for key in range(100, 200))
    sources.append(made.dump())
    return made, sources


def rows_of(place: str, version: int | None = None) -> dict[Any, Any]:
    table = DeltaTable(place, version=version).to_pyarrow_table()
    return dict(zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True))


def export(sources: list[str], target: str, *structures: str) -> list[Written]:
    return list(export_delta(sources_of(sources, SCHEMA), target, SCHEMA, structures))


def test_each_version_has_the_rows_of_its_state(dumps: tuple[Memory, list[str]], tmp_path: Path) -> None:
    made, sources = dumps
    written = export(sources, str(tmp_path / "lake"))
    assert len(written) == 12
    for one in written:
        expected = made.expected[sources.index(one.source)]
        assert rows_of(str(tmp_path / "lake" / one.table), one.version) == expected[one.table]
    counts = [(one.added, one.changed, one.removed) for one in written if one.table == "balances"]
    assert counts == [(300, 0, 0), (1, 1, 2), (0, 0, 0), (0, 0, 100)]


def test_what_was_cut_off_goes_on(dumps: tuple[Memory, list[str]], tmp_path: Path) -> None:
    made, sources = dumps
    lake = str(tmp_path / "lake")
    steps = export_delta(sources_of(sources, SCHEMA), lake, SCHEMA)
    for _ in range(5):
        next(steps)
    steps.close()
    written = export(sources, lake)
    assert len(written) == 7
    assert export(sources, lake) == []
    for name in ("balances", "names", "numbers"):
        assert DeltaTable(f"{lake}/{name}").version() == 3
        assert rows_of(f"{lake}/{name}") == made.expected[-1][name]
    made.names["later"] = "still"
    assert [one.added for one in export([*sources[-1:], made.dump()], lake, "names")] == [1]
    with pytest.raises(StorageError, match="none of the sources"):
        export(sources[:2], lake)


def test_columns_that_change_and_structures_that_go(dumps: tuple[Memory, list[str]], tmp_path: Path) -> None:
    made, sources = dumps
    lake = str(tmp_path / "lake")
    export(sources[:1], lake)
    other = BytesMemory()
    StableBTreeMap.create(MemoryManager.create(other, bucket_wasm_pages=2).get(0), types.u64, types.u64)[1] = 2
    path = tmp_path / "other.bin"
    path.write_bytes(other.data)
    written = export([sources[0], str(path)], lake)
    assert {(one.table, one.added, one.removed) for one in written} == {
        ("balances", 0, 299),
        ("names", 0, 50),
        ("numbers", 0, 0),
    }
    assert rows_of(f"{lake}/names") == {}
    assert rows_of(f"{lake}/names", 0) == made.expected[0]["names"]
    texts = parse_schema(TEXT.replace("value: u64}\n  1", "value: i64}\n  1"))
    assert [one.version for one in export_delta(sources_of([str(path), sources[1]], texts), lake, texts, ["0"])] == [2]
    assert rows_of(f"{lake}/balances")[Decimal(7)] == 1
    assert DeltaTable(f"{lake}/balances").to_pyarrow_table().column(1).type == "int64"


def test_a_version_for_each_commit(tmp_path: Path) -> None:
    """Of history; the values of a commit that changed nothing else."""
    made = Memory(tmp_path)
    canister = Principal(b"canister a")
    with StateDirectory.open(tmp_path / "state", history=None) as state:

        def commit(change: Callable[[], object]) -> None:
            change()
            made.dump()
            pages = PageDelta(made.memory.size(), [(0, bytes(made.memory.data))])
            state.commit(Message(), {canister.raw_bytes: CanisterChange({"stable": pages})}, apply=True)

        for number in range(4):
            commit(lambda number=number: made.balances.apply([(number, number), (0, number)]))  # type: ignore[misc]
        state.commit(
            Message(), {b"another one": CanisterChange({"stable": PageDelta(1, [(0, bytes(4096))])})}, apply=True
        )
    lake = str(tmp_path / "lake")
    states = commits_of(tmp_path / "state", str(canister), SCHEMA)
    written = list(export_delta(states, lake, SCHEMA, ["balances"]))
    assert [one.version for one in written] == [0, 1, 2, 3]
    for one in written:
        assert rows_of(f"{lake}/balances", one.version) == made.expected[one.version]["balances"]
    with StateDirectory.open(tmp_path / "state") as state:
        state.forget(state.version)
    with pytest.raises(StorageError, match="--keep all"):
        list(commits_of(tmp_path / "state", str(canister), SCHEMA))


def test_the_command(dumps: tuple[Memory, list[str]], tmp_path: Path) -> None:
    made, sources = dumps
    (tmp_path / "schema.yaml").write_text(TEXT)
    more = ["--delta", str(tmp_path / "lake"), "--schema", str(tmp_path / "schema.yaml"), "-s", "balances"]
    done = CliRunner().invoke(perdure, ["fleet", "export", *sources, *more, "--json"])
    assert [one["version"] for one in json.loads(done.output)["versions"]] == [0, 1, 2, 3]
    assert rows_of(str(tmp_path / "lake" / "balances")) == made.expected[-1]["balances"]
    refused = CliRunner().invoke(perdure, ["fleet", "export", *sources, *more, "--commits"])
    assert refused.exit_code == 2


def test_tables_of_others_stay_as_they_are(dumps: tuple[Memory, list[str]], tmp_path: Path) -> None:
    import pyarrow as pa

    _, sources = dumps
    place = str(tmp_path / "lake" / "balances")
    write_deltalake(place, pa.table({"a": [1]}))
    with pytest.raises(StorageError, match="not written by perdure"):
        export(sources, str(tmp_path / "lake"))
    assert DeltaTable(place).version() == 0


@pytest.mark.slow
def test_in_object_storage(dumps: tuple[Memory, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On moto, which is another process: deltalake holds the interpreter's lock while it reads a table's history."""
    import boto3

    made, sources = dumps
    with moto_server(tmp_path) as endpoint:
        for name, value in environment(endpoint, *OWNER).items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        written = export(sources, "s3://bucket/lake", "names")
        assert [(one.version, one.added) for one in written] == [(0, 50), (1, 1), (2, 0), (3, 0)]
        assert export(sources, "s3://bucket/lake", "names") == []
        options = environment(endpoint, *OWNER)
        found = DeltaTable("s3://bucket/lake/names", storage_options=options).to_pyarrow_table().to_pylist()
    assert {row["key"]: row["value"] for row in found} == made.expected[-1]["names"]


def test_denied_credentials(bucket: OurServer, dumps: tuple[Memory, list[str]]) -> None:
    bucket.before = lambda method, key: 403
    with pytest.raises(StorageError) as caught:
        export(dumps[1], "s3://bucket/other", "names")
    assert bucket.requests
    assert not any(secret in str(caught.value) for secret in ("AKID", "Signature", "secret"))
    assert caught.value.__suppress_context__


def test_a_structure_that_no_state_has_is_said(dumps: tuple[Memory, list[str]], tmp_path: Path) -> None:
    _, sources = dumps
    with pytest.raises(UnsupportedError, match="no structure 'balancez'"):
        export(sources, str(tmp_path / "lake"), "balancez")
    assert export(sources, str(tmp_path / "numbers"), "numbers")  # a state may be without one that another has


def test_commits_have_the_names_that_the_canister_declares(tmp_path: Path) -> None:
    @canister_class
    class Book:
        pages: StableBTreeMap[nat64, str] = stable()

        @update
        def fill(self, count: nat64) -> None:
            self.pages.apply((key, f"page {key}") for key in range(count))

    with Subnet(tmp_path / "state", history=None) as subnet:
        book = subnet.install(Book)
        book.actor().fill(30)
        book.actor().fill(40)
    source, lake = f"{tmp_path / 'state'}:{book.id}", str(tmp_path / "lake")
    states = commits_of(tmp_path / "state", str(book.id), None)
    assert {one.table for one in export_delta(states, lake, None, ["pages"])} == {"pages"}
    assert rows_of(f"{lake}/pages") == {key.to_bytes(8): f"page {key}".encode() for key in range(40)}
    told = CliRunner().invoke(perdure, ["fleet", "export", source, "--commits", "--delta", lake])
    assert told.output == f"nothing new: the newest versions in {lake} are of these sources\n"
    told = CliRunner().invoke(perdure, ["fleet", "export", source, "--delta", "s3:/lake"])
    assert isinstance(told.exception, UnsupportedError)
    assert "begins with s3://" in str(told.exception)
