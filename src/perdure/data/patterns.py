r"""Regular expressions in bounded time: what `re` and Mongo write, without what needs going back.

```
pattern ─parse▶ nodes ─lay▶ states ─▶ sets of states by character, made when they are met first
```

All ways through a pattern are gone at once (Thompson, "Regular Expression Search Algorithm", 1968), so a text costs
at most its length times the states; so does where a pattern is found first, with its groups (Pike, "The text editor
sam", 1987), by states that are not remembered. There are characters, ``.``, classes, groups, ``|``, ``* + ? {n,m}``,
``^ $ \b \B``, and the options ``i``, ``m`` and ``s``. What refers back or looks around is refused, and ``$`` is the
very end alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from reprlib import repr as brief
from typing import Final, NoReturn, Protocol, TypeAlias, final

__all__ = ["MAX_PATTERN", "Pattern", "Spans", "Steps", "Work"]

MAX_PATTERN: Final = 1_000
"""Characters of a pattern."""
MAX_STATES: Final = 2_000
_MAX_SETS: Final = 50_000
_MAX_HELD: Final = 500_000
"""States in all sets that are remembered, some tens of MB."""
_MAX_NESTING: Final = 50
MAX_WORK: Final = 20_000_000
"""Steps of one search through documents, some seconds; what was met before takes none, as reading a text does not."""

_STRETCH: Final = 65_536
"""Characters that may pass without a step."""

Test = Callable[[str], bool]
Spans: TypeAlias = tuple[int, ...]
"""Start and end of what was found, then of each group; -1 where a group had no part in it."""

_CLASSES: Final[dict[str, Test]] = {
    "d": str.isdecimal,
    "D": lambda one: not one.isdecimal(),
    "s": str.isspace,
    "S": lambda one: not one.isspace(),
    "w": lambda one: one.isalnum() or one == "_",
    "W": lambda one: not (one.isalnum() or one == "_"),
}
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}


class Steps(Protocol):
    """What bounds a search."""

    def take(self, steps: int) -> None:
        """Be told of so many more steps, or of 65,536 characters that took none; raises where that is too much."""
        ...


@final
@dataclass
class Work:
    """How many steps are left.

    Raises:
        ValueError: by `take`, where there are none.
    """

    left: int = MAX_WORK

    def take(self, steps: int) -> None:
        """Some of them."""
        self.left -= steps
        if self.left < 0:
            raise ValueError(f"a search has taken {MAX_WORK:,} steps: narrow what is searched, or the pattern")


@final
@dataclass
class _State:
    """A place in a pattern: what it eats, or where it goes without, in the order of trying; both empty at the end."""

    test: Test | None = None
    to: int = -1
    empty: list[int] = field(default_factory=list)
    holds: Callable[[str, str], bool] | None = None
    """Between two characters, either of which is empty at an end."""
    marks: int = -1
    """The place in `Spans` where it notes how far it has come."""


def _is_word(one: str) -> bool:
    return bool(one) and _CLASSES["w"](one)


@final
class _Parser:
    """A pattern into states; each part is laid before what comes after it, whose state it is told."""

    def __init__(self, pattern: str, options: str) -> None:
        self._text = pattern
        self._at = 0
        self._nesting = 0
        self.groups = 0
        self._ignores_case = "i" in options
        self._is_multiline = "m" in options
        self._has_all = "s" in options
        self.states = [_State()]

    def parse(self) -> int:
        lay = self._either()
        if self._at < len(self._text):
            self._refuse("a ) that closes nothing")
        return lay(0)

    def _refuse(self, why: str) -> NoReturn:
        raise ValueError(f"the pattern {brief(self._text)}: {why}, at character {self._at}")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        one = self._peek()
        if not one:
            self._refuse("it ends too early")
        self._at += 1
        return one

    def _made(self, state: _State) -> int:
        if len(self.states) >= MAX_STATES:
            self._refuse(f"more than {MAX_STATES} states: fewer or smaller counts")
        self.states.append(state)
        return len(self.states) - 1

    def _either(self) -> _Lay:
        self._nesting += 1
        if self._nesting > _MAX_NESTING:
            self._refuse(f"more than {_MAX_NESTING} groups in one another")
        branches = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            branches.append(self._sequence())
        self._nesting -= 1
        if len(branches) == 1:
            return branches[0]
        return lambda after: self._made(_State(empty=[lay(after) for lay in branches]))

    def _sequence(self) -> _Lay:
        parts: list[_Lay] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated())

        def lay(after: int) -> int:
            for part in reversed(parts):
                after = part(after)
            return after

        return lay

    def _repeated(self) -> _Lay:
        part = self._one()
        found = self._counts()
        if found is None:
            return part
        is_lazy = self._peek() == "?"
        self._at += is_lazy
        turn = -1 if is_lazy else 1
        if self._peek() in ("*", "+", "?") or self._counts() is not None:
            self._refuse("a repetition of a repetition: put it in a group")
        low, high = found

        def lay(after: int) -> int:
            if high is None:
                loop = self._made(_State())
                self.states[loop].empty = [part(loop), after][::turn]
                after = loop
            else:
                end = after
                for _ in range(high - low):
                    after = self._made(_State(empty=[part(after), end][::turn]))
            for _ in range(low):
                after = part(after)
            return after

        return lay

    def _counts(self) -> tuple[int, int | None] | None:
        one = self._peek()
        if one in ("*", "+", "?") and one:
            self._at += 1
            return (int(one == "+"), 1 if one == "?" else None)
        found = re.compile(r"\{(\d{1,5})(,?)(\d{0,5})\}").match(self._text, self._at)
        if found is None:
            return None
        low, comma, most = found.groups()
        self._at = found.end()
        high = int(most) if most else None if comma else int(low)
        if high is not None and (high < int(low) or (most and not comma)):
            self._refuse("a repetition whose most is less than its least")
        return int(low), high

    def _one(self) -> _Lay:
        one = self._next()
        if one in "*+?":
            self._refuse("a repetition of nothing")
        special = {
            "(": self._group,
            "[": lambda: self._eats(self._class()),
            ".": lambda: self._eats(lambda found: self._has_all or found != "\n"),
            "^": lambda: self._holds(lambda before, _: not before or (self._is_multiline and before == "\n")),
            "$": lambda: self._holds(lambda _, behind: not behind or (self._is_multiline and behind == "\n")),
            "\\": self._escaped,
        }
        return special[one]() if one in special else self._eats(self._same(one))

    def _group(self) -> _Lay:
        number = 0
        if self._text.startswith("?:", self._at):
            self._at += 2
        elif self._peek() == "?":
            self._refuse("groups that look around, have names or options are not taken")
        else:
            self.groups += 1
            number = self.groups
        lay = self._either()
        if self._peek() != ")":
            self._refuse("a group that is not closed")
        self._at += 1
        if not number:
            return lay
        return lambda after: self._marks(2 * number, lay(self._marks(2 * number + 1, after)))

    def _escaped(self) -> _Lay:
        one = self._peek()
        if one in ("b", "B"):
            self._at += 1
            wanted = one == "b"
            return self._holds(lambda before, behind: (_is_word(before) != _is_word(behind)) == wanted)
        if one and one in "AZ":
            self._at += 1
            is_start = one == "A"
            return self._holds(lambda before, behind: not (before if is_start else behind))
        return self._eats(self._escape())

    def _escape(self) -> Test:
        one = self._next()
        if one in _CLASSES:
            return _CLASSES[one]
        return self._same(self._character(one))

    def _character(self, one: str) -> str:
        """What stands behind a backslash, as a character."""
        if one in _ESCAPES:
            return _ESCAPES[one]
        if one in "xu":
            digits = self._text[self._at : self._at + (2 if one == "x" else 4)]
            if re.fullmatch(r"[0-9a-fA-F]{2}|[0-9a-fA-F]{4}", digits) is None:
                self._refuse(f"\\{one} wants {2 if one == 'x' else 4} hexadecimal digits")
            self._at += len(digits)
            return chr(int(digits, 16))
        if one.isalnum():
            self._refuse(f"\\{one} is not taken: nothing refers back")
        return one

    def _class(self) -> Test:
        is_negated = self._peek() == "^"
        self._at += is_negated
        tests: list[Test] = []
        is_first = True
        while is_first or self._peek() != "]":
            is_first = False
            tests.append(self._member())
        self._at += 1
        return lambda found: any(test(found) for test in tests) != is_negated

    def _member(self) -> Test:
        one = self._next()
        if one == "\\":
            letter = self._next()
            if letter in _CLASSES:
                return _CLASSES[letter]
            one = self._character(letter)
        if self._peek() != "-" or self._text[self._at + 1 : self._at + 2] in ("]", ""):
            return self._same(one)
        self._at += 1
        last = self._next()
        last = self._character(self._next()) if last == "\\" else last
        if last < one:
            self._refuse(f"a range from {one!r} to {last!r}")
        return self._cased(lambda found: one <= found <= last)

    def _same(self, one: str) -> Test:
        return self._cased(lambda found: found == one)

    def _cased(self, test: Test) -> Test:
        if not self._ignores_case:
            return test
        return lambda found: test(found) or test(found.lower()) or test(found.upper())

    def _eats(self, test: Test) -> _Lay:
        return lambda after: self._made(_State(test, after))

    def _marks(self, place: int, after: int) -> int:
        return self._made(_State(empty=[after], marks=place))

    def _holds(self, holds: Callable[[str, str], bool]) -> _Lay:
        return lambda after: self._made(_State(empty=[after], holds=holds))


_Lay = Callable[[int], int]


@final
class Pattern:
    """A pattern, ready to be searched for.

    Args:
        pattern: as `re` and Mongo write it.
        options: letters among ``i`` (whichever case), ``m`` (``^`` and ``$`` at lines), ``s`` (``.`` is any character).

    Raises:
        ValueError: it is none, is too long, or needs going back.
    """

    def __init__(self, pattern: str, options: str = "") -> None:
        if len(pattern) > MAX_PATTERN:
            raise ValueError(f"a pattern of {len(pattern)} characters, at most {MAX_PATTERN} are taken")
        if unknown := set(options) - set("ims"):
            raise ValueError(f"options {''.join(sorted(unknown))!r} of a pattern are none of i, m, s")
        parser = _Parser(pattern, options)
        self._first = parser.parse()
        self._states = parser.states
        self._blank = (-1,) * (2 * parser.groups + 2)
        self._looks_behind = any(one.holds is not None for one in self._states)
        self._start, self._end = frozenset((self._first,)), frozenset((0,))
        self._sets, self._held = {self._end: self._end}, 0
        self._next: dict[tuple[frozenset[int], str, bool], frozenset[int]] = {}

    def search(self, text: str, work: Steps | None = None) -> bool:
        """Whether it is somewhere in a text.

        Raises:
            ValueError: no steps are left.
        """
        work = work or Work()
        now, before, known = self._start, "", self._next
        for one in _characters(text, work):
            # What is between two characters counts only where something is asked of it; the end is not a character.
            met = before + one if self._looks_behind or not one else one
            found = known.get((now, met, not one))
            if found is None:
                found = self._met((now, met, not one), self._step(now, before, one, work))
            if found is self._end:
                return True
            now, before = found, one
        return False

    def _met(self, where: tuple[frozenset[int], str, bool], behind: frozenset[int]) -> frozenset[int]:
        """Remember where a character leads; the same set is the same object, which is found faster."""
        if len(self._next) >= _MAX_SETS or self._held > _MAX_HELD:
            self._next.clear()
            self._sets, self._held = {self._end: self._end}, 0
        found = self._end if 0 in behind else behind | self._start
        if found not in self._sets:
            self._sets[found], self._held = found, self._held + len(found)
        self._next[where] = found = self._sets[found]
        return found

    def _step(self, now: frozenset[int], before: str, one: str, work: Steps) -> frozenset[int]:
        """The states behind a character; with the end among them, that of before it counts as well."""
        pending, reached, behind = list(now), set(now), set()
        work.take(len(self._states))
        while pending:
            state = self._states[pending.pop()]
            if state.test is not None:
                if one and state.test(one):
                    behind.add(state.to)
            elif state.holds is None or state.holds(before, one):
                new = [other for other in state.empty if other not in reached]
                reached.update(new)
                pending += new
        return frozenset((0,)) if 0 in reached else frozenset(behind)

    def places(self, text: str, work: Steps | None = None) -> Iterator[Spans]:
        """Where it is in a text, one after the other and none within another, as `re.finditer` finds them.

        Raises:
            ValueError: no steps are left.
        """
        work, taken = work or Work(), -1
        found = self._found(text, 0, taken, work) if self.search(text, work) else None
        while found is not None:
            yield found
            start, end, *_ = found
            taken = end if start == end else -1
            found = self._found(text, end, taken, work)

    def _found(self, text: str, start: int, taken: int, work: Steps) -> Spans | None:
        """Where it is first, from `start` on; nothing empty at `taken`, where that was found already."""
        found: Spans | None = None
        now: list[tuple[int, Spans]] = []
        for at in range(start, len(text) + 1):
            before, one = text[at - 1 : at] if at else "", text[at : at + 1]
            if found is None:
                now.append((self._first, (at, *self._blank[1:])))
            behind: list[tuple[int, Spans]] = []
            for number, spans in self._reached(now, at, before, one, work):
                if number == 0 and spans[0] == at == taken:
                    continue
                if number == 0:
                    found = (spans[0], at, *spans[2:])
                    break  # the others would have been tried later
                state = self._states[number]
                if one and state.test is not None and state.test(one):
                    behind.append((state.to, spans))
            now = behind
            if found is not None and not now:
                break
        return found

    def _reached(
        self, now: list[tuple[int, Spans]], at: int, before: str, one: str, work: Steps
    ) -> Iterator[tuple[int, Spans]]:
        """The states that eat, or are the end, which those of `now` lead to, in the order in which they are tried."""
        pending, reached = now[::-1], set()
        while pending:
            number, spans = pending.pop()
            if number in reached:
                continue
            reached.add(number)
            state = self._states[number]
            if state.marks >= 0:
                spans = (*spans[: state.marks], at, *spans[state.marks + 1 :])
            if state.holds is None or state.holds(before, one):
                pending += [(other, spans) for other in reversed(state.empty)]
            if not state.empty:
                yield number, spans
        work.take(len(reached))


def _characters(text: str, work: Steps) -> Iterator[str]:
    for start in range(0, len(text), _STRETCH):
        work.take(0)
        yield from text[start : start + _STRETCH]
    yield ""
