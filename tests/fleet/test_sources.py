"""What patterns, directories and lists mean."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from object_servers import OurServer
from perdure import Subnet
from perdure.errors import StorageError, UnsupportedError
from perdure.fleet import Found, expand
from perdure.fleet.sources import mark_of_files
from perdure.storage import archive_state, push_snapshot

WASM = Path(__file__).parent.parent / "canisters" / "modules" / "kv32.wasm"


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    subnet = Subnet()
    one = subnet.install(WASM)
    one.write_snapshot(tmp_path / "snaps" / "deep" / "a")
    one.write_snapshot(tmp_path / "snaps" / "b")
    with Subnet(tmp_path / "state") as kept:
        kept.install(WASM)
        kept.install(WASM)
    (tmp_path / "dumps").mkdir()
    for name in ("a.bin", "b.bin.gz", "c.txt"):
        (tmp_path / "dumps" / name).write_bytes(bytes(65536))
    return tmp_path


def test_a_bench_changes_with_what_it_measures_and_is_built_of(tmp_path: Path) -> None:
    def found() -> Found:
        (one,) = expand([str(tmp_path)], "benches")
        return one

    (tmp_path / "canbench.yml").write_text("wasm_path: built/bench.wasm\nstable_memory:\n  file: memory.bin\n")
    marks = [found()]
    assert not marks[0].module_hash
    (tmp_path / "built").mkdir()
    for number, name in enumerate(("built/bench.wasm", "memory.bin", "built/bench.wasm")):
        (tmp_path / name).write_bytes(bytes(number + 1))
        marks.append(found())
    assert len({one.mark for one in marks}) == 4
    assert marks[-1].module_hash == hashlib.sha256(bytes(3)).hexdigest()
    (tmp_path / "canbench.yml").write_text("wasm_path: built/bench.wasm\nbuild_cmd: make")
    before = found().mark
    (tmp_path / "target").mkdir()
    (tmp_path / "src").mkdir()
    for name in ("built/bench.wasm", "target/more", ".hidden", "canbench_results.yml"):  # what building makes
        (tmp_path / name).write_text("new")
        assert found().mark == before
    for number in range(6):
        (tmp_path / "src" / f"{number}.rs").write_text("fn main() {}")
        assert found().mark != before
        before = found().mark
    (tmp_path / "canbench.yml").write_bytes(b"\xff")  # which the benchmarks will say
    assert found().mark


def test_directories_are_looked_through(fleet: Path) -> None:
    found = expand(["."], "canisters")
    assert [one.source.rpartition(":")[0] or one.source for one in found] == [
        "./snaps/b",
        "./snaps/deep/a",
        "./state",
        "./state",
    ]
    assert {one.module_hash for one in found} == {hashlib.sha256(WASM.read_bytes()).hexdigest()}
    assert [one.source for one in expand(["dumps", "snaps/b"], "memories")] == [
        "dumps/a.bin",
        "dumps/b.bin.gz",
        "snaps/b",
    ]
    named = expand([found[2].source], "canisters")
    assert [(one.source, one.module_hash) for one in named] == [(found[2].source, found[2].module_hash)]


def test_patterns_and_lists_mean_each_source_once(fleet: Path, bucket: OurServer) -> None:
    (fleet / "list").write_text("# mine\nsnaps/b\n\ndumps/*.bin\nnot-there\ns3://bucket/key\n")
    found = [one.source for one in expand(["snaps/*", "@list"], "memories")]
    assert found == ["snaps/b", "snaps/deep/a", "dumps/a.bin", "not-there", "s3://bucket/key"]


def test_what_is_not_there_is_a_source_and_nothing_is_an_error(fleet: Path) -> None:
    assert [one.source for one in expand(["missing", "state:missing"], "canisters")] == ["missing", "state:missing"]
    with pytest.raises(StorageError, match="no modules found"):
        expand(["dumps"], "modules")
    with pytest.raises(StorageError, match="no such file"):
        expand(["@missing"], "canisters")


def test_a_mark_changes_with_the_content(fleet: Path) -> None:
    (before,) = expand(["dumps/a.bin"], "memories")
    (fleet / "dumps" / "a.bin").write_bytes(bytes(2 * 65536))
    (after,) = expand(["dumps/a.bin"], "memories")
    assert before.mark != after.mark
    first = expand(["state"], "canisters")
    with Subnet(fleet / "state") as kept:
        kept.install(WASM)
    assert expand(["state"], "canisters")[0].mark != first[0].mark


def test_urls_are_listed(fleet: Path) -> None:
    url = f"file://{fleet}"
    assert [one.source for one in expand([f"{url}/snaps/"], "canisters")] == [f"{url}/snaps/b", f"{url}/snaps/deep/a"]
    found = expand([f"{url}/*/[ab]*"], "memories")
    assert [one.source.removeprefix(url) for one in found] == [
        "/dumps/a.bin",
        "/dumps/b.bin.gz",
        "/snaps/b",
        "/snaps/deep/a",
    ]
    assert found[0].size_bytes == 65536
    assert all(one.mark for one in found)
    assert {bool(one.module_hash) for one in found[2:]} == {True}
    assert expand([f"{url}/snaps/b"], "canisters")[0].source == f"{url}/snaps/b"
    with pytest.raises(StorageError, match="no canisters found"):
        expand([f"{url}/dumps/"], "canisters")


def test_a_url_has_a_mark_that_changes_with_what_it_names(fleet: Path, bucket: OurServer) -> None:
    """So that a campaign that goes on does again what was replaced."""

    def marks() -> dict[str, str]:
        return {one.source: one.mark for one in expand(urls, "memories")}

    push_snapshot("snaps/b", "s3://bucket/snap")
    bucket.put("dump.bin", bytes(65536))
    archive_state("state", "s3://bucket/archive")
    canister = expand(["state"], "canisters")[0].source.rpartition(":")[2]
    urls = ["s3://bucket/snap", "s3://bucket/snap#heap", "s3://bucket/dump.bin", f"s3://bucket/archive:{canister}"]
    urls += [f"file://{fleet}/snaps/b", f"file://{fleet}/dumps/a.bin", "s3://bucket/missing"]
    before = marks()
    assert [bool(before[url]) for url in urls] == [True] * 6 + [False]
    assert marks() == before
    snapshots = expand(urls[:1], "canisters")
    assert snapshots[0].module_hash
    assert snapshots[0].size_bytes > 0
    bucket.put("dump.bin", bytes(65536 - 1) + b"1")
    bucket.put("snap/wasm_memory.bin", bucket.objects["snap/wasm_memory.bin"].read(0, 1 << 30)[:-1] + b"1")
    with Subnet(fleet / "state") as kept:
        kept.install(WASM)
    archive_state("state", "s3://bucket/archive")
    Path("dumps/a.bin").write_bytes(bytes(65536) * 2)
    Path("snaps/b/memories").mkdir()
    Path("snaps/b/memories/own.bin").write_bytes(b"1")
    after = marks()
    assert [after[url] != before[url] for url in urls] == [True] * 6 + [False]


def test_a_store_that_does_not_answer_is_asked_once(fleet: Path, bucket: OurServer) -> None:
    bucket.before = lambda method, key: 400
    found = expand([f"s3://bucket/{number}" for number in range(200)], "memories")
    assert [one.mark for one in found] == [""] * 200
    assert bucket.requests < 100
    bucket.before = lambda method, key: 403 if key == "1" else None
    bucket.put("2", b"1")
    assert [bool(one.mark) for one in expand(["s3://bucket/1", "s3://bucket/2"], "memories")] == [False, True]


def test_names_that_can_be_none_are_rows_that_fail(fleet: Path) -> None:
    long = "a" * 5_000
    (fleet / "list").write_bytes(f"{long}\n{long}:canister\na\0b\n".encode())
    assert [one.source for one in expand(["@list"], "canisters")] == [long, f"{long}:canister", "a\0b"]


def test_a_module_of_terabytes_is_not_read(fleet: Path) -> None:
    with (fleet / "snaps" / "b" / "wasm_module.bin").open("r+b") as file:
        file.truncate(1 << 40)
    assert [one.module_hash for one in expand(["snaps/b"], "canisters")] == [""]


def test_files_among_words_are_marked_by_what_is_in_them(fleet: Path) -> None:
    (fleet / "new.wasm").write_bytes(b"1")
    (fleet / "linked.wasm").symlink_to("new.wasm")
    words = ["upgrade-check", "--limit", "10", "new.wasm", "linked.wasm", "a" * 5_000]
    before = mark_of_files(words)
    assert len(before.split()) == 2
    (fleet / "new.wasm").write_bytes(b"2")
    assert all(one != other for one, other in zip(before.split(), mark_of_files(words).split(), strict=True))


def test_a_url_with_credentials_is_refused_and_not_repeated(fleet: Path) -> None:
    with pytest.raises(UnsupportedError) as refused:
        expand(["s3://key:secret@bucket/snaps/"], "canisters")
    assert "secret" not in str(refused.value)
    with pytest.raises(UnsupportedError, match="give files"):
        expand(["s3://bucket/modules/"], "modules")
