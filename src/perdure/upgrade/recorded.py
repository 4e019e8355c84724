"""Calls and answers that somebody recorded, and who answers calls that leave a canister.

A recording is a text of JSON objects, one a line:

```json
{"method": "transfer", "args": "(record { amount = 5 })", "sender": "2vxsx-fae"}
{"method": "balance", "arg_hex": "4449444c0000", "kind": "query"}
{"callee": "ryjl3-tyaaa-aaaaa-aaaba-cai", "method": "icrc1_fee", "reply": "(10_000)"}
{"callee": "*", "method": "notify", "reject": "not today", "code": 4}
```

With ``callee`` a line is an answer to a call that the canister makes. Where several fit, they are given in turn, the
last one again and again. Arguments and replies are Candid text (``args``, ``reply``) or hexadecimal (``arg_hex``,
``reply_hex``).
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, final

from perdure.candid import encode, parse_values
from perdure.canister import Reject, Reply
from perdure.errors import MalformedError, PerdureError, StorageError
from perdure.execution.inputs import decode_inputs, message_of
from perdure.execution.messages import CallMessage, Outcall, Response
from perdure.execution.outcalls import HttpAnswer, answer_outcall, answers_of, what_is_asked
from perdure.execution.world import World
from perdure.ic.principal import ANONYMOUS, Principal
from perdure.subnet.subnet import Canister
from perdure.units import meant
from perdure.upgrade.stage import Answerer, Call
from perdure.upgrade.version import Version

__all__ = ["Recording", "history_calls", "history_outcalls", "read_recording"]

MAX_CALLS: Final = 10_000
MAX_REJECT_CODE: Final = 6
OUTCALLS: Final = ("http_request", "flexible_http_request")
OUTSIDE: Final = frozenset(
    [
        *OUTCALLS,
        "bitcoin_get_balance",
        "bitcoin_get_utxos",
        "bitcoin_send_transaction",
        "bitcoin_get_current_fee_percentiles",
    ]
)
"""Methods of the management canister whose answers come from outside of a subnet."""


@final
@dataclass(frozen=True)
class _Answer:
    callee: bytes | None
    method: str | None
    response: Response

    def fits(self, message: CallMessage) -> bool:
        return self.callee in (None, message.callee) and self.method in (None, message.method_name)


@final
@dataclass
class Recording:
    """Calls to try, and answers to give."""

    calls: list[Call] = field(default_factory=list)
    answers: list[_Answer] = field(default_factory=list)
    outcalls: dict[str, tuple[list[HttpAnswer], bool]] = field(default_factory=dict)
    """By method and URL, what answers an outcall, and whether headers vary; others are not answered."""

    def answerer(self, canister: Canister) -> Answerer:
        """Who answers the calls that leave: a recorded answer, a canister that is there; nobody."""
        here = {one.id.raw_bytes for one in canister._subnet.canisters} | {canister._subnet._state.subnet_id}
        given: dict[int, int] = {}

        def answer(message: CallMessage) -> Response | bool:
            fitting = [index for index, one in enumerate(self.answers) if one.fits(message)]
            if fitting:
                chosen = next((index for index in fitting if not given.get(index)), fitting[-1])
                given[chosen] = given.get(chosen, 0) + 1
                return self.answers[chosen].response
            if message.callee == b"":
                return message.method_name in OUTSIDE and not self._knows(message)
            return message.callee not in here

        return answer

    def _knows(self, message: CallMessage) -> bool:
        """Whether a call is an outcall whose answer is here."""
        if message.method_name not in OUTCALLS or not self.outcalls:
            return False
        outcall = Outcall(message.origin, message.caller, message.method_name, message.arg, 0, 0)
        try:
            return what_is_asked(outcall) in self.outcalls
        except MalformedError:
            return True  # the rules refuse it

    def answer_outcalls(self, world: World, _: bool) -> bool:
        """Answer what is here, see `World.outcalls`."""
        found = [(number, self.outcalls.get(what_is_asked(one))) for number, one in world.state.outcalls.items()]
        for number, answer in found:
            if answer is not None:
                answer_outcall(world, number, answer[0], vary=answer[1])
        return any(answer is not None for _, answer in found)


def read_recording(path: Path, canister: Canister) -> Recording:
    """A recording out of a file.

    Raises:
        StorageError: it cannot be read.
        MalformedError: a line that is none, with its number.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise StorageError("no file that has an end", path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(str(error), path) from error
    found = Recording()
    assert canister.module is not None
    version = Version(canister.module)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            one = json.loads(line)
            if not isinstance(one, dict):
                raise MalformedError("an object is expected")
            if "callee" in one:
                found.answers.append(_answer(one))
            else:
                found.calls.append(_call(one, version))
        except (ValueError, KeyError, RecursionError, PerdureError) as error:
            raise MalformedError(f"{path}, line {number}: {str(error) or type(error).__name__}") from error
    return found


def _text(one: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """A text of a line.

    Raises:
        MalformedError: there is none, or it is something else.
    """
    found = one.get(name, default)
    if not isinstance(found, str):
        raise MalformedError(f"{name} is a text, found {'nothing' if found is None else repr(found):.60}")
    return found


_OF_A_CALL: Final = ("method", "kind", "sender", "args", "arg_hex")


def _call(one: Mapping[str, Any], version: Version) -> Call:
    name = _text(one, "method")
    unknown = [key for key in one if key not in _OF_A_CALL]
    if unknown:
        raise MalformedError(f"{unknown[0]!r:.60} is nothing that a call has, expected {', '.join(_OF_A_CALL)}")
    if name not in version.methods:
        raise MalformedError(f"no method {name!r:.60}, {meant(name, version.methods)}")
    kinds: dict[str, Literal["query", "update"]] = {"query": "query", "composite_query": "query", "update": "update"}
    kind = _text(one, "kind", version.methods.get(name, "update"))
    if kind not in kinds:
        raise MalformedError(f"kind is one of {', '.join(kinds)}, found {kind!r:.60}")
    sender = Principal.from_text(_text(one, "sender")) if "sender" in one else ANONYMOUS
    method = version.signature(name)
    types = None if method is None else method.func.args
    if "arg_hex" in one:
        return Call(kinds[kind], name, bytes.fromhex(_text(one, "arg_hex")), sender.raw_bytes, "replay")
    arg = encode(*parse_values(_text(one, "args", "()"), types))
    return Call(kinds[kind], name, arg, sender.raw_bytes, "replay")


def _answer(one: Mapping[str, Any]) -> _Answer:
    name = _text(one, "callee")
    callee = None if name == "*" else Principal.from_text(name).raw_bytes
    if "reject" in one:
        code = one.get("code", 4)
        if not isinstance(code, int) or not 1 <= code <= MAX_REJECT_CODE:
            raise MalformedError(f"code is a number from 1 to {MAX_REJECT_CODE}, found {code!r:.60}")
        response: Response = Reject(code, _text(one, "reject"), "")
    elif "reply_hex" in one:
        response = Reply(bytes.fromhex(_text(one, "reply_hex")))
    elif "reply" in one:
        response = Reply(encode(*parse_values(_text(one, "reply"))))
    else:
        raise MalformedError("an answer has reply, reply_hex or reject, found none of them")
    method = _text(one, "method", "*")
    return _Answer(callee, None if method == "*" else method, response)


def history_outcalls(canister: Canister) -> dict[str, tuple[list[HttpAnswer], bool]]:
    """The newest answer to each outcall that a state directory's history has, by method and URL."""
    directory = canister._subnet._history_directory()
    found: dict[str, tuple[list[HttpAnswer], bool]] = {}
    for version in () if directory is None else directory.history():
        for one in reversed(decode_inputs(version.message.inputs)):
            if one.kind == "outcall" and len(found) < MAX_CALLS:
                _, answers, vary, asked = one.fields
                found.setdefault(asked, (answers_of(answers), vary))
    return found


def history_calls(canister: Canister) -> list[Call]:
    """The calls by users that a state directory's history has of a canister, oldest first.

    Raises:
        StorageError: it keeps none.
    """
    directory = canister._subnet._history_directory()
    if directory is None:
        raise StorageError("keeps no history that could be replayed: it is in memory, or a snapshot", str(canister.id))
    found: list[Call] = []
    assert canister.module is not None
    kinds = Version(canister.module).methods
    for version in directory.history():
        for one in decode_inputs(version.message.inputs):
            if one.kind in ("call", "submit"):
                message = message_of(one.fields[0])
                if message.callee == canister.id.raw_bytes:
                    kind: Literal["query", "update"] = (
                        "update" if kinds.get(message.method_name) == "update" else "query"
                    )
                    found.append(Call(kind, message.method_name, message.arg, message.caller, "replay"))
        if len(found) >= MAX_CALLS:
            break
    found.reverse()
    if not found:
        raise StorageError("the history has no calls of it: keep one with Subnet(path, history=None)", directory.path)
    return found
