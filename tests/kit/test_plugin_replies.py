"""Replies on file: written when asked for, compared otherwise, each test with files of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

LEDGER = {path!r}


@pytest.fixture
def ledger(install, alice, bob):
    return install(LEDGER, {{"symbol": "X", "fee": 1, "holders": [(alice, {amount})]}}).actor(alice)


def test_one(ledger, bob, reply_snapshot):
    reply_snapshot(ledger.transfer, {{"to": bob, "amount": 5}})
    reply_snapshot(ledger.transfer, {{"to": bob, "amount": 50_000}}, name="too much")


@pytest.mark.parametrize("text", ["a/b", "a.b"])
def test_many(reply_snapshot, text):
    reply_snapshot(text)
    reply_snapshot(b"DIDL\\0\\1\\x7d\\5")


def test_wrong(reply_snapshot):
    with pytest.raises(TypeError, match="expected a method of an actor, bytes or text, found int"):
        reply_snapshot(5)
"""


def run(directory: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "CI": ""}
    )
    return done.stdout + done.stderr


@pytest.mark.slow
def test_replies_are_written_compared_and_kept_apart(tmp_path, built):
    test = tmp_path / "test_it.py"
    test.write_text(TESTS.format(path=str(built("ledger")), amount=100))
    found = run(tmp_path)
    assert "no reply on file in __replies__/test_it/test_one.txt: `pytest --perdure-update` writes this one" in found
    assert "3 failed, 1 passed" in found
    assert not (tmp_path / "__replies__").exists()

    assert "4 passed" in run(tmp_path, "--perdure-update", "-n", "2")
    files = {path.name: path.read_text() for path in (tmp_path / "__replies__/test_it").iterdir()}
    assert files["test_one.txt"] == "(variant { Ok = 1 : nat64 })\n"
    assert len(files) == 6
    assert sorted(text for name, text in files.items() if "many" in name) == ["(5 : nat)\n"] * 2 + ["a.b\n", "a/b\n"]
    assert "4 passed" in run(tmp_path)

    test.write_text(TESTS.format(path=str(built("ledger")), amount=2))
    found = run(tmp_path)
    assert "another reply than on file; `pytest --perdure-update` takes it for right" in found
    assert "-(variant { Ok = 1 : nat64 })" in found
    assert "plugin_replies.py" not in found, "perdure's own frames"
    assert "1 failed, 3 passed" in found
