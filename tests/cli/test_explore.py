"""`perdure explore` over whatever is a SOURCE, from outside."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from perdure import Network, Subnet

pytestmark = pytest.mark.slow

MODULES = Path(__file__).parents[1] / "canisters" / "modules"


@contextmanager
def explored(source: Path | str) -> Iterator[dict[str, object]]:
    command = [sys.executable, "-m", "perdure", "explore", str(source), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        text = ""
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr is not None else ""
            text += line
        yield json.loads(text)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.communicate()


def page(url: object, path: str = "") -> str:
    place = str(url).partition("?")[0] + path
    with urllib.request.urlopen(place, timeout=300) as answer:
        return str(answer.read().decode())


@pytest.fixture
def state(tmp_path: Path) -> Path:
    with Subnet(tmp_path / "state") as subnet:
        counter = subnet.install((MODULES / "managed_0_7.wasm.gz").read_bytes())
        counter.write_snapshot(tmp_path / "snapshot")
        (tmp_path / "dump.bin").write_bytes(counter.stable.read(0, counter.stable.size() * 65_536))
    return tmp_path / "state"


def test_every_source(state: Path) -> None:
    for name, many in (("state", 1), ("snapshot", 1), ("dump.bin", 0)):
        with explored(state.parent / name) as facts:
            assert facts["canisters"] == many
            assert "token=" in str(facts["url"])
            assert "perdure" in page(facts["url"])
            if not many:
                assert "Stable memory of" in page(facts["url"], "c/memory")


def test_it_is_only_read_and_may_be_in_use(state: Path) -> None:
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    with Subnet.read(state) as _, explored(state) as facts:
        page(facts["url"], "calls")
    assert {path: path.read_bytes() for path in state.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("source", ["nothing", "."])
def test_what_is_no_source(tmp_path: Path, source: str) -> None:
    command = [sys.executable, "-m", "perdure", "explore", source]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("perdure: ")


def test_the_directory_of_a_network(tmp_path: Path) -> None:
    with Network(["nns", "application"], path=tmp_path / "net") as network:
        ids = [subnet.create_canister().id for subnet in network.subnets]
        with explored(tmp_path / "net") as facts:
            assert facts["canisters"] == 2
            found = page(facts["url"])
            assert all(str(one) in found for one in ids)
            assert str(ids[1]) in page(facts["url"], f"c/{ids[1]}")
