"""`perdure serve`, as a process that is ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from importlib.resources import files
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from perdure import Network, Subnet
from perdure.cli import perdure
from perdure.cli.serve import LaterPages, serve, until_ended, wait
from perdure.gateway.http import Request


@pytest.mark.slow
def test_it_serves_until_it_is_ended(tmp_path):
    command = [sys.executable, "-m", "perdure", "serve", "--state", str(tmp_path / "state"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "}\n")
        facts = json.loads("".join(lines) + "}")
        with urllib.request.urlopen(f"{facts['url']}/api/v2/status") as response:
            assert bytes.fromhex(facts["root_key"]) in response.read()
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


@pytest.mark.slow
def test_it_begins_and_serves_a_network(tmp_path):
    state = str(tmp_path / "net")
    kinds = ("--subnet", "nns", "--subnet", "application")
    for more in (kinds, ()):
        command = [sys.executable, "-m", "perdure", "serve", "--state", state, "--json", *more]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            facts = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
            assert sorted(facts["subnets"].values()) == ["application", "nns"]
            assert facts["subnets"][facts["subnet_id"]] == "nns"
            with urllib.request.urlopen(facts["url"] + "/api/v2/status") as response:
                assert bytes.fromhex(facts["root_key"]) in response.read()
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 0


def test_a_network_of_other_subnets(tmp_path):
    Network(1, path=tmp_path / "net").close()
    for kinds, words in ((["moon"], "asked for moon"), (["nns"], "has the subnets application, asked for nns")):
        more = [word for kind in kinds for word in ("--subnet", kind)]
        done = CliRunner().invoke(serve, ["--state", str(tmp_path / "net"), *more])
        assert done.exit_code == 2
        assert words in done.output
    done = CliRunner().invoke(serve, ["--state", str(tmp_path / "new"), "--subnet", "moon"])
    assert "found 'moon'" in done.output


def test_others_need_a_name(tmp_path):
    done = CliRunner().invoke(serve, ["--state", str(tmp_path / "state"), "--bind", "0.0.0.0"])
    assert done.exit_code == 2
    assert "allow_hosts" in done.output or "--allow-host" in done.output
    assert not (tmp_path / "state").exists()


def test_a_port_that_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(serve, ["--state", str(tmp_path / "state"), "--port", str(port)])
    assert isinstance(done.exception, OSError)
    assert done.exception.strerror is not None
    assert f"port {port} of 127.0.0.1 is taken" in done.exception.strerror
    assert not (tmp_path / "state").exists()


def test_threads_share_what_was_freed(monkeypatch):
    told = []
    monkeypatch.setattr("ctypes.CDLL", lambda _: SimpleNamespace(mallopt=lambda *found: told.append(found)))
    with until_ended():
        assert told == [(-8, 2)]
    monkeypatch.setattr("ctypes.CDLL", lambda _: SimpleNamespace())
    with until_ended() as ended:
        assert not ended.is_set()


def test_who_waits_gives_free_memory_back(monkeypatch):
    given = []
    monkeypatch.setattr("perdure.cli.serve._TRIM_EVERY_SECONDS", 0.001)
    monkeypatch.setattr("ctypes.CDLL", lambda _: SimpleNamespace(malloc_trim=given.append))
    ended = threading.Event()

    class Ended:
        def wait(self, seconds):
            return ended.wait(seconds) or len(given) > 2

    wait(Ended())
    assert given == [0, 0, 0]
    ended.set()
    wait(Ended())
    assert given == [0, 0, 0]


class Made:
    """Pages, as they are told of."""

    token = "another"

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        return lambda *found: self.told.append((name, *found)) or name


def test_pages_are_made_when_somebody_wants_them():
    made = []
    pages = LaterPages(lambda: made.append(Made()) or made[-1])
    api = Request("POST", "/api/v2/status", {"host": "localhost"}, b"")
    page = api._replace(path="/_/")
    assert not pages.wants(api)
    assert not pages.may_upload(api)
    assert not pages.may_upload(page._replace(method="GET"))
    pages.close()
    assert not made
    assert (pages.may_upload(page), pages.wants(page), pages.begin(page, "me")) == ("may_upload", "wants", "begin")
    assert pages.wants(api) == "wants", "who has been made decides"
    pages.close()
    assert [name for name, *_ in made[0].told] == ["may_upload", "wants", "begin", "wants", "close"]
    assert made[0].token == pages.token
    pages.load()
    assert len(made) == 1


@pytest.mark.slow
def test_nothing_is_loaded_for_pages_before_the_server_answers(tmp_path):
    code = (
        "import sys, perdure.cli.serve as serve\n"
        "serve.wait = lambda _: None\n"
        "serve.LaterPages.load = lambda _: print(sorted(one for one in sys.modules if 'explorer' in one))\n"
        "serve.serve.main(['--state', sys.argv[1], '-q'], standalone_mode=False)\n"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "state"], capture_output=True, text=True, check=False
    )
    assert (asked.stdout.splitlines()[-1], asked.stderr) == ("[]", "")


@pytest.mark.slow
def test_who_calls_canisters_of_a_served_state_is_told_whom_to_ask(tmp_path):
    path = tmp_path / "state"
    with Subnet(path) as subnet:
        made = subnet.create_canister()
        with subnet.serve() as url:
            for verb in (["call", str(made.id), "f"], ["stop", str(made.id)], ["create", "another"]):
                command = [sys.executable, "-m", "perdure", "canister", "--state", path, "--identity", "alice", *verb]
                asked = subprocess.run(command, capture_output=True, text=True, check=False)
                assert (asked.returncode, asked.stdout) == (2, "")
                assert f"open in another process ({os.getpid()}), served at {url}: ask it there" in asked.stderr
                assert "perdure explain state-in-use" in asked.stderr


def test_who_only_looks_at_a_served_state_sees_the_last_commit(tmp_path):
    path = tmp_path / "state"
    with Subnet(path) as subnet, subnet.serve():
        made = subnet.install(files("perdure.demo") / "insert_many.wasm.gz")
        snapshot = made.take_snapshot().hex()
        before = sorted(one.name for one in path.iterdir())
        for verb, words in (
            ("list", str(made.id)),
            (f"id {made.id}", str(made.id)),
            (f"status {made.id}", "running"),
            (f"info {made.id}", "Controllers: 2vxsx-fae"),
            (f"metadata {made.id} candid:service", "insert_many"),
            (f"settings show {made.id}", "freezing_threshold"),
            (f"snapshot list {made.id}", snapshot),
            (f"logs {made.id} --json", "[]"),
        ):
            done = CliRunner().invoke(perdure, ["canister", *verb.split(), "--state", str(path)])
            assert (done.exit_code, words in done.output) == (0, True), done.output
        assert sorted(one.name for one in path.iterdir()) == before
