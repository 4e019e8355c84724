"""What SQL may do here, whoever wrote it: read, within limits. One authorizer and one set of limits for all of it.

The SQL is the user's, but views, triggers and virtual tables in a database are whoever's filled that memory.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, final

from perdure.errors import HostError, UnsupportedError

if TYPE_CHECKING:
    import apsw
    from apsw import SQLiteValue

__all__ = ["Limits", "bound_heap", "limit", "only_read", "only_this_database", "quoted"]

_READING: Final = ("SQLITE_SELECT", "SQLITE_READ", "SQLITE_RECURSIVE", "SQLITE_TRANSACTION", "SQLITE_SAVEPOINT")
_WRITING: Final = ("SQLITE_INSERT", "SQLITE_UPDATE", "SQLITE_DELETE")
_PRAGMAS: Final = frozenset(
    [
        *("collation_list", "compile_options", "function_list", "module_list", "pragma_list", "database_list"),
        *("table_info", "table_list", "table_xinfo", "index_list", "index_info", "index_xinfo", "foreign_key_list"),
        *("integrity_check", "quick_check", "foreign_key_check"),
    ]
)
_PRAGMAS_ASKED: Final = frozenset(
    [
        *("application_id", "user_version", "schema_version", "data_version", "encoding", "auto_vacuum"),
        *("page_count", "page_size", "freelist_count", "cache_size", "journal_mode"),
    ]
)
"""Those that set something where they are given a value."""

_FUNCTIONS_WITH_FILES: Final = frozenset(["load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"])
_CACHE_KIB: Final = 65_536
_STEPS_BETWEEN_LOOKS: Final = (16, 1_000)
"""At the beginning of a statement, and at most: one step can make a blob of `Limits.length_bytes`."""
_SECONDS_BETWEEN_LOOKS: Final = (0.01, 0.1)
_MOST_SECONDS_BETWEEN_LOOKS: Final = 1.0


def quoted(name: str) -> str:
    """A name in SQL, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


@final
@dataclass(frozen=True)
class Limits:
    """How much one connection may take.

    Attributes:
        seconds: that a statement may work; while its caller does something else, at most a second is counted each time
            SQLite comes back; `None`: for ever. Ctrl-C ends a statement in any case.
        length_bytes: of a text, a blob, a row and a statement.
        heap_bytes: that all connections of this process have together (`apsw.hard_heap_limit`), where nobody has set
            less or more before; `None`: leave it alone.
    """

    seconds: float | None = 60.0
    length_bytes: int = 64 << 20
    heap_bytes: int | None = 2 << 30


def bound_heap(most_bytes: int) -> None:
    """Bound what all connections of this process have together, where nobody has; nothing without apsw."""
    try:
        import apsw
    except ImportError:
        return
    if apsw.hard_heap_limit(-1) == 0:
        apsw.hard_heap_limit(most_bytes)


def limit(connection: apsw.Connection, limits: Limits) -> None:
    """Bound what statements take, and trust nothing that a schema says. Before anything has read the schema."""
    import apsw

    if not isinstance(limits, Limits):
        raise TypeError(f"expected perdure.inspection.Limits, found {limits!r:.80}")
    # Temporary files would be files.
    settings = f"pragma temp_store = memory; pragma cell_size_check = on; pragma cache_size = -{_CACHE_KIB}"
    for name, value in (("DEFENSIVE", 1), ("TRUSTED_SCHEMA", 0), ("ENABLE_LOAD_EXTENSION", 0)):
        connection.config(getattr(apsw, f"SQLITE_DBCONFIG_{name}"), value)
    for name, value in (("LENGTH", limits.length_bytes), ("SQL_LENGTH", 1 << 20), ("LIKE_PATTERN_LENGTH", 1_000)):
        connection.limit(getattr(apsw, f"SQLITE_LIMIT_{name}"), value)
    if limits.heap_bytes is not None:
        bound_heap(limits.heap_bytes)
    connection.execute(settings)
    _Linear(limits.length_bytes).put(connection)
    clock = _Clock(connection, limits.seconds)
    connection.exec_trace = clock.begin
    # Even without a limit of time Python has to be entered now and then: that is where signals are seen.
    clock.set(_STEPS_BETWEEN_LOOKS[0])


@final
class _Clock:
    """How long the statement has worked that began last; looks come about every 10 to 100 ms."""

    def __init__(self, connection: apsw.Connection, seconds: float | None) -> None:
        self._connection = weakref.ref(connection)
        self._seconds = seconds
        self._worked = self._last = 0.0
        self._steps = 0

    def begin(self, _cursor: object, _sql: str, _bindings: object) -> bool:
        self._worked, self._last = 0.0, time.monotonic()
        self.set(_STEPS_BETWEEN_LOOKS[0])
        return True

    def set(self, steps: int) -> None:
        """Look after so many steps each time."""
        connection = self._connection()
        if steps != self._steps and connection is not None:
            self._steps = steps
            connection.set_progress_handler(self.look, steps)

    def look(self) -> bool:
        now = time.monotonic()
        took = now - self._last
        self._worked += min(took, _MOST_SECONDS_BETWEEN_LOOKS)
        self._last = now
        if self._seconds is not None and self._worked > self._seconds:
            raise HostError(f"SQL has worked for {self._seconds:g} s, the limit of one statement: ask for less")
        if took < _SECONDS_BETWEEN_LOOKS[0] and self._steps < _STEPS_BETWEEN_LOOKS[1]:
            self.set(min(4 * self._steps, _STEPS_BETWEEN_LOOKS[1]))
        elif took > _SECONDS_BETWEEN_LOOKS[1] and self._steps > 1:
            self.set(max(1, self._steps // 4))
        return False


@final
class _Linear:
    """SQLite's functions that take the product of two texts' lengths, within one step, which nothing can interrupt.

    Its own ``instr`` works for hours on two texts within the limit of length. These take the sum, and give the same.
    """

    def __init__(self, length_bytes: int) -> None:
        import apsw

        self._length_bytes = length_bytes
        self._plain = apsw.Connection(":memory:")
        self._too_big = apsw.TooBigError

    def put(self, connection: apsw.Connection) -> None:
        """Have a connection use them, in what a schema says too."""
        import apsw

        functions: list[tuple[str, int, Callable[..., SQLiteValue]]] = [
            ("instr", 2, self.instr),
            ("replace", 3, self.replace),
            ("trim", 2, partial(self.trim, True, True)),
            ("ltrim", 2, partial(self.trim, True, False)),
            ("rtrim", 2, partial(self.trim, False, True)),
        ]
        for name, count, function in functions:
            connection.create_scalar_function(name, function, count, deterministic=True, flags=apsw.SQLITE_INNOCUOUS)

    def _text(self, value: SQLiteValue) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, bytes):
            return value.decode(errors="replace")
        return str(self._plain.execute("select cast(? as text)", (value,)).get)

    def instr(self, whole: SQLiteValue, part: SQLiteValue) -> SQLiteValue:
        if whole is None or part is None:
            return None
        if isinstance(whole, bytes) and isinstance(part, bytes):
            return whole.find(part) + 1
        return self._text(whole).find(self._text(part)) + 1

    def replace(self, whole: SQLiteValue, part: SQLiteValue, other: SQLiteValue) -> SQLiteValue:
        if whole is None or part is None:
            return None
        where, old = self._text(whole), self._text(part)
        if not old or old[0] == "\0":
            return where
        if other is None:
            return None
        new = self._text(other)
        longer = len(new.encode()) - len(old.encode())
        if longer > 0 and len(where.encode()) + longer * where.count(old) > self._length_bytes:
            raise self._too_big("string or blob too big")
        return where.replace(old, new)

    def trim(self, left: bool, right: bool, whole: SQLiteValue, characters: SQLiteValue) -> SQLiteValue:
        if whole is None or characters is None:
            return None
        found, these = self._text(whole), frozenset(self._text(characters).partition("\0")[0])
        first, last = 0, len(found)
        while left and first < last and found[first] in these:
            first += 1
        while right and last > first and found[last - 1] in these:
            last -= 1
        return found[first:last]


def only_read(connection: apsw.Connection) -> None:
    """Let SQL read, and neither change anything nor reach a file: what is not known to read is refused.

    That means ``attach`` and ``vacuum into`` above all.
    """
    import apsw

    reading = {getattr(apsw, name) for name in _READING}
    writing = {getattr(apsw, name) for name in _WRITING}

    def authorize(code: int, first: str | None, second: str | None, place: str | None, *_: object) -> int:
        if code in reading or (code == apsw.SQLITE_FUNCTION and (second or "").lower() not in _FUNCTIONS_WITH_FILES):
            return int(apsw.SQLITE_OK)
        if code == apsw.SQLITE_PRAGMA:
            name = (first or "").lower()
            if name in _PRAGMAS or (name in _PRAGMAS_ASKED and second is None):
                return int(apsw.SQLITE_OK)
        if code in writing and place not in (None, "temp") and connection.readonly(place):
            return int(apsw.SQLITE_OK)  # an R-tree prepares to write before it reads; the file itself refuses
        what = str(apsw.mapping_authorizer_function[code]).removeprefix("SQLITE_").replace("_", " ").lower()
        named = next((one for one in ((first,) if what == "pragma" else (second, first)) if one), "")
        raise UnsupportedError(f"SQL only reads here: no {what}{f' ({named:.100})' if named else ''}")

    connection.authorizer = authorize


_PRAGMAS_OF_THE_FILE: Final = frozenset(
    [
        *("locking_mode", "journal_mode", "synchronous", "temp_store", "temp_store_directory", "mmap_size"),
        *("data_store_directory", "wal_checkpoint", "wal_autocheckpoint", "writable_schema", "trusted_schema"),
        *("hard_heap_limit", "soft_heap_limit"),
    ]
)
"""Those that would make reads stale, need files, take back what is refused here, or hold for the whole process."""


def only_this_database(connection: apsw.Connection) -> None:
    """Let SQL read and write the database, and reach no other file."""
    import apsw

    def authorize(code: int, first: str | None, second: str | None, *_: object) -> int:
        refused = (
            (code == apsw.SQLITE_ATTACH and first != "")  # VACUUM attaches a nameless one, in memory
            or (code == apsw.SQLITE_PRAGMA and second is not None and (first or "").lower() in _PRAGMAS_OF_THE_FILE)
            or (code == apsw.SQLITE_FUNCTION and (second or "").lower() in _FUNCTIONS_WITH_FILES)
        )
        if refused:
            raise UnsupportedError(f"SQL writes this database alone: no {first or second!r:.100}")
        return int(apsw.SQLITE_OK)

    connection.authorizer = authorize
