"""A library of books in a canister with SQLite: the canister writes, anybody may read the file that it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perdure import Canister, Principal, Subnet

MODULE = Path(os.environ.get("SQLITE_WASM", Path(__file__).parent / "sqlite.wasm"))
OWNER = Principal.self_authenticating(b"the library")
"""Who may write: the canister's controller."""
SCHEMA = "create table if not exists book(id integer primary key, title text not null, year integer not null)"


def quoted(text: str) -> str:
    """A text for SQL: `exec` takes no parameters, `run` does."""
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def opened(directory: str | None = "state") -> Iterator[Library]:
    """The library of a directory, which is made where there is none; without one it is in memory."""
    with Subnet(directory) as subnet:
        yield Library(subnet.canisters[0] if subnet.canisters else subnet.install(MODULE, controllers=[OWNER]))


class Library:
    """The books of one canister."""

    def __init__(self, canister: Canister) -> None:
        self.canister = canister
        self.execute(SCHEMA)

    def execute(self, sql: str) -> None:
        self.canister.update("exec", sql.encode(), sender=OWNER)

    def add(self, title: str, year: int) -> None:
        self.execute(f"insert into book(title, year) values ({quoted(title)}, {year:d})")

    def titles(self) -> list[str]:
        """From outside: SQLite opens the canister's stable memory, and copies nothing."""
        return [title for (title,) in self.canister.sqlite().execute("select title from book order by year, id")]


def main(verb: str, *words: str) -> None:
    """The command line."""
    with opened() as library:
        if verb == "add":
            library.add(words[0], int(words[1]))
        elif verb == "list":
            print("\n".join(library.titles()))
        elif verb == "id":
            print(library.canister.id)


if __name__ == "__main__":
    main(*sys.argv[1:])
