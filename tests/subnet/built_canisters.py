"""Built modules by name, Candid calls from text, digests of memories."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from perdure.candid import parse_values
from perdure.candid.service import ServiceType, load
from perdure.subnet import Canister

CANISTERS = Path(__file__).parent.parent / "canisters"
ROOT = CANISTERS.parent.parent
HASHES = json.loads((CANISTERS / "hashes.json").read_text(encoding="utf-8"))


def module(name: str) -> bytes:
    return (ROOT / HASHES[name]["file"]).read_bytes()


def service_of(canister: Canister) -> ServiceType:
    assert canister.module is not None
    sections = canister.module.custom_sections
    text = sections.get("icp:public candid:service") or sections["icp:private candid:service"]
    return load(text.decode())


def call(canister: Canister, text: str) -> bytes:
    """Call ``method(arguments)``, arguments in Candid's text form at the types of the module's own service."""
    name, _, rest = text.partition("(")
    method = service_of(canister).methods[name]
    _, values = parse_values(f"({rest}", method.func.args)
    send = canister.query if method.is_query else canister.update
    return send(name, method.encode(values))


class Digest(NamedTuple):
    """SHA-256 of both memories."""

    stable: str
    heap: str


def digest(canister: Canister) -> Digest:
    memories = (canister.stable, canister.heap)
    return Digest(*(hashlib.sha256(memory.view(0, memory.size() << 16)).hexdigest() for memory in memories))
