"""The library: what it keeps, what it undoes, what others read of it."""

import sys
from pathlib import Path

import pytest

from perdure import rejects

sys.path.insert(0, str(Path(__file__).parent))
from library import opened  # noqa: E402


@pytest.fixture
def library():
    with opened(None) as found:
        yield found


def test_books_are_read_from_outside(library):
    library.add("Moby Dick", 1851)
    library.add("Emma", 1815)
    library.add("Don't", 1900)
    assert library.titles() == ["Emma", "Moby Dick", "Don't"]
    assert library.canister.query("query", b"select count(*) from book") == b"3\n"


def test_what_fails_leaves_nothing(library):
    with rejects(match="NOT NULL"):
        library.execute("insert into book(title, year) values ('there', 1); insert into book(title) values ('not')")
    assert library.titles() == []


def test_only_controllers_write(library):
    with rejects(match="controller"):
        library.canister.update("exec", b"drop table book")


def test_books_outlive_the_process(tmp_path):
    for title in ("one", "two"):
        with opened(str(tmp_path / "state")) as library:
            library.add(title, 2000)
    with opened(str(tmp_path / "state")) as library:
        assert library.titles() == ["one", "two"]
