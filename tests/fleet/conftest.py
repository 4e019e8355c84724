"""A function for workers that does as it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

WORK = """
import json, os, signal, sys, time

def run(request):
    asked = json.loads(request)["arguments"]
    what = asked[0]
    if what == "die":
        print("a last word", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang":
        time.sleep(1000)
    if what == "flood":
        for _ in range(64):
            os.write(2, b"x" * (1 << 20))
        print("a last word", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "read":
        with open(json.loads(request)["files"]["not/here.wasm"]) as file:
            return json.dumps(
                {"exit_code": 0, "printed": "{}", "error": file.read(), "processor_seconds": 0}
            ).encode()
    if what == "print":
        print("this is no answer", flush=True)
    with open(asked[1], "a") as file:
        file.write(f"{os.getpid()}\\n")
    while what == "meet" and not os.path.exists(asked[2]):
        time.sleep(0.01)
    return json.dumps({"exit_code": 0, "printed": "{}", "error": "", "processor_seconds": 0}).encode()
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A function for workers: ``die``, ``hang``, ``print``, ``meet`` (another file), or whatever.

    The file gets the ids of those that did not die.
    """
    (tmp_path / "fleet_work.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "fleet_work:run"
