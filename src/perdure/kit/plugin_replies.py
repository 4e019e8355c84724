"""The part of the pytest plugin that compares replies with what they were: a file of Candid text beside each test.

    def test_holders(canister, alice, reply_snapshot):
        reply_snapshot(canister("ledger").actor(alice).holders, 10)       # calls it

    pytest --perdure-update                                               # what is replied now is right

The files are ``__replies__/MODULE/TEST.txt``, with ``-2`` for the second reply of a test. They are kept with the tests.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable
from difflib import unified_diff
from pathlib import Path
from typing import Final

import pytest

__all__ = ["reply_snapshot"]

DIRECTORY: Final = "__replies__"
_LONG_NAME: Final = 100
_SHOWN_LINES: Final = 60


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("perdure", "Internet Computer canisters").addoption(
        "--perdure-update",
        action="store_true",
        help="take what canisters reply now for right, and write it to the files that reply_snapshot compares with",
    )


@pytest.fixture
def reply_snapshot(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Fails the test where a reply differs from the one on file: ``reply_snapshot(actor.holders, 10)``.

    The first argument is a method of an actor, which is called with the others, or bytes that a canister replied, or
    text. Each call in a test has a file of its own, numbered; ``name`` names it. What changes with every run, such as
    times, has no place in it: pass the text without it.
    """
    count = 0

    def compare(reply: object, *args: object, name: str | None = None) -> None:
        nonlocal count
        __tracebackhide__ = True
        count += 1
        text = _text(reply, args)
        path = _place(request.node, name if name is not None else "" if count == 1 else str(count))
        if request.config.getoption("--perdure-update"):
            _write(path, text)
            return
        _compare(path, text, request.config.rootpath)

    return compare


def _text(reply: object, args: tuple[object, ...]) -> str:
    if isinstance(reply, str | bytes | bytearray) and args:
        raise TypeError("arguments go with a method of an actor, found a reply")
    if isinstance(reply, str):
        return reply
    if isinstance(reply, bytes | bytearray):
        from perdure.candid import decode_with_types, values_to_text

        return values_to_text(*decode_with_types(reply))
    asked = getattr(reply, "text", None)
    if not callable(asked):
        raise TypeError(f"expected a method of an actor, bytes or text, found {type(reply).__name__}: {reply!r:.80}")
    return str(asked(*args))


def _place(item: pytest.Item, name: str) -> Path:
    test = item.nodeid.partition("::")[2] or item.name
    whole = f"{test}-{name}" if name else test
    plain = re.sub(r"[^A-Za-z0-9_-]+", ".", whole).strip(".")
    if (
        len(plain) > _LONG_NAME or "[" in whole or re.search(r"[^A-Za-z0-9_-]", name)
    ):  # what tells them apart may be lost
        plain = f"{plain[:_LONG_NAME].strip('.')}-{zlib.crc32(whole.encode(errors='replace')):08x}"
    return item.path.parent / DIRECTORY / item.path.stem / f"{plain}.txt"


def _write(path: Path, text: str) -> None:
    """Whole or not at all: workers of xdist may repeat a test."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(text + "\n", encoding="utf-8", newline="")
    beside.replace(path)


def _compare(path: Path, text: str, root: Path) -> None:
    __tracebackhide__ = True
    shown = os.path.relpath(path, root)
    try:
        kept = path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        pytest.fail(f"no reply on file in {shown}: `pytest --perdure-update` writes this one:\n{text}", pytrace=False)
    if kept == text + "\n":
        return
    lines = list(unified_diff(kept.splitlines(), text.splitlines(), shown, "replied now", lineterm="", n=2))
    more = len(lines) - _SHOWN_LINES
    told = "\n".join([*lines[:_SHOWN_LINES], *([f"... and {more} lines more"] if more > 0 else [])])
    pytest.fail(f"another reply than on file; `pytest --perdure-update` takes it for right\n{told}", pytrace=False)
