"""A site: its files and a guestbook in one canister, shown in the browser by `perdure serve`.

Pages come from the canister's own answers to `http_request`, at http://ID.raw.localhost:PORT/ (they are not certified; an
assets canister in Rust does that, see docs/networks.md of perdure). What changes something is a POST, and an update.
"""

from __future__ import annotations

import json
import mimetypes
import sys
from pathlib import Path
from typing import Annotated, Any

from perdure import Principal, Subnet
from perdure.kit import canister, ic, query, update
from perdure.stable import StableBTreeMap, StableLog

REQUEST = "record { method : text; url : text; headers : vec record { text; text }; body : blob }"
RESPONSE = "record { status_code : nat16; headers : vec record { text; text }; body : blob; upgrade : opt bool }"
OWNER = Principal.self_authenticating(b"the guestbook")
"""Who sets files: the canister's controller."""
LONGEST_ENTRY_BYTES = 1_000
SHOWN = 50


def answer(status: int, kind: str, body: bytes, upgrade: bool | None = None) -> dict[str, Any]:
    headers = [("content-type", kind), ("cache-control", "no-cache")]
    return {"status_code": status, "headers": headers, "body": body, "upgrade": upgrade}


@canister(name="site")
class Site:
    files: StableBTreeMap[str, bytes]
    guestbook: StableLog[str]

    @update
    def put(self, path: str, content: bytes) -> None:
        """Set a file; for controllers."""
        if not ic.is_controller(ic.caller):
            raise PermissionError("only controllers set files")
        self.files[path] = content

    @query
    def http_request(self, request: Annotated[Any, REQUEST]) -> Annotated[Any, RESPONSE]:
        path = request["url"].partition("?")[0]
        if request["method"] == "POST":
            return answer(200, "text/plain", b"", upgrade=True)  # asked again, as an update
        if path == "/guestbook":
            count = len(self.guestbook)
            entries = [self.guestbook[place] for place in range(max(0, count - SHOWN), count)]
            return answer(200, "application/json", json.dumps(entries).encode())
        path = "/index.html" if path == "/" else path
        found = self.files.get(path)
        if found is None:
            return answer(404, "text/plain", b"no such page")
        return answer(200, mimetypes.guess_type(path)[0] or "application/octet-stream", found)

    @update
    def http_request_update(self, request: Annotated[Any, REQUEST]) -> Annotated[Any, RESPONSE]:
        if request["url"] != "/guestbook":
            return answer(404, "text/plain", b"nothing is posted here")
        if not 0 < len(request["body"]) <= LONGEST_ENTRY_BYTES:
            return answer(413, "text/plain", b"an entry has 1 to 1,000 bytes")
        try:
            self.guestbook.append(request["body"].decode())
        except UnicodeDecodeError:
            return answer(400, "text/plain", b"an entry is text in UTF-8")
        return answer(201, "text/plain", b"thank you")


def deploy(subnet: Subnet, frontend: Path) -> Any:
    """The site with the files of a directory; the canister of before if there is one."""
    site = subnet.canisters[0] if subnet.canisters else subnet.install(Site, controllers=[OWNER])
    for file in sorted(frontend.rglob("*")):
        if file.is_file():
            site.actor(OWNER).put(f"/{file.relative_to(frontend).as_posix()}", file.read_bytes())
    return site


def main(state: str, port: int) -> None:
    """Serve the site until Ctrl-C; its state is a directory."""
    with Subnet(state) as subnet:
        site = deploy(subnet, Path(__file__).parent / "frontend")
        with subnet.serve(port=port) as url:
            print(f"http://{site.id}.raw.localhost:{url.rpartition(':')[2]}/", flush=True)
            try:
                while True:
                    input()
            except (EOFError, KeyboardInterrupt):
                return


if __name__ == "__main__":
    main(*(sys.argv[1:2] or ["state"]), int(*(sys.argv[2:3] or ["8000"])))
