"""Kill a server under load at random instants, and see what its clients were told.

    python tests/gateway/kill_script.py --kills 50 --seed 1

`perdure serve` runs over one directory that lives through all kills; clients on threads send signed calls of a counter
whose replies are its counts. SIGKILL comes after up to a second of that. The next server gets every request again whose
answer nobody has seen, and some whose answer was seen: those have to be answered as before, by a certificate that
verifies. At the end the replies to all requests that were ever sent are 1 to their number, each once: what was
acknowledged was executed once, and nothing twice.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import cbor2

from perdure import Subnet
from perdure.certification import Certificate

HERE = Path(__file__).parent
MODULE = HERE.parent / "canisters" / "modules" / "motoko_eop_v1.wasm.gz"
THREADS = 4
_MAX_DELAY_SECONDS = 1.0
_AGAIN = 8
"""Of the answered requests, how many are sent again after each kill."""


def _agents() -> ModuleType:
    spec = importlib.util.spec_from_file_location("perdure_tests_agents", HERE / "agents.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Ledger:
    """Every request that was sent: its body, and the count that was its reply, once somebody has seen it."""

    def __init__(self, root_key: bytes, path: str) -> None:
        self.root_key = root_key
        self.path = path
        self.bodies: dict[bytes, bytes] = {}
        self.replies: dict[bytes, bytes] = {}
        self.recent: list[bytes] = []

    def send(self, connection: http.client.HTTPConnection, request_id: bytes) -> None:
        """Send a request and note its reply, which is the one that was seen before, if one was."""
        status = 202
        while status == 202:  # it takes longer here than a server waits
            connection.request("POST", self.path, self.bodies[request_id], {"content-type": "application/cbor"})
            response = connection.getresponse()
            status, body = response.status, response.read()
        assert response.status == 200, (response.status, body)
        answer = cbor2.loads(body)
        assert answer["status"] == "replied", answer
        certificate = Certificate.decode(answer["certificate"])
        assert certificate.is_signed_by(self.root_key)
        assert certificate.lookup(b"request_status", request_id, b"status") == b"replied"
        reply = certificate.lookup(b"request_status", request_id, b"reply")
        assert isinstance(reply, bytes)
        assert self.replies.setdefault(request_id, reply) == reply, "a resend was answered otherwise"
        self.recent.append(request_id)


def _load(ledger: Ledger, port: int, agents: ModuleType, canister: Any) -> None:
    """Send requests until the server is gone."""
    identity = agents.ed25519_identity()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    about = {"request_type": "call", "canister_id": canister.raw_bytes, "method_name": "inc", "arg": b"DIDL\0\0"}
    try:
        while True:
            request_id, body = agents.signed(about, identity)
            ledger.bodies[request_id] = body
            ledger.send(connection, request_id)
    except (OSError, http.client.HTTPException):
        return
    finally:
        connection.close()


def _served(directory: Path) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "perdure", "serve", "--state", str(directory), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    facts = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
    return process, facts["port"]


def _again(ledger: Ledger, port: int, rng: random.Random) -> int:
    """Send what was not answered, and some of what was; how many were not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    unanswered = [request_id for request_id in ledger.bodies if request_id not in ledger.replies]
    seen = rng.sample(ledger.recent, min(_AGAIN, len(ledger.recent)))
    for request_id in (*unanswered, *seen):
        ledger.send(connection, request_id)
    connection.close()
    ledger.recent.clear()
    return len(unanswered)


def run(kills: int, seed: int, max_delay_seconds: float = _MAX_DELAY_SECONDS) -> dict[str, int]:
    """What was seen; raises where something was lost or executed twice."""
    rng, agents = random.Random(seed), _agents()
    directory = Path(tempfile.mkdtemp(prefix="perdure-serve-kill-"))
    try:
        with Subnet(directory / "state") as subnet:
            canister, root_key = subnet.install(MODULE).id, subnet.root_key
        ledger = Ledger(root_key, f"/api/v4/canister/{canister}/call")
        resent = 0
        for _ in range(kills):
            process, port = _served(directory / "state")
            resent += _again(ledger, port, rng)
            threads = [threading.Thread(target=_load, args=(ledger, port, agents, canister)) for _ in range(THREADS)]
            for thread in threads:
                thread.start()
            time.sleep(rng.random() * max_delay_seconds)
            process.send_signal(signal.SIGKILL)
            process.wait()
            for thread in threads:
                thread.join()
        process, port = _served(directory / "state")
        resent += _again(ledger, port, rng)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        counts = sorted(_nat(reply) for reply in ledger.replies.values())
        assert counts == list(range(1, len(ledger.bodies) + 1)), "a request was lost, or executed twice"
        return {"requests": len(ledger.bodies), "unanswered when killed": resent, "kills": kills}
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _nat(reply: bytes) -> int:
    assert reply.startswith(b"DIDL\0\1}"), reply
    return sum((byte & 0x7F) << 7 * index for index, byte in enumerate(reply[7:]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    print(json.dumps(run(asked.kills, asked.seed)))
