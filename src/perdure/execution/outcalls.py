"""Answers to HTTPS outcalls, which come from outside: transformed by the canister, and agreed on as by thirteen nodes.

```
http_request ─▶ SubnetState.outcalls ─▶ (outside) ─▶ answer ─▶ transform ─▶ consensus ─▶ response
```

An answer is an input, which history has: whatever follows from it follows again. Where one answer stands for what all
nodes got, a second node is imagined that got it with other values in headers that differ from node to node, and in
another order, so that what would find no consensus on the network finds none here.

Spec: "IC method http_request". Words: the replica's (2026).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, final

from perdure.candid.types import Value
from perdure.canister import Reject, Reply
from perdure.errors import MalformedError
from perdure.execution.effects import respond
from perdure.execution.events import Taken
from perdure.execution.management.elsewhere import node_id
from perdure.execution.management.interface import codecs, transform_codecs
from perdure.execution.management.outcalls import MAX_RESPONSE_BYTES, refuse_headers, replication_of
from perdure.execution.messages import Outcall, Response
from perdure.execution.query import execute_transform
from perdure.execution.world import World
from perdure.ic.reject import RejectCode
from perdure.record import Plain

__all__ = [
    "HttpAnswer",
    "HttpFailure",
    "HttpResponse",
    "answer_outcall",
    "answers_of",
    "ask_outside",
    "checked_answer",
    "checked_response",
    "expire_outcalls",
    "request_of_outcall",
    "what_is_asked",
]

NOBODY_ANSWERS: Final = (
    "{} was not made: nobody answers HTTPS outcalls here; see Subnet.outcalls, or on the command line --allow-host "
    "HOST:PORT of canister call, --allow-outcalls HOST:PORT of serve"
)


@final
class HttpResponse(NamedTuple):
    """What a server has sent."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@final
class HttpFailure(NamedTuple):
    """Why there is no response."""

    code: int
    message: str


HttpAnswer = HttpResponse | HttpFailure


def checked_answer(answer: object) -> HttpAnswer:
    """The answer in the types that records have, where a canister can hear it: whoever answers may have made it up.

    Raises:
        ValueError: a status, a code of a reject or a text that cannot be told.
        TypeError: it is no answer, or parts of it are something else.
    """
    if isinstance(answer, HttpResponse):
        return checked_response(*answer)
    if not isinstance(answer, HttpFailure):
        raise TypeError(f"an HttpResponse or an HttpFailure is expected, found {answer!r:.100}")
    _check_text("why there is no response", answer.message)
    if answer.code not in _CODES:
        codes = ", ".join(f"{code.value} ({code.name})" for code in RejectCode)
        raise ValueError(f"a reject's code is one of {codes}, found {answer.code!r:.60}")
    return HttpFailure(RejectCode(answer.code), answer.message)


def checked_response(status: object, headers: object, body: object) -> HttpResponse:
    """A response of what somebody says that there is in one; errors as for `checked_answer`."""
    if not isinstance(status, int) or not 100 <= status <= 999:
        raise ValueError(f"a status from 100 to 999 is expected, found {status!r:.60}")
    if isinstance(headers, str | bytes) or not isinstance(headers, Iterable):
        raise TypeError(f"headers are pairs of a name and a value, found {headers!r:.60}")
    pairs = tuple(headers)
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"a header is a name and a value, found {pair!r:.60}")
        _check_text("a header's name", pair[0])
        _check_text("a header's value", pair[1])
    if not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError(f"a body is bytes, found {type(body).__name__}; text= takes a text")
    return HttpResponse(int(status), tuple((name, value) for name, value in pairs), bytes(body))


_CODES: Final = frozenset(RejectCode)


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{what} is a text, found {text!r:.60}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} has half a character, which no UTF-8 has: {text!r:.60}") from error


def request_of_outcall(outcall: Outcall) -> dict[str, Value]:
    """The argument that the canister gave."""
    arg: dict[str, Value] = codecs()[outcall.method_name][0].decode(outcall.arg)[0]
    return arg


def what_is_asked(outcall: Outcall) -> str:
    """Method and URL."""
    arg = request_of_outcall(outcall)
    (method,) = arg["method"]
    return f"{method.upper()} {arg['url']}"


# -- what differs from node to node

_DIFFERING: Final = re.compile(
    "age|alt-svc|cf-cache-status|cf-ray|date|etag|expires|nel|report-to|request-id|server-timing|set-cookie|traceparent|"
    "via|(x-)?ratelimit-(remaining|reset)|x-(amzn?|github)-.*|x-cache(-hits)?|x-(correlation|request|trace)-id|"
    "x-response-time|x-runtime|x-served-by|x-timer",
    re.IGNORECASE,
)
"""Headers whose values two nodes that ask at once do not get alike."""


def _as_another_node_got_it(response: HttpResponse, *, is_transformed: bool) -> HttpResponse:
    """The response with other values where they differ.

    What a transform sees has another order, too, and the header that nearly every server sends: a transform has to drop
    both. Without one the network compares what servers of the day send, mostly in one order.
    """
    headers = [(name, f"{value}0" if _DIFFERING.fullmatch(name) else value) for name, value in response.headers]
    if is_transformed:
        headers.reverse()
        if all(name.lower() != "date" for name, _ in headers):
            headers.insert(0, ("date", "Thu, 01 Jan 1970 00:00:01 GMT"))
    return response._replace(headers=tuple(headers))


# -- one node


def _limit_of(arg: dict[str, Value]) -> int:
    limit: int | None = arg["max_response_bytes"]
    return MAX_RESPONSE_BYTES if limit is None else limit


def _value(response: HttpResponse) -> Value:
    headers = [{"name": name, "value": value} for name, value in response.headers]
    return {"status": response.status, "headers": headers, "body": response.body}


def _fatal(words: str) -> Reject:
    return Reject(RejectCode.SYS_FATAL, words)


def _refuse_size(response: HttpResponse, limit: int) -> Reject | None:
    header_bytes = sum(len(name.encode()) + len(value.encode()) for name, value in response.headers)
    if header_bytes > limit:
        return _fatal(f"Header size exceeds specified response size limit {limit}")
    if header_bytes + len(response.body) > limit:
        return _fatal(f"Http body exceeds size limit of {limit} bytes.")
    words = refuse_headers(response.headers, 0)
    return None if words is None else _fatal(words)


def _node(world: World, outcall: Outcall, arg: dict[str, Value], answer: HttpAnswer) -> Response:
    """What one node makes of what it got: the bytes of an ``http_response``, or why there are none."""
    if isinstance(answer, HttpFailure):
        return Reject(RejectCode(answer.code), answer.message)
    return _refuse_size(answer, _limit_of(arg)) or _transformed(world, outcall, arg, answer)


def _transformed(world: World, outcall: Outcall, arg: dict[str, Value], answer: HttpResponse) -> Response:
    takes, gives = transform_codecs()
    limit, transform = _limit_of(arg), arg["transform"]
    if transform is None:
        return Reply(gives.encode([_value(answer)]))
    given = takes.encode([{"response": _value(answer), "context": transform["context"]}])
    response = execute_transform(world, outcall.caller, transform["function"].method, given)
    if isinstance(response, Reply) and len(response.data) > limit:
        return _fatal(f"Transformed http response exceeds limit: {limit}")
    return response


def _nodes(
    world: World, outcall: Outcall, arg: dict[str, Value], answers: Sequence[HttpAnswer], *, vary: bool
) -> list[Response]:
    """What the nodes make of what they got; where one answer stands for all, that one's and an imagined one's.

    The imagined one is not measured: what is put in its headers no server has sent.
    """
    found = [_node(world, outcall, arg, answer) for answer in answers]
    (answer, *others) = answers
    if vary and not others and isinstance(answer, HttpResponse) and _refuse_size(answer, _limit_of(arg)) is None:
        other = _as_another_node_got_it(answer, is_transformed=arg["transform"] is not None)
        if other != answer:
            found.append(_transformed(world, outcall, arg, other))
    return found


# -- all nodes


def _agreed(outcall_id: int, found: list[Response]) -> Response:
    """What enough of the nodes have found: all but a third of them."""
    counts = Counter(found)
    best, count = counts.most_common(1)[0]
    if count >= len(found) - (len(found) - 1) // 3:
        return best
    hashes = ", ".join(
        f"[{hashlib.sha256(repr(one).encode()).hexdigest()}: {number}]" for one, number in counts.most_common()
    )
    words = (
        "No consensus could be reached. Replicas had different responses. "
        f"Details: request_id: {outcall_id}, hashes: {hashes}"
    )
    if len(found) == _IMAGINED:
        words += (
            " (the result depends on headers that differ from node to node, or on the order of headers: "
            "have a transform drop what is not needed)"
        )
    return Reject(RejectCode.SYS_TRANSIENT, words)


_IMAGINED: Final = 2
"""Nodes that stand for all, where one answer does."""


def _replicated(
    world: World, outcall_id: int, outcall: Outcall, answers: Sequence[HttpAnswer], *, vary: bool
) -> Response:
    arg = request_of_outcall(outcall)
    if arg["is_replicated"] is False:
        return _node(world, outcall, arg, answers[0])
    return _agreed(outcall_id, _nodes(world, outcall, arg, answers, vary=vary))


def _flexible(world: World, outcall: Outcall, answers: Sequence[HttpAnswer], *, vary: bool) -> Response:
    arg = request_of_outcall(outcall)
    total, least, most = replication_of(arg, world.costs.nodes)
    made = _nodes(world, outcall, arg, answers, vary=vary)
    found = [made[index % len(made)] for index in range(total)]
    responses: list[Value] = []
    failures: list[Value] = []
    for index, one in enumerate(found):
        value, error = _flexible_node(one)
        if error is None:
            responses.append(value)
        else:
            failures.append({"node_id": node_id(index), "report": _NO_REPORT, "error": error})
    gives = codecs()[outcall.method_name][1]
    if len(responses) < least:
        words = f"{len(failures)} of {total} nodes have no response, at least {least} are wanted"
        return Reply(gives.encode([{"err": _error("too_many_rejects", failures, words)}]))
    kept = responses[:most]
    while len(kept) > least and len(gives.encode([{"ok": kept}])) > MAX_RESPONSE_BYTES:
        kept.pop()
    data = gives.encode([{"ok": kept}])
    if len(data) > MAX_RESPONSE_BYTES:
        words = f"{least} responses take {len(data)} bytes, at most {MAX_RESPONSE_BYTES} are delivered"
        return Reply(gives.encode([{"err": _error("responses_too_large", [], words)}]))
    return Reply(data)


_NO_REPORT: Final[dict[str, Value]] = dict.fromkeys(
    (
        "raw_response_bytes",
        "http_roundtrip_time_ms",
        "transform_instructions",
        "transformed_response_bytes",
        "cycles",
    )
)


def _error(kind: str, failures: list[Value], words: str) -> Value:
    return {"global_error": {kind: None}, "node_details": failures, "message": words}


def _flexible_node(response: Response) -> tuple[Value, Value]:
    if isinstance(response, Reject):
        return None, {"code": RejectCode(response.code).name, "message": response.message}
    try:
        return transform_codecs()[1].decode(response.data)[0], None
    except MalformedError as error:
        return None, {"code": "INVALID_TRANSFORM", "message": f"the transform's result is no http_response: {error}"}


# -- transactions


def _plain(answers: Sequence[HttpAnswer]) -> list[Plain]:
    return [
        [one.status, [[name, value] for name, value in one.headers], one.body]
        if isinstance(one, HttpResponse)
        else [one.code, one.message]
        for one in answers
    ]


def answers_of(plain: list[Plain]) -> list[HttpAnswer]:
    """Answers as an input of history has them.

    Raises:
        MalformedError: it has others.
    """
    try:
        return [checked_answer(HttpResponse(*one) if len(one) == 3 else HttpFailure(*one)) for one in plain]
    except (TypeError, ValueError) as error:
        raise MalformedError(f"answers to an outcall: {error}") from error


def answer_outcall(world: World, outcall_id: int, answers: Sequence[HttpAnswer], *, vary: bool = True) -> None:
    """Answer an outcall, in a transaction.

    Args:
        world: the subnet, and what it is wired to.
        outcall_id: which one.
        answers: one that stands for all nodes, or each node's.
        vary: where it is one, whether to imagine a node that got other headers.

    Raises:
        KeyError: nobody waits for an outcall of this number.
        ValueError: an answer that no canister can hear; see `checked_answer`.
        TypeError: an answer that is none.
    """
    outcall = world.state.outcalls[outcall_id]
    answers = [checked_answer(one) for one in answers]
    if outcall.method_name == "http_request":
        response = _replicated(world, outcall_id, outcall, answers, vary=vary)
    else:
        response = _flexible(world, outcall, answers, vary=vary)
    world.begin()
    world.state.note("outcall", outcall_id, _plain(answers), vary, what_is_asked(outcall))
    _respond(world, outcall_id, response)


def _respond(world: World, outcall_id: int, response: Response) -> None:
    outcall = world.state.outcalls.pop(outcall_id)
    taken = world.take(Taken("outcall", outcall.caller, outcall.method_name, outcall.caller))
    respond(world, outcall.origin, response, outcall.cycles)
    world.finish(taken, outcall.arg)


def expire_outcalls(world: World) -> None:
    """Reject what nobody has answered in time, by the subnet's clock."""
    state = world.state
    for outcall_id in [number for number, one in state.outcalls.items() if one.deadline_ns <= state.time_ns]:
        world.begin()
        _respond(world, outcall_id, Reject(RejectCode.SYS_TRANSIENT, "Canister http request timed out"))


def ask_outside(world: World, *, waits: bool = True) -> bool:
    """Have outcalls answered by whoever does, once nothing else is left to run; whether any was.

    Args:
        world: the subnet, and what it is wired to.
        waits: whether somebody waits: what nobody answers is rejected then, with words that name it.
    """
    if not world.state.outcalls:
        return False
    if world.outcalls is not None:
        return world.outcalls(world, waits)
    if not waits:
        return False
    for outcall_id, outcall in list(world.state.outcalls.items()):
        words = NOBODY_ANSWERS.format(what_is_asked(outcall))
        answer_outcall(world, outcall_id, [HttpFailure(RejectCode.SYS_TRANSIENT, words)])
    return True
