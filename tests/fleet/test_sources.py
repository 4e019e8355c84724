"""What patterns, directories and lists mean."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from perdure import Subnet
from perdure.errors import StorageError, UnsupportedError
from perdure.fleet import expand

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


def test_patterns_and_lists_mean_each_source_once(fleet: Path) -> None:
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


def test_a_url_with_credentials_is_refused_and_not_repeated(fleet: Path) -> None:
    with pytest.raises(UnsupportedError) as refused:
        expand(["s3://key:secret@bucket/snaps/"], "canisters")
    assert "secret" not in str(refused.value)
    with pytest.raises(UnsupportedError, match="give files"):
        expand(["s3://bucket/modules/"], "modules")
