"""What was answered is there, also after a kill in the midst of it."""

import subprocess
import sys
from pathlib import Path

import pytest

from perdure import rejects

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from bookings import Bookings, opened  # noqa: E402


def test_a_room_has_one_guest(install):
    hotel = install(Bookings).actor()
    assert hotel.book(7, "ada") == 0
    with rejects(match="room 7 is ada's"):
        hotel.book(7, "bob")
    hotel.leave(7)
    assert hotel.book(7, "bob") == 2
    assert hotel.entries() == ["ada has room 7", "ada left room 7", "bob has room 7"]


@pytest.mark.parametrize("answered", [1, 5])
def test_a_kill_loses_nothing_that_was_answered(tmp_path, answered):
    command = [sys.executable, str(HERE / "bookings.py"), "fill"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        last = [process.stdout.readline() for _ in range(answered)][-1]
        process.kill()
    with opened(str(tmp_path / "state")) as (_, service):
        entries = service.actor().entries()
        assert len(entries) > int(last), "what was answered is there"
        rooms = [service.actor().guest(room) for room in range(len(entries))]
        assert rooms == [f"guest {room}" for room in range(len(entries))], "and nothing by half"
