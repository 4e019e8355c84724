"""Every built canister is installed, called, upgraded and called again, with every choice of passes: the replies, the
traps, stable memory and heap must be the same whichever way the System API is reached.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import wasmtime
from built_canisters import CANISTERS, Digest, call, digest, load_file, module, service_of

from perdure import Principal, RejectError
from perdure.candid import encode, parse_types, parse_values
from perdure.embedder import Apart, Compiler, engine, settings
from perdure.instrument import Options
from perdure.subnet import Canister, Subnet

ALICE = "un4fu-tqaaa-aaaab-qadjq-cai"
EMPTY = b"DIDL\0\0"
LEDGER = struct.pack("<Q", 5)

NATIVE = Options()
SAME_COUNTS = {
    "stable memory through the host": Options(native_stable=False),
    "everything through the host": Options(native_stable=False, native_messages=False),
}
OTHER_COUNTS = {
    "unaccounted": Options(accounting=False),
    "unmetered": Options(schedule=None),
    "bare": Options(schedule=None, accounting=False, native_stable=False, native_messages=False),
}


@dataclass(frozen=True)
class Story:
    """What happens to a canister. A call is Candid text, or (method, raw argument); `!` marks one that is rejected."""

    name: str
    before: Sequence[str | tuple[str, bytes]]
    after: Sequence[str | tuple[str, bytes]]
    init: bytes = EMPTY
    upgrade_to: str | None = None
    upgrade_arg: bytes = EMPTY
    persistence: str | None = None


def candid(text: str) -> bytes:
    """An argument for a module that does not say its types."""
    return encode(*parse_values(text))


KV_BEFORE = (
    ("inc", b""),
    ("put", b"\3keyvalue"),
    ("put", b"\5otherthing"),
    ("inc_in_query", b""),
    ("!trap", b"boo"),
    ("!change_and_trap", b""),
    ("!divide", struct.pack("<QQ", 1, 0)),
    ("!unreachable", b""),
    ("!reply_twice", b""),
    ("!silent", b""),
    ("!reject", b"no"),
    ("echo", bytes(range(256)) * 100),
    ("stable64_grow", struct.pack("<Q", 3)),
    ("!get", b"nothing"),
)
KV_AFTER = (("count", b""), ("get", b"key"), ("get", b"other"), ("entries", b""), ("inc", b""))
MOTOKO_BEFORE = (
    "inc()",
    "inc()",
    "incInQuery()",
    'put("one", 1)',
    'put("two", 222222222222222222222)',
    "!crash()",
    '!fail("x")',
    "incSelf()",
    "count()",
)
MOTOKO_AFTER = ("count()", "entries()", "inc()", 'get("two")', "version()")
PAIRS = "; ".join(f"record {{ {key * 7919 % 10_007}; {key} }}" for key in range(400))


def ledger_init(*holders: str) -> bytes:
    (kind,) = parse_types("(record { symbol : text; fee : nat; holders : vec record { principal; nat } })")
    rows = [{0: Principal.from_text(holder), 1: 1_000} for holder in holders]
    return encode((kind,), ({"symbol": "TST", "fee": 1, "holders": rows},))


structures = load_file(CANISTERS / "rust" / "structures" / "structures.py")
universal = load_file(CANISTERS / "universal" / "universal.py")


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def operations(*keys: bytes) -> bytes:
    """Insert keys into one of the maps and list what it has."""
    inserts = b"".join(structures.operation(10, structures.Opcode.INSERT, key, key * 3) for key in keys)
    return inserts + structures.operation(10, structures.Opcode.LEN)


def program(number: int) -> bytes:
    """Write a number to stable memory, print, and reply with what is there."""
    steps = universal.Program().stable64_grow(1).drop().stable_fill(number, number, 100)
    return bytes(steps.reply(universal.Program().stable_read_span(0, 200)))


STORIES = [
    Story("save_restore", (("fill", words(1 << 20)), ("sum", b"")), (("sum", b""),)),
    Story(
        "stable_access",
        (("reserve", words(4)), ("write8", words(20, 64)), ("write_blocks", words(9, 1, 5_000, 7_001))),
        (("read8", words(3, 64)), ("read_blocks", words(9, 1, 5_000, 7_001)), ("touch", b""), ("peek", b"")),
    ),
    Story(
        "ledger",
        ("symbol()", "total()", f'!transfer(record {{ to = principal "{ALICE}"; amount = 1 }})'),
        ("upgrades()", "total()", "entries(0, 5)"),
        init=ledger_init(ALICE),
        upgrade_arg=ledger_init(),
    ),
    Story(
        "structures",
        (("catalog", b""), ("update", operations(b"one", b"two", b"one"))),
        (("update", operations(b"three")),),
        init=structures.layout(16),
        upgrade_arg=structures.layout(16),
    ),
    Story(
        "universal32",
        (("update", program(3)), ("query", program(4))),
        (("update", program(5)),),
        init=b"",
        upgrade_arg=b"",
    ),
    Story(
        "universal64",
        (("update", program(3)), ("query", program(4))),
        (("update", program(5)),),
        init=b"",
        upgrade_arg=b"",
    ),
    Story("kv32", KV_BEFORE, KV_AFTER, init=LEDGER, upgrade_arg=b""),
    Story("kv64", KV_BEFORE, KV_AFTER, init=LEDGER, upgrade_arg=b""),
    Story("motoko_classical_v1", MOTOKO_BEFORE, (*MOTOKO_AFTER, "reset()"), upgrade_to="motoko_classical_v2"),
    Story("motoko_eop_v1", MOTOKO_BEFORE, (*MOTOKO_AFTER, "reset()"), upgrade_to="motoko_eop_v2", persistence="keep"),
    Story(
        "insert_many",
        (f"insert_many(vec {{ {PAIRS} }})", "len()", "get(7919)"),
        ("len()", "get(7919)", "insert_many(vec { record { 1; 2 } })", "len()"),
    ),
    Story("messenger", ("bump()", "bump()", '!crash("x")', "count()", "caller()"), ("count()", "bump()")),
    Story(
        "azle",
        (("inc", EMPTY), ("put", candid('("a", 1 : nat)')), ("put", candid('("b", 2 : nat)')), ("keys", EMPTY)),
        (
            ("count", EMPTY),
            ("get", candid('("a")')),
            ("put", candid('("a", 3 : nat)')),
            ("keys", EMPTY),
            ("inc", EMPTY),
        ),
    ),
]


def reply_of(canister: Canister, step: str | tuple[str, bytes]) -> object:
    """The reply; for a call that must be rejected, error code and message."""
    if not (step if isinstance(step, str) else step[0]).startswith("!"):
        return send(canister, step)
    with pytest.raises(RejectError) as caught:
        send(canister, step)
    return caught.value.error_code, caught.value.message


def send(canister: Canister, step: str | tuple[str, bytes]) -> bytes:
    if isinstance(step, str):
        return call(canister, step.lstrip("!"))
    method = step[0].lstrip("!")
    assert canister.module is not None
    query = f"canister_query {method}" in canister.module.exported_methods
    return canister.query(method, step[1]) if query else canister.update(method, step[1])


@pytest.fixture(scope="module")
def quick_compiler() -> Compiler:
    """One that takes half the time, for slower code: what a canister does must not depend on that, either."""

    def configure(library: ctypes.CDLL, config: int, flags: dict[str, bool], sizes: dict[str, int]) -> None:
        settings.configure(library, config, flags, sizes)
        for name, value in (("opt_level", 0), ("regalloc_algorithm", 1)):  # none; a single pass
            setter = library[f"wasmtime_config_cranelift_{name}_set"]
            setter.restype, setter.argtypes = None, [ctypes.c_void_p, ctypes.c_uint8]
            setter(config, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "configure", configure)
        return Compiler(engine.Engine(), None, apart=Apart(above_seconds=math.inf))


def tell(story: Story, options: Options, compiler: Compiler | None = None) -> list[object]:
    """Replies, digests of both memories after each step; globals and balance at the end."""
    canister = Subnet(instrumentation=options, compiler=compiler).install(module(story.name), story.init)
    transcript: list[object] = [digest(canister)]
    for step in story.before:
        transcript += [reply_of(canister, step), digest(canister)]
    new = module(story.upgrade_to or story.name)
    canister.upgrade(new, story.upgrade_arg, wasm_memory_persistence=story.persistence)
    transcript.append(digest(canister))
    for step in story.after:
        transcript += [reply_of(canister, step), digest(canister)]
    # Cycles pay for instructions, so a difference of three instructions anywhere shows in the balance.
    return [*transcript, canister.globals, canister.status().cycles]


def without_counts(transcript: list[object]) -> list[object]:
    """Replies and stable memory: Motoko's runtime keeps what performance_counter told it on the heap or in a global."""
    return [item.stable if isinstance(item, Digest) else item for item in transcript[:-2]]


@pytest.mark.slow
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_a_canister_leaves_the_same_bytes_whichever_way_it_reaches_the_system(
    story: Story, quick_compiler: Compiler
) -> None:
    expected = tell(story, NATIVE)
    for name, options in SAME_COUNTS.items():
        assert tell(story, options, quick_compiler) == expected, name
    for name, options in OTHER_COUNTS.items():
        assert without_counts(tell(story, options, quick_compiler)) == without_counts(expected), name


def test_replies_of_the_stories_are_what_the_sources_say() -> None:
    canister = Subnet().install(module("kv32"), LEDGER)
    replies = [reply_of(canister, step) for step in KV_BEFORE]
    assert replies[0] == struct.pack("<Q", 6)
    assert replies[3] == struct.pack("<Q", 7)  # in a query, and gone again
    # `silent` counts and does not reply: it is rejected, and what it did stays.
    assert canister.query("count") == struct.pack("<Q", 7)
    codes = [reply[0] for reply in replies if isinstance(reply, tuple)]
    assert codes == ["IC0503", "IC0503", "IC0502", "IC0502", "IC0504", "IC0506", "IC0406", "IC0406"]


def test_a_motoko_counter_survives_queries_traps_and_both_kinds_of_upgrade() -> None:
    for old, new, persistence in (
        ("motoko_classical_v1", "motoko_classical_v2", None),
        ("motoko_eop_v1", "motoko_eop_v2", "keep"),
    ):
        canister = Subnet().install(module(old))
        for step in MOTOKO_BEFORE:
            reply_of(canister, step)
        canister.upgrade(module(new), wasm_memory_persistence=persistence)
        assert call(canister, "version()") != call(Subnet().install(module(old)), "version()")
        assert b"two" in call(canister, "entries()")


def test_enhanced_orthogonal_persistence_wants_its_option() -> None:
    canister = Subnet().install(module("motoko_eop_v1"))
    with pytest.raises(RejectError, match="Missing upgrade option: Enhanced orthogonal persistence") as caught:
        canister.upgrade(module("motoko_eop_v2"))
    assert caught.value.error_code == "IC0504"
    with pytest.raises(RejectError, match="Invalid upgrade option"):
        canister.upgrade(module("kv64"), wasm_memory_persistence="keep")


def test_a_failed_upgrade_leaves_everything_as_it_was() -> None:
    canister = Subnet().install(module("kv32"), LEDGER)
    canister.update("put", b"\3keyvalue")
    canister.update("stable64_grow", struct.pack("<Q", 1))
    canister.update("store", struct.pack("<QQ", 8, 1 << 40))  # more entries than the table can have
    before = digest(canister), canister.globals, canister.status().module_hash
    with pytest.raises(RejectError, match="stable memory was not written by this canister"):
        canister.upgrade(module("kv32"), skip_pre_upgrade=True)
    assert (digest(canister), canister.globals, canister.status().module_hash) == before
    assert canister.query("get", b"key") == b"value"
    for malformed in (b"", b"\0asm\1\0\0\0\xff", b"\x1f\x8b\x08 no gzip"):
        with pytest.raises(RejectError) as caught:
            canister.upgrade(malformed)
        assert caught.value.error_code == "IC0505"
    assert (digest(canister), canister.globals, canister.status().module_hash) == before


def test_a_ledger_over_five_upgrades_keeps_every_balance() -> None:
    alice = Principal.from_text(ALICE)
    subnet = Subnet()
    ledger = subnet.install(module("ledger"), ledger_init(ALICE))
    bob = Principal(b"\1\2\3")
    service = service_of(ledger)
    for round_number in range(5):
        arg = service.methods["transfer"].encode([{"to": bob, "amount": 10, "memo": None}])
        ledger.update("transfer", arg, sender=alice)
        ledger.upgrade(module("ledger"), ledger_init())
        balance = service.methods["balance_of"]
        assert balance.decode(ledger.query("balance_of", balance.encode([bob]))) == (10 * (round_number + 1),)
    assert service.methods["upgrades"].decode(ledger.query("upgrades", EMPTY)) == (5,)


def test_instructions_of_64_bit_heaps_cost_twice_as_much():
    used = {}
    for index_type in ("", "i64"):
        code = f"""(module (import "ic0" "msg_reply" (func $reply)) (memory {index_type} 1)
          (func (export "canister_update f") (call $reply)))"""
        with Subnet() as subnet:
            canister = subnet.install(bytes(wasmtime.wat2wasm(code)))
            assert canister.module.is_64 == bool(index_type)
            before = canister.status().cycles
            canister.update("f")
            used[index_type] = before - canister.status().cycles - 5_000_000 - 1_200_000 - 2_000
    assert used["i64"] == 2 * used[""] > 0
