"""Serve mixed traffic, good and bad, for a long time, and see that memory, descriptors and threads stay as many.

    python tests/gateway/traffic_script.py --seconds 3600 --rate 40

`perdure serve` runs over a directory with a small canister and the network's asset canister. Clients on threads send
signed updates that are answered at once or polled, queries, reads of the state, canisters that are made and deleted,
verified pages, and what is none of that: garbage, other hosts, heads that do not end, connections that are reset.
Answers are kept for six minutes, so that what is held grows that long; from then on it may not.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import json
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any, NamedTuple

import cbor2

from perdure import Principal, Subnet
from perdure.candid import encode, parse_values
from perdure.certification import Certificate

HERE = Path(__file__).parent
MODULES = HERE.parent / "canisters" / "modules"
THREADS = 4
KINDS = ("anonymous", "Ed25519", "P-256", "secp256k1")
KEPT_SECONDS = 420.0
"""For how long what is held may grow: answers are kept for six minutes."""
MAX_GROWTH = 0.05
POOLED_THREADS = 22
"""Of the server's pools, which begin as many as wait at once: on a busy machine that may be after some seconds."""
STORE = """service : { store : (record {
  key : text; content_type : text; content_encoding : text; content : blob; sha256 : opt blob }) -> () }"""


def _agents() -> ModuleType:
    spec = importlib.util.spec_from_file_location("perdure_tests_agents", HERE / "agents.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Sample(NamedTuple):
    """What a process holds at one time."""

    resident_mib: float
    descriptors: int
    threads: int


def _sample(pid: int) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    resident, threads = (int(status.split(name)[1].split()[0]) for name in ("VmRSS:", "Threads:"))
    return Sample(round(resident / 1024, 1), sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()), threads)


class Client:
    """One user on one connection, who does one thing after another."""

    def __init__(self, port: int, root_key: bytes, canister: Principal, assets: Principal, seed: int) -> None:
        self.agents = sys.modules["perdure_tests_agents"]
        self.port, self.root_key, self.canister, self.assets = port, root_key, canister, assets
        self.rng = random.Random(seed)
        self.identity = self.agents.KINDS[KINDS[seed % len(KINDS)]]()
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        self.done: Counter[str] = Counter()

    def step(self) -> None:
        """Do something."""
        act = self.rng.choices(list(ACTS), list(ACTS.values()))[0]
        act(self)
        self.done[act.__name__] += 1
        if self.rng.random() < 0.05:
            self.connection.close()

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        self.connection.request("POST", path, body, {"content-type": "application/cbor"})
        response = self.connection.getresponse()
        return response.status, response.read()

    def signed(self, kind: str, method: str, arg: bytes, canister: Principal | None = None) -> tuple[bytes, bytes]:
        raw_id = (canister or self.canister).raw_bytes
        about = {"request_type": kind, "canister_id": raw_id, "method_name": method, "arg": arg}
        return self.agents.signed(about, self.identity)

    def read(self, place: str, *paths: list[bytes]) -> Certificate:
        about = {"request_type": "read_state", "paths": list(paths)}
        status, body = self.post(f"/api/v3/{place}/read_state", self.agents.signed(about, self.identity)[1])
        assert status == 200, body
        return Certificate.decode(cbor2.loads(body)["certificate"])

    def update(self) -> None:
        request_id, body = self.signed("call", "inc", b"")
        status, answer = self.post(f"/api/v4/canister/{self.canister}/call", body)
        if status == 202:  # so busy is the machine
            self.wait(request_id)
            return
        assert status == 200, answer
        certificate = Certificate.decode(cbor2.loads(answer)["certificate"])
        assert certificate.lookup(b"request_status", request_id, b"status") == b"replied"
        if self.rng.random() < 0.1:
            assert certificate.is_signed_by(self.root_key)

    def poll(self) -> None:
        request_id, body = self.signed("call", "inc", b"")
        status, answer = self.post(f"/api/v2/canister/{self.canister}/call", body)
        assert status == 202, answer
        self.wait(request_id)

    def wait(self, request_id: bytes) -> None:
        """Ask until it is replied to, as agents do."""
        path, until = [b"request_status", request_id], time.monotonic() + 60
        while self.read(f"canister/{self.canister}", path).lookup(*path, b"status") != b"replied":
            assert time.monotonic() < until, "no answer within a minute"
            time.sleep(0.1)

    def query(self) -> None:
        _, body = self.signed("query", "echo_query", self.rng.randbytes(100))
        status, answer = self.post(f"/api/v3/canister/{self.canister}/query", body)
        assert status == 200, answer
        assert cbor2.loads(answer)["status"] == "replied"

    def facts(self) -> None:
        self.read(f"canister/{self.canister}", [b"canister", self.canister.raw_bytes, b"module_hash"], [b"subnet"])

    def made_and_deleted(self) -> None:
        _, body = self.signed("call", "provisional_create_canister_with_cycles", _candid("(record {})"), Principal(b""))
        status, answer = self.post("/api/v4/canister/aaaaa-aa/call", body)
        assert status == 200, answer
        found = Certificate.decode(cbor2.loads(answer)["certificate"])
        request_id = self.agents.hash_of_map(cbor2.loads(body[3:])["content"])
        reply = found.lookup(b"request_status", request_id, b"reply")
        assert isinstance(reply, bytes)
        made = Principal(reply[-10:])
        for method in ("stop_canister", "delete_canister"):
            arg = _candid(f'(record {{ canister_id = principal "{made}" }})')
            _, body = self.signed("call", method, arg, Principal(b""))
            status, answer = self.post(f"/api/v4/canister/{made}/call", body)
            assert status == 200, answer

    def page(self) -> None:
        host = f"{self.assets}.localhost:{self.port}"
        self.connection.request("GET", "/index.html", headers={"host": host})
        response = self.connection.getresponse()
        assert (response.status, response.read()) == (200, b"<h1>a page</h1>")

    def garbage(self) -> None:
        status, _ = self.post(f"/api/v4/canister/{self.canister}/call", self.rng.randbytes(self.rng.randrange(5000)))
        assert status == 400

    def another_host(self) -> None:
        self.connection.request("GET", "/", headers={"host": "evil.example"})
        assert self.connection.getresponse().read()
        self.connection.close()

    def half_a_head(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            client.sendall(b"POST /api/v4/canister/aaaaa-aa/call HTTP/1.1\r\nHost: loc")
            if self.rng.random() < 0.5:  # reset it
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def left_alone(self) -> None:
        """Send a call, and do not wait for the answer."""
        _, body = self.signed("call", "inc", b"")
        head = f"POST /api/v4/canister/{self.canister}/call HTTP/1.1\r\nHost: localhost\r\n"
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


ACTS: dict[Callable[[Client], None], int] = {
    Client.update: 30,
    Client.poll: 10,
    Client.query: 30,
    Client.facts: 5,
    Client.page: 10,
    Client.garbage: 5,
    Client.another_host: 2,
    Client.half_a_head: 3,
    Client.left_alone: 3,
    Client.made_and_deleted: 2,
}
"""What clients do, how often of a hundred times."""


def _candid(text: str) -> bytes:
    return encode(*parse_values(text))


def _work(client: Client, until: float, rate: float, failures: list[BaseException]) -> None:
    next_at = time.monotonic()
    try:
        while time.monotonic() < until and not failures:
            client.step()
            next_at = max(next_at + 1 / rate, time.monotonic() - 1)
            time.sleep(max(0.0, next_at - time.monotonic()))
    except BaseException as error:
        failures.append(error)
    finally:
        client.connection.close()


def run(seconds: float, rate: float, seed: int = 1) -> dict[str, Any]:
    """What was seen; raises where an answer is wrong, or something has grown.

    Args:
        seconds: for how long; within `KEPT_SECONDS` memory may grow.
        rate: requests a second, of all clients.
        seed: of what they do.
    """
    agents = _agents()
    del agents
    directory = Path(tempfile.mkdtemp(prefix="perdure-serve-traffic-"))
    try:
        with Subnet(directory / "state") as subnet:
            canister = subnet.install(MODULES / "kv32.wasm", cycles=10**18).id
            assets = subnet.install(MODULES / "assets.wasm.gz", "(null)", cycles=10**18)
            page = {"key": "/index.html", "content_type": "text/html", "content_encoding": "identity"}
            assets.actor(candid=STORE).store({**page, "content": b"<h1>a page</h1>", "sha256": None})
            root_key, assets_id = subnet.root_key, assets.id
        command = [sys.executable, "-m", "perdure", "serve", "--state", str(directory / "state"), "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            port = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")["port"]
            clients = [Client(port, root_key, canister, assets_id, seed * THREADS + n) for n in range(THREADS)]
            samples = _observed(process.pid, clients, seconds, rate)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=300)
        assert process.returncode == 0
        return _judged(samples, clients, seconds)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _observed(pid: int, clients: list[Client], seconds: float, rate: float) -> list[Sample]:
    until, failures, samples = time.monotonic() + seconds, list[BaseException](), list[Sample]()
    arguments = (until, rate / len(clients), failures)
    threads = [threading.Thread(target=_work, args=(client, *arguments)) for client in clients]
    for thread in threads:
        thread.start()
    while time.monotonic() < until and not failures:
        time.sleep(min(seconds / 60, 5))
        with suppress(FileNotFoundError):
            samples.append(_sample(pid))
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return samples


def _judged(samples: list[Sample], clients: list[Client], seconds: float) -> dict[str, Any]:
    settled = samples[int(len(samples) * min(KEPT_SECONDS / seconds, 0.5)) :]
    third = max(1, len(settled) // 3)
    first, last = (Sample(*map(median, zip(*part, strict=True))) for part in (settled[:third], settled[-third:]))
    found = {
        "seconds": seconds,
        "requests": dict(sum((client.done for client in clients), Counter())),
        "first third": first._asdict(),
        "last third": last._asdict(),
        "resident MiB": [one.resident_mib for one in samples[:: max(1, len(samples) // 30)]],
        "most": Sample(*map(max, zip(*samples, strict=True)))._asdict(),
    }
    told = json.dumps(found)
    still = 0 if seconds > 2 * KEPT_SECONDS else POOLED_THREADS
    assert last.threads <= first.threads + still, told
    assert last.descriptors <= first.descriptors + THREADS, told
    if seconds > 2 * KEPT_SECONDS:
        assert last.resident_mib <= first.resident_mib * (1 + MAX_GROWTH), told
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rate", type=float, default=40)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    print(json.dumps(run(asked.seconds, asked.rate, asked.seed), indent=2))
