"""A canister in Python that asks servers, for tests."""

from __future__ import annotations

from perdure import Principal
from perdure.candid.types import MethodRef
from perdure.execution.management.interface import codecs, transform_codecs
from perdure.kit import call, canister, ic, nat64, query, update

CYCLES = 10_000_000_000_000


def request(url: str, method: str = "get", transform: str | None = "body_only", **more: object) -> bytes:
    """The argument of an ``http_request``."""
    function = None if transform is None else {"function": MethodRef(ic.id, transform), "context": b""}
    arg = {"url": url, "max_response_bytes": 100_000, "method": {method: None}, "headers": [], "body": None}
    arg |= {"transform": function, "is_replicated": None, "pricing_version": None, **more}
    return codecs()["http_request"][0].encode([arg])


@canister
class Oracle:
    """Keeps what it was told last."""

    last: str

    def __init__(self) -> None:
        self.last = "nothing"
        self.asked = 0

    @update
    async def fetch(self, url: str) -> str:
        return await self._ask(request(url))

    @update
    async def fetch_raw(self, url: str, method: str) -> str:
        return await self._ask(request(url, method, None, is_replicated=False))

    @update
    async def post(self, url: str, name: str, value: str, body: bytes) -> str:
        headers = [{"name": name, "value": value}]
        return await self._ask(request(url, "post", None, is_replicated=False, headers=headers, body=body))

    async def _ask(self, arg: bytes) -> str:
        self.asked += 1
        out = await call(Principal(b""), "http_request", arg, cycles=CYCLES)
        (response,) = codecs()["http_request"][1].decode(out)
        self.last = f"{response['status']} {response['body'].decode()}"
        return self.last

    @query
    def seen(self) -> str:
        return self.last

    @query
    def count(self) -> nat64:
        return self.asked

    @query(raw=True)
    def body_only(self, arg: bytes) -> bytes:
        (given,) = transform_codecs()[0].decode(arg)
        return transform_codecs()[1].encode([{**given["response"], "headers": []}])
