"""Sockets: what clients may send, and what one of them may take."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest

from perdure import Subnet
from perdure.gateway import Server


@pytest.fixture(scope="module")
def served():
    """A server on a free port."""
    with Subnet() as subnet, Server(subnet, domains=["example.org"]) as server:
        yield server


def exchange(server, *parts):
    """What comes back for some bytes, until the connection ends."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        for part in parts:
            client.sendall(part)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def get(server, path="/api/v2/status", host="localhost"):
    return exchange(server, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())


def test_status(served):
    with urllib.request.urlopen(f"{served.url}/api/v2/status") as response:
        assert (response.status, response.headers["access-control-allow-origin"]) == (200, "*")


@pytest.mark.parametrize("path", ["/api/v2/status", "/", "/anything"])
def test_other_hosts_are_misdirected(served, path):
    assert get(served, path, "evil.example").startswith(b"HTTP/1.1 421 ")
    assert b"access-control" not in get(served, path, "evil.example")
    assert not get(served, path, "app.example.org").startswith(b"HTTP/1.1 421 ")


def test_large_bodies(served):
    head = b"POST /api/v4/canister/aaaaa-aa/call HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n"
    assert exchange(served, head).startswith(b"HTTP/1.1 413 ")


def test_others_reach_it_by_allowed_names_only():
    with Subnet() as subnet, pytest.raises(ValueError, match=r"others can reach 0\.0\.0\.0"):
        Server(subnet, bind="0.0.0.0")


def test_a_port_that_is_taken(served):
    with Subnet() as subnet, pytest.raises(OSError, match="in use"):
        Server(subnet, port=served.port)


def test_it_ends_and_the_subnet_goes_on():
    with Subnet() as subnet:
        with subnet.serve() as url:
            pass
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(f"{url}/api/v2/status")
        subnet.create_canister()
