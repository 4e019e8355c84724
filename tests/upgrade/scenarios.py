"""Upgrades to be judged, as a table: what is installed, what has happened to it, what comes, the verdict, the cause.

The Rust canister is one module in many versions, see `tests/canisters/rust/upgraded`: a letter in its data says which.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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


def c(letter: str) -> Callable[[], bytes]:
    return lambda: module("upgraded_c").replace(MARK + b"a", MARK + letter.encode())


def motoko(name: str) -> Callable[[], bytes]:
    return lambda: module(f"upgraded_{name}")


AZLE = """service : {
  count : () -> (nat) query;
  get : (text) -> (opt nat) query;
  inc : () -> (nat);
  keys : () -> (vec text) query;
  put : (text, nat) -> (opt nat);
  whoami : () -> (principal) query;
}"""
"""The interface of tests/canisters/typescript, which the module does not say."""


def azle(memory_id: int) -> Callable[[], bytes]:
    def make() -> bytes:
        wasm, old = module("azle"), b"new StableBTreeMap(0)"
        assert wasm.count(old) == 1
        return wasm.replace(old, b"new StableBTreeMap(%d)" % memory_id)

    return make


def noted(canister: Canister) -> None:
    actor = canister.actor(candid=AZLE)
    for number in range(20):
        actor.put(f"key {number}", number + 1)
    actor.inc()


QUERIES = ("revision", "user_count", "get_user", "get_order", "get_refund", "total", "config", "now")


def only_updates(letter: str, *, without: tuple[str, ...] = ()) -> Callable[[], bytes]:
    """A version without queries, and without some updates: what it keeps is reached by the other updates alone."""

    def change(wasm: bytes) -> bytes:
        found = decode(wasm)
        gone = {f"canister_query {name}" for name in QUERIES} | {f"canister_update {name}" for name in without}
        sections = []
        for section in found.custom_sections:
            if section.name.endswith("candid:service"):
                names = (*QUERIES, *without)
                lines = section.data.decode().splitlines()
                kept = [line for line in lines if not line.strip().startswith(tuple(f"{name} :" for name in names))]
                section = section._replace(data="\n".join(kept).encode(), raw=b"")
            sections.append(section)
        exports = tuple(one for one in found.exports if one.name not in gone)
        return encode(replace(found, exports=exports, custom_sections=tuple(sections)))

    return rust(letter, change)


def interface(old: str, new: str) -> Callable[[bytes], bytes]:
    """The module with another interface."""

    def change(wasm: bytes) -> bytes:
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
        found = decode(wasm)
        kept = tuple(one for one in found.exports if one.name != name)
        assert len(kept) == len(found.exports) - 1
        return and_then(encode(replace(found, exports=kept)))

    return change


def filled(canister: Canister, users: int = 30) -> None:
    """Everything that the Rust canister keeps, as far as it has the methods."""
    actor, methods = canister.actor(), canister.service().methods
    calls = [(name, value) for number in range(users) for name, value in _puts(number)]
    for name, value in [*calls, ("set_config", ("blue",)), ("archive", (1, 2))]:
        if name in methods:
            getattr(actor, name)(*value)


def _puts(number: int) -> list[tuple[str, tuple[Any, ...]]]:
    return [
        ("put_user", (number, f"user {number}")),
        ("put_order", (number, number * 10 + 1)),
        ("put_refund", (number, number * 7 + 3)),
        ("push", (number + 1,)),
    ]


def added(canister: Canister) -> None:
    for _ in range(5):
        canister.update("add")


def listed(canister: Canister) -> None:
    actor = canister.actor()
    for name, age in (("Ada", 36), ("Grace", 85), ("Alan", 41)):
        actor.add(name, age)
    actor.setMotto("onwards")


def without_methods(name: str) -> Callable[[], bytes]:
    """A Motoko canister that keeps its variables and has no method: nobody could tell a difference by a call."""

    def make() -> bytes:
        found = decode(module(f"upgraded_{name}"))
        kept = tuple(one for one in found.exports if not one.name.startswith(("canister_query", "canister_update")))
        sections = [one for one in found.custom_sections if not one.name.endswith("candid:service")]
        return encode(replace(found, exports=kept, custom_sections=tuple(sections)))

    return make


def listed_and_closed(name: str) -> Callable[[Canister], None]:
    def fill(canister: Canister) -> None:
        listed(canister)
        canister.upgrade(without_methods(name)(), wasm_memory_persistence="keep" if "eop" in name else None)

    return fill


def closed_row(title: str, old: str, new: str, verdict: str, *causes: str) -> Scenario:
    return Scenario(
        f"Motoko without methods: {title}", motoko(old), without_methods(new), verdict, causes, listed_and_closed(old)
    )


MIGRATIONS_SLOT = (4 << 20) + (512 << 10) + 128 + 8 * 931
"""Where the runtime of Motoko 4.10 has the list of its migrations, in what it keeps beside the heap."""


def moved_from_classical(canister: Canister) -> None:
    """As a canister looks that had classical persistence once: its old heap lies where later runtimes keep a list."""
    listed(canister)
    canister.heap.write(MIGRATIONS_SLOT, (0x712345).to_bytes(8, "little"))


def many_users(canister: Canister) -> None:
    """Enough users that writing them anew takes more pages than the scenario's limit."""
    filled(canister, 200)


CHOICE = """(module (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (@custom "icp:public candid:service" "service : { choose : (INTO) -> (); show : () -> (record { OUT }) query }")
  (memory 1) (data (i32.const 0) "DIDL\\00\\00") (data (i32.const 8) "REPLY")
  (func (export "canister_update choose") (call $append (i32.const 0) (i32.const 6)) (call $reply))
  (func (export "canister_query show") (call $append (i32.const 8) (i32.const SIZE)) (call $reply)))"""


def choice(into: str, out: str) -> Callable[[], bytes]:
    """A module with an argument and a reply of these types."""

    def make() -> bytes:
        import wasmtime

        from perdure.candid import encode, parse_values

        values = '(record { name = "Ada"; ' + ('note = opt "hers"' if "note" in out else "") + " })"
        reply = encode(*parse_values(values))
        text = CHOICE.replace("INTO", into).replace("OUT", out).replace("SIZE", str(len(reply)))
        return bytes(wasmtime.wat2wasm(text.replace("REPLY", "".join(f"\\{byte:02x}" for byte in reply))))

    return make


NAMED, NOTED = "name : text", "name : text; note : opt text"


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


def c_row(name: str, letter: str, verdict: str, *causes: str, old: str = "a") -> Scenario:
    return Scenario(name, c(old), c(letter), verdict, causes, added)


def motoko_row(name: str, old: str, new: str, verdict: str, *causes: str, **options: Any) -> Scenario:
    return Scenario(name, motoko(old), motoko(new), verdict, causes, listed, options)


def updates_row(name: str, letter: str, verdict: str, *causes: str, without: tuple[str, ...] = ()) -> Scenario:
    old, new = only_updates("a", without=without), only_updates(letter, without=without)
    return Scenario(f"only updates: {name}", old, new, verdict, causes, filled)


AZLE_OPTIONS = {"candid": AZLE, "old_candid": AZLE}

BAD = [
    Scenario(
        "TypeScript: a map under another id",
        azle(0),
        azle(1),
        "breaking",
        ("structure-abandoned",),
        noted,
        AZLE_OPTIONS,
    ),
    updates_row("another key type", "d", "breaking", "key-type"),
    updates_row("new instead of init", "f", "breaking", "structure-recreated"),
    updates_row("ids of other types", "b", "breaking", "ids-swapped"),
    c_row("C: post_upgrade forgets to read", "b", "breaking", "data-lost"),
    c_row("C: fields read in another order", "c", "breaking", "replies-exchanged"),
    c_row("C: another layout", "e", "breaking", "data-lost", "reply-differs"),
    c_row("C: a form that was never written", "f", "breaking", "hook-traps"),
    c_row("C: a field set to nought", "i", "breaking", "data-lost"),
    c_row("C: a query traps on what there is", "k", "breaking", "data-unreadable"),
    c_row("C: the old version saves nothing", "a", "breaking", "data-lost", old="d"),
    motoko_row(
        "Motoko: a field more, the list is gone", "classical_1", "classical_2", "breaking", "stable-types", "data-lost"
    ),
    motoko_row("Motoko: a variable dropped", "classical_1", "classical_3", "breaking", "stable-types", "data-lost"),
    motoko_row("Motoko: an implicit move to EOP", "classical_1", "eop_1", "breaking", "hook-traps"),
    closed_row("a variable dropped", "classical_1", "classical_3", "breaking", "stable-types"),
    closed_row("a narrower type", "eop_1", "eop_2", "breaking", "stable-types", "hook-traps"),
    motoko_row("Motoko EOP: a narrower type", "eop_1", "eop_2", "breaking", "stable-types", "hook-traps"),
    motoko_row("Motoko EOP: a field dropped", "eop_1", "eop_3", "breaking", "stable-types"),
    motoko_row(
        "Motoko EOP: the heap not kept", "eop_1", "eop_4", "breaking", "data-lost", wasm_memory_persistence="replace"
    ),
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
        "post_upgrade out of pages, on large state only",
        rust("a"),
        rust("o"),
        "breaking",
        ("limit",),
        many_users,
        config=SubnetConfig(stable_dirty_pages_upgrade=4),
    ),
    Scenario(
        "Motoko EOP: what was classical once (motoko#6363)",
        motoko("eop_1"),
        motoko("eop_4"),
        "breaking",
        ("hook-traps",),
        moved_from_classical,
    ),
    Scenario(
        "a case of a variant removed from an argument",
        choice("variant { red; blue }", NAMED),
        choice("variant { red }", NAMED),
        "breaking",
        ("candid",),
    ),
    Scenario(
        "a field removed from a reply",
        choice("text", NOTED),
        choice("text", "note : opt text"),
        "breaking",
        ("candid",),
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
    Scenario("TypeScript: the same module", azle(0), azle(0), "safe", (), noted, AZLE_OPTIONS),
    updates_row("the same module", "a", "safe"),
    updates_row("another release", "r", "safe"),
    updates_row("a bound grown", "s", "safe"),
    updates_row("a map moved by post_upgrade", "q", "safe"),
    updates_row("values written anew", "o", "safe"),
    updates_row("a heap that grows", "u", "safe"),
    *(
        updates_row(f"without {name}", letter, "safe", without=(name,))
        for letter in "rs"
        for name in ("archive", "set_config", "push")
    ),
    c_row("C: the same module", "a", "safe"),
    c_row("C: a newer form", "g", "safe"),
    c_row("C: a form that is checked", "h", "safe"),
    motoko_row("Motoko: a variable, a method and a wider type", "classical_1", "classical_4", "safe"),
    motoko_row("Motoko: the same module", "classical_1", "classical_1", "safe"),
    motoko_row("Motoko EOP: a variable and a method", "eop_1", "eop_4", "safe"),
    motoko_row("Motoko EOP: the same module", "eop_1", "eop_1", "safe"),
    closed_row("a variable more, classical", "classical_1", "classical_4", "safe"),
    closed_row("a variable more, EOP", "eop_1", "eop_4", "safe"),
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
    Scenario(
        "values written anew on small state",
        rust("a"),
        rust("o"),
        "safe",
        (),
        filled,
        config=SubnetConfig(stable_dirty_pages_upgrade=4),
    ),
    Scenario(
        "a case more of a variant", choice("variant { red }", NAMED), choice("variant { red; blue }", NAMED), "safe"
    ),
    Scenario("nothing kept yet", rust("a"), rust("r"), "safe"),
    Scenario("back from a value encoding to the same one", rust("o"), rust("e"), "safe", (), filled),
]
