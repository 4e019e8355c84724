"""Object storage to test with: a server of ours, which counts and fails as it is told to, moto, and SeaweedFS.

Ours speaks as much of S3 as obstore asks: HEAD, ranged GET, PUT, DELETE, lists; `If-Match`, `If-None-Match`. An object
is bytes or a file, sparse perhaps, whose holes cost nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import format_datetime, formatdate
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

BUCKET = "bucket"
_COPY_BYTES = 1 << 20


class Object:
    """Bytes, or a file's, with a tag and a time."""

    def __init__(self, content: bytes | Path, modified: float) -> None:
        self.content = content
        self.modified = modified
        if isinstance(content, bytes):
            self.size_bytes, seed = len(content), content
        else:
            facts = content.stat()
            self.size_bytes, seed = facts.st_size, f"{content} {facts.st_mtime_ns}".encode()
        self.tag = f'"{hashlib.sha256(seed).hexdigest()[:32]}"'

    def read(self, start: int, end: int) -> bytes:
        if isinstance(self.content, bytes):
            return self.content[start:end]
        with self.content.open("rb") as file:
            return os.pread(file.fileno(), end - start, start)


class OurServer:
    """A bucket.

    Attributes:
        objects: by key.
        counts: requests by method.
        sent: bytes of objects that went out.
        received: bytes of objects that came in.
        before: called with method and key before each request; it may change objects, or return a status to answer.
        after: the same, once an object has come in, which is kept whatever is answered.
        clock: seconds since 1970, as the store says.
        ignores_conditions: whether `If-Match` is not known here.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.counts: Counter[str] = Counter()
        self.sent = self.received = 0
        self.before: Callable[[str, str], int | None] = lambda method, key: None
        self.after: Callable[[str, str], int | None] = lambda method, key: None
        self.clock: Callable[[], float] = time.time
        self.ignores_conditions = False
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"bucket": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def put(self, key: str, content: bytes | Path) -> None:
        self.objects[key] = Object(content, self.clock())

    def environment(self) -> dict[str, str]:
        return environment(f"http://127.0.0.1:{self.port}", "AKIDOFTESTS", "a secret of tests")

    def google_environment(self) -> dict[str, str]:
        """The same as a bucket of Google's: gs://bucket. Its XML interface is S3's but for one condition's name."""
        account = {"gcs_base_url": f"http://127.0.0.1:{self.port}", "disable_oauth": True}
        account |= dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account), "GOOGLE_ALLOW_HTTP": "true"}

    @property
    def requests(self) -> int:
        return sum(self.counts.values())

    def reset(self) -> None:
        self.counts.clear()
        self.sent = self.received = 0

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def environment(endpoint: str, key: str, secret: str) -> dict[str, str]:
    """What obstore reads."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Say nothing of clients that are gone: it would be on what a later test has for its standard error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    bucket: OurServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for head and body
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answered(self._get)

    def do_GET(self) -> None:
        self._answered(self._get)

    def do_PUT(self) -> None:
        self._answered(self._put)

    def do_DELETE(self) -> None:
        self._answered(self._delete)

    def do_POST(self) -> None:
        self._answered(self._delete_many)

    def _answered(self, answer: Callable[[str], None]) -> None:
        key = unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}").lstrip("/")
        with self.bucket.lock:
            self.bucket.counts[self.command] += 1
            status = self.bucket.before(self.command, key)
        if status is not None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._fail(status, "SignatureDoesNotMatch" if status == 403 else "InternalError")
            return
        answer(key)

    def _fail(self, status: int, code: str) -> None:
        secret = self.headers.get("Authorization", "")
        self._send(status, f"<Error><Code>{code}</Code><Message>{secret}</Message></Error>".encode())

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _get(self, key: str) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if not key and "list-type" in query:
            self._list(query.get("prefix", [""])[0], query.get("start-after", [""])[0])
            return
        found = self.bucket.objects.get(key)
        if found is None:
            self._fail(404, "NoSuchKey")
            return
        wanted = self.headers.get("If-Match")
        if wanted not in (None, found.tag) and not self.bucket.ignores_conditions:
            self._fail(412, "PreconditionFailed")
            return
        start, end, status = 0, found.size_bytes, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        facts = {"ETag": found.tag, "Last-Modified": _http_date(found.modified), "Accept-Ranges": "bytes"}
        if asked is not None:
            start, end, status = int(asked[1]), min(int(asked[2]) + 1, found.size_bytes), 206
            facts["Content-Range"] = f"bytes {start}-{end - 1}/{found.size_bytes}"
        self.send_response(status)
        for name, value in facts.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        for at in range(start, end, _COPY_BYTES):
            piece = found.read(at, min(end, at + _COPY_BYTES))
            with self.bucket.lock:
                self.bucket.sent += len(piece)
            self.wfile.write(piece)

    def _list(self, prefix: str, after: str) -> None:
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{_date(one.modified)}</LastModified>"
            f"<ETag>{escape(one.tag)}</ETag><Size>{one.size_bytes}</Size></Contents>"
            for key, one in sorted(self.bucket.objects.items())
            if key.startswith(prefix) and key > after
        )
        self._send(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode())

    def _put(self, key: str) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.bucket.lock:
            found = self.bucket.objects.get(key)
            is_new = self.headers.get("If-None-Match") == "*" or self.headers.get("x-goog-if-generation-match") == "0"
            if is_new and found is not None:
                self._fail(412, "PreconditionFailed")
                return
            self.bucket.received += len(body)
            self.bucket.put(key, body)
            status = self.bucket.after("PUT", key)
        if status is not None:
            self._fail(status, "InternalError")
            return
        self._send(200, b"", ETag=self.bucket.objects[key].tag)

    def _delete(self, key: str) -> None:
        with self.bucket.lock:
            self.bucket.objects.pop(key, None)
        self._send(204, b"")

    def _delete_many(self, _: str) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with self.bucket.lock:
            keys = re.findall("<Key>(.*?)</Key>", body)
            for key in keys:
                self.bucket.objects.pop(unescape(key), None)
        rows = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self._send(200, f"<DeleteResult>{rows}</DeleteResult>".encode())


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _http_date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now, nor those 10,000 above, where SeaweedFS speaks gRPC.

    They are below those of which the kernel gives one to each client, until a server is there.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().choice([*{*range(15_000, 22_000)}.difference(found)])
        with socket.socket() as one, socket.socket() as other, suppress(OSError):
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10_000))
            found.append(port)
    return found


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=300).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the server ended with code {process.returncode}")


@contextmanager
def moto_server(directory: Path) -> Iterator[str]:
    """moto in a process of its own; its endpoint. It takes any credentials."""
    (port,) = free_ports(1)
    program = "import sys; from moto.server import main; main(sys.argv[1:])"
    with (directory / "moto.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
        )
        try:
            _wait_for(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


OWNER, READER = ("AKIDOWNER", "secret of the owner"), ("AKIDREADER", "secret of the reader")


class Seaweed:
    """SeaweedFS with two identities: an owner, and one who only reads; it can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = free_ports(4)
        self.endpoint = f"http://127.0.0.1:{self._ports[3]}"
        actions = {OWNER: ["Admin", "Read", "Write", "List"], READER: ["Read", "List"]}
        identities = [
            {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions[key, secret]}
            for key, secret in actions
        ]
        self._config = directory / "s3.json"
        self._config.write_text(json.dumps({"identities": identities}))
        (directory / "data").mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        master, volume, filer, s3 = map(str, self._ports)
        options = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self._directory}/data", "-volume.max=10"]
        options += ["-s3", f"-s3.port={s3}", f"-s3.config={self._config}", "-s3.port.iceberg=0"]
        options += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
        options += ["-master.volumeSizeLimitMB=64", "-master.telemetry=false"]
        options += ["-master.electionTimeout=1s", "-master.heartbeatInterval=100ms"]
        weed = Path(sys.executable).with_name("weed")
        with (self._directory / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                [weed, "server", *options], stdout=log, stderr=log, start_new_session=True, cwd=self._directory
            )
        _wait_for(self._ports[3], self._process)

    def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Every Azurite has these, and the documentation of Azure shows them."""


@contextmanager
def azurite(program: str, directory: Path) -> Iterator[dict[str, str]]:
    """Azurite in a process of its own, with a container of the name ``bucket``; the environment that leads there.

    Args:
        program: its ``azurite-blob``, which is on npm: ``npm install azurite``.
        directory: for its log.
    """
    (port,) = free_ports(1)
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--disableTelemetry"]
    with (directory / "azurite.log").open("wb") as log:
        process = subprocess.Popen([program, *options, "--skipApiVersionCheck"], stdout=log, stderr=log, cwd=directory)
        try:
            _wait_for(port, process)
            _create_container(port, "bucket")
            yield {
                "AZURE_STORAGE_USE_EMULATOR": "true",
                "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
            }
        finally:
            process.kill()
            process.wait()


def _create_container(port: int, name: str) -> None:
    """Make a container, which obstore does not; signed as Azure's documentation says (Shared Key)."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    lines = ["PUT", *[""] * 11, *(f"{key}:{value}" for key, value in headers.items())]
    lines += [f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{name}", "restype:container"]
    signature = hmac.digest(base64.b64decode(AZURE_KEY), "\n".join(lines).encode(), "sha256")
    headers["Authorization"] = f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(signature).decode()}"
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("PUT", f"/{AZURE_ACCOUNT}/{name}?restype=container", headers=headers | {"Content-Length": "0"})
    answer = connection.getresponse()
    assert answer.status == 201, answer.read()
    connection.close()
