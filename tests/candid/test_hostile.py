"""Messages made to cost much: each is read or refused with an error, in bounded work, at every type.

Work is counted in calls of Python functions, which do not depend on the machine. `benchmarks/candid_speed.py` times
the same messages.
"""

import contextlib
import sys
import threading
from pathlib import Path

import pytest

from perdure.candid import parse_types
from perdure.candid.codec import Codec
from perdure.candid.decoding import budget
from perdure.errors import MalformedError

CORPUS = [
    line.split(": ", 2)
    for line in (Path(__file__).parent / "hostile.txt").read_text().splitlines()
    if not line.startswith("#")
]
TYPES = {name: parse_types(text) for kind, name, text in CORPUS if kind == "type"}
MESSAGES = {name: bytes.fromhex(text) for kind, name, text in CORPUS if kind == "message"}
MAX_CALLS = 40_000


class Counter:
    def __init__(self):
        self.calls = 0

    def __call__(self, _frame, event, _arg):
        self.calls += event == "call"

    def __enter__(self):
        threading.setprofile(self)
        sys.setprofile(self)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)
        threading.setprofile(None)


def outcome(types, message):
    with Counter() as counter, contextlib.suppress(MalformedError):
        Codec(types).decode(message)
    return counter.calls


@pytest.mark.parametrize("name", MESSAGES)
def test_a_hostile_message_takes_bounded_work(name):
    message = MESSAGES[name]
    assert len(message) <= 1024
    calls = {kind: outcome(types, message) for kind, types in [("as it is", None), *TYPES.items()]}
    worst = max(calls, key=calls.get)
    assert calls[worst] < MAX_CALLS, worst


@pytest.mark.parametrize("size", [100, 1000, 10_000])
def test_the_budget_grows_with_the_message(size):
    # `vec null` costs a step for each element, whatever else is in the message.
    padding = b"\x6e\x7f" * (size // 2)
    count = 1 + size // 2

    def message(length):
        numbers = bytes([length & 127 | 128, length >> 7 & 127 | 128, length >> 14 & 127])
        entries = bytes([count & 127 | 128, count >> 7])
        return b"DIDL" + entries + b"\x6d\x7f" + padding + b"\1\0" + numbers

    allowed = budget(len(message(0))) - 100
    [values] = Codec(None).decode(message(allowed))
    assert len(values) == allowed
    with pytest.raises(MalformedError, match="costs more to decode"):
        Codec(None).decode(message(allowed + 200))


def test_a_quota_can_be_given():
    message = b"DIDL\1\x6d\x7f\1\0\xa0\x8d\x06"
    with pytest.raises(MalformedError, match="costs more to decode"):
        Codec(None).decode(message)
    assert Codec(None).decode(message, quota=200_000) == ([None] * 100_000,)
