"""`perdure doctor`: what is missing is named, with what to do."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

Run = Callable[..., tuple[str, str]]


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PERDURE_CACHE_DIR", str(tmp_path / "cache"))


def findings(perdure: Run, code: int = 0) -> dict[str, dict[str, str]]:
    return {one["what"]: one for one in json.loads(perdure("doctor", "--json", code=code)[0])["findings"]}


def test_everything_is_looked_at(perdure: Run) -> None:
    found = findings(perdure)
    assert {"python", "wasmtime", "changed pages", "open files", "here", "compile cache"} <= set(found)
    extras = set(metadata.metadata("perdure").get_all("Provides-Extra") or [])
    named = {name.removeprefix("extra ") for name in found if name.startswith("extra ")}
    assert named == extras - {"all", "dev", "pocket-ic", "dwarf"}  # of two that need nothing any more
    assert all(one["state"] in ("good", "slower", "missing", "wrong") for one in found.values())


def test_the_way_that_changed_pages_are_found(perdure: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_PORTABLE", "bytes")
    found = findings(perdure)["changed pages"]
    assert found["state"] == "slower"
    assert "every page" in found["found"]
    assert found["advice"]


def test_an_extra_that_is_not_there(perdure: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "apsw":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = findings(perdure)["extra sql"]
    assert (found["state"], found["found"]) == ("missing", "without apsw")
    assert found["advice"] == 'pip install "perdure[sql]"'


def test_what_it_cannot_work_with_is_an_error(perdure: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = resource.getrlimit
    few = {resource.RLIMIT_AS: (1 << 32, 1 << 32), resource.RLIMIT_NOFILE: (256, 4_096)}
    monkeypatch.setattr(resource, "getrlimit", lambda which: few.get(which) or real(which))
    found = findings(perdure, code=1)
    assert found["address space"]["state"] == "wrong"
    assert found["open files"]["advice"] == "ulimit -n 1024 (at most 4,096 here)"


def test_quiet_names_only_what_is_not_as_it_should_be(perdure: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_PORTABLE", "bytes")
    lines = perdure("doctor", "-q")[0].splitlines()
    assert lines[0].startswith("slower")
    assert not any(line.startswith(("good", "missing")) for line in lines)


def test_a_cache_that_cannot_be_written(perdure: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PERDURE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    found = findings(perdure)["compile cache"]
    assert (found["state"], found["found"]) == ("slower", f"{tmp_path / 'file'} cannot be written")
