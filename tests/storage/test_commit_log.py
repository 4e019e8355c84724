"""The end of the log: what was appended is on the platter once somebody has waited for it, whatever cut that off."""

from __future__ import annotations

import threading
from itertools import count
from pathlib import Path

import pytest
from interrupting import is_interrupted, no_hang

from perdure.storage.commit_log import CommitLog
from perdure.storage.disk import RealDisk, RealFile
from perdure.storage.log import Place, record_bytes, scan

START = Place(1, 0, bytes(32))


@pytest.fixture
def file(tmp_path: Path) -> RealFile:
    return RealDisk().open(str(tmp_path / "log"), write=True, create=True)


def _appended(file: RealFile, metas: list[bytes]) -> CommitLog:
    """A log with records on their way: the first is being written, the others have gathered."""
    file.truncate(0)
    log = CommitLog(file, "log", START, 0, sealed=False, write_behind=False)
    for meta in metas:
        log.reserve(record_bytes(len(meta), 0))
        log.append(meta, ())
    return log


def _metas(file: RealFile) -> list[bytes]:
    return [record.meta for record in scan(file, START)]


@pytest.mark.parametrize("is_direct", [True, False])
def test_a_wait_that_was_cut_off_anywhere_is_done_again(
    file: RealFile, is_direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_direct:
        monkeypatch.setenv("PERDURE_PORTABLE", "1")
    metas = [b"one", b"two", b"three"]
    for place in count(1, 3):
        log = _appended(file, metas)
        with no_hang(120):
            was_there = is_interrupted(lambda: log.sync(3), place)  # noqa: B023 -- at once
            log.sync(3)
        assert log.durable == 3
        assert _metas(file) == metas, place
        if not was_there:
            break
    assert place > 100


def test_whoever_waits_does_not_depend_on_being_woken(file: RealFile) -> None:
    log = _appended(file, [b"one"])
    log._leader, log._led_until = 1, 0.0  # no thread has this number: an exception has ended the one that led
    waited = []
    threads = [threading.Thread(target=lambda: waited.append(log.sync(1)), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(waited) == 2
    assert _metas(file) == [b"one"]
