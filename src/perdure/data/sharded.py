"""`ShardedTable`: one table whose rows are in many canisters, each of which has ranges of keys.

The canisters are `perdure.fleet.shard.Shard`s, or any that have the methods of `SIGNATURES`. Each knows what it has and
to whom it gave what it had; nobody else does. So a client that is told "not here" learns where, and asks there.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Generic, Protocol, TypeVar, final

from perdure.candid import Codec, parse_type
from perdure.candid.types import Func, Value
from perdure.data.declare import TableOptions
from perdure.data.pairs import Pairs
from perdure.data.ranges import Ranges
from perdure.data.store import Store
from perdure.data.tables import Table
from perdure.errors import MalformedError, PerdureError, RejectError
from perdure.ic.principal import ANONYMOUS, Principal
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager
from perdure.units import counted as counted_of
from perdure.values.packed import unpack

__all__ = ["SIGNATURES", "Counted", "ShardError", "ShardedTable"]

R = TypeVar("R")

_PIECE: Final = "record { low : blob; high : opt blob; holder : opt principal }"
_PAIR: Final = "record { key : blob; value : opt blob }"
_PART: Final = "record { low : blob; high : opt blob; count : nat64 }"
_CHUNK: Final = "record { low : blob; high : opt blob; to : principal; number : nat64 }"
_LAST: Final = "record { giver : principal; number : nat64 }"
_FACTS: Final = (
    f"record {{ pieces : vec {_PIECE}; moving : opt {_CHUNK}; sent : nat64; "
    f"taken : vec {_LAST}; peers : vec principal }}"
)

SIGNATURES: Final = {
    "shard_columns": "() -> (vec text) query",
    "shard_get": f"(blob) -> (record {{ is_here : bool; value : opt blob; elsewhere : opt {_PIECE} }}) query",
    "shard_put": f"(vec {_PAIR}) -> (opt {_PIECE})",
    "shard_page": "(blob, opt blob, nat32) -> "
    f"(record {{ pairs : vec {_PAIR}; next : opt blob; elsewhere : opt {_PIECE} }}) query",
    "shard_counts": f"(blob, opt blob) -> (vec {_PART}) query",
    "shard_fan": f"(vec principal, blob, opt blob) -> (vec record {{ shard : principal; parts : vec {_PART}; "
    "error : text }) composite_query",
    "shard_middle": "(blob, opt blob) -> (opt blob) query",
    "shard_facts": f"() -> ({_FACTS}) query",
    "shard_begin": "(vec principal, blob, opt blob, bool) -> ()",
    "shard_give": "(blob, opt blob, principal, nat32) -> (record { next : opt blob; is_last : bool })",
    "shard_take": f"(blob, opt blob, nat64, vec {_PAIR}) -> ()",
}
"""What a canister needs to be a shard: its methods, as in a ``.did`` file."""

_HOPS: Final = 24
"""How often a question is asked again before somebody is told: each time the routes are better than before."""
_FAN: Final = 100
"""Shards in one composite query."""
_PAGE_ROWS: Final = 4_096
_NO_ANSWER: Final = (RejectError,)
"""What a call ends in whose canister is stopped, out of cycles, trapped or gone."""


class _Canister(Protocol):
    def query(self, method: str, arg: bytes = ..., *, sender: Principal = ...) -> bytes: ...
    def update(self, method: str, arg: bytes = ..., *, sender: Principal = ...) -> bytes: ...


class Home(Protocol):
    """Where canisters are: a `Subnet`, a `Network`, or anything that finds them by id."""

    def canister(self, canister_id: Principal, /) -> Any:
        """What calls a canister: it has ``query`` and ``update``."""
        ...


class ShardError(PerdureError):
    """Rows that cannot be had: the shards that have them do not answer, or do not take what is on its way to them.

    Attributes:
        missing: which keys, packed, each with the reason.
    """

    def __init__(self, message: str, missing: Sequence[tuple[bytes, bytes | None, str]] = ()) -> None:
        super().__init__(message)
        self.missing = list(missing)


@final
@dataclass(frozen=True)
class Counted:
    """How many rows there are, as far as shards have answered.

    Attributes:
        count: of those.
        missing: packed keys that nobody has answered for, each with the reason.
    """

    count: int
    missing: tuple[tuple[bytes, bytes | None, str], ...] = field(default=())


@final
class ShardedTable(Generic[R]):
    """Rows by key, in many canisters.

    Args:
        home: the subnet or network that has them.
        shards: their ids.
        owner: the dataclass of the rows, as it is in the canisters' table.
        options: what `perdure.data.table` gives; only the key counts here.
        sender: who calls.

    Raises:
        ShardError: no shard answers, or none has begun.
        ValueError: the shards' rows have other columns.
    """

    def __init__(
        self,
        home: Home,
        shards: Iterable[Principal],
        owner: type[R],
        options: TableOptions,
        *,
        sender: Principal = ANONYMOUS,
    ) -> None:
        self._home = home
        self.shards = list(dict.fromkeys(shards))
        self._pairs: Pairs[R] = Pairs(
            Table.declare(Store(MemoryManager.create(BytesMemory()).get), "rows", owner, options)
        )
        self._sender = sender
        self._routes: Ranges[Principal | None] = Ranges(None)
        self._codecs: dict[str, _Method] = {name: _Method(text) for name, text in SIGNATURES.items()}
        self._learn_all()
        self._check_columns()

    @classmethod
    def begin(
        cls,
        home: Home,
        shards: Sequence[Principal],
        owner: type[R],
        options: TableOptions,
        *,
        at: Sequence[Any] = (),
        sender: Principal = ANONYMOUS,
    ) -> ShardedTable[R]:
        """Make shards that are empty one table.

        Args:
            home: as for the class.
            shards: the first has all keys, but for those that others have by `at`.
            owner: as for the class.
            options: as for the class.
            at: keys, ascending, from which on the second, third, ... shard has rows.
            sender: as for the class.

        Raises:
            ValueError: more keys than there are other shards, or they do not ascend; or a shard that has nothing yet
                would get what another one has. Those that have begun keep what they have, so that what was cut off
                goes on with the same keys.
        """
        table = object.__new__(cls)
        scratch = Pairs(Table.declare(Store(MemoryManager.create(BytesMemory()).get), "rows", owner, options))
        lows = [b"", *map(scratch.key, at)]
        if len(lows) > len(shards) or any(one >= other for one, other in pairwise(lows)):
            raise ValueError(f"{len(at)} keys for {len(shards)} shards: expected fewer than these, ascending")
        table._home, table._sender = home, sender
        table._codecs = {name: _Method(text) for name, text in SIGNATURES.items()}
        table._require_free(shards, lows)
        for number, shard in enumerate(shards):
            is_its_own = number < len(lows)
            low = lows[number] if is_its_own else b""
            high = lows[number + 1] if number + 1 < len(lows) else None
            table._call(shard, "shard_begin", list(shards), low, high, is_its_own)
        return cls(home, shards, owner, options, sender=sender)

    def _require_free(self, shards: Sequence[Principal], lows: Sequence[bytes]) -> None:
        """Refuse to give a shard that has nothing yet what another one has: rows would have two owners."""
        there = {shard: self._call(shard, "shard_facts")["pieces"] for shard in shards}
        taken: Ranges[Principal | None] = Ranges(None)
        for shard, pieces in there.items():
            for one in pieces:
                if one["holder"] == shard:
                    taken.set(one["low"], one["high"], shard)
        for shard, low, high in zip(shards, lows, [*lows[1:], None], strict=False):
            owner = next((one for _, _, one in taken.between(low, high) if one is not None), None)
            if not there[shard] and owner is not None:
                raise ValueError(f"{shard} cannot begin with keys that {owner} has already: give the keys of before")

    def add_shard(self, shard: Principal) -> None:
        """Take another canister among the shards, which has no rows yet."""
        shards = [*self.shards, shard]
        for one in shards:
            self._call(one, "shard_begin", shards, b"", None, False)
        self.shards = shards

    # --- rows

    def get(self, key: Any) -> R | None:
        """The row of a key.

        Raises:
            ShardError: nobody answers for it.
        """
        packed = self._pairs.key(key)
        found = self._at(packed, lambda shard: self._call(shard, "shard_get", packed))
        return None if found["value"] is None else self._pairs.row(packed, found["value"])

    def put(self, row: R | Mapping[str, Any]) -> None:
        """Set the row of its key; raises as `Table.put`, and as `get`."""
        self._write(*self._pairs.of(row))

    def update(self, rows: Iterable[R | Mapping[str, Any]]) -> None:
        """Set many, shard by shard: those of one shard together, not those of several."""
        left = dict(map(self._pairs.of, rows))
        for _ in range(_HOPS):
            groups: dict[Principal | None, list[tuple[bytes, bytes]]] = {}
            for key, value in left.items():
                groups.setdefault(self._routes.at(key), []).append((key, value))
            for shard, pairs in groups.items():
                for some in _batches(pairs):
                    if shard is None or not self._put(shard, some):
                        break
                    for key, _ in some:
                        del left[key]
            if not left:
                return
            self._learn_all()
        for key, value in left.items():
            self._write(key, value)

    def remove(self, key: Any) -> None:
        """Remove the row of a key, if there is one."""
        self._write(self._pairs.key(key), None)

    def _write(self, key: bytes, value: bytes | None) -> None:
        def ask(shard: Principal) -> dict[str, Any]:
            elsewhere = self._call(shard, "shard_put", [{"key": key, "value": value}])
            return {"is_here": elsewhere is None, "elsewhere": elsewhere}

        self._at(key, ask)

    def _put(self, shard: Principal, pairs: Sequence[tuple[bytes, bytes]]) -> bool:
        elsewhere = self._call(shard, "shard_put", [{"key": key, "value": value} for key, value in pairs])
        if elsewhere is not None:
            self._learn(elsewhere)
        return elsewhere is None

    def range(self, low: Any = None, high: Any = None) -> Iterator[R]:
        """The rows with ``low <= key < high``, page by page: each as it is when its page is read.

        Raises:
            ShardError: nobody answers for the next ones.
        """
        start: bytes | None = b"" if low is None else self._pairs.key(low)
        end = None if high is None else self._pairs.key(high)
        while start is not None and (end is None or start < end):
            page = self._page(start, end)
            for pair in page["pairs"]:
                yield self._pairs.row(pair["key"], pair["value"])
            start = page["next"]

    def _page(self, start: bytes, end: bytes | None) -> dict[str, Any]:
        def ask(shard: Principal) -> dict[str, Any]:
            page: dict[str, Any] = self._call(shard, "shard_page", start, end, _PAGE_ROWS)
            return page | {"is_here": page["elsewhere"] is None}

        return self._at(start, ask)

    def __iter__(self) -> Iterator[R]:
        return self.range()

    # --- all of them

    def __len__(self) -> int:
        return self.count().count

    def count(self, low: Any = None, high: Any = None, *, partial: bool = False) -> Counted:
        """How many rows there are with ``low <= key < high``: shards of a subnet are asked by one composite query.

        Every key is counted in one shard, also where rows move meanwhile.

        Args:
            low: the first key.
            high: the one behind the last.
            partial: where some do not answer, count the others.

        Raises:
            ShardError: some do not answer, and `partial` is not set.
        """
        start = b"" if low is None else self._pairs.key(low)
        end = None if high is None else self._pairs.key(high)
        counted: Ranges[bool] = Ranges(False)
        total, errors = 0, dict[Principal, str]()
        for _ in range(_HOPS):
            left = [(one, other) for one, other, is_done in counted.between(start, end) if not is_done]
            if not left:
                return Counted(total)
            for first, last in left:
                for part in self._parts(first, last, errors):
                    where = list(counted.between(part["low"], part["high"]))
                    if not any(is_done for _, _, is_done in where):
                        counted.set(part["low"], part["high"], True)
                        total += part["count"]
            if errors and all(
                self._routes.at(one) in errors for one, _, done in counted.between(start, end) if not done
            ):
                break
            if any(not is_done for _, _, is_done in counted.between(start, end)):
                self.mend()
                self._learn_all()
        missing = tuple(
            (one, other, errors.get(self._routes.at(one) or ANONYMOUS, "nobody has these rows"))
            for one, other, is_done in counted.between(start, end)
            if not is_done
        )
        if missing and not partial:
            first, last, why = missing[0]
            which = f"from {self._shown(first)}" + ("" if last is None else f" up to {self._shown(last)}")
            raise ShardError(f"{counted_of(len(missing), 'range')} of keys cannot be counted, {which}: {why}", missing)
        return Counted(total, missing)

    def _parts(self, low: bytes, high: bytes | None, errors: dict[Principal, str]) -> Iterator[dict[str, Any]]:
        groups: dict[Hashable, list[Principal]] = {}
        for shard in dict.fromkeys(one for _, _, one in self._routes.between(low, high)):
            if shard is not None:
                groups.setdefault(self._subnet(shard), []).append(shard)
        for group in groups.values():
            for begin in range(0, len(group), _FAN):
                yield from self._fan(group[begin : begin + _FAN], low, high, errors)

    def _fan(
        self, group: list[Principal], low: bytes, high: bytes | None, errors: dict[Principal, str]
    ) -> Iterator[dict[str, Any]]:
        """What a group says: one of them asks the others."""
        for head in group:
            try:
                answers = self._call(head, "shard_fan", group, low, high)
            except _NO_ANSWER as error:
                errors[head] = str(error)
                continue
            for answer in answers:
                errors.pop(answer["shard"], None)
                if answer["error"]:
                    errors[answer["shard"]] = answer["error"]
                yield from answer["parts"]
            return

    def _subnet(self, shard: Principal) -> Hashable:
        subnet_of: Callable[[Principal], object] | None = getattr(self._home, "subnet_of", None)
        return None if subnet_of is None else id(subnet_of(shard))

    # --- moving rows

    def places(self) -> list[tuple[bytes, bytes | None, Principal | None]]:
        """Which shard has which packed keys, as far as is known here."""
        return list(self._routes)

    def split(self, source: Principal, to: Principal, *, at: Any = None, most: int = 1_000) -> None:
        """Have a shard give the upper half of its rows to another one, while calls go on.

        Args:
            source: the shard.
            to: the other one.
            at: the first key that goes; by default the one in the middle of its last range.
            most: rows that are on their way at once: nobody answers for these.
        """
        own = [(low, high) for low, high, holder in self._routes if holder == source]
        if not own:
            raise ValueError(f"{source} has no rows that could be split")
        low, high = own[-1]
        middle = self._call(source, "shard_middle", low, high) if at is None else self._pairs.key(at)
        if middle is not None:
            self.move(middle, high, source, to, most=most)

    def merge(self, source: Principal, into: Principal, *, most: int = 1_000) -> None:
        """Have a shard give all that it has to another one, while calls go on."""
        self._learn_all()
        for low, high in [(low, high) for low, high, holder in self._routes if holder == source]:
            self.move(low, high, source, into, most=most)

    def move(self, low: bytes, high: bytes | None, source: Principal, to: Principal, *, most: int = 1_000) -> None:
        """Have a shard give rows between packed keys to another one, chunk by chunk.

        Raises:
            ValueError: the other one is no other shard of the table.
            RejectError: the shard that takes them did not answer; `mend` goes on with the chunk that is on its way.
        """
        for _ in self.moving(low, high, source, to, most=most):
            pass

    def moving(
        self, low: bytes, high: bytes | None, source: Principal, to: Principal, *, most: int = 1_000
    ) -> Iterator[bytes]:
        """`move`, a chunk at a time: the packed key that goes next. Between chunks other calls may be made.

        Raises:
            ValueError: they are one shard, or the other one is none of the table's.
            RejectError: as `move`; also where the shard that is to take them does not answer before anything is sent.
        """
        if to == source or to not in self.shards:
            words = "has them already" if to == source else "is no shard of this table: `add_shard` makes it one"
            raise ValueError(f"rows of {source} cannot go to {to}, which {words}")
        self._call(to, "shard_facts")  # what has left is nobody's until it has arrived
        while True:
            facts = self._call(source, "shard_facts")
            self._learn_of(source, facts)
            ranges = Ranges.of(((one["low"], one["high"], one["holder"]) for one in facts["pieces"]), None)
            own = [(first, last) for first, last, holder in ranges.between(low, high) if holder == source]
            if not own:
                return
            yield own[0][0]
            self._call(source, "shard_give", *own[0], to, most)

    def mend(self) -> None:
        """Go on with whatever is on its way and was cut off; what cannot be delivered stays."""
        for shard in self.shards:
            try:
                moving = self._call(shard, "shard_facts")["moving"]
                if moving is not None:
                    self._call(shard, "shard_give", moving["low"], moving["high"], moving["to"], 1)
            except _NO_ANSWER:
                continue

    # --- who has what

    def _at(self, key: bytes, ask: Callable[[Principal], dict[str, Any]]) -> dict[str, Any]:
        """The answer of whoever has a key."""
        said = "nobody has it"
        asked: set[Principal] = set()
        for _ in range(_HOPS):
            if self._routes.at(key) in (None, *asked):  # it is on its way, and each says that the other one has it
                self.mend()
                self._learn_all()
                asked.clear()
            shard = self._routes.at(key)
            if shard is None:
                break
            try:
                answer = ask(shard)
            except _NO_ANSWER as error:
                raise ShardError(
                    f"{shard} does not answer for key {self._shown(key)}: {error}", [(key, key + b"\0", str(error))]
                ) from error
            if answer["is_here"]:
                return answer
            self._learn(answer["elsewhere"])
            asked.add(shard)
            said = f"{shard} has given it away"
        raise ShardError(f"no shard answers for key {self._shown(key)}: {said}", [(key, key + b"\0", said)])

    @staticmethod
    def _shown(key: bytes) -> str:
        """A packed key as somebody would write it; where one begins or ends within a key, its bytes."""
        if not key:
            return "the first"
        try:
            parts = unpack(key)
        except MalformedError:
            return f"{key!r:.60}"
        return (repr(parts[0]) if len(parts) == 1 else repr(tuple(parts)))[:100]

    def _learn(self, piece: Mapping[str, Any]) -> None:
        self._routes.set(piece["low"], piece["high"], piece["holder"])

    def _learn_of(self, shard: Principal, facts: Mapping[str, Any]) -> None:
        for piece in facts["pieces"]:
            if piece["holder"] == shard:
                self._learn(piece)
        for piece in facts["pieces"]:
            if piece["holder"] != shard:
                for low, high, holder in list(self._routes.between(piece["low"], piece["high"])):
                    if holder == shard:
                        self._routes.set(low, high, piece["holder"])

    def _learn_all(self) -> None:
        """Ask all shards what they have; of those that do not answer, what was known stays.

        Raises:
            ShardError: none answers, or none has begun.
        """
        found: list[tuple[bytes, bytes | None, Principal | None]] = []
        silent: dict[Principal, str] = {}
        for shard in self.shards:
            try:
                pieces = self._call(shard, "shard_facts")["pieces"]
            except _NO_ANSWER as error:
                silent[shard] = str(error)
                continue
            found += [(one["low"], one["high"], shard) for one in pieces if one["holder"] == shard]
        known = [one for one in self._routes if one[2] in silent]
        if not found and not known:
            why = next(iter(silent.values()), "none of them has any keys: ShardedTable.begin gives them")
            raise ShardError(f"no shard of {len(self.shards)} can be asked: {why}")
        self._routes = Ranges.of([*known, *found], None)

    def _check_columns(self) -> None:
        for shard in self.shards:
            try:
                columns = self._call(shard, "shard_columns")
            except _NO_ANSWER:
                continue
            if columns and tuple(columns) != self._pairs.columns:
                declared = ", ".join(self._pairs.columns)
                raise ValueError(f"rows of {shard} have the columns {', '.join(columns)}, declared are {declared}")

    def _call(self, shard: Principal, name: str, *arguments: Value) -> Any:
        method = self._codecs[name]
        canister: _Canister = self._home.canister(shard)
        ask = canister.query if method.is_query else canister.update
        results = method.results.decode(ask(name, method.arguments.encode(arguments), sender=self._sender))
        return results[0] if results else None


@final
class _Method:
    def __init__(self, signature: str) -> None:
        func = parse_type(f"func {signature}")
        assert isinstance(func, Func)
        self.arguments, self.results = Codec(func.args), Codec(func.results)
        self.is_query = signature.endswith("query")


def _batches(pairs: Sequence[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    """In parts that go into a message."""
    some: list[tuple[bytes, bytes]] = []
    size_bytes = 0
    for key, value in pairs:
        size_bytes += len(key) + len(value)
        if some and (len(some) >= _PAGE_ROWS or size_bytes > 1 << 20):
            yield some
            some, size_bytes = [], len(key) + len(value)
        some.append((key, value))
    if some:
        yield some
