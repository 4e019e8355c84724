"""Power cuts and kills, bounded; the long forms are `crash_script.py` and `kill_script.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "seed", "history"),
    [("message", 11, None), ("round", 12, None), ("checkpoint", 13, None), ("message", 14, 0), ("round", 15, 0)],
)
def test_cuts_lose_nothing_acknowledged(crash_script: ModuleType, level: str, seed: int, history: int | None) -> None:
    """More than 1,000 cuts in all, spread over all steps of 200 commits."""
    steps, cuts = crash_script.cut_everywhere(seed=seed, commits=200, level=level, every=7, history=history)
    assert steps > 1500
    assert cuts * 7 >= steps
    assert cuts > 200


REMOVALS = (
    "no sync of the log",
    "no sync of images",
    "no sync of hash files",
    "no sync of the checkpoint file",
    "no sync of blobs",
    "no sync of history",
    "no sync of answers",
    "no sync of the parent directory",
    "no sync of the directory",
    "no sync of the images' directory",
    "no sync of the blobs' directory",
    "no sync of the history's directory",
    "no sync of the answers' directory",
    "no check of a record's checksum",
    "no check of pages' checksum",
    "acknowledged before the sync",
    "no seal before images change",
    "images changed before the seal is synced",
    "images before the log",
    "log used again before the checkpoint",
    "blobs go before the checkpoint",
    "blobs go that history names",
    "files changed in place",
)


def test_every_removal_is_listed(crash_script: ModuleType) -> None:
    assert set(REMOVALS) == {*crash_script.SYNC_REMOVALS, *crash_script.CODE_REMOVALS}


@pytest.mark.slow
@pytest.mark.parametrize("name", REMOVALS)
def test_a_removed_step_is_noticed(crash_script: ModuleType, name: str) -> None:
    assert crash_script.is_caught(name, seed=6, commits=60, tries=9) is not None


@pytest.mark.slow
def test_kills_lose_nothing_acknowledged() -> None:
    script = Path(__file__).with_name("kill_script.py")
    command = [sys.executable, str(script), "--kills", "100", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("100 kills")
