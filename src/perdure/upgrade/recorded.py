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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, final

from perdure.candid import encode, parse_values
from perdure.canister import Reject, Reply
from perdure.errors import MalformedError, PerdureError, StorageError
from perdure.execution.inputs import decode_inputs, message_of
from perdure.execution.messages import CallMessage, Response
from perdure.ic.principal import ANONYMOUS, Principal
from perdure.subnet.subnet import Canister
from perdure.upgrade.stage import Answerer, Call
from perdure.upgrade.version import Version

__all__ = ["Recording", "history_calls", "read_recording"]

MAX_CALLS: Final = 10_000
OUTSIDE: Final = frozenset(
    [
        "http_request",
        "sign_with_ecdsa",
        "sign_with_schnorr",
        "vetkd_derive_key",
        "bitcoin_get_balance",
        "bitcoin_get_utxos",
        "bitcoin_send_transaction",
        "bitcoin_get_current_fee_percentiles",
        "ecdsa_public_key",
        "schnorr_public_key",
        "vetkd_public_key",
    ]
)
"""Methods of the management canister whose answers come from outside of a subnet, or need keys that nobody has here."""


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
                return message.method_name in OUTSIDE
            return message.callee not in here

        return answer


def read_recording(path: Path, canister: Canister) -> Recording:
    """A recording out of a file.

    Raises:
        StorageError: it cannot be read.
        MalformedError: a line that is none, with its number.
    """
    try:
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
        except (ValueError, KeyError, PerdureError) as error:
            raise MalformedError(f"{path}, line {number}: {str(error) or type(error).__name__}") from error
    return found


def _call(one: Mapping[str, Any], version: Version) -> Call:
    name = one["method"]
    if not isinstance(name, str):
        raise MalformedError(f"a method is a text, found {name!r}")
    kinds = {"query": "query", "composite_query": "query", "update": "update"}
    kind: Literal["query", "update"] = kinds.get(one.get("kind") or version.methods.get(name, "update"), "update")  # type: ignore[assignment]
    sender = Principal.from_text(one["sender"]) if "sender" in one else ANONYMOUS
    method = version.signature(name)
    types = None if method is None else method.func.args
    arg = bytes.fromhex(one["arg_hex"]) if "arg_hex" in one else encode(*parse_values(one.get("args", "()"), types))
    return Call(kind, name, arg, sender.raw_bytes, "replay")


def _answer(one: Mapping[str, Any]) -> _Answer:
    callee = None if one["callee"] == "*" else Principal.from_text(one["callee"]).raw_bytes
    if "reject" in one:
        response: Response = Reject(int(one.get("code", 4)), str(one["reject"]), "")
    elif "reply_hex" in one:
        response = Reply(bytes.fromhex(one["reply_hex"]))
    else:
        response = Reply(encode(*parse_values(one["reply"])))
    method = one.get("method")
    return _Answer(callee, None if method in (None, "*") else str(method), response)


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
