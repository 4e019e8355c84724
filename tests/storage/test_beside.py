"""What is made beside its place: whole or not at all, by one at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.errors import StorageError
from perdure.storage.beside import HELD, DirectoryDraft, new_file
from perdure.storage.disk import RealDisk


def draft(target: Path) -> DirectoryDraft:
    return DirectoryDraft(RealDisk(), str(target), ("inner",), "is there already")


def fill(made: str, words: str) -> None:
    (Path(made) / "inner").mkdir()
    (Path(made) / "inner" / "file").write_text(words)
    (Path(made) / "words").write_text(words)


def test_two_who_make_one_directory(tmp_path: Path) -> None:
    """The second one neither takes the first one's files away nor puts its own among them."""
    target = tmp_path / "made"
    with draft(target) as made:
        fill(made, "first")
        with pytest.raises(StorageError, match="somebody else is making it"), draft(target):
            pass
        assert (Path(made) / "words").read_text() == "first"
    assert sorted(one.name for one in target.iterdir()) == ["inner", "words"]
    assert [one.name for one in tmp_path.iterdir()] == ["made"]
    with pytest.raises(StorageError, match="is there already"), draft(target):
        pass


def test_what_a_crash_left_goes(tmp_path: Path) -> None:
    target = tmp_path / "made"
    left = draft(target)
    fill(left.__enter__(), "left")
    left._close()  # as the process's end lets go of it
    with draft(target) as made:
        assert not (Path(made) / "inner").exists()
        (Path(made) / "words").write_text("new")
    assert (target / "words").read_text() == "new"


def test_what_a_crash_left_of_something_else_goes_too(tmp_path: Path) -> None:
    """A copy of another network was begun here, with subnets that this one has not."""
    left = tmp_path / "made.partial"
    (left / "7-application" / "images" / "deep").mkdir(parents=True)
    (left / "7-application" / "images" / "deep" / "file").write_text("left")
    (left / "empty").mkdir()
    with draft(tmp_path / "made") as made:
        assert [one.name for one in Path(made).iterdir()] == [HELD]


def test_what_is_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked.partial").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "filed.partial").touch()
    (tmp_path / "inner.partial").mkdir()
    (tmp_path / "inner.partial" / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("file/made", "linked", "filed", "inner"):
        with pytest.raises(StorageError, match="cannot be made: "), draft(tmp_path / name):
            pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_whoever_fails_leaves_room_for_the_next(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with pytest.raises(FileExistsError), draft(target) as made:  # noqa: PT012 -- of the block's second one
        (Path(made) / "inner").mkdir()
        fill(made, "some")
    assert list(tmp_path.iterdir()) == []
    with draft(target) as made:
        fill(made, "all")
    assert (target / "inner" / "file").read_text() == "all"


def test_two_who_make_one_file(tmp_path: Path) -> None:
    """It was the second one's, half written, that took the place once the first one's was whole."""
    target = str(tmp_path / "made")
    with new_file(RealDisk(), target) as file:
        file.pwrite(b"all of it", 0)
        with pytest.raises(StorageError, match="somebody else is making it"), new_file(RealDisk(), target):
            pass
    assert (tmp_path / "made").read_bytes() == b"all of it"
    (tmp_path / "next.partial").write_bytes(b"longer, and of an earlier try")
    with new_file(RealDisk(), str(tmp_path / "next")) as file:
        file.pwrite(b"new", 0)
    assert (tmp_path / "next").read_bytes() == b"new"
