"""An explorer over a subnet in memory, asked without a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest

from perdure import Subnet
from perdure.explorer import Explorer
from perdure.gateway.http import Request, Response
from perdure.subnet import Canister

MODULES = Path(__file__).parents[1] / "canisters" / "modules"
HOLDER = '(record { fee = 1; holders = vec { record { principal "2vxsx-fae"; 1000 } }; symbol = "TOK" })'


@dataclass
class Visitor:
    """Asks for pages as a browser on this machine does."""

    explorer: Explorer
    origin: str = "http://localhost:4943"

    def get(self, path: str, *, host: str = "localhost:4943", client: str = "127.0.0.1") -> Response:
        return self.explorer.begin(Request("GET", path, {"host": host}, b""), client)

    def text(self, path: str) -> str:
        response = self.get(path)
        assert response.status == 200, response.body
        return response.body.decode()

    def post(self, path: str, *, token: str | None = None, origin: str | None = None, **form: str) -> Response:
        headers = {
            "host": "localhost:4943",
            "origin": self.origin if origin is None else origin,
            "x-perdure-token": self.explorer.token if token is None else token,
            "content-type": "application/x-www-form-urlencoded",
        }
        return self.explorer.begin(Request("POST", path, headers, urlencode(form).encode()), "127.0.0.1")

    def send(self, path: str, body: bytes) -> str:
        headers = {"host": "localhost:4943", "origin": self.origin, "x-perdure-token": self.explorer.token}
        return self.explorer.begin(Request("POST", path, headers, body), "127.0.0.1").body.decode()

    def done(self, path: str, **form: str) -> str:
        response = self.post(path, **form)
        assert response.status == 200, response.body
        return response.body.decode()


@pytest.fixture
def subnet() -> Iterator[Subnet]:
    with Subnet() as made:
        yield made


@pytest.fixture
def ledger(subnet: Subnet) -> Canister:
    return subnet.install((MODULES / "ledger.wasm.gz").read_bytes(), HOLDER)


@pytest.fixture
def visitor(subnet: Subnet) -> Iterator[Visitor]:
    explorer = Explorer(subnet, title="here")
    yield Visitor(explorer)
    explorer.close()
