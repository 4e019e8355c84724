"""Generation that learns from coverage: calls that ran code for the first time are tried again, in part and in order.

What lies behind two conditions is found in two steps so: who met the first one is kept, and what is kept is mixed with
what is new. Canisters in Python count no blocks; nothing is kept of them.

Hypothesis repeats examples, and has to get the same again. So every choice is drawn from the same range whatever is
kept, what an example has found is kept when it has ended, and once one has failed nothing more is.
"""

from __future__ import annotations

import random
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from operator import eq
from typing import Any, Final, NamedTuple, final

from hypothesis import strategies as st

from perdure.candid.types import Prim, Type, Value
from perdure.embedder import WasmInstance, covered_code
from perdure.embedder.hits import HitCounter
from perdure.ic.principal import Principal
from perdure.instrument.counted import COUNTER_BYTES
from perdure.subnet import Subnet
from perdure.subnet.residency import CodeForm

__all__ = ["Call", "Guide", "shortest"]

_MAX_STORY: Final = 20
_MAX_CALLS: Final = 500
"""How many calls of each method are kept; those found later are of code that is harder to reach."""
_CHOICES: Final = (1 << 16) - 1


@final
class Call(NamedTuple):
    """A call that was made."""

    method: str
    values: tuple[Value, ...]
    sender: Principal


@final
class Guide:
    """What examples have found out, of one machine."""

    def __init__(self) -> None:
        self._form = CodeForm(covered_code, self._begun)
        self._counters: list[tuple[bytes, HitCounter]] = []
        self._seen: dict[bytes, bytearray] = {}
        """Of each module, by hash, which of its blocks have run: a byte each."""
        self._calls: dict[str, list[tuple[Value, ...]]] = {}
        self._stories: list[tuple[Call, ...]] = []
        self._found: list[tuple[Call, ...]] = []
        self._chosen: int | None = None
        """Which story the example has begun with."""
        self._has_failed = False

    def begin(self, subnet: Subnet) -> None:
        """An example begins, on this fork."""
        self._counters.clear()
        self._chosen = None
        subnet._run_as(self._form)

    def _begun(self, instance: WasmInstance) -> None:
        if instance.calls.hits.points:
            self._counters.append((instance.module.module_hash, instance.calls.hits))

    @property
    def blocks(self) -> int:
        """How many blocks have run, over all examples."""
        return sum(map(sum, self._seen.values()))

    def learn(self, story: Sequence[Call]) -> None:
        """After a call: note the story if the call has run a block that none has run before."""
        is_new = False
        for module_hash, counter in self._counters:
            counted = counter.taken()
            if not counted or self._has_failed:
                continue
            seen = self._seen.setdefault(module_hash, bytearray(counter.points))
            for block, hits in enumerate(array("Q", counted.to_bytes(counter.points * COUNTER_BYTES, "little"))):
                if hits and not seen[block]:
                    seen[block], is_new = 1, True
        if is_new and story:
            self._found.append(tuple(story[-_MAX_STORY:]))

    def end(self, *, has_failed: bool) -> None:
        """An example has ended."""
        self._has_failed |= has_failed
        if not self._has_failed:
            for story in self._found:
                calls = self._calls.setdefault(story[-1].method, [])
                if len(calls) < _MAX_CALLS:
                    calls.append(story[-1].values)
                    self._stories.append(story)
        self._found.clear()

    def story(self, data: st.DataObject) -> tuple[Call, ...]:
        """What an example begins with: nothing, or what has led to new code before."""
        self._chosen = _one_of(data, range(len(self._stories)), "as before")
        return () if self._chosen is None else self._stories[self._chosen]

    def shorten(self, fails: Callable[[Sequence[Call]], bool]) -> None:
        """After an example that failed: have what it began with be no longer than it takes to fail so.

        The example is repeated with what is left, so that Hypothesis, which cannot see into a story, makes the rest
        simpler. Nothing else is drawn than before.

        Args:
            fails: whether the example fails in the same way if it begins with these calls.
        """
        chosen = self._chosen  # other examples begin meanwhile
        if chosen is not None and self._stories[chosen]:
            self._stories[chosen] = shortest(self._stories[chosen], fails)

    def mixed(self, data: st.DataObject, method: str, values: tuple[Value, ...], types: Sequence[Type]) -> Any:
        """New arguments, some parts of which are those of an earlier call.

        Hypothesis likes small numbers and repeats itself; what is compared with a constant is met by numbers of any
        size, evenly. So three times out of four numbers are such; never in the simplest case.
        """
        number = data.draw(st.integers(0, (1 << 32) - 1), "spread")
        if number % 4:
            chance = random.Random(number)
            values = tuple(_spread(value, type_, chance) for value, type_ in zip(values, types, strict=True))
        earlier = _one_of(data, self._calls.get(method, []), "like")
        changed = data.draw(st.integers(0, _CHOICES), "changing")
        if earlier is None:
            return values
        parts = count()
        _mixed(values, earlier, lambda _: True, parts)
        last = next(parts)
        # Mostly one part alone is new, else any of them.
        is_new: Callable[[int], bool] = (
            (lambda part: part == changed // 4 % max(1, last))
            if changed % 4
            else (lambda part: changed >> 2 + part & 1 > 0)
        )
        return _mixed(values, earlier, is_new, count())


def _spread(value: Value, type_: Type, chance: random.Random) -> Value:
    """A number of the same type, each as likely as any other; what is no number of a fixed size as it is."""
    found = re.fullmatch(r"(nat|int)(8|16|32|64)", type_.name) if isinstance(type_, Prim) else None
    if found is None:
        return value
    number = chance.getrandbits(int(found[2]))
    return number - (1 << int(found[2]) - 1) if found[1] == "int" else number


def shortest(story: Sequence[Call], fails: Callable[[Sequence[Call]], bool]) -> tuple[Call, ...]:
    """What is left of a story that fails when no call, and nothing that a call sends, can be left out.

    Calls go in halves, quarters and one by one, from the end; then each part of what is sent is made zero or empty.
    """
    left = tuple(story)
    if not fails(left):  # by chance, or by what is not done again here
        return left
    many = len(left)
    while many:
        for end in range(len(left), 0, -many):
            without = left[: max(0, end - many)] + left[end:]
            if fails(without):
                left = without
        many //= 2
    for number, call in enumerate(left):
        parts = count()
        _mixed(call.values, call.values, lambda _: True, parts)
        for part in range(next(parts)):
            values = left[number].values
            plain = _mixed(_plain(values), values, partial(eq, part), count())
            simpler = (*left[:number], left[number]._replace(values=plain), *left[number + 1 :])
            if plain != values and fails(simpler):
                left = simpler
    return left


def _plain(value: Any) -> Any:
    """A value of the same type with nothing in it that could be without."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return type(value)() if isinstance(value, bool | int | float | str | bytes | list) else value


def _one_of(data: st.DataObject, kept: Sequence[Any], what: str) -> Any:
    """One that is kept, or `None`, which is also the simplest."""
    number = data.draw(st.integers(0, _CHOICES), what)
    if not kept or number % 4 == 0:
        return None
    # What was found last is hardest to reach: every third choice is that.
    return kept[-1] if number % 4 == 1 else kept[number // 4 % len(kept)]


def _mixed(new: Any, old: Any, is_new: Callable[[int], bool], parts: Iterator[int]) -> Any:
    """Each part of a value, by its number, the new one or the old one; they are of one Candid type."""
    if type(new) is type(old) and isinstance(new, tuple) and len(new) == len(old):
        return tuple(_mixed(one, other, is_new, parts) for one, other in zip(new, old, strict=True))
    if type(new) is type(old) and isinstance(new, dict) and new.keys() == old.keys():
        return {key: _mixed(new[key], old[key], is_new, parts) for key in new}
    return new if is_new(next(parts)) else old
