"""Figures of a served subnet: requests a second beside those of a null handler, certificates, start, memory.

The server has one core, the load another where there is one; requests are signed beforehand, each with its own nonce.

Usage: serve_figures.py [--quick] [--json]
"""

from __future__ import annotations

import importlib.util
import json
import os
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import cbor2

from figures import Table, main
from perdure import Principal, Subnet
from perdure.gateway.http import HttpInterface
from perdure.network.live import Live

HERE = Path(__file__).parent
MODULE = HERE.parent / "tests" / "canisters" / "modules" / "kv32.wasm"
AGENTS = HERE.parent / "tests" / "gateway" / "agents.py"
CYCLES = 10**24

SERVER = """
import os, sys, json, time
os.sched_setaffinity(0, {int(sys.argv[3])})
from perdure import Subnet
from perdure.gateway import Server
from perdure.gateway.http import Response
with Subnet(sys.argv[1] or None) as subnet:
    if not subnet.canisters:
        for _ in range(int(sys.argv[4])):
            subnet.install(sys.argv[5], cycles=10**24)
    with Server(subnet) as server:
        if sys.argv[2] == "null":
            server.interface.begin = lambda request: Response(200, bytes(300), "application/cbor")
        print(json.dumps([server.port, [str(one.id) for one in subnet.canisters]]), flush=True)
        sys.stdin.read()
"""


def agents_by_hand() -> ModuleType:
    """The tests' agent, for its identities and envelopes."""
    spec = importlib.util.spec_from_file_location("perdure_tests_agents", AGENTS)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


AGENT = agents_by_hand()


@contextmanager
def served(state: str = "", mode: str = "", canisters: int = 1) -> Iterator[tuple[int, Principal, int]]:
    """Port, first canister and process id of a server on the first core; this process is put on the last one."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    command = [sys.executable, "-c", SERVER, state, mode, str(cores[0]), str(canisters), str(MODULE)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port, ids = json.loads(process.stdout.readline())
        yield port, Principal.from_text(ids[0]), process.pid
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        os.sched_setaffinity(0, set(cores))


def http_request(path: str, body: bytes) -> bytes:
    """The bytes of a request on a connection that stays open."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/cbor\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def requests(kind: str, canister: Principal, identity: Any, count: int) -> list[bytes]:
    """Signed requests, each of its own."""
    method = "echo_query" if kind == "query" else "inc"
    version = "v3" if kind == "query" else "v4"
    content = {"request_type": kind, "canister_id": canister.raw_bytes, "method_name": method, "arg": b"12345678"}
    path = f"/api/{version}/canister/{canister}/{kind}"
    return [http_request(path, AGENT.signed(content, identity)[1]) for _ in range(count)]


class Connection:
    """One client: sends a request, waits for all of the response, sends the next."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.found = b""

    def has_response(self) -> bool:
        """Whether it is there, after what has come now."""
        data = self.socket.recv(1 << 16)
        assert data, "the server has closed the connection"
        self.found += data
        head, end, body = self.found.partition(b"\r\n\r\n")
        if not end:
            return False
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(body) < size:
            return False
        assert head.startswith(b"HTTP/1.1 200"), (head, body)
        self.found = body[size:]
        return True


def per_second(port: int, todo: list[bytes], clients: int) -> float:
    """Requests a second, each client with one at a time."""
    left = iter(todo)
    with selectors.DefaultSelector() as selector:
        connections = [Connection(port) for _ in range(clients)]
        start = time.perf_counter()
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.socket.sendall(next(left))
        done = 0
        while done < len(todo):
            for key, _ in selector.select():
                connection = key.data
                if connection.has_response():
                    done += 1
                    if (request := next(left, None)) is not None:
                        connection.socket.sendall(request)
        seconds = time.perf_counter() - start
        for connection in connections:
            connection.socket.close()
    return len(todo) / seconds


USERS: dict[str, tuple[Callable[[], Any], float]] = {
    "anonymous": (AGENT.KINDS["anonymous"], 2000),
    "Ed25519": (AGENT.KINDS["Ed25519"], 1400),
    "P-256": (AGENT.KINDS["P-256"], 1600),
    "secp256k1": (AGENT.KINDS["secp256k1"], 900),
}


def processor_us(pid: int) -> float:
    """What a process has used so far, to ten milliseconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1e6 / os.sysconf("SC_CLK_TCK")


def throughput(table: Table, count: int) -> None:
    """Queries and updates, end to end: by the clock, and the server's processor time, which others do not change."""

    def measured(what: str, todo: list[bytes], clients: int, target: float | None = None) -> None:
        before = processor_us(pid)
        table.add(
            f"{what}, {clients} client{'s' * (clients > 1)}",
            per_second(port, todo, clients),
            "a second",
            target,
            "higher",
        )
        table.add(f"{what}: processor time of one", (processor_us(pid) - before) / len(todo), "us")

    with served(mode="null") as (port, canister, pid):
        measured("null handler", requests("query", canister, AGENT.ANONYMOUS, count), 8)
    with served() as (port, canister, pid):
        for name, (make, target) in USERS.items():
            measured(f"queries, {name}", requests("query", canister, make(), count), 8, target)
        measured("updates in memory", requests("call", canister, AGENT.KINDS["Ed25519"](), count // 2), 8, 600)
        measured("updates in memory", requests("call", canister, AGENT.KINDS["Ed25519"](), count // 8), 1)
    with tempfile.TemporaryDirectory() as directory, served(f"{directory}/state") as (port, canister, pid):
        measured("updates on disk", requests("call", canister, AGENT.KINDS["Ed25519"](), count // 4), 8, 400)


def in_process(table: Table, count: int) -> None:
    """The core's processor time, without sockets and verification; certificates of requests that come at once."""
    with Subnet() as subnet:
        canister = subnet.install(MODULE, cycles=CYCLES).id
        live = Live(subnet)
        live.start()
        interface = HttpInterface(live)
        todo = [one.partition(b"\r\n\r\n")[2] for one in requests("query", canister, AGENT.ANONYMOUS, count)]
        path = f"/api/v3/canister/{canister}/query"
        start = time.process_time()
        for body in todo:
            assert interface.handle("POST", path, {}, body).status == 200
        table.add("the core's part of a query", (time.process_time() - start) / count * 1e6, "us", 250)
        signature = time.process_time()
        for number in range(100):
            interface._certifier._key.sign(b"%d" % number)
        signature = (time.process_time() - signature) / 100 * 1e6
        table.add("a BLS signature", signature, "us")
        eight, many = (_certificate_us(interface, canister, size) for size in (8, 32))
        table.add("a certificate, of 8 at once", eight, "us")
        table.add("a certificate, of 32 at once", many, "us")
        table.add("32 at once, each / 8 at once, each", many / eight, "ratio", 0.8)
        table.add("a certificate beyond the shared signature, of 32", many - signature / 32, "us", 160)
        live.stop()


def _certificate_us(interface: HttpInterface, canister: Principal, size: int) -> float:
    """Each of the certificates for so many requests that were answered since the last signature."""
    content = {"request_type": "call", "canister_id": canister.raw_bytes, "method_name": "inc", "arg": b""}
    found = []
    for _ in range(15):
        ids = []
        for _ in range(size):
            request_id, body = AGENT.signed(content, AGENT.ANONYMOUS)
            interface.handle("POST", f"/api/v2/canister/{canister}/call", {}, body)
            ids.append(request_id)
        start = time.process_time()
        for request_id in ids:
            interface._certifier.of_answer(request_id, canister.raw_bytes)
        found.append((time.process_time() - start) / size * 1e6)
    return statistics.median(found)


def start(table: Table) -> None:
    """From nothing to the first answer, and what a hundred canisters take."""
    with tempfile.TemporaryDirectory() as directory:
        begun = time.perf_counter()
        command = [sys.executable, "-m", "perdure", "serve", "--state", f"{directory}/state", "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        facts = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        client = Connection(facts["port"])
        client.socket.sendall(b"GET /api/v2/status HTTP/1.1\r\nhost: localhost\r\n\r\n")
        while not client.has_response():
            pass
        table.add("start to first answer", time.perf_counter() - begun, "s", 1)
        table.add("start to first answer: processor time", processor_us(process.pid) / 1e6, "s")
        process.send_signal(signal.SIGTERM)
        process.wait()
    with served(canisters=100) as (port, canister, pid):
        per_second(port, requests("query", canister, AGENT.ANONYMOUS, 100), 1)
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        table.add("resident with 100 canisters", int(status.split("VmRSS:")[1].split()[0]) / 1024, "MiB", 150)


def garbage(table: Table, seconds: float) -> None:
    """An honest client's median while somebody sends what cannot be, as fast as it goes: of each kind, and all."""
    for name, flood in FLOODS.items():
        with served() as (port, canister, pid):
            idle = _median_ms(port, canister, 50)
            ended = threading.Event()
            threads = [threading.Thread(target=_until, args=(ended, flood, port, number)) for number in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(0.3)
            until, found = time.perf_counter() + seconds, []
            while time.perf_counter() < until:
                found.append(_median_ms(port, canister, 5))
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
            ended.set()
            for thread in threads:
                thread.join()
            table.add(f"an honest query, idle, before {name}", idle, "ms")
            table.add(f"an honest query beside {name} / idle", statistics.median(found) / idle, "ratio", 10)
            table.add(f"resident beside {name}", int(status.split("VmRSS:")[1].split()[0]) / 1024, "MiB")


def _median_ms(port: int, canister: Principal, count: int) -> float:
    client, found = Connection(port), []
    for request in requests("query", canister, AGENT.ANONYMOUS, count):
        begun = time.perf_counter()
        client.socket.sendall(request)
        while not client.has_response():
            pass
        found.append((time.perf_counter() - begun) * 1e3)
    client.socket.close()
    return statistics.median(found)


Flood = Callable[[int, int, threading.Event], None]


def _until(ended: threading.Event, flood: Flood, port: int, number: int) -> None:
    while not ended.is_set():
        try:
            flood(port, number, ended)
        except OSError:
            continue


def _bodies(*bodies: bytes, path: str = "/api/v4/canister/aaaaa-aa/call") -> Flood:
    """Requests with a body each, of four connections each its own if there are four."""
    todo = [http_request(path, body) for body in bodies]

    def flood(port: int, number: int, ended: threading.Event) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            while not ended.is_set():
                client.sendall(todo[number % len(todo)])
                if not client.recv(1 << 16):
                    return

    return flood


def _ahead(port: int, number: int, ended: threading.Event) -> None:
    """Requests whose answers nobody reads."""
    with socket.create_connection(("127.0.0.1", port), timeout=3) as client:
        while not ended.is_set():
            client.sendall(b"GET /api/v2/status HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)


def _idle(port: int, number: int, ended: threading.Event) -> None:
    """Connections that send nothing."""
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
        ended.wait(0.5)


def _slowly(port: int, number: int, ended: threading.Event) -> None:
    """Bodies of which a megabyte comes at once, and then a byte now and again."""
    head = b"POST /api/v4/canister/aaaaa-aa/call HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n"
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(30)]
        for client in clients:
            client.sendall(head + bytes(1_000_000))
        for _ in range(10):
            for client in clients:
                client.sendall(b"x")
            ended.wait(0.2)


def _refused(port: int, number: int, ended: threading.Event) -> None:
    """Bodies that are larger than any may be, sent whole before the answer is read."""
    head = b"POST /api/v4/canister/aaaaa-aa/call HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(head)
        for _ in range(60):
            client.sendall(bytes(1_000_000))
        client.recv(1 << 16)


def _paths() -> bytes:
    content = {"request_type": "read_state", "sender": b"\4", "ingress_expiry": 1, "paths": [[b"x" * 20] * 127] * 1000}
    return cbor2.dumps({"content": content})


FLOODS: dict[str, Flood] = {
    "garbage": _bodies(os.urandom(1000), b"\x9b" + bytes(4 << 20), b"\xd9\xd9\xf7\xa0", b"\x81" * 100_000),
    "nested CBOR of 5 MB": _bodies(b"\x81" * 5_000_000),
    "wide CBOR of 4 MB": _bodies(b"\xa1\x67content\x9f" + bytes(4_000_000)),
    "a thousand long paths": _bodies(_paths(), path="/api/v3/canister/aaaaa-aa/read_state"),
    "bodies that are refused": _refused,
    "requests ahead of answers": _ahead,
    "idle connections": _idle,
    "slow bodies": _slowly,
}


def measure(quick: bool) -> Table:
    """Measure a served subnet."""
    table = Table("a served subnet")
    throughput(table, 800 if quick else 8000)
    in_process(table, 500 if quick else 5000)
    start(table)
    garbage(table, 2 if quick else 20)
    return table


if __name__ == "__main__":
    main(measure)
