"""Campaigns and networks on Ray: a cluster of one machine, begun once, in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import HostError
from perdure.fleet import on_ray

HERE = Path(__file__).parent


@pytest.mark.slow
def test_what_is_killed_on_ray_loses_and_doubles_nothing(tmp_path: Path, work: str) -> None:
    command = [sys.executable, str(HERE / "killed_on_ray.py"), str(tmp_path), "1", "3"]
    paths = os.pathsep.join([str(HERE), str(tmp_path)])
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))  # Ray prints, too
    came = dict(found["came"])
    assert set(came.values()) == {1}
    assert set(found["paid"]) <= set(came) <= {*found["paid"], *found["unsure"]}
    assert len(found["paid"]) >= 10
    assert found["unsure"], "nobody was killed in the midst of anything"
    assert found["cycles"][0] == found["cycles"][1]
    assert found["again"] == found["came"]
    check_lost_nodes(found["lost nodes"])
    owners = found["two owners"]
    assert "the lock was removed, or the directory moved" in owners["refused"]
    assert owners["came"] == [[1, 1], [2, 1]]
    works = {f"works {number}": "fine: " for number in range(4)}
    assert {source: told for source, told in found["campaign"].items() if source in works} == works
    assert found["campaign"]["reads"] == "fine: shipped"
    assert found["campaign"]["hangs"] == "failed: its time limit of 3 s is over"
    assert found["campaign"]["dies"].startswith("failed: its worker ended by ")


def check_lost_nodes(found: dict[str, Any]) -> None:
    """What was acknowledged came, once, whatever was lost with its node; and the owner before is none any more."""
    came = dict(found["came"])
    assert set(came.values()) == {1}
    assert set(found["paid"]) <= set(came) <= {*found["paid"], *found["unsure"]}
    assert len(found["paid"]) >= 10
    assert found["unsure"], "nobody was killed in the midst of anything"
    assert found["again"] == found["came"]
    assert "another one goes on with it by now" in found["refused"]
    assert found["at last"] == [*found["came"], [10_000, 1]]
    assert len(set(found["cycles"])) == 1


@pytest.mark.slow
def test_a_cluster_is_not_begun_without_a_token(tmp_path: Path) -> None:
    script = "import ray\nfrom perdure.fleet.on_ray import connect\nconnect()"
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False, timeout=300
    )
    assert "Ray was imported without token authentication" in done.stderr


def test_a_node_need_not_have_the_directory_of_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keeper = on_ray._Keeper(str(tmp_path / "nowhere"))
    try:
        assert keeper.facts()[0] == keeper._process.pid
        assert Path.cwd() == tmp_path
    finally:
        keeper._process.kill()
        keeper._process.wait()
        keeper._socket.close()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_at_which_nobody_listens_is_told_soon(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """Ray itself tries for a quarter of an hour."""
    monkeypatch.setattr(on_ray, "_PATIENCE_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for address in (f"{scheme}127.0.0.1:{port}", f"{scheme}[127.0.0.1]:{port}", "auto", "local"):
            on_ray._require_answer(address, lambda: "127.0.0.1")
    with pytest.raises(HostError, match=f"no Ray cluster at {scheme}127.0.0.1:{port}: "):
        on_ray._require_answer(f"{scheme}127.0.0.1:{port}", lambda: "127.0.0.1")
