"""An exception may come anywhere: a message is then as if it had not been, or whole, and the subnet goes on.

`injector.py` says how, and does the same at every opcode; here it is a few places of each action.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import injector
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.every_way]

PLACES = {"memory": 24, "disk": 10}


def interrupted(action: str, where: str, *, signals_only: bool) -> tuple[int, dict[str, str]]:
    scene = injector.Scene(action, where == "disk", signals_only)
    try:
        places = scene.places()
        every = max(1, len(places) // PLACES[where])
        tried, _, wrong = injector.survey(scene, places[every // 3 :: every])
        assert tried or not places
        return tried, wrong
    finally:
        scene.close()


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("action", injector.ACTIONS)
def test_any_exception_anywhere(action: str, where: str) -> None:
    tried, wrong = interrupted(action, where, signals_only=False)
    assert tried > 1  # how many there are differs from run to run: what is made once is made in the first
    assert wrong == {}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("action", ["call", "install", "write"])
def test_a_signal_where_handlers_are_not_put_off(action: str, where: str) -> None:
    _, wrong = interrupted(action, where, signals_only=True)
    assert wrong == {}


def test_killed_while_canisters_call_each_other() -> None:
    script = "import sys; sys.path.insert(0, sys.argv[1]); import kill_script; print(kill_script.run(4, seed=7) >= 0)"
    folder = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
