"""`perdure serve`, as a process that is ended."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from click.testing import CliRunner

from perdure.cli.serve import serve


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


def test_others_need_a_name(tmp_path):
    done = CliRunner().invoke(serve, ["--state", str(tmp_path / "state"), "--bind", "0.0.0.0"])
    assert done.exit_code == 2
    assert "allow_hosts" in done.output or "--allow-host" in done.output


def test_a_port_that_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(serve, ["--state", str(tmp_path / "state"), "--port", str(port)])
    assert isinstance(done.exception, OSError)
    assert done.exception.strerror is not None
    assert f"port {port} of 127.0.0.1 is taken" in done.exception.strerror
