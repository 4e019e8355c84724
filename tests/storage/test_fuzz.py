"""Lies with right checksums: a few of the mutants of `fuzz_script`, and proof that it would find what is wrong."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from perdure.errors import StorageError
from perdure.execution import schema
from perdure.record import Table
from perdure.storage import StateDirectory, TemporaryStore

RANDOM = 150
EDGES = 250
SNAPSHOTS = 40
PYTHON = 12


@pytest.fixture(autouse=True)
def alarm(fuzz_script: ModuleType) -> Iterator[None]:
    before = {number: signal.signal(number, fuzz_script.too_long) for number in fuzz_script.TOO_LONG}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def store(tmp_path: Path) -> TemporaryStore:
    return TemporaryStore(tmp_path)


def examine(fuzz_script: ModuleType, numbers: list[int], store: TemporaryStore) -> Counter[str]:
    return Counter(fuzz_script.examine(1, number, store, write=number % 3 == 0)[1] for number in numbers)


def test_golden_directories_are_what_the_second_decoder_says(fuzz_script: ModuleType, store: TemporaryStore) -> None:
    for name in fuzz_script.NAMES:
        tree = fuzz_script.parsed(name)
        outcome = fuzz_script.check(fuzz_script.golden(name), tree, store, write=False)
        assert outcome == "opened, with a past" if tree.segments else outcome.startswith("opened")
        rest = fuzz_script.fresh(name, is_past=False)
        assert fuzz_script.check(fuzz_script.golden(name), rest, store, write=True) in {
            "opened",
            "refused by the rules: record",  # that subnet's record is one of a test
        }
        built = fuzz_script.second.build(fuzz_script.second.parse(fuzz_script.golden(name)))
        for file, data in fuzz_script.golden(name).items():
            assert data.startswith(built[file].rstrip(b"\0")), file


def test_fields_at_their_edges(fuzz_script: ModuleType, store: TemporaryStore) -> None:
    count = fuzz_script.edge_count()
    found = examine(fuzz_script, list(range(0, count, count // EDGES)), store)
    assert sum(number for outcome, number in found.items() if outcome.startswith("refused")) > EDGES // 10
    assert sum(number for outcome, number in found.items() if outcome.startswith("opened")) > EDGES // 10


def test_fields_at_random(fuzz_script: ModuleType, store: TemporaryStore) -> None:
    first = fuzz_script.edge_count()
    examine(fuzz_script, list(range(first, first + RANDOM)), store)


def test_snapshots_at_random(fuzz_script: ModuleType, tmp_path: Path) -> None:
    original = fuzz_script.a_snapshot(tmp_path)
    found = Counter(fuzz_script.examine_snapshot(1, number, original)[1] for number in range(SNAPSHOTS))
    assert len(found) > 1


@pytest.mark.parametrize("rules", [(), (lambda found: 1 // 0,)])
def test_a_check_that_is_gone_is_found(
    fuzz_script: ModuleType, store: TemporaryStore, monkeypatch: pytest.MonkeyPatch, rules: tuple[object, ...]
) -> None:
    """With the rules of canisters' records away, or failing in their own way, one edge or another shows it."""
    table = schema.FORMAT.tables[schema.CANISTER]
    monkeypatch.setattr(table, "_rules", rules)
    assert isinstance(table, Table)
    path = next(path for path in fuzz_script.paths("v1-busy") if path[0] == "body" and path[-1] == 18)
    directory = fuzz_script.fresh("v1-busy", is_past=False)
    fuzz_script.put((directory, path), [[b"\5" * 10, 7]])
    files, tree = fuzz_script._built(directory)
    if rules:
        with pytest.raises(ZeroDivisionError):
            fuzz_script.check(files, tree, store, write=False)
    else:
        assert fuzz_script.check(files, tree, store, write=False) == "opened"
    monkeypatch.undo()
    assert "record" in fuzz_script.check(files, tree, store, write=False)


def test_a_past_that_is_not_what_was_hashed_is_refused(fuzz_script: ModuleType, store: TemporaryStore) -> None:
    """Every checksum is right: only the hash that was kept says that a page of the past is another one."""
    directory = fuzz_script.fresh("v1-busy", is_past=True)
    for _, records in directory.segments.values():
        for record in records:
            if record.pages and record.meta and record.meta.get(6):
                record.pages = record.pages[:-1] + bytes([record.pages[-1] ^ 1])  # those of `before` are the last
    state = StateDirectory.open("/state", disk=fuzz_script.disk_of(fuzz_script.second.build(directory)), store=store)
    refused = set()
    for version in state.history():
        try:
            state.at(version.version).close()
        except StorageError as error:
            refused.add(error.message.partition(" ")[2].partition(" ")[2].partition(":")[0])
    assert refused == {"does not give the state hash that was kept"}
    state.abandon()


def test_crafted_canisters_in_python(fuzz_script: ModuleType) -> None:
    found = Counter(fuzz_script.examine_python(1, number)[1] for number in range(PYTHON))
    assert len(found) > 1
