"""Built modules by name, Candid calls from text, digests of memories."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from perdure.candid import parse_values
from perdure.candid.service import ServiceType, load
from perdure.subnet import Canister

CANISTERS = Path(__file__).parent.parent / "canisters"
ROOT = CANISTERS.parent.parent
HASHES = json.loads((CANISTERS / "hashes.json").read_text(encoding="utf-8"))


def module(name: str) -> bytes:
    return (ROOT / HASHES[name]["file"]).read_bytes()


def load_file(path: Path) -> ModuleType:
    """A Python file that lies beside a canister's source and is no package."""
    spec = importlib.util.spec_from_file_location(f"subnet_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


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
