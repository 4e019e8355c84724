"""Real requests, against servers that do whatever they like, and names that lead wherever they like."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
import time

import pytest
from oracle import Oracle

from perdure import RejectError, Subnet
from perdure.execution.outcalls import HttpFailure, HttpResponse
from perdure.subnet.fetching import AllowedHosts, Request, _address, _is_public, parse_host


@pytest.fixture
def serve():
    """Starts servers that give each connection to a function; it gets the socket and what was sent."""
    listeners, threads = [], []

    def start(answer, context=None):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def run():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(120)
                    try:
                        secure = connection if context is None else context.wrap_socket(connection, server_side=True)
                        answer(secure, secure.recv(65_536))
                        secure.close()
                    except OSError:
                        pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        threads.append(thread)
        return listener.getsockname()[1]

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(120)


def plain(body=b"hello", status="200 OK", headers=""):
    text = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode()
    return lambda connection, _: connection.sendall(text + body)


def fetch(url, *hosts, resolve=None, method="GET", headers=(), body=None, limit=10_000, **options):
    allowed = AllowedHosts(frozenset(map(parse_host, hosts)), **options)
    if resolve is not None:
        allowed.resolve = resolve
    return allowed.fetch(Request(method, url, tuple(headers), body, limit))


def failed(answer, *words):
    assert isinstance(answer, HttpFailure), answer
    assert answer.code == 2
    for one in words:
        assert one in answer.message
    return True


def at(*addresses):
    return lambda host, port: addresses


class TestAllowed:
    def test_an_address(self, serve):
        port = serve(plain())
        url = f"http://127.0.0.1:{port}/x?y=1"
        assert fetch(url, f"127.0.0.1:{port}") == HttpResponse(200, (("Content-Length", "5"),), b"hello")
        assert failed(fetch(url, "127.0.0.1:1"), f"127.0.0.1:{port} is not allowed", url)
        assert failed(
            fetch(url), "is not allowed; see Subnet.outcalls.allow_hosts, or on the command line --allow-host"
        )

    def test_a_name_does_not_lead_inside(self, serve):
        port = serve(plain())
        url = f"http://localhost:{port}/"
        assert failed(fetch(url, f"localhost:{port}"), "localhost is at ", "not on the public network")
        # Although the address is allowed, by that address.
        assert failed(fetch(url, f"localhost:{port}", f"127.0.0.1:{port}"), "not on the public network")

    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
            "0.0.0.0", "224.0.0.1", "255.255.255.255", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
            "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
            "2001:0:7f00:1::", "2001:db8::1", "nonsense", "::7f00:1", "::ffff:0:127.0.0.1", "64:ff9b:1::7f00:1",
            "fec0::1", "3fff::1", "5f00::1", "4000::1", "100::1",
        ],
    )  # fmt: skip
    def test_names_of_inside_addresses(self, address):
        answer = fetch("http://a.example/", "a.example:80", resolve=at("93.184.215.14", address))
        assert failed(answer, f"a.example is at {address}, which is not on the public network")

    def test_public_ones(self):
        for text in ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14"):
            assert _is_public(_address(text))

    def test_rebinding(self, serve, monkeypatch):
        """The name is looked up once, and the connection goes to an address that was looked at."""
        port = serve(plain(b"inside"))
        asked, connected = [], []

        def resolve(host, port):
            asked.append(host)
            return ["93.184.215.14"] if len(asked) == 1 else ["127.0.0.1"]

        def connect(address, timeout):
            connected.append(address)
            raise ConnectionRefusedError("not from a test")

        monkeypatch.setattr(socket, "create_connection", connect)
        assert failed(fetch(f"http://a.example:{port}/", f"a.example:{port}", resolve=resolve), "not from a test")
        assert (asked, connected) == (["a.example"], [("93.184.215.14", port)])

    @pytest.mark.parametrize("name", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "LOCALHOST", "localhost."])
    def test_other_ways_to_write_it(self, serve, name):
        port = serve(plain())
        assert failed(fetch(f"http://{name}:{port}/", f"127.0.0.1:{port}"), "is not allowed")
        assert failed(fetch(f"http://{name}:{port}/", f"{name}:{port}"), f"GET http://{name}:{port}/ failed")

    @pytest.mark.parametrize(
        "url",
        [
            "http://127.0.0.1:80@evil.example/", "http://evil.example\\@127.0.0.1/", "file:///etc/passwd", "gopher://a/",
            "http:///x", "http://", "", "http://a b/", "http://a/\r\nX: y", "http://[::1", "http://a:99999/",
            "http://a:b/", "http://user@127.0.0.1/", "http://\u0131.example/", "//127.0.0.1/", "http://a\0/",
        ],
    )  # fmt: skip
    def test_wrong_urls(self, url):
        assert failed(fetch(url, "127.0.0.1:80", "evil.example:80"))

    @pytest.mark.parametrize(
        "text",
        [
            "a", "a:b", "*.example.com:443", "*:443", "http://a:80", "a:80/x", "u@a:80", ":80", "", ".:80", "a..:80",
            "a..b:80", "a\n:80", "a\0:80", "a b:80", "[::1]x:80", "[::1:80", "a:0", "a:65536", "a:80?", "a:80#",
            "a:80/",
        ],
    )  # fmt: skip
    def test_wrong_hosts(self, text):
        with pytest.raises(ValueError, match="a host and its port are expected"):
            Subnet().outcalls.allow_hosts(text)

    def test_hosts(self):
        assert parse_host("Example.COM.:443") == ("example.com", 443)
        assert parse_host("[::1]:80") == ("::1", 80)


class TestRedirects:
    def test_are_delivered(self, serve):
        port = serve(plain(b"", "302 Found", "Location: http://10.0.0.1/\r\n"))
        answer = fetch(f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}")
        assert (answer.status, dict(answer.headers)["Location"]) == (302, "http://10.0.0.1/")

    @pytest.mark.parametrize("target", ["http://10.0.0.1/", "file:///etc/passwd", "http://localhost/", "//10.0.0.1/x"])
    def test_each_is_checked(self, serve, target):
        port = serve(plain(b"", "302 Found", f"Location: {target}\r\n"))
        answer = fetch(f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}", "localhost:80", max_redirects=3)
        assert failed(answer)

    def test_followed(self, serve):
        seen = []

        def last(connection, data):
            seen.append(data)
            plain(b"there")(connection, data)

        end = serve(last)
        start = serve(plain(b"", "302 Found", f"Location: http://127.0.0.1:{end}/x\r\n"))
        hosts = (f"127.0.0.1:{start}", f"127.0.0.1:{end}")
        headers = [("Authorization", "secret"), ("X-A", "b")]
        answer = fetch(
            f"http://127.0.0.1:{start}/", *hosts, max_redirects=1, method="POST", body=b"data", headers=headers
        )
        assert answer.body == b"there"
        assert seen[0].startswith(b"GET /x HTTP/1.1\r\n")
        assert b"secret" not in seen[0]
        assert b"X-A: b" in seen[0]

    def test_without_end(self, serve):
        port = serve(plain(b"", "302 Found", "Location: /again\r\n"))
        assert failed(fetch(f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}", max_redirects=4), "more than 4 redirects")


class TestServers:
    def test_two_megabytes_and_one(self, serve):
        for size in (2_000_000, 2_000_001, 5_000_000):
            port = serve(plain(bytes(size)))
            answer = fetch(f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}", limit=2_000_000)
            assert len(answer.body) == min(size, 2_000_001)

    def test_an_endless_body(self, serve):
        def endless(connection, _):
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                connection.sendall(b"x" * 65_536)

        port = serve(endless)
        assert len(fetch(f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}").body) == 10_001

    def test_endless_chunks_of_nothing_much(self, serve):
        def endless(connection, _):
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                connection.sendall(b"1;" + b"x" * 60_000 + b"\r\ny\r\n")

        port = serve(endless)
        assert failed(fetch(f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}"), "more bytes came")

    def test_endless_headers(self, serve):
        def endless(connection, _):
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while True:
                connection.sendall(b"a: " + b"b" * 10_000 + b"\r\n")

        port = serve(endless)
        assert failed(fetch(f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}"))

    @pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n", b"HTTP/1.1 200 OK\r\na"])
    def test_slow_ones(self, serve, data):
        def slow(connection, _):
            connection.sendall(data)
            while True:
                connection.sendall(b"x")
                time.sleep(0.02)

        port = serve(slow)
        assert failed(
            fetch(f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}", timeout_seconds=0.3), "within 0.3 seconds"
        )

    def test_slow_names(self):
        is_over = threading.Event()

        def resolve(host, port):
            is_over.wait(120)
            return []

        answer = fetch("http://a.example/", "a.example:80", resolve=resolve, timeout_seconds=0.1)
        is_over.set()
        assert failed(answer, "within 0.1 seconds")

    @pytest.mark.parametrize(
        "data",
        [
            b"nonsense\r\n\r\n",
            b"HTTP/1.1 abc OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
            b"",
        ],
    )
    def test_wrong_responses(self, serve, data):
        port = serve(lambda connection, _: connection.sendall(data))
        assert failed(fetch(f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}"))

    def test_responses_that_announce_another_one(self, serve):
        early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        port = serve(lambda connection, _: connection.sendall(early * 3 + b"HTTP/1.1 200 OK\r\na: b\r\n\r\nbody"))
        assert fetch(f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}") == HttpResponse(200, (("a", "b"),), b"body")

    def test_what_is_sent(self, serve):
        seen = []

        def answer(connection, data):
            seen.append(data)
            plain()(connection, data)

        port = serve(answer)
        headers = [("X-A", "b"), ("Host", "evil.example"), ("Content-Length", "999"), ("Transfer-Encoding", "chunked")]
        fetch(f"http://127.0.0.1:{port}/a?b", f"127.0.0.1:{port}", method="POST", headers=headers, body=b"data")
        head, _, body = seen[0].partition(b"\r\n\r\n")
        lines = [f"Host: 127.0.0.1:{port}", "X-A: b", "User-Agent: ic/1.0", "Content-Length: 4", "Connection: close"]
        assert head.decode().split("\r\n") == ["POST /a?b HTTP/1.1", *lines]
        assert body == b"data"
        for wrong in (("a b", "c"), ("a\r\nb", "c"), ("a", "b\r\nc: d"), ("", "x"), ("a", "\0")):
            assert failed(fetch(f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}", headers=[wrong]), "header")
        assert len(seen) == 1

    def test_the_environment_has_no_say(self, serve, monkeypatch):
        port = serve(plain())
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        assert fetch(f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}").status == 200


def certificate(tmp_path, names, days=1):
    """A certificate and its key, signed by itself; the contexts of a server that has it and a client that trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = datetime.datetime.now(datetime.UTC)
    alternatives = [
        x509.DNSName(one) if _address(one) is None else x509.IPAddress(ipaddress.ip_address(one)) for one in names
    ]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=5))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path / "certificate.pem"
    path.write_bytes(made.public_bytes(encoding) + secret)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cadata=made.public_bytes(encoding).decode())


class TestCertificates:
    def test_verified(self, serve, tmp_path):
        server, client = certificate(tmp_path, ["127.0.0.1"])
        port = serve(plain(b"secure"), server)
        url, host = f"https://127.0.0.1:{port}/", f"127.0.0.1:{port}"
        assert fetch(url, host, context=client).body == b"secure"
        assert failed(fetch(url, host), "its certificate is not valid")

    @pytest.mark.parametrize(("names", "days"), [(["other.example"], 1), (["127.0.0.1"], -1)], ids=["name", "expired"])
    def test_wrong(self, serve, tmp_path, names, days):
        server, client = certificate(tmp_path, names, days)
        port = serve(plain(), server)
        answer = fetch(f"https://127.0.0.1:{port}/", f"127.0.0.1:{port}", context=client)
        assert failed(answer, "its certificate is not valid")

    def test_none(self, serve):
        port = serve(plain())
        assert failed(fetch(f"https://127.0.0.1:{port}/", f"127.0.0.1:{port}"))


def test_a_canister_asks(serve):
    seen = []

    def answer(connection, data):
        seen.append(data)
        plain(b"from a server", headers="Date: today\r\n")(connection, data)

    port = serve(answer)
    with Subnet() as subnet:
        oracle = subnet.install(Oracle)
        subnet.outcalls.allow_hosts(f"127.0.0.1:{port}")
        assert oracle.actor().fetch(f"http://127.0.0.1:{port}/x") == "200 from a server"
        with pytest.raises(RejectError, match="is not allowed"):
            oracle.actor().fetch("http://169.254.169.254/latest/meta-data/")
        subnet.outcalls.allow_hosts()
        with pytest.raises(RejectError, match="was not made"):
            oracle.actor().fetch(f"http://127.0.0.1:{port}/x")
    assert len(seen) == 1
