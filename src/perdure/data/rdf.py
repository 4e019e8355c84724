"""The store that rdflib reads and writes: triples in stable memory, terms as N-Triples writes them.

SPARQL works within limits, as SQL does (`perdure.reading_sql.Limits`): rdflib is asked by the store, and by whatever
part of a query hands a solution on, whether there is time left. ``REGEX`` and ``REPLACE`` search by
`perdure.data.patterns`, which asks as well, where rdflib's would go back and back.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from reprlib import repr as brief
from types import MethodType
from typing import Any, Final, Protocol, final

from rdflib import BNode, Graph, Literal, URIRef
from rdflib.plugins.sparql import CUSTOM_EVALS, operators
from rdflib.plugins.sparql.algebra import translateQuery, translateUpdate, traverse
from rdflib.plugins.sparql.evaluate import evalPart
from rdflib.plugins.sparql.parser import parseQuery, parseUpdate
from rdflib.query import Result
from rdflib.store import Store
from rdflib.util import from_n3

from perdure.data.patterns import Pattern, Spans
from perdure.errors import HostError, UnsupportedError
from perdure.reading_sql import Limits
from perdure.units import show_bytes

__all__ = ["StableGraph", "StableStore"]

# What would open a file, or a connection: a message has its canister's memory and nothing else.
_ELSEWHERE: Final = {"ServiceGraphPattern": "SERVICE", "Load": "LOAD"}


_MOST_TEXT_BYTES: Final = 256 << 10
"""Of a query or an update: rdflib's parser takes up to 0.14 ms a byte."""
_MOST_SECONDS_BETWEEN_LOOKS: Final = 1.0
_MOST_PATTERNS: Final = 4
_REFERENCE: Final = re.compile(r"[$\\](\d)|\\(.)", re.DOTALL)
"""In what replaces: a group, or a character that stands for itself."""
_RESULTS: Final = frozenset(["SelectQuery", "AskQuery", "ConstructQuery", "DescribeQuery"])
"""Parts that give a whole result, and no solutions."""


class TermTriples(Protocol):
    """What the store has to know of triples."""

    def transaction(self) -> AbstractContextManager[None]:
        """Writes within are one."""
        ...

    def add(self, triple: tuple[str, str, str]) -> None:
        """Add one."""
        ...

    def remove(self, pattern: tuple[str | None, str | None, str | None]) -> int:
        """Remove what matches."""
        ...

    def match(self, pattern: tuple[str | None, str | None, str | None]) -> Iterator[tuple[str, str, str]]:
        """What matches."""
        ...

    def __len__(self) -> int: ...


@lru_cache(65_536)
def _text(term: Any) -> str:
    if isinstance(term, URIRef):
        return f"<{term}>"
    if isinstance(term, BNode):
        return f"_:{term}"
    if isinstance(term, Literal):
        # One line, whatever is in it: the long form of N3 has others.
        quoted = term.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
        suffix = f"@{term.language}" if term.language else f"^^<{term.datatype}>" if term.datatype else ""
        return f'"{quoted}"{suffix}'
    raise ValueError(f"{brief(term)} is no term that triples have: an IRI, a blank node or a literal")


@lru_cache(65_536)
def _term(text: str) -> Any:
    if text.startswith("<"):
        return URIRef(text[1:-1])
    if text.startswith("_:"):
        return BNode(text[2:])
    return from_n3(text)


@final
class _Clock:
    """How long one query or update has worked.

    Its caller may do something else between two solutions: at most a second is counted from one look to the next.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._worked, self._last = 0.0, time.monotonic()
        self.evaluated: object = None
        """The part that rdflib is to evaluate by itself next."""
        self._patterns: dict[tuple[str, str], Pattern] = {}

    def look(self) -> None:
        """Raise `HostError` where the time is over."""
        now = time.monotonic()
        self._worked += min(now - self._last, _MOST_SECONDS_BETWEEN_LOOKS)
        self._last = now
        if self._seconds is not None and self._worked > self._seconds:
            raise HostError(f"SPARQL has worked for {self._seconds:g} s, the limit of one statement: ask for less")

    def take(self, steps: int) -> None:
        """`look`, as a search asks for it."""
        self.look()

    def pattern(self, text: str, options: str) -> Pattern:
        """A regular expression, of which the last ones are kept.

        Raises:
            UnsupportedError: it is none, is too long, or needs going back.
        """
        found = self._patterns.get((text, options))
        if found is None:
            if len(self._patterns) >= _MOST_PATTERNS:
                self._patterns.clear()
            try:
                found = self._patterns[text, options] = Pattern(text, options)
            except ValueError as error:
                raise UnsupportedError(f"SPARQL: {error}") from error
        return found

    def watched(self, found: Iterable[Any]) -> Iterator[Any]:
        """The same, with a look at each."""
        for one in found:
            self.look()
            yield one


@final
class StableStore(Store):
    """One graph, without contexts; what is added stays with the message.

    Args:
        triples: that it keeps.
        clock: of the statement that uses it; `None`: nobody counts.
    """

    context_aware = False
    formula_aware = False
    graph_aware = False
    transaction_aware = False

    def __init__(self, triples: TermTriples, clock: _Clock | None = None) -> None:
        super().__init__()
        self._triples = triples
        self.clock = clock
        self._namespaces: dict[str, Any] = {}

    def within(self, clock: _Clock) -> StableStore:
        """The same triples, for one statement."""
        return StableStore(self._triples, clock)

    def transaction(self) -> AbstractContextManager[None]:
        """Writes within are one."""
        return self._triples.transaction()

    def add(self, triple: Any, context: Any = None, quoted: bool = False) -> None:
        """Add a triple."""
        if self.clock is not None:
            self.clock.look()
        subject, predicate, object_ = map(_text, triple)
        self._triples.add((subject, predicate, object_))
        super().add(triple, context, quoted)

    def remove(self, triple: Any, context: Any = None) -> None:
        """Remove what matches."""
        self._triples.remove(_pattern(triple))
        super().remove(triple, context)

    def triples(self, triple_pattern: Any, context: Any = None) -> Iterator[Any]:
        """What matches."""
        found = self._triples.match(_pattern(triple_pattern))
        for one in found if self.clock is None else self.clock.watched(found):
            yield tuple(map(_term, one)), iter(())

    def __len__(self, context: Any = None) -> int:
        return len(self._triples)

    def bind(self, prefix: str, namespace: Any, override: bool = True) -> None:
        """Name a namespace, for this object only."""
        if override or prefix not in self._namespaces:
            self._namespaces[prefix] = namespace

    def namespace(self, prefix: str) -> Any:
        """What a prefix stands for."""
        return self._namespaces.get(prefix)

    def prefix(self, namespace: Any) -> Any:
        """What stands for a namespace."""
        return next((one for one, found in self._namespaces.items() if found == namespace), None)

    def namespaces(self) -> Iterator[Any]:
        """All of them."""
        return iter(self._namespaces.items())


def _pattern(terms: Any) -> tuple[str | None, str | None, str | None]:
    subject, predicate, object_ = (None if one is None else _text(one) for one in terms)
    return subject, predicate, object_


@final
class StableGraph(Graph):
    """A graph whose SPARQL reads and writes its own triples alone, within limits.

    Attributes:
        limits: of each query and update: `Limits.seconds` that it may work, and of the texts what is bound by that.
    """

    store: StableStore

    def __init__(self, store: StableStore, *, limits: Limits | None = None) -> None:
        super().__init__(store=store)
        self.limits = limits or Limits()

    def query(self, query_object: Any, *arguments: Any, **options: Any) -> Result:
        """What a query finds.

        Raises:
            UnsupportedError: it asks another endpoint, is a text of more than 256 KiB, or nested too deep.
            HostError: it takes longer than the limit, also while the result is gone through.
        """
        query = self._translated(query_object, _read_query, arguments[2:3], options)
        return self._counted(self._clock()).query(query, *arguments, **options)

    def update(self, update_object: Any, *arguments: Any, **options: Any) -> None:
        """Change what an update says: all of it or, where it fails, nothing.

        Raises:
            UnsupportedError: it takes triples from a file or another endpoint, is a text of more than 256 KiB, or
                nested too deep.
            HostError: it takes longer than the limit.
        """
        update = self._translated(update_object, _read_update, arguments[1:2], options)
        clock = self._clock()
        with self.store.transaction():
            self._counted(clock).update(update, *arguments, **options)
            clock.look()  # what is SILENT goes on after an error, of whatever kind

    def _clock(self) -> _Clock:
        """Of a statement whose time begins now."""
        return _Clock(self.limits.seconds)

    def _counted(self, clock: _Clock) -> Graph:
        """The same graph, for one statement: one of rdflib's own class, as its updates want it."""
        found = Graph(store=self.store.within(clock))
        found.namespace_manager = self.namespace_manager
        return found

    def _translated(
        self, statement: Any, read: Callable[[str, Any, Any], Any], names: tuple[Any, ...], options: Mapping[str, Any]
    ) -> Any:
        """A statement as rdflib evaluates it, from a text or made before, which asks nobody else.

        Its namespaces are those that the caller gives, by place or by name; else those of the graph.
        """
        with _not_too_deep():
            if isinstance(statement, str):
                _check_text(statement)
                given = (names[0] if names else options.get("initNs")) or dict(self.namespaces())
                statement = read(statement, options.get("base"), given)
            _only_here(statement.algebra)
        return statement


def _read_query(text: str, base: Any, names: Any) -> Any:
    return translateQuery(parseQuery(text), base, names)


def _read_update(text: str, base: Any, names: Any) -> Any:
    return translateUpdate(parseUpdate(text), base, names)


@contextmanager
def _not_too_deep() -> Iterator[None]:
    """For rdflib's parser, which goes as deep as a text does."""
    try:
        yield
    except RecursionError as error:
        raise UnsupportedError("SPARQL with more brackets within brackets than its parser takes") from error


def _check_text(text: str) -> None:
    size_bytes = len(text.encode(errors="surrogatepass"))
    if size_bytes > _MOST_TEXT_BYTES:
        raise UnsupportedError(
            f"SPARQL of {show_bytes(size_bytes)}, at most {show_bytes(_MOST_TEXT_BYTES)} are read: many triples go in "
            "by `graph.parse(data=...)`"
        )


def _clock_of(graph: Any) -> _Clock | None:
    """Of the statement that reads a graph; of graphs that are not ours `None`."""
    store = getattr(graph, "store", None)
    return store.clock if isinstance(store, StableStore) else None


def _watched(context: Any, part: Any) -> Iterator[Any]:
    """What rdflib asks for every part of a query: of ours the same solutions, with a look at the clock at each."""
    clock = _clock_of(context.graph)
    if clock is None or part.name in _RESULTS:
        raise NotImplementedError  # by which rdflib evaluates it by itself
    if clock.evaluated is part:
        clock.evaluated = None
        raise NotImplementedError
    clock.look()
    clock.evaluated = part
    return clock.watched(evalPart(context, part))


CUSTOM_EVALS[__name__] = _watched


def _regex(call: Any, solution: Any) -> Any:
    """SPARQL 1.1, 17.4.3.14."""
    clock = _clock_of(getattr(solution, "ctx", solution).graph)
    if clock is None:
        return operators.Builtin_REGEX(call, solution)
    text = operators.string(call.text)
    return Literal(clock.pattern(str(operators.string(call.pattern)), call.flags or "").search(text, clock))


def _replace(call: Any, solution: Any) -> Any:
    """SPARQL 1.1, 17.4.3.15; of what is empty as Python's `re.sub`."""
    clock = _clock_of(getattr(solution, "ctx", solution).graph)
    if clock is None:
        return operators.Builtin_REPLACE(call, solution)
    text, replacement = operators.string(call.arg), operators.string(call.replacement)
    pattern = clock.pattern(str(operators.string(call.pattern)), call.flags or "")
    parts, done = [], 0
    for spans in pattern.places(text, clock):
        parts += [text[done : spans[0]], _filled(replacement, text, spans)]
        done = spans[1]
    return Literal("".join((*parts, text[done:])), datatype=text.datatype, lang=text.language)


def _filled(replacement: str, text: str, spans: Spans) -> str:
    """What replaces a place, with the groups that it names; one that there is not is empty."""

    def group(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[2]
        start, end = spans[2 * int(found[1]) :][:2] or (0, 0)
        return text[start:end] if start >= 0 else ""

    return _REFERENCE.sub(group, replacement)


_IN_STEPS: Final = {"Builtin_REGEX": _regex, "Builtin_REPLACE": _replace}


_EXISTS: Final = frozenset(["Builtin_EXISTS", "Builtin_NOTEXISTS"])


def _only_here(algebra: Any) -> None:
    def look(node: Any) -> None:
        name = getattr(node, "name", "")
        if name in _IN_STEPS:
            node._evalfn = MethodType(_IN_STEPS[name], node)
        found = _ELSEWHERE.get(name)
        if found is not None:
            raise UnsupportedError(
                f"SPARQL reads and writes these triples alone, found {found}: "
                "take what is elsewhere in by an outcall, and `graph.parse(data=...)`"
            )
        if name in _EXISTS:
            traverse(node.graph, look)  # an attribute, which is not among its items

    traverse(algebra, look)
