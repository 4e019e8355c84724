"""Upgrades to be judged, as a table: what is installed, what has happened to it, what comes, the verdict, the cause.

The Rust canister is one module in many versions, see `tests/canisters/rust/upgraded`: a letter in its data says which.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from perdure import Subnet
from perdure.canister import PageDelta
from perdure.execution.config import SubnetConfig
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager, StableBTreeMap, types
from perdure.subnet import Canister
from perdure.wasm import decode, encode

ROOT = Path(__file__).parents[2]
HASHES = json.loads((ROOT / "tests" / "canisters" / "hashes.json").read_text(encoding="utf-8"))
MARK = b"perdure-version:"


@dataclass(frozen=True)
class Scenario:
    """One upgrade.

    Attributes:
        name: in words.
        old: the module that runs.
        new: the one that comes.
        verdict: that is right.
        causes: codes that must be among those of the findings that move the verdict.
        fill: what happens before.
        options: of the check.
        install: of the subnet's `install`.
        config: limits.
    """

    name: str
    old: Callable[[], bytes]
    new: Callable[[], bytes]
    verdict: str
    causes: tuple[str, ...] = ()
    fill: Callable[[Canister], None] = lambda canister: None
    options: dict[str, Any] = field(default_factory=dict)
    install: dict[str, Any] = field(default_factory=dict)
    config: SubnetConfig | None = None

    def check(self) -> Any:
        subnet = Subnet(config=self.config)
        canister = subnet.install(self.old(), **self.install)
        self.fill(canister)
        return canister.check_upgrade(self.new(), **self.options)


@cache
def module(name: str) -> bytes:
    data = (ROOT / HASHES[name]["file"]).read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def rust(letter: str, change: Callable[[bytes], bytes] = lambda wasm: wasm) -> Callable[[], bytes]:
    def make() -> bytes:
        wasm = module("upgraded")
        assert wasm.count(MARK + b"a") == 1
        return change(wasm.replace(MARK + b"a", MARK + letter.encode()))

    return make


def interface(old: str, new: str) -> Callable[[bytes], bytes]:
    """The module with another interface."""

    def change(wasm: bytes) -> bytes:
        from dataclasses import replace

        found = decode(wasm)
        sections = []
        for section in found.custom_sections:
            if section.name.endswith("candid:service"):
                text = section.data.decode()
                assert old in text
                section = section._replace(data=text.replace(old, new).encode(), raw=b"")
            sections.append(section)
        return encode(replace(found, custom_sections=tuple(sections)))

    return change


def without_export(name: str, and_then: Callable[[bytes], bytes] = lambda wasm: wasm) -> Callable[[bytes], bytes]:
    """The module without a method."""

    def change(wasm: bytes) -> bytes:
        from dataclasses import replace

        found = decode(wasm)
        kept = tuple(one for one in found.exports if one.name != name)
        assert len(kept) == len(found.exports) - 1
        return and_then(encode(replace(found, exports=kept)))

    return change


def filled(canister: Canister, users: int = 30) -> None:
    actor = canister.actor()
    for number in range(users):
        actor.put_user(number, f"user {number}")
        actor.put_order(number, number * 10 + 1)
        actor.put_refund(number, number * 7 + 3)
        actor.push(number + 1)
    actor.set_config("blue")
    actor.archive(1, 2)


def many_points(canister: Canister) -> None:
    """Enough points for a hook that is quadratic in them, within the limit that the scenario sets."""
    filled(canister, 2)
    actor = canister.actor()
    for number in range(1_500):
        actor.push(number)


def small_heap(canister: Canister) -> None:
    filled(canister)
    canister.update_settings(wasm_memory_limit=20 << 20)


def version_1_map(canister: Canister) -> None:
    """Orders as a crate before 0.6 wrote them: a map of version 1, with bounds in its header."""
    memory = BytesMemory()
    orders = StableBTreeMap.create(MemoryManager.create(memory).get(1), types.u64, types.Blob(8), version=1)
    for number in range(30):
        orders[number] = (number * 10 + 1).to_bytes(8, "big")
    canister._write("stable", PageDelta(memory.size(), [(0, memory.read(0, memory.size() << 16))], fresh=True))


def rust_row(name: str, letter: str, verdict: str, *causes: str, **options: Any) -> Scenario:
    return Scenario(name, rust("a"), rust(letter), verdict, causes, filled, options)


BAD = [
    rust_row("two maps of other types under each other's id", "b", "breaking", "ids-swapped"),
    rust_row("two maps of one type under each other's id", "c", "breaking", "ids-swapped"),
    rust_row("another key type", "d", "breaking", "key-type"),
    rust_row("another value encoding", "e", "breaking", "value-encoding"),
    rust_row("new instead of init", "f", "breaking", "structure-recreated"),
    rust_row("a map dropped for one on the heap", "h", "breaking", "structure-abandoned"),
    rust_row("post_upgrade traps", "i", "breaking", "hook-traps"),
    rust_row("an argument is missing", "j", "breaking", "argument-missing"),
    rust_row("the timer is not set again", "l", "breaking", "timer-gone"),
    rust_row("certified data is not set again", "m", "breaking", "certified-data"),
    rust_row("post_upgrade calls out", "n", "breaking", "hook-calls"),
    rust_row("no way back, which is asked for", "o", "breaking", "no-way-back", require_way_back=True),
    rust_row("a cell set to its default by post_upgrade", "v", "breaking", "data-lost"),
    rust_row("a map opened under an id that is new", "w", "breaking", "structure-abandoned"),
    rust_row("numbers in the other byte order", "x", "breaking", "value-encoding"),
    rust_row("a vec emptied by post_upgrade", "z", "breaking", "entries-lost"),
    Scenario(
        "pre_upgrade out of instructions, on large state only",
        rust("k"),
        rust("r"),
        "breaking",
        ("limit",),
        many_points,
        config=SubnetConfig(max_instructions_per_install_code=1_000_000_000),
    ),
    Scenario(
        "a heap past its limit",
        rust("a"),
        rust("u"),
        "breaking",
        ("limit",),
        small_heap,
    ),
    Scenario(
        "a method removed, and its declaration",
        rust("a"),
        rust("a", without_export("canister_update push", interface("  push : (nat64) -> ();\n", ""))),
        "breaking",
        ("candid",),
        filled,
    ),
    Scenario(
        "a method removed, and still declared",
        rust("a"),
        rust("a", without_export("canister_update push")),
        "breaking",
        ("candid-untrue",),
        filled,
    ),
    Scenario(
        "a result that old callers cannot read",
        rust("a"),
        rust("a", interface("total : () -> (nat64) query", "total : () -> (text) query")),
        "breaking",
        ("candid",),
        filled,
    ),
]

HARMLESS = [
    rust_row("the same module", "a", "safe"),
    rust_row("another release of the same code", "r", "safe"),
    rust_row("a bound grown in a version 2 map", "s", "safe"),
    rust_row("a map moved to another id by post_upgrade", "q", "safe"),
    rust_row("values written anew by post_upgrade, with no way back asked for", "o", "safe"),
    rust_row("a heap that grows and fits", "u", "safe"),
    Scenario("an argument that is given", rust("a"), rust("j"), "safe", (), filled, {"arg": "(5 : nat64)"}),
    Scenario(
        "a method more",
        rust("a", without_export("canister_query config", interface("  config : () -> (text) query;\n", ""))),
        rust("a"),
        "safe",
        (),
        filled,
    ),
    Scenario(
        "a quadratic hook on small state",
        rust("k"),
        rust("r"),
        "safe",
        (),
        filled,
        config=SubnetConfig(max_instructions_per_install_code=1_000_000_000),
    ),
    Scenario(
        "a bound grown in a version 1 map: crate 0.7 migrates it", rust("a"), rust("g"), "safe", (), version_1_map
    ),
    Scenario("nothing kept yet", rust("a"), rust("r"), "safe"),
    Scenario("back from a value encoding to the same one", rust("o"), rust("e"), "safe", (), filled),
]
