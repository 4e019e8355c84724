"""`Shard`: what makes a canister in Python one of several that have a table's rows between them, by ranges of keys.

A class takes it as a base and declares `rows`. Each key has one owner at any time, or none while it is on its way:

```
giver    owns [a, z)                                     taker
         1. `moving` = chunk [c, d), number n, to taker
         2. shard_take(c, d, n, rows) ───────────────▶   3. n is new: puts the rows, owns [c, d), `taken[giver]` = n
         4. deletes the rows, [c, d) is the taker's  ◀── yes     (n is not new: yes, and nothing else)
```

1 is kept before 2 leaves. Whatever is cut off between any two of these, the next `shard_give` sends the same chunk once
more under the same number, so that it is taken once; until 4, the giver answers nothing about it and says who may. What
was given is remembered, so that who asks the wrong one is told whom to ask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from perdure.data import Table
from perdure.data.pairs import Pairs
from perdure.data.ranges import Ranges
from perdure.data.sharded import SIGNATURES
from perdure.errors import RejectError
from perdure.ic.principal import Principal
from perdure.python.calls import call, ic, trap
from perdure.python.module import composite_query, query, stable, update
from perdure.stable import StableCell
from perdure.values.annotations import nat32, nat64

__all__ = ["Shard"]

CHUNK_BYTES: Final = 1 << 20
"""Of keys and values in one message: calls across subnets have 2 MiB."""
_ROW_BYTES: Final = 16
"""What a row takes in a message beside key and value, at most."""
_MAX_CHUNK_BYTES: Final = (2 << 20) - 4_096
"""Of a chunk that is one large row: its key is in the message three times."""
_COUNTS: Final = SIGNATURES["shard_counts"]
_TAKE: Final = SIGNATURES["shard_take"]
_STATE_MEMORY: Final = 200
"""Of the memory manager; a class declares its own from 0 on."""


@dataclass
class Piece:
    """Keys from `low` up to `high`, or on without end, and who has them as far as the shard knows."""

    low: bytes
    high: bytes | None
    holder: Principal | None


@dataclass
class Chunk:
    """What is on its way."""

    low: bytes
    high: bytes | None
    to: Principal
    number: nat64


@dataclass
class Last:
    """The number of the last chunk that was taken from a giver."""

    giver: Principal
    number: nat64


@dataclass
class ShardState:
    """What a shard keeps beside rows."""

    pieces: list[Piece]
    moving: Chunk | None
    sent: nat64
    taken: list[Last]
    peers: list[Principal]


@dataclass
class Pair:
    """A row: its packed key, and the rest of it; without that, it is to go."""

    key: bytes
    value: bytes | None


@dataclass
class Got:
    """What became of a question about a key: the row, or who else is to be asked."""

    is_here: bool
    value: bytes | None
    elsewhere: Piece | None


@dataclass
class Page:
    """Rows from a key up to `next`, or to the end that was asked for; or who else is to be asked."""

    pairs: list[Pair]
    next: bytes | None
    elsewhere: Piece | None


@dataclass
class Part:
    """How many rows there are of some keys."""

    low: bytes
    high: bytes | None
    count: nat64


@dataclass
class Answer:
    """What one shard has said to a question that went to many; `error` instead, where it could not."""

    shard: Principal
    parts: list[Part]
    error: str


@dataclass
class Step:
    """Up to where rows have gone, and whether that is all of them."""

    next: bytes | None
    is_last: bool


class Shard:
    """Base of canisters that have the rows of one `perdure.data.ShardedTable` between them.

        @canister
        class Users(Shard):
            rows: Table[User] = table(key="id")

    `rows` is a table, or ``StableBTreeMap[bytes, bytes]``: then only clients know what is in it. Reads are for
    everybody; who may write says `may_write`, by default controllers and peers. Moving is for controllers.
    """

    if TYPE_CHECKING:
        rows: Any  # declared by the class itself
    shard_state: StableCell[ShardState] = stable(_STATE_MEMORY, default=ShardState([], None, 0, [], []))

    def may_write(self) -> bool:
        """Whether `ic.caller` may change rows."""
        return ic.is_controller(ic.caller) or ic.caller in self.shard_state.get().peers

    # --- rows

    @query
    def shard_columns(self) -> list[str]:
        """Names of the columns that values have, key first; none where only clients know."""
        return list(Pairs(self.rows).columns) if isinstance(self.rows, Table) else []

    @query
    def shard_get(self, key: bytes) -> Got:
        """The row of a packed key."""
        elsewhere = self._elsewhere(key)
        return Got(True, self._value(key), None) if elsewhere is None else Got(False, None, elsewhere)

    @update
    def shard_put(self, pairs: list[Pair]) -> Piece | None:
        """Set and remove rows; if one of them is another's, nothing of it, and whose."""
        if not self.may_write():
            trap(f"{ic.caller} may not write here")
        for pair in pairs:
            if (elsewhere := self._elsewhere(pair.key)) is not None:
                return elsewhere
        for pair in pairs:
            self._set(pair.key, pair.value)
        return None

    @query
    def shard_page(self, low: bytes, high: bytes | None, most: nat32) -> Page:
        """The first rows from a key on, as far as they are here."""
        elsewhere = self._elsewhere(low)
        if elsewhere is not None:
            return Page([], low, elsewhere)
        end = self._end(low, high)
        pairs, is_cut = self._first(low, end, most)
        if is_cut:
            return Page(pairs, pairs[-1].key + b"\0", None)
        return Page(pairs, None if end == high else end, None)

    @query
    def shard_counts(self, low: bytes, high: bytes | None) -> list[Part]:
        """How many rows there are here between two keys, by what is here of these."""
        return self._counts(low, high)

    def _counts(self, low: bytes, high: bytes | None) -> list[Part]:
        mine = ic.id
        return [
            Part(start, end, sum(1 for _ in self._pairs(start, end)))
            for start, end, holder in self._answered().between(low, high)
            if holder == mine
        ]

    @composite_query
    async def shard_fan(self, shards: list[Principal], low: bytes, high: bytes | None) -> list[Answer]:
        """`shard_counts` of many; one that fails is one answer."""
        answers = []
        for shard in shards:
            if shard == ic.id:  # nobody calls itself in a query
                answers.append(Answer(shard, self._counts(low, high), ""))
                continue
            try:
                parts = await call(shard, "shard_counts", low, high, signature=_COUNTS)
                answers.append(Answer(shard, [Part(**one) for one in parts], ""))
            except RejectError as error:
                answers.append(Answer(shard, [], error.message[:200]))
        return answers

    @query
    def shard_middle(self, low: bytes, high: bytes | None) -> bytes | None:
        """The key in the middle of the rows between two keys that are here; none where there are less than two."""
        count = sum(1 for _ in self._pairs(low, high))
        return next(islice(self._pairs(low, high), count // 2, None))[0] if count > 1 else None

    # --- whose they are

    @query
    def shard_facts(self) -> ShardState:
        """What it has, what it has given away, and what is on its way."""
        return self.shard_state.get()

    @update
    def shard_begin(self, peers: list[Principal], low: bytes, high: bytes | None, is_its_own: bool) -> None:
        """Begin with some keys, or none of them; with peers alone where it has begun."""
        self._require_controller()
        state = self.shard_state.get()
        if is_its_own and not state.pieces:
            state.pieces = [Piece(low, high, ic.id)]
        state.peers = peers
        self._keep(state)

    @update
    async def shard_give(self, low: bytes, high: bytes | None, to: Principal, most: nat32) -> Step:
        """Give the first rows between two keys to another shard; what was on its way before goes first, instead."""
        self._require_controller()
        state = self.shard_state.get()
        if state.moving is None:
            self._require_own(low, high, to)
            pairs, is_cut = self._first(low, high, most)
            self._require_small(pairs)
            state.sent += 1
            state.moving = Chunk(low, pairs[-1].key + b"\0" if is_cut else high, to, state.sent)
            self._keep(state)
        chunk = state.moving
        pairs = [Pair(*one) for one in self._pairs(chunk.low, chunk.high)]
        sent = [{"key": pair.key, "value": pair.value} for pair in pairs]
        await call(chunk.to, "shard_take", chunk.low, chunk.high, chunk.number, sent, signature=_TAKE)
        self._given(chunk)
        return Step(chunk.high, chunk.high == high and chunk.to == to)

    def _given(self, chunk: Chunk) -> None:
        state = self.shard_state.get()
        if state.moving != chunk:  # another one has waited for the same answer, and was here before
            return
        for key, _ in list(self._pairs(chunk.low, chunk.high)):
            self._set(key, None)
        state.moving = None
        self._hand(state, chunk.low, chunk.high, chunk.to)

    @update
    def shard_take(self, low: bytes, high: bytes | None, number: nat64, pairs: list[Pair]) -> None:
        """Take rows that a peer gives; once, whatever it sends again."""
        giver = ic.caller
        state = self.shard_state.get()
        if giver not in state.peers:
            trap(f"{giver} is no peer of this shard")
        last = next((one for one in state.taken if one.giver == giver), None)
        if last is not None and number <= last.number:
            return
        mine = ic.id
        if any(holder == mine for _, _, holder in self._ranges().between(low, high)):
            trap("some of these rows are on their way from here: they have to arrive before they come back")
        for key, _ in list(self._pairs(low, high)):
            self._set(key, None)  # nobody's, and nothing that was left by anybody counts
        for pair in pairs:
            self._set(pair.key, pair.value)
        state.taken = [one for one in state.taken if one is not last] + [Last(giver, number)]
        self._hand(state, low, high, mine)

    # --- inside

    def _require_controller(self) -> None:
        if not ic.is_controller(ic.caller):
            trap(f"{ic.caller} is no controller of this shard")

    def _require_own(self, low: bytes, high: bytes | None, to: Principal) -> None:
        mine = ic.id
        if to == mine or any(holder != mine for _, _, holder in self._ranges().between(low, high)):
            trap("these rows are not all here, or are to go to where they are")
        if to not in self.shard_state.get().peers:
            trap(f"{to} is no peer of this shard: rows that leave for it might never arrive")

    def _ranges(self) -> Ranges[Principal | None]:
        pieces = self.shard_state.get().pieces
        return Ranges.of(((one.low, one.high, one.holder) for one in pieces), None)

    def _answered(self) -> Ranges[Principal | None]:
        """Whose rows are, those that are on their way apart: perhaps the taker has them, and has changed them."""
        ranges = self._ranges()
        moving = self.shard_state.get().moving
        if moving is not None:
            ranges.set(moving.low, moving.high, None)
        return ranges

    def _require_small(self, pairs: list[Pair]) -> None:
        """Refuse to begin with a row that no message carries: it would be nobody's for ever."""
        if len(pairs) == 1:
            size_bytes = 3 * len(pairs[0].key) + len(pairs[0].value or b"")
            if size_bytes > _MAX_CHUNK_BYTES:
                trap(f"a row of {size_bytes} bytes cannot be moved: a message has at most {_MAX_CHUNK_BYTES} of it")

    def _keep(self, state: ShardState) -> None:
        self.shard_state.set(state)

    def _hand(self, state: ShardState, low: bytes, high: bytes | None, holder: Principal) -> None:
        ranges = self._ranges()
        ranges.set(low, high, holder)
        state.pieces = [Piece(*one) for one in ranges if one[2] is not None]
        self._keep(state)

    def _elsewhere(self, key: bytes) -> Piece | None:
        """Who else is to be asked about a key; `None`: it is here."""
        state = self.shard_state.get()
        moving = state.moving
        if moving is not None and moving.low <= key and (moving.high is None or key < moving.high):
            return Piece(moving.low, moving.high, moving.to)
        mine = ic.id
        for piece in state.pieces:
            if piece.low <= key and (piece.high is None or key < piece.high):
                return None if piece.holder == mine else piece
        return Piece(key, key + b"\0", None)

    def _end(self, low: bytes, high: bytes | None) -> bytes | None:
        """Up to where rows are here, from one that is."""
        end = self._ranges().bounds(low)[1]
        moving = self.shard_state.get().moving
        ends = [one for one in (high, end, moving.low if moving is not None and moving.low > low else None) if one]
        return min(ends) if ends else None

    def _first(self, low: bytes, high: bytes | None, most: int) -> tuple[list[Pair], bool]:
        """The first rows between two keys that go into a message, and whether there are more."""
        pairs: list[Pair] = []
        size_bytes = 0
        for key, value in self._pairs(low, high):
            size_bytes += len(key) + len(value) + _ROW_BYTES
            if pairs and (len(pairs) >= most or size_bytes > CHUNK_BYTES):
                return pairs, True
            pairs.append(Pair(key, value))
        return pairs, False

    def _value(self, key: bytes) -> bytes | None:
        return Pairs(self.rows).get(key) if isinstance(self.rows, Table) else self.rows.get(key)

    def _set(self, key: bytes, value: bytes | None) -> None:
        if isinstance(self.rows, Table):
            Pairs(self.rows).put(key, value)
        elif value is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = value

    def _pairs(self, low: bytes, high: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        return Pairs(self.rows).range(low, high) if isinstance(self.rows, Table) else self.rows.range(low, high)
