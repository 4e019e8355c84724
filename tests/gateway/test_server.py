"""Sockets: what clients may send, and what one of them may take."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from types import SimpleNamespace

import pytest
from endless import Endless

from perdure import Subnet
from perdure.candid import encode, parse_values
from perdure.gateway import Server
from perdure.gateway.connection import Connection
from perdure.gateway.http import Response
from perdure.gateway.server import _about
from perdure.kit import canister, nat64, update
from perdure.storage.disk import RealFile


@canister(name="tests:Counted")
class Counted:
    """Counts."""

    count: nat64 = nat64(0)

    @update
    def inc(self) -> nat64:
        """One more."""
        self.count = nat64(self.count + 1)
        return self.count


NOTHING = encode(*parse_values("()"))


@pytest.fixture(scope="module")
def served():
    """A server on a free port."""
    with Subnet() as subnet, Server(subnet, domains=["example.org"]) as server:
        yield server


def exchange(server, *parts):
    """What comes back for some bytes, until the connection ends."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as client:
        for part in parts:
            client.sendall(part)
        return b"".join(iter(lambda: client.recv(65536), b""))


def get(server, path="/api/v2/status", host="localhost"):
    return exchange(server, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())


ONE = "lxzze-o7777-77777-aaaaa-cai"


@pytest.mark.parametrize(
    ("path", "host", "line"),
    [
        (f"/api/v2/canister/{ONE}/query", "localhost", ONE),
        ("/a", f"{ONE}.localhost:4943", ONE),
        ("/a", f"{ONE.upper()}.raw.localhost", ONE),
        (f"/?x=1&canisterId={ONE}", "127.0.0.1:1", ONE),
        (f"/?canisterId={ONE}", "shop.localhost:7", ONE),
        ("/a", "x1.localhost", ""),
        ("/a", "x2.localhost:81", ""),
        ("/?canisterId=nobody", "127.0.0.1", ""),
        ("/api/v2/canister/nobody/query", "localhost", ""),
    ],
)
def test_who_waits_for_one_canister_waits_in_one_line(path, host, line):
    assert _about(path, {"host": host}) == line


def test_status(served):
    with urllib.request.urlopen(f"{served.url}/api/v2/status") as response:
        assert (response.status, response.headers["access-control-allow-origin"]) == (200, "*")


@pytest.mark.parametrize("path", ["/api/v2/status", "/", "/anything"])
def test_other_hosts_are_misdirected(served, path):
    assert get(served, path, "evil.example").startswith(b"HTTP/1.1 421 ")
    assert b"access-control" not in get(served, path, "evil.example")
    assert not get(served, path, "app.example.org").startswith(b"HTTP/1.1 421 ")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /api/v2/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 10000000\r\n\r\n", b"421"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nnonsense", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"431"),
    ],
)
def test_who_is_refused_while_sending_reads_why(served, head, status):
    """All is sent before anything is read, as most clients do; a reset would take the answer away."""
    assert exchange(served, head, b"x" * 10_000_000).startswith(b"HTTP/1.1 " + status)


def test_who_goes_on_sending_after_the_end_is_not_listened_to_for_long(served, monkeypatch):
    monkeypatch.setattr("perdure.gateway.connection._MAX_LATE_BYTES", 1 << 20)
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=120) as client:
        client.sendall(head)
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            client.sendall(bytes(100 << 20))


def test_who_sends_nothing_more_after_the_end_is_not_waited_for(served, monkeypatch):
    monkeypatch.setattr("perdure.gateway.connection._LINGER_SECONDS", 0.1)
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=120) as client:
        client.sendall(head)
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")
        at_rest(served)


def waiting(server, kind, count):
    """The connections that wait, once so many of them do for something of a kind; as the server has them."""
    while True:
        for one in tuple(server._uvicorn.server_state.connections)[:1]:
            found = getattr(one._waiting, kind)
            if len(found) >= count:
                return found
        time.sleep(0.01)


def at_rest(server):
    """Once no connection of others is left."""
    while server._uvicorn.server_state.connections:
        time.sleep(0.01)


def on_its_thread(server, act):
    """Do something where the server does all it does, and wait for that."""
    loop = next(iter(server._uvicorn.server_state.connections)).loop
    done = threading.Event()
    loop.call_soon_threadsafe(lambda: (act(), loop.call_later(0, lambda: loop.call_soon(done.set))))
    assert done.wait(120)


class Large:
    """Pages of this machine's own, all of them large: their request's body in kibibytes."""

    max_upload_bytes = 1 << 20

    def wants(self, request):
        return request.path.startswith("/large")

    def may_upload(self, request):
        return True

    def begin(self, request, client):
        return Response(200, bytes(int(request.body) << 10))


@pytest.fixture(scope="module")
def _large():
    with Subnet() as subnet, Server(subnet, pages=Large()) as server:
        yield server


@pytest.fixture
def large(_large):
    """A server with large answers, none of which is on its way."""
    while _large._on_their_way.held_bytes:
        time.sleep(0.01)
    return _large


def asked_for(server, kibibytes):
    """A connection whose client has asked for something and reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(120)
    client.connect(("127.0.0.1", server.port))
    body = str(kibibytes).encode()
    client.sendall(b"POST /large HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return client


@pytest.mark.parametrize("kibibytes", [0, 1, 63, 64, 65, 128, 20_000])
def test_answers_of_all_sizes_are_whole(large, kibibytes):
    with asked_for(large, kibibytes) as client:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        assert b"content-length: %d\r\n" % (kibibytes << 10) in head
        left = kibibytes << 10
        while left:
            left -= len(client.recv(min(left, 1 << 20)))
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_what_slow_readers_have_asked_for_is_bounded_for_all_together(large, monkeypatch):
    on_their_way = large._on_their_way
    monkeypatch.setattr(on_their_way, "_most_bytes", 50 << 20)
    clients = [asked_for(large, 20_000) for _ in range(2)]
    try:
        while on_their_way.held_bytes < 2 * 20_000 << 10:
            time.sleep(0.01)
        with asked_for(large, 20_000) as third:
            assert third.recv(1000).startswith(b"HTTP/1.1 503 ")
        assert get(large).startswith(b"HTTP/1.1 200 ")
    finally:
        for client in clients:
            client.close()
    while on_their_way.held_bytes:
        time.sleep(0.01)
    with asked_for(large, 20_000) as after:
        assert after.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_takes_nothing_is_not_waited_for(large, monkeypatch):
    monkeypatch.setattr("perdure.gateway.connection._STALLED_SECONDS", 0.1)
    with asked_for(large, 20_000) as client:
        while not large._on_their_way.held_bytes:
            time.sleep(0.01)
        while large._on_their_way.held_bytes:
            time.sleep(0.01)
        assert sum(map(len, iter(lambda: client.recv(1 << 20), b""))) < 20_000 << 10


def test_bodies_are_counted_until_what_they_ask_for_is_done(monkeypatch):
    going_on = threading.Event()

    class Slow(Large):
        def begin(self, request, client):
            going_on.wait(120)
            return Response(200, str(len(request.body)).encode())

    monkeypatch.setattr("perdure.gateway.server._MAX_HELD_BYTES", 0)
    with Subnet() as subnet, Server(subnet, pages=Slow()) as server:
        whole, head = b"x" * 600_000, b"POST /large HTTP/1.1\r\nHost: localhost\r\nContent-Length: 600000\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=120) as first:
            first.sendall(head + b"\r\n" + whole)
            while server._bodies._held.held_bytes < 600_000:
                time.sleep(0.01)
            close = head + b"Connection: close\r\n\r\n"
            assert exchange(server, close, whole).startswith(b"HTTP/1.1 503 ")
            assert server._bodies._held.held_bytes == 600_000
            going_on.set()
            found = b""
            while not found.endswith(b"600000"):
                found += first.recv(1000)
        assert exchange(server, close, whole).endswith(b"600000")
        assert server._bodies._held.held_bytes == 0


def test_others_reach_it_by_allowed_names_only():
    with Subnet() as subnet, pytest.raises(ValueError, match=r"others can reach 0\.0\.0\.0"):
        Server(subnet, bind="0.0.0.0")


def test_a_port_that_is_taken(served):
    with Subnet() as subnet, pytest.raises(OSError, match="is taken by another program"):
        Server(subnet, port=served.port)


def test_it_ends_and_the_subnet_goes_on():
    with Subnet() as subnet:
        with subnet.serve() as url:
            pass
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(f"{url}/api/v2/status")
        subnet.create_canister()


def test_who_waits_when_it_ends_is_sent_polling(agents):
    with Subnet() as subnet:
        endless = subnet.install(Endless)
        arg = encode(*parse_values(f'(principal "{endless.id}")'))
        about = {"request_type": "call", "canister_id": endless.id.raw_bytes, "method_name": "loop", "arg": arg}
        server = Server(subnet)
        server.start()
        with socket.create_connection(("127.0.0.1", server.port), timeout=120) as client:
            body = agents.signed(about, agents.ANONYMOUS)[1]
            head = f"POST /api/v4/canister/{endless.id}/call HTTP/1.1\r\nHost: localhost\r\n"
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            while not server.rounds.lives[0]._answered:
                time.sleep(0.01)
            server.stop()
            answer = b"".join(iter(lambda: client.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 202 "), "what never comes is not waited for until time is over: 503"


def test_a_full_disk_is_told_by_its_name_and_nothing_is_lost(agents, tmp_path, monkeypatch):
    with Subnet(tmp_path / "state") as subnet:
        counted = subnet.install(Counted)
        with Server(subnet) as server:
            about = {"request_type": "call", "canister_id": counted.id.raw_bytes, "method_name": "inc", "arg": NOTHING}
            body = agents.signed(about, agents.ANONYMOUS)[1]
            url = f"{server.url}/api/v4/canister/{counted.id}/call"
            with monkeypatch.context() as full:

                def refuse(log, _):
                    raise log._refusal(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

                full.setattr("perdure.storage.commit_log.CommitLog.reserve", refuse)
                with pytest.raises(urllib.error.HTTPError) as caught:
                    urllib.request.urlopen(urllib.request.Request(url, body))
                assert caught.value.code == 507
                told = caught.value.read().decode()
                assert "the disk is full" in told
                assert f"{tmp_path}/state/log" in told
            with urllib.request.urlopen(urllib.request.Request(url, body)) as response:
                assert response.status == 200
        assert counted.actor().inc() == 2


def test_updates_of_several_clients_share_writes(agents, tmp_path, monkeypatch):
    clients, each = 8, 5
    starts, start, finish = [], RealFile.start, RealFile.finish
    lock, before, active, answered = threading.Lock(), 0, 0, 0
    until = time.monotonic() + 60

    def slow(file):
        """A disk on which others come meanwhile, on any machine: up to five are executed and not answered."""
        while subnet.version - before - answered < min(active, 5) and time.monotonic() < until:
            time.sleep(0.001)
        finish(file)

    monkeypatch.setattr(RealFile, "start", lambda *written: (starts.append(1), start(*written)))
    monkeypatch.setattr(RealFile, "finish", slow)
    with Subnet(tmp_path / "state") as subnet:
        counted = subnet.install(Counted)
        with Server(subnet) as server:
            about = {"request_type": "call", "canister_id": counted.id.raw_bytes, "method_name": "inc", "arg": NOTHING}
            bodies = iter([agents.signed(about, agents.ANONYMOUS)[1] for _ in range(clients * each)])
            url = f"{server.url}/api/v4/canister/{counted.id}/call"

            def client():
                nonlocal active, answered
                for left in reversed(range(each)):
                    with urllib.request.urlopen(urllib.request.Request(url, next(bodies))) as response:
                        assert response.status == 200
                    with lock:
                        answered += 1
                        active -= not left

            starts.clear()
            before, active = subnet.version, clients
            threads = [threading.Thread(target=client) for _ in range(clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(starts) <= clients * each // 2
        assert counted.actor().inc() == clients * each + 1


def test_bodies_are_counted_while_their_canister_is_waited_for(agents, monkeypatch):
    monkeypatch.setattr("perdure.gateway.server._MAX_HELD_BYTES", 1_000_000)
    with Subnet() as subnet, Server(subnet) as server:
        endless = subnet.install(Endless)
        arg = encode(*parse_values(f'(principal "{endless.id}", blob "{"x" * 600_000}")'))
        about = {"request_type": "call", "canister_id": endless.id.raw_bytes, "method_name": "loop", "arg": arg}
        head = f"POST /api/v4/canister/{endless.id}/call HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"

        def whole():
            body = agents.signed(about, agents.ANONYMOUS)[1]
            return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

        with socket.create_connection(("127.0.0.1", server.port), timeout=120) as first:
            first.sendall(whole())
            while not next(iter(server.rounds.lives))._answered:
                time.sleep(0.01)
            assert server._bodies._held.held_bytes > 600_000
            assert exchange(server, whole()).startswith(b"HTTP/1.1 503 ")
            server.rounds.end_waiting()
            assert first.recv(1000).startswith(b"HTTP/1.1 202 ")
        while server._bodies._held.held_bytes:
            time.sleep(0.01)


def test_who_wants_a_served_state_is_told_where_it_is(tmp_path):
    path = tmp_path / "state"
    want = "import sys; from perdure import Subnet; Subnet(sys.argv[1])"
    with Subnet(path) as subnet:
        with subnet.serve() as url:
            asked = subprocess.run([sys.executable, "-c", want, path], capture_output=True, text=True, check=False)
            assert f"open in another process ({os.getpid()}), served at {url}: ask it there" in asked.stderr
        assert (path / "lock").read_text(encoding="ascii").split("\n")[:2] == [str(os.getpid()), ""]


POST = b"POST /api/v4/canister/aaaaa-aa/call HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /api/v2/status HTTP/1.1\r\n\r\n", b"421"),
        (b"GET /api/v2/status HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", b"421"),
        (b"GET http://evil.example/api/v2/status HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET /api/v2/status HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000, b"431"),
        (b"GET /" + b"x" * 100_000, b"431"),
        (b"GET /api/v2/\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n", b"400"),
        (POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", b"400"),
        (POST + b"Content-Length: -4\r\n\r\n", b"400"),
        (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", b"400"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (POST + b"Content-Length: 999999999999999999999\r\n\r\n", b"4"),
    ],
)
def test_requests_that_are_none(served, request_bytes, status):
    found = exchange(served, request_bytes)
    assert found.startswith(b"HTTP/1.1 " + status)
    assert found.count(b"HTTP/1.1 ") <= 1, "one answer, to one request"
    assert get(served).startswith(b"HTTP/1.1 200 ")


def test_a_body_in_pieces_without_a_length_has_a_limit(served):
    piece = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    found = exchange(served, POST + b"Transfer-Encoding: chunked\r\n\r\n", *[piece] * 5, b"1\r\n\0\r\n0\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 413 ")


def test_a_head_that_does_not_end_is_not_waited_for(served, monkeypatch):
    monkeypatch.setattr("perdure.gateway.connection._HEAD_SECONDS", 0.1)
    with socket.create_connection(("127.0.0.1", served.port), timeout=120) as client:
        assert client.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert client.recv(1000) == b""
    monkeypatch.setattr("perdure.gateway.connection._HEAD_SECONDS", 0.5)  # not before it has come
    with socket.create_connection(("127.0.0.1", served.port), timeout=120) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        assert client.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_of_too_many_connections_the_one_that_waits_longest_ends(served, monkeypatch):
    at_rest(served)
    monkeypatch.setattr("perdure.gateway.connection.MAX_CONNECTIONS", 3)
    clients = [socket.create_connection(("127.0.0.1", served.port), timeout=120) for _ in range(3)]
    try:
        assert get(served).startswith(b"HTTP/1.1 200 ")
        assert clients[0].recv(1) == b""
    finally:
        for client in clients:
            client.close()


def test_a_connection_that_sends_a_body_makes_room_where_none_is_idle(served, monkeypatch):
    at_rest(served)
    monkeypatch.setattr("perdure.gateway.connection.MAX_CONNECTIONS", 2)
    clients = [socket.create_connection(("127.0.0.1", served.port), timeout=120) for _ in range(2)]
    try:
        for number, client in enumerate(clients, 1):
            client.sendall(POST + b"Content-Length: 100\r\n\r\nabc")
            waiting(served, "sending", number)
        assert get(served).startswith(b"HTTP/1.1 200 ")
        with suppress(ConnectionResetError):
            assert clients[0].recv(1) == b""
    finally:
        for client in clients:
            client.close()


def test_requests_ahead_of_their_answers_are_read_as_they_are_answered(served, monkeypatch):
    seen = []
    check = Connection._check_head
    monkeypatch.setattr(Connection, "_check_head", lambda self: (seen.append(len(self.pipeline)), check(self)))
    one = b"GET /api/v2/status HTTP/1.1\r\nHost: localhost\r\n\r\n"
    filled = POST + b"Content-Length: 2000\r\n\r\n" + bytes(2000)
    for todo in (one * 2000, (filled + one * 3) * 200):
        with socket.create_connection(("127.0.0.1", served.port), timeout=120) as client:
            threading.Thread(target=client.sendall, args=(todo,), daemon=True).start()
            found = b""
            while found.count(b"HTTP/1.1 ") < todo.count(b" HTTP/1.1\r\n"):
                found += client.recv(1 << 20)
            assert found.count(b"HTTP/1.1 200 ") == todo.count(b"GET ")
    assert max(seen) < 400
    assert get(served).startswith(b"HTTP/1.1 200 ")


CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
ASKED = b"GET /api/v2/status HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "part", "count", "status"),
    [
        (CHUNKED + b"0\r\nX: ", b"x" * 1000, 200, b"431"),
        (CHUNKED + b"0\r\n", b"X: a\r\n", 1000, b"431"),
        (CHUNKED + b"1;", b"x" * 1000, 200, b"431"),
        (CHUNKED, b"1\r\nx\r\n", 20_000, b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X: a\r\n", 1000, b"431"),
    ],
    ids=["a trailer", "trailers", "an extension", "chunks", "headers"],
)
def test_what_surrounds_a_body_has_a_limit(served, head, part, count, status):
    assert exchange(served, head, part * count).startswith(b"HTTP/1.1 " + status)
    assert get(served).startswith(b"HTTP/1.1 200 ")


def test_a_head_that_does_not_end_has_a_limit_behind_another_request(large):
    with asked_for(large, 20_000) as client, pytest.raises(OSError, match=r"reset|Broken pipe"):
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (20 << 20))
    assert get(large).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_waits_for_its_answer_makes_room_where_no_other_can(large_and_slow, monkeypatch):
    server, going_on = large_and_slow
    monkeypatch.setattr("perdure.gateway.connection.MAX_CONNECTIONS", 2)
    clients = []
    try:
        for number in (1, 2):
            clients.append(asked_for(server, 1))
            waiting(server, "answered", number)
        assert get(server).startswith(b"HTTP/1.1 200 ")
        with suppress(ConnectionResetError):
            assert clients[0].recv(1) == b""
    finally:
        going_on.set()
        for client in clients:
            client.close()


def test_what_nobody_waits_for_any_more_is_not_begun(large_and_slow, monkeypatch):
    """Clients that go away leave nothing behind: neither what they had asked for, nor the room for their bodies."""
    server, going_on = large_and_slow
    monkeypatch.setattr("perdure.gateway.server._SMALL_BYTES", 0)
    clients = [asked_for(server, 1) for _ in range(50)]
    while len(server._shown._waiting.get("pages", ())) < 50 - 4 or len(server._pages.begun) < 4:
        time.sleep(0.01)
    for client in clients:
        client.close()
    while server._uvicorn.server_state.tasks:
        time.sleep(0.01)
    assert server._bodies._held.held_bytes == 4, "of those that had begun"
    going_on.set()
    while server._bodies._held.held_bytes or server._shown._busy:
        time.sleep(0.01)
    assert len(server._pages.begun) == 4


def test_answers_that_nobody_takes_are_closed(large_and_slow):
    server, going_on = large_and_slow
    with asked_for(server, 1):
        while not server._pages.begun:
            time.sleep(0.01)
    while server._uvicorn.server_state.tasks:
        time.sleep(0.01)
    assert not server._pages.closed.is_set()
    going_on.set()
    assert server._pages.closed.wait(120)


@pytest.fixture
def large_and_slow():
    """A server whose pages wait for an event; they are streams that say when they are closed."""
    going_on = threading.Event()

    class Slow(Large):
        def __init__(self):
            self.begun, self.closed, self.size_bytes = [], threading.Event(), 1

        def begin(self, request, client):
            self.begun.append(request)
            going_on.wait(120)
            return Response(200, streamed=self)

        def read(self, size_bytes):
            return b"x"

        def close(self):
            self.closed.set()

    with Subnet() as subnet, Server(subnet, pages=Slow()) as server:
        yield server, going_on


def test_who_has_just_come_makes_no_room_for_others_before_those_who_wait(large_and_slow, monkeypatch):
    """Clients of a slow canister that come again and again keep nobody from being heard."""
    server, going_on = large_and_slow
    monkeypatch.setattr("perdure.gateway.connection.MAX_CONNECTIONS", 3)
    clients = [asked_for(server, 1) for _ in range(2)]
    answered = waiting(server, "answered", 2)
    for one in tuple(answered):
        answered[one] -= 3600  # for so long already
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as honest:
        clients.append(asked_for(server, 1))
        honest.sendall(ASKED)
        assert honest.recv(1000).startswith(b"HTTP/1.1 200 ")
    going_on.set()
    for client in clients:
        client.close()


@pytest.mark.parametrize("taken_bytes", [4_000_000, 0])
def test_a_client_that_takes_little_is_waited_for(large, monkeypatch, taken_bytes):
    """The kernel has megabytes under way, and tells of what is taken when a third of that is."""
    due = []  # what looks again once some time is over, the last one

    def await_taking(one):
        untaken_bytes, one._stalled = one._untaken_bytes(), SimpleNamespace(cancel=due.clear)
        due[:] = [lambda: one._check_taking(untaken_bytes)]

    monkeypatch.setattr(Connection, "_await_taking", await_taking)
    with asked_for(large, 20_000) as client:
        for _ in range(3):
            while not due:
                time.sleep(0.01)
            left_bytes = taken_bytes
            while left_bytes > 0:
                left_bytes -= len(client.recv(20_000))
            on_its_thread(large, lambda: [act() for act in due[:]])
            if not taken_bytes:
                break
        assert bool(large._on_their_way.held_bytes) == bool(taken_bytes)


@pytest.mark.parametrize("is_whole", [True, False], ids=["at once", "in parts"])
def test_who_is_slow_to_send_makes_room_for_others(served, monkeypatch, is_whole):
    monkeypatch.setattr(served._bodies._held, "_most_bytes", 1_000_000)
    monkeypatch.setattr("perdure.gateway.server._PATIENCE_SECONDS", 0.0)
    head = POST + b"Connection: close\r\nContent-Length: "
    with socket.create_connection(("127.0.0.1", served.port), timeout=120) as slow:
        slow.sendall(head + b"900000\r\n\r\n" + bytes(800_000))
        while served._bodies._held.held_bytes < 800_000:
            time.sleep(0.01)
        parts = (bytes(300_000),) if is_whole else (bytes(10_000),) * 30
        assert not exchange(served, head + b"300000\r\n\r\n", *parts).startswith(b"HTTP/1.1 503 ")
        with suppress(ConnectionResetError):
            assert slow.recv(1) == b""
    assert served._bodies._held.held_bytes == 0


def test_small_bodies_need_no_room(served, monkeypatch):
    monkeypatch.setattr(served._bodies._held, "_most_bytes", 1)
    served._bodies._held.take(1)
    try:
        with socket.create_connection(("127.0.0.1", served.port), timeout=120) as client:
            client.sendall(POST + b"Content-Length: 2000\r\n\r\n")
            for _ in range(20):
                client.sendall(bytes(100))
                time.sleep(0.005)
            assert not client.recv(1000).startswith(b"HTTP/1.1 503 ")
    finally:
        served._bodies._held.give(1)


def test_who_is_slow_to_take_makes_room_for_others(large, monkeypatch):
    monkeypatch.setattr(large._on_their_way, "_most_bytes", 30 << 20)
    monkeypatch.setattr("perdure.gateway.server._PATIENCE_SECONDS", 0.0)
    with asked_for(large, 20_000) as slow:
        while not large._on_their_way.held_bytes:
            time.sleep(0.01)
        with asked_for(large, 20_000) as other:
            assert other.recv(1000).startswith(b"HTTP/1.1 200 ")
            assert sum(map(len, iter(lambda: slow.recv(1 << 20), b""))) < 20_000 << 10


def test_who_asks_for_another_protocol_is_not_left_waiting_for_a_second_answer(served):
    """As clients do that would rather speak HTTP/2."""
    asked = ASKED[:-2] + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    found = exchange(served, asked)
    assert found.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close\r\n" in found


def test_many_who_wait_and_come_again_leave_room_for_others(large_and_slow, monkeypatch):
    server, going_on = large_and_slow
    monkeypatch.setattr("perdure.gateway.connection.MAX_CONNECTIONS", 20)
    clients = []
    for number in range(300):
        clients.append(asked_for(server, 1))
        if number % 100 == 99:
            assert get(server).startswith(b"HTTP/1.1 200 ")
    assert len(server._uvicorn.server_state.tasks) <= 2 * 20
    going_on.set()
    for client in clients:
        client.close()
