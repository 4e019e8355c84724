"""Which pages a statement reads, by table and index: what a join costs where every page is a page of stable memory.

The pages are counted from nothing: neither the schema nor a page is in a cache when the statement begins. That is what
a canister has after an upgrade, and what each query has that no update has warmed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, final

from perdure.errors import UnsupportedError
from perdure.memory import PAGE_BYTES

if TYPE_CHECKING:
    import apsw

__all__ = ["Explained", "PagesOf", "explain"]

_FREE: Final = "free or unknown"


class _File(Protocol):
    touched: tuple[set[int], set[int]] | None

    @property
    def page_bytes(self) -> int: ...


F = TypeVar("F", bound=_File)


@final
@dataclass(frozen=True)
class PagesOf:
    """Pages of one table or index.

    Attributes:
        name: of it; ``sqlite_schema`` is the first page and what follows of it.
        kind: ``table``, ``index``, or what else has pages.
        read: that the statement read, each counted once.
        total: that it has.
    """

    name: str
    kind: str
    read: int
    total: int


@final
@dataclass(frozen=True)
class Explained:
    """What a statement read.

    Attributes:
        plan: the steps of ``explain query plan``.
        rows: that came out.
        page_bytes: of a page of SQLite.
        read: pages of SQLite, each counted once.
        total: pages that the database has.
        stable_pages: of 4,096 bytes, that is, pages of stable memory.
        used: by table and index, most first.
    """

    plan: tuple[str, ...]
    rows: int
    page_bytes: int
    read: int
    total: int
    stable_pages: int
    used: tuple[PagesOf, ...]

    def to_json(self) -> dict[str, Any]:
        """As an object."""
        return {**vars(self), "plan": list(self.plan), "used": [vars(used) for used in self.used]}


def explain(
    guard: Callable[[F], apsw.Connection],
    make: Callable[[], F],
    sql: str,
    bindings: Mapping[str, object] | Sequence[object] | None,
) -> Explained:
    """Run a statement that reads, and count its pages.

    Args:
        guard: a connection that only reads, to a file.
        make: opens the file, as often as one likes.
        sql: one statement.
        bindings: for its parameters.
    """
    cursor = guard(make()).cursor()
    cursor.exec_trace = _OnlyOne()
    plan = tuple(str(row[3]) for row in cursor.execute(f"explain query plan {sql}", bindings))
    file, read = make(), set[int]()
    connection = guard(file)  # nothing of the plan is in its cache
    file.touched = (read, set())
    rows = sum(1 for _ in connection.execute(sql, bindings))
    file.touched = None
    page_bytes = file.page_bytes
    used, total = _by_name(connection, {offset // page_bytes + 1 for offset in read})
    stable_pages = {
        page for offset in read for page in range(offset // PAGE_BYTES, -(-(offset + page_bytes) // PAGE_BYTES))
    }
    return Explained(plan, rows, page_bytes, len(read), total, len(stable_pages), used)


@final
class _OnlyOne:
    """Lets one statement begin, and no other."""

    def __init__(self) -> None:
        self._has_begun = False

    def __call__(self, _cursor: object, sql: str, _bindings: object) -> bool:
        if self._has_begun:
            raise UnsupportedError(f"one statement is explained at a time, found another: {sql.strip():.60}")
        self._has_begun = True
        return True


def _by_name(connection: apsw.Connection, read: set[int]) -> tuple[tuple[PagesOf, ...], int]:
    kinds = dict(connection.execute("select name, type from sqlite_schema"))
    owners = dict(connection.execute("select pageno, name from temp.dbstat"))  # the schema may have one of its own
    totals, counts = Counter(owners.values()), Counter(owners.get(page, _FREE) for page in read)
    used = tuple(
        PagesOf(name, str(kinds.get(name, "table" if name == "sqlite_schema" else "")), count, totals[name])
        for name, count in counts.most_common()
    )
    (total,) = next(connection.execute("pragma page_count"))
    return used, int(total)
