"""The launcher: icp's contract for it, what it keeps, and icp itself where npm can install it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from object_servers import free_ports

MODULES = Path(__file__).parent.parent / "canisters" / "modules"
START = [sys.executable, "-c", "from perdure.cli import launch; launch()"]
SECONDS = 120


@contextmanager
def launched(directory, *options, status="status", kill=False):
    """A network that says that it is ready: its status, until the block ends."""
    where = directory / status / "status.json"
    where.unlink(missing_ok=True)
    command = [*START, "--status-dir", str(where.parent), *options]
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + SECONDS
        while not where.exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until, "it is not ready"
            time.sleep(0.02)
        yield json.loads(where.read_text())
    finally:
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        out, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == (-signal.SIGKILL if kill else 0), out + errors


def test_the_contract(tmp_path):
    arguments = ["--interface-version", "1.1.0", "--state-dir", "kept", "--bind", "127.0.0.1", "--gateway-port", "0"]
    with launched(
        tmp_path, *arguments, "--domain=example.org", "--domain=", "--verbose", "--artificial-delay-ms", "9"
    ) as told:
        assert (told["v"], told["instance_id"], told["config_port"]) == ("1", None, None)
        with urllib.request.urlopen(f"http://127.0.0.1:{told['gateway_port']}/api/v2/status") as response:
            assert bytes.fromhex(told["root_key"]) in response.read()
        with urllib.request.urlopen(f"http://localhost:{told['gateway_port']}/_/") as response:
            assert b"network local" in response.read()
    with launched(tmp_path, "--state-dir", "kept", kill=True) as again:
        assert again["root_key"] == told["root_key"]
    with launched(tmp_path, "--state-dir", "kept", "--reset"):
        pass
    assert (tmp_path / "kept").is_dir()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--name", "../x"], "is no name of a network"),
        (["--name", ""], "is no name of a network"),
        (["--interface-version", "2.0.0"], "this launcher knows version 1"),
        (["--bind", "0.0.0.0"], "others can reach 0.0.0.0"),
        (["--state-dir", "full", "--reset"], "--reset deletes what it can open only"),
    ],
)
def test_what_cannot_be(tmp_path, options, words):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    done = subprocess.run(
        [*START, *options], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"


ICP_YAML = """
canisters:
  - name: counter
    build: {steps: [{type: pre-built, path: counter.wasm}]}
networks:
  - name: local
    mode: managed
    gateway: {port: 0}
  - name: kept
    mode: connected
    url: http://127.0.0.1:PORT
    root-key: ROOT_KEY
environments:
  - {name: kept, network: kept}
"""


@pytest.mark.slow
def test_icp_itself(tmp_path, npm_folder):
    import gzip

    folder = npm_folder("icp", "@icp-sdk/icp-cli-linux-x64@1.5.0")
    icp = folder / "node_modules/@icp-sdk/icp-cli-linux-x64/bin/icp"
    (tmp_path / "counter.wasm").write_bytes(gzip.decompress((MODULES / "motoko_eop_v1.wasm.gz").read_bytes()))
    script = tmp_path / "launcher"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(START)} "$@"\n')
    script.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "DO_NOT_TRACK": "1",
        "ICP_CLI_NETWORK_LAUNCHER_PATH": str(script),
    }

    def run(*arguments):
        done = subprocess.run(
            [icp, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    yaml = tmp_path / "icp.yaml"
    yaml.write_text(ICP_YAML.replace("PORT", "1").replace("ROOT_KEY", "00" * 133))
    run("network", "start", "-d")
    try:
        assert "Deployed canisters" in run("deploy")
        assert "(1 : nat)" in run("canister", "call", "counter", "inc", "()")
        assert "Balance: 1000000000.00000000 ICP" in run("token", "balance")
        assert "3_519_900_000_000 cycles" in run("cycles", "mint", "--icp", "1")
        run("canister", "stop", "counter")
        run("canister", "delete", "counter")
    finally:
        run("network", "stop")
    (port,) = map(str, free_ports(1))
    for count in (1, 2):
        with launched(tmp_path, "--gateway-port", port, kill=True) as told:
            port = str(told["gateway_port"])
            yaml.write_text(ICP_YAML.replace("PORT", port).replace("ROOT_KEY", told["root_key"]))
            if count == 1:
                run("deploy", "-e", "kept")
            assert f"({count} : nat)" in run("canister", "call", "-e", "kept", "counter", "inc", "()")
