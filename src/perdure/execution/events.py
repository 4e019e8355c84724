"""What happens on a subnet, as data: one stream of small records, for whoever listens.

```
Taken ─▶ Begun ─▶ Ended | Trapped ─▶ (callbacks and cleanups again) ─▶ Sent, Answered ─▶ Committed ─▶ Delivered ─▶ Taken
```

Records have no payloads, only their sizes, so that a stream of a given length has a given size. They are added while
messages are executed and read whenever one likes: no code of a listener runs within a message, so none can break it.
What is between a `Taken` and its `Committed` was undone if no `Committed` follows; queries have none.

What a state directory's history says of a commit is the `Taken` that the stream has, with the instructions that the
message's `Ended` has (`World.finish`). So both name what happens by the kinds that are listed there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, final

from perdure.canister import Context, Return, Trap, TrapCode
from perdure.execution.cycles import CostSchedule

__all__ = [
    "Answered",
    "Begun",
    "Checkpointed",
    "Committed",
    "Delivered",
    "Ended",
    "Event",
    "Sent",
    "Stream",
    "Taken",
    "Trapped",
    "ended",
]


class Taken(NamedTuple):
    """A message, or what was asked for from outside, is about to be executed. History keeps it with the commit."""

    kind: str
    """``call``, ``response``, ``task``, ``query``, ``management``, ``stopping`` (canisters whose last call was answered
    are stopped), ``outcall`` (one is answered), or what was asked for from outside: ``create_canister``,
    ``install_code``, ``reinstall_code``, ``upgrade_code``, ``upload_snapshot``, ``advance_time``, ``write_stable`` and
    other memories, ``sqlite``."""
    canister_id: bytes
    """Empty: none, or one that is only about to get its id, which history has."""
    method_name: str = ""
    caller: bytes = b""
    request_id: bytes = b""
    """Of a user's message; empty: nobody's."""


class Begun(NamedTuple):
    """A canister is entered. It takes one message at a time, so the next end of its is this entry's."""

    canister_id: bytes
    entry: str | int
    """The export's name, or a callback's index in the table."""
    context: Context


class Ended(NamedTuple):
    """An entry returned. Pages of the heap and of accessed stable memory are of 4 KiB, sizes in Wasm pages."""

    canister_id: bytes
    context: Context
    instructions: int
    cycles: int
    """What the instructions cost; 0 where nobody pays for them: queries, inspection."""
    heap_wasm_pages: int
    stable_wasm_pages: int
    heap_dirty_pages: int
    stable_accessed_pages: int
    stable_dirty_pages: int
    written_pages: Mapping[str, int]
    """Of 4 KiB, by memory: the two before this, and memories of the canister's own that it wrote."""


class Trapped(NamedTuple):
    """An entry trapped; what it did to memories is undone. `cycles` as in `Ended`."""

    canister_id: bytes
    context: Context
    instructions: int
    cycles: int
    code: TrapCode
    message: str


class Sent(NamedTuple):
    """A canister made a call or answered one; it is delivered once the message is committed."""

    kind: str
    """``call`` or ``response``."""
    sender: bytes
    receiver: bytes
    method_name: str
    """Of a call, else empty."""
    cycles: int
    """That go with it; of a response those that come back."""
    payload_bytes: int
    reject_code: int = 0
    """Of a response; 0: a reply, or a call."""


class Answered(NamedTuple):
    """A user's request has its answer."""

    request_id: bytes
    payload_bytes: int
    reject_code: int
    """0: a reply."""


class Delivered(NamedTuple):
    """What was sent is in its receiver's queue."""

    kind: str
    receiver: bytes
    sender: bytes
    """Empty: a user's call, or a response, which says no more than which call it answers."""
    method_name: str


class Committed(NamedTuple):
    """What was done is kept."""

    version: int
    """Of the state directory; 0: there is none, or what was done goes with the next version."""
    canister_ids: tuple[bytes, ...]
    """Canisters whose records have changed."""


class Checkpointed(NamedTuple):
    """The state directory made a checkpoint of this version."""

    version: int


Event = Taken | Begun | Ended | Trapped | Sent | Answered | Delivered | Committed | Checkpointed

_FREE: Final = frozenset(
    [
        Context.NON_REPLICATED_QUERY,
        Context.COMPOSITE_QUERY,
        Context.COMPOSITE_REPLY,
        Context.COMPOSITE_REJECT,
        Context.COMPOSITE_CLEANUP,
        Context.INSPECT_MESSAGE,
        Context.TRANSFORM,
    ]
)
"""Nobody pays for what is executed here."""


def ended(canister_id: bytes, context: Context, result: Trap | Return, costs: CostSchedule) -> Ended | Trapped:
    """What the end of an entry is in the stream."""
    cycles = 0 if context in _FREE else costs.execution(result.instructions)
    if isinstance(result, Trap):
        return Trapped(canister_id, context, result.instructions, cycles, result.code, result.message)
    return Ended(
        canister_id,
        context,
        result.instructions,
        cycles,
        result.heap_wasm_pages,
        result.stable_wasm_pages,
        result.heap_dirty_pages,
        result.stable_accessed_pages,
        result.stable_dirty_pages,
        result.written_pages,
    )


@final
class Stream:
    """The newest events; to go through it takes them out, oldest first. One thread may read while others add.

    Args:
        capacity: how many it holds. Where more happens before somebody reads, the oldest are lost: see `lost`.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a stream holds at least one event, found a capacity of {capacity}")
        self._events: deque[Event] = deque(maxlen=capacity)
        self._added = self._taken = 0

    def add(self, event: Event) -> None:
        """Note what has happened."""
        self._added += 1
        self._events.append(event)

    def __iter__(self) -> Iterator[Event]:
        while self._events:
            event = self._events.popleft()
            self._taken += 1
            yield event

    def __len__(self) -> int:
        return len(self._events)

    @property
    def lost(self) -> int:
        """How many events came and went before anybody read them."""
        return self._added - self._taken - len(self._events)
