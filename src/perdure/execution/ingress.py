"""The ingress history: what became of users' requests, by their ids; what comes again is not executed again.

Answers are kept for longer than a request may come again, up to a number and a size. Of requests beyond these that
their senders named it stays known that they are *done*; in the end they are *unknown* like any other.

Spec: "Request status", "Ingress expiry" in "HTTPS Interface".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from operator import attrgetter
from typing import Any, Final, NamedTuple, final

from perdure.canister import Reject, Reply
from perdure.errors import MalformedError
from perdure.execution.config import SubnetConfig
from perdure.execution.messages import Response

__all__ = [
    "MAX_REQUEST_ID_BYTES",
    "Answer",
    "AnswerChanges",
    "IngressHistory",
    "Keeping",
    "KeptAnswer",
    "Owner",
    "check_request_id",
    "drawn_id",
    "is_drawn",
]

MAX_REQUEST_ID_BYTES: Final = 64

_DRAWN_BYTES: Final = 9
_GENERATION_ANSWERS: Final = 256
_GENERATIONS: Final = 16
_ENTRY_BYTES: Final = 128
"""What an answer takes beside its payload, roughly."""


def drawn_id(number: int) -> bytes:
    """The id of a request that brings none, from its number: nine bytes, of which the first is zero."""
    return number.to_bytes(_DRAWN_BYTES, "big")


def is_drawn(request_id: bytes) -> bool:
    """Whether an id has the form of those that subnets draw."""
    return len(request_id) == _DRAWN_BYTES and not request_id[0]


def check_request_id(request_id: bytes) -> None:
    """Refuse what cannot be the id of a request that a sender names.

    Raises:
        ValueError: it is empty, too long, or has the form of those that subnets draw.
    """
    if not 0 < len(request_id) <= MAX_REQUEST_ID_BYTES:
        raise ValueError(f"a request id has 1 to {MAX_REQUEST_ID_BYTES} bytes, found {len(request_id)}")
    if is_drawn(request_id):
        raise ValueError(
            f"request id {request_id.hex()} is one that the subnet draws itself ({_DRAWN_BYTES} bytes, the first is "
            "zero): name a request otherwise, or ask for the answer with `Subnet.response`"
        )


Owner = tuple[bytes, bytes]
"""Who may ask what became of a request: its sender, and the effective canister id of where it was sent."""

Mark = tuple[tuple[Any, ...], int, dict[bytes, bytes] | None, dict[bytes, Owner] | None]
"""Attributes of a history, the number of its newest answers, who had requests in progress, and whose they were."""

Answer = tuple[int, Response]
"""Until when an answer is kept, ns since 1970, and the answer."""

_Kept = tuple[int, bytes | Reject, Owner | None]
"""An answer, of a reply its bytes alone: a plain tuple of atoms is nothing that the garbage collector has to go through
again and again, with all others that are kept. With a `Reply` in each it took 4 us of every message."""


@final
class _Generation(NamedTuple):
    """Answers that were given one after another, and go together: nothing then has to look for the oldest one."""

    number: int
    answers: dict[bytes, _Kept]
    size_bytes: int
    expiry_ns: int


@final
class KeptAnswer(NamedTuple):
    """An answer as somebody keeps it.

    Attributes:
        generation: the number of those that it goes with.
        response: `None`: it is only known that the request is done.
        owner: whose the request was, where its sender has named it.
    """

    request_id: bytes
    expiry_ns: int
    generation: int
    response: Response | None
    owner: Owner | None = None


@final
class AnswerChanges(NamedTuple):
    """What a keeper has to do: forget some, then keep others, which may take the places of old ones."""

    forgotten: list[bytes]
    answers: list[KeptAnswer]


@final
class Keeping(NamedTuple):
    """What a history was when somebody kept it. These are never changed, except that the newest answers get more."""

    total: int
    older: list[_Generation]
    newest: dict[bytes, _Kept]
    done: dict[bytes, int]


@final
class IngressHistory:
    """Requests in progress, and the answers of the others.

    Only the newest generation of answers ever changes, so that a fork shares all others.

    Attributes:
        callees: whom the requests in progress are for, by request.
        begun: named requests that are executed at this moment, and whose they are: others may commit meanwhile, and
            nothing of these is kept yet.
        owners: whose the named requests in progress are, by request.
        done: until when requests are known whose answers are gone, by request.
        count: answers that were given, from the first one on.
        newest: the newest answers, the last one among them.
        number: of the generation that they are.
    """

    __slots__ = (
        "_bounds",
        "_older",
        "_size_bytes",
        "begun",
        "callees",
        "count",
        "done",
        "newest",
        "number",
        "owners",
    )

    def __init__(self) -> None:
        self.callees: dict[bytes, bytes] = {}
        self.owners: dict[bytes, Owner] = {}
        self.begun: dict[bytes, Owner] = {}
        self.done: dict[bytes, int] = {}
        self.count = self.number = 0
        self.newest: dict[bytes, _Kept] = {}
        self._older: list[_Generation] = []
        # Of the newest generation: its size, and how many answers, how many bytes, and for how long each. There is no
        # room: the first answer begins one.
        self._size_bytes = 0
        self._bounds = 0, 0, 0

    def fork(self) -> IngressHistory:
        """A second history that is the same so far."""
        twin = IngressHistory()
        twin._be(_slots_of(self))
        twin.callees, twin.begun, twin.done = self.callees.copy(), {}, self.done.copy()
        twin.owners = self.owners.copy()
        twin.newest, twin._older = self.newest.copy(), self._older.copy()
        return twin

    def mark(self) -> Mark:
        """What `back_to` needs to undo what comes after."""
        callees = self.callees.copy() if self.callees else None
        return _slots_of(self), len(self.newest), callees, self.owners.copy() if self.owners else None

    def back_to(self, mark: Mark) -> None:
        """Be again what it was at `mark`; may be done again."""
        values, length, callees, owners = mark
        self._be(values)
        while len(self.newest) > length:
            self.newest.popitem()
        self.callees = {} if callees is None else callees.copy()
        self.owners = {} if owners is None else owners.copy()

    def _be(self, values: tuple[object, ...]) -> None:
        for name, value in zip(self.__slots__, values, strict=True):
            setattr(self, name, value)

    def find(self, request_id: bytes, time_ns: int) -> Response | None:
        """The answer to a request; `None`: it has none, or at that time none any more."""
        answer = self.newest.get(request_id)
        for generation in reversed(self._older):
            if answer is not None:
                break
            answer = generation.answers.get(request_id)
        return _response(answer[1]) if answer is not None and answer[0] > time_ns else None

    def owner(self, request_id: bytes) -> Owner | None:
        """Whose a request is; `None`: it is not known, was not named, or its answer is not kept any more."""
        found = self.owners.get(request_id) or self.begun.get(request_id)
        if found is not None:
            return found
        answers = (self.newest, *(generation.answers for generation in reversed(self._older)))
        return next((kept[request_id][2] for kept in answers if request_id in kept), None)

    def find_new(self, request_id: bytes) -> Response | None:
        """The answer to a request that has been let in just now, if it has one by now."""
        answer = self.newest.get(request_id)
        return None if answer is None else _response(answer[1])

    def knows(self, request_id: bytes, time_ns: int) -> bool:
        """Whether a request has come before, as far as that is remembered at that time."""
        return (
            request_id in self.callees
            or request_id in self.begun
            or self.done.get(request_id, 0) > time_ns
            or self.find(request_id, time_ns) is not None
        )

    def has_room(self, config: SubnetConfig) -> bool:
        """Whether one more request can be remembered."""
        return len(self.callees) + len(self.done) < config.ingress_history_max_requests

    def answer(self, request_id: bytes, response: Response, time_ns: int, config: SubnetConfig) -> None:
        """Keep the answer to a request, and make room. Time does not go back from one to the next."""
        max_answers, max_bytes, keep_ns = self._bounds
        if len(self.newest) >= max_answers or self._size_bytes > max_bytes:
            keep_ns = self._begin_generation(time_ns, config)
        if self.callees:
            self.callees.pop(request_id, None)
        owner = self.begun.get(request_id)
        if self.owners:
            owner = self.owners.pop(request_id, owner)
        self._keep(request_id, time_ns + keep_ns, response, owner)

    def _keep(self, request_id: bytes, expiry_ns: int, response: Response, owner: Owner | None) -> None:
        if isinstance(response, Reply):
            self.newest[request_id] = expiry_ns, response.data, owner
            self._size_bytes += len(response.data)
        else:
            self.newest[request_id] = expiry_ns, response, owner
            self._size_bytes += len(response.message) + sum(map(len, response.backtrace))
        self.count += 1

    def _begin_generation(self, now_ns: int, config: SubnetConfig) -> int:
        """For how long each of its answers is kept, in ns."""
        if self.newest:
            expiry_ns = max(answer[0] for answer in self.newest.values())
            size_bytes = self._size_bytes + len(self.newest) * _ENTRY_BYTES
            self._older = [*self._older, _Generation(self.number, self.newest, size_bytes, expiry_ns)]
        self.newest = {}
        self.number += 1
        self._size_bytes, keep_ns = 0, config.ingress_history_ns
        self._bounds = _GENERATION_ANSWERS, config.ingress_history_max_bytes // _GENERATIONS, keep_ns
        self._make_room(now_ns, config)
        return keep_ns

    def _make_room(self, now_ns: int, config: SubnetConfig) -> None:
        """Let the oldest answers go: those that have expired, and those beyond what may be kept."""
        self.done = {request_id: expiry_ns for request_id, expiry_ns in self.done.items() if expiry_ns > now_ns}
        answers = sum(len(generation.answers) for generation in self._older)
        size_bytes = sum(generation.size_bytes for generation in self._older)
        while self._older:
            oldest = self._older[0]
            is_within = answers <= config.ingress_history_max_answers and size_bytes <= config.ingress_history_max_bytes
            if is_within and oldest.expiry_ns > now_ns:
                return
            self._older = self._older[1:]
            answers -= len(oldest.answers)
            size_bytes -= oldest.size_bytes
            # Nobody can send a request again under an id that the subnet drew.
            self.done = self.done | {
                request_id: expiry_ns
                for request_id, (expiry_ns, _, _) in oldest.answers.items()
                if expiry_ns > now_ns and not is_drawn(request_id)
            }

    def answers(self) -> Iterator[tuple[bytes, Answer]]:
        """All that are kept, oldest first."""
        for answers in (*(generation.answers for generation in self._older), self.newest):
            for request_id, (expiry_ns, kept, _) in answers.items():
                yield request_id, (expiry_ns, _response(kept))

    # --- for whoever keeps it

    def kept(self) -> Keeping:
        """What it is now, for `changes`."""
        return Keeping(self.count, self._older, self.newest, self.done)

    def changes(self, before: Keeping) -> AnswerChanges:
        """What has changed since then."""
        answers = self._last(self.count - before.total)
        if before.newest is self.newest and before.done is self.done:
            return AnswerChanges([], answers)
        alive = {id(answers) for answers in (self.newest, *(one.answers for one in self._older))}
        known = (*(one.answers for one in before.older), before.newest)
        gone = [request_id for answers in known if id(answers) not in alive for request_id in answers]
        gone += before.done.keys() - self.done.keys()
        forgotten = sorted(request_id for request_id in gone if request_id not in self.done)
        done = sorted(self.done.keys() - before.done.keys())
        return AnswerChanges(
            forgotten, [*(KeptAnswer(request_id, self.done[request_id], 0, None) for request_id in done), *answers]
        )

    def _last(self, count: int) -> list[KeptAnswer]:
        """The last `count` answers, as far as they are kept, oldest first."""
        found: list[KeptAnswer] = []
        generations = ((one.number, one.answers) for one in reversed(self._older))
        for number, answers in ((self.number, self.newest), *generations):
            newest = islice(reversed(answers.items()), count - len(found))
            found += [
                KeptAnswer(request_id, expiry_ns, number, _response(kept), owner)
                for request_id, (expiry_ns, kept, owner) in newest
            ]
            if len(found) == count:
                break
        found.reverse()
        return found

    def take_up(self, answers: Iterable[KeptAnswer], config: SubnetConfig) -> None:
        """Go on from what somebody has kept; nothing may be there yet.

        Raises:
            MalformedError: nobody has kept that.
        """
        answers = list(answers)
        generations = len({answer.generation for answer in answers})
        if generations > 2 * _GENERATIONS + 2 * len(answers) // _GENERATION_ANSWERS:
            raise MalformedError(f"{len(answers)} answers of {generations} generations, expected fewer generations")
        for request_id, expiry_ns, number, response, owner in sorted(answers, key=attrgetter("generation")):
            if response is None:
                self.done[request_id] = expiry_ns
                continue
            if number != self.number or not self._bounds[0]:
                self._begin_generation(0, config)
                self.number = number
            self._keep(request_id, expiry_ns, response, owner)


_slots_of = attrgetter(*IngressHistory.__slots__)


def _response(kept: bytes | Reject) -> Response:
    return kept if isinstance(kept, Reject) else Reply(kept)
