"""Programs by other people's toolchains: C and C++ with their libraries, Go, Rust with all of std, SQLite from a crate.

Each is installed with ``wasi=True``, called, upgraded, called again, with the System API native and behind host calls.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from built_canisters import Digest, digest, module

from perdure import RejectError
from perdure.candid import decode as decode_values
from perdure.candid import encode as encode_values
from perdure.candid import parse_values
from perdure.embedder.engine import validate_original
from perdure.errors import InvalidModuleError, UnsupportedError
from perdure.instrument import Options, validate, wasm_without_wasi
from perdure.subnet import Canister, Subnet
from perdure.wasm import ExternKind, decode, inflate

NATIVE = Options()
BEHIND_HOST_CALLS = Options(native_stable=False, native_messages=False)
SECONDS = 1_620_328_630
"""Where a subnet's clock starts."""
EMPTY = b"DIDL\0\0"

NAMES = ("wasi_c", "wasi_cpp", "wasi_go", "wasi_rust", "wasi_sqlite")


@dataclass(frozen=True)
class Step:
    """A call, its argument, the reply, and what it leaves in the log; a reply in `raises` is part of the rejection."""

    method: str
    arg: bytes = b""
    reply: bytes = b""
    log: Sequence[bytes] = ()
    raises: str = ""


COUNTED = (Step("inc", reply=b"1", log=[b"counted to 1"]), Step("inc", reply=b"2", log=[b"counted to 2"]))
COUNTED_ON = (Step("count", reply=b"2"), Step("inc", reply=b"3", log=[b"counted to 3"]))

STORIES = {
    "wasi_c": (
        Step("print", b"six", log=[b"six, 42, 0.125!", b"one", b"two", b"x" * 512, b"x" * 488, b"no newline"]),
        Step("open", b"/etc/hosts", reply=b"44"),
        Step("sort", b"20000", reply=b"00000000 00019999"),
        Step("clock", reply=b"%d" % SECONDS),
        Step("environment", reply=b"none 1"),
        Step("exit", b"3", log=[b"half a line"], raises=r"'proc_exit\(3\)'"),
        Step("abort", raises="unreachable"),
    ),
    "wasi_cpp": (
        Step("words", b"b a b", reply=b"a=1 b=2 "),
        Step("words", b"a", reply=b"a=2 b=2 "),
        Step("fill", reply=b"50331648x"),
        Step("world", b"/etc/hosts", reply=b"none %d" % SECONDS),
        Step("exit", raises=r"'proc_exit\(5\)'"),
    ),
    "wasi_go": (
        Step("words", b'{"Words": ["b", "a", "b"]}', reply=b'{"counts":{"a":1,"b":2},"known":["a","b"]}'),
        Step("garbage", reply=b"20"),
        Step("world", reply=json.dumps([SECONDS, True, 0, "", 8], separators=(",", ":")).encode()),
        Step("exit", raises=r"'proc_exit\(7\)'"),
        Step(
            "panic",
            log=[b"panic: as asked", b"", b"goroutine 1 [running]:", b"main.fail()", b"\tcanister/main.go:139 +0x2"],
            raises="unreachable",
        ),
    ),
    "wasi_rust": (
        Step("words", b"b a b", reply=b"a=1 b=2", log=[b'2 words, 2 of them ["a=1", "b=2"]']),
        Step("world", reply=b"%d NotFound 0 true" % SECONDS),
        Step("exit", raises=r"'proc_exit\(9\)'"),
        Step(
            "panic",
            b"so",
            log=[
                b"",
                b"thread '<unnamed>' (1) panicked at std/src/lib.rs:88:5:",
                b"as asked: so",
                b"note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace",
            ],
            raises="unreachable",
        ),
    ),
}
INSTALLED = {"wasi_c": [b"constructed: 1"], "wasi_cpp": [b"init: constructed"]}
UPGRADED = {"wasi_c": [b"constructed again: 1"]}


def printed(canister: Canister, known: int) -> list[bytes]:
    """What was logged behind the first `known` lines, without the system's own lines about traps."""
    lines = [record.content for record in canister.logs() if record.sequence >= known]
    return [line for line in lines if not line.startswith(b"[TRAP]")]


def lines(canister: Canister) -> int:
    return max((record.sequence + 1 for record in canister.logs()), default=0)


def take(canister: Canister, step: Step) -> None:
    assert canister.module is not None
    query = f"canister_query {step.method}" in canister.module.exported_methods
    known = lines(canister)
    if step.raises:
        with pytest.raises(RejectError, match=step.raises):
            canister.update(step.method, step.arg)
    else:
        reply = canister.query(step.method, step.arg) if query else canister.update(step.method, step.arg)
        assert reply == step.reply, step.method
    assert printed(canister, known) == list(step.log), step.method


def tell(name: str, options: Options) -> list[object]:
    """Digests of both memories after each step; globals and balance at the end."""
    canister = Subnet(instrumentation=options).install(module(name), wasi=True)
    assert printed(canister, 0) == INSTALLED.get(name, [])
    seen: list[object] = [digest(canister)]
    for step in (*COUNTED, *STORIES[name]):
        take(canister, step)
        seen.append(digest(canister))
    known = lines(canister)
    canister.upgrade(module(name), wasi=True)
    assert printed(canister, known) == UPGRADED.get(name, [])
    for step in COUNTED_ON:
        take(canister, step)
        seen.append(digest(canister))
    return [*seen, canister.globals, canister.status().cycles]


@pytest.mark.slow
@pytest.mark.parametrize("name", STORIES)
def test_a_program_runs_and_leaves_the_same_bytes_behind_host_calls(name: str) -> None:
    assert tell(name, NATIVE) == tell(name, BEHIND_HOST_CALLS)


def candid(text: str) -> bytes:
    return encode_values(*parse_values(text))


def tell_of_people(options: Options) -> list[object]:
    """Replies of SQL, and digests of both memories."""
    canister = Subnet(instrumentation=options).install(module("wasi_sqlite"), EMPTY, wasi=True)

    def answer(method: str, arguments: str = "()") -> object:
        is_query = method in {"adults", "check"}
        (reply,) = decode_values((canister.query if is_query else canister.update)(method, candid(arguments)))
        return reply

    seen = [answer("add", '("Ada", 36 : int64)'), answer("fill", "(2000 : int64)"), digest(canister)]
    with pytest.raises(RejectError, match="as asked"):
        answer("add_and_trap", '("nobody")')
    seen += [answer("adults", "(18 : int64)"), digest(canister)]
    canister.upgrade(module("wasi_sqlite"), EMPTY, wasi=True)
    return [*seen, answer("add", '("Grace", 85 : int64)'), answer("adults", "(18 : int64)"), answer("check")]


@pytest.mark.slow
def test_sqlite_from_its_crate_keeps_its_database_in_stable_memory() -> None:
    native = tell_of_people(NATIVE)
    assert native == tell_of_people(BEHIND_HOST_CALLS)
    of_age = 1 + sum(number % 90 >= 18 for number in range(1, 2001))
    assert [reply for reply in native if not isinstance(reply, Digest)] == [1, 2000, of_age, 2002, of_age + 1, "ok"]


@pytest.mark.parametrize("name", NAMES)
def test_the_network_takes_a_program_afterwards_and_not_before(name: str) -> None:
    original = decode(module(name))
    with pytest.raises(InvalidModuleError, match="that is not exported by the runtime"):
        validate(original)
    wasm = wasm_without_wasi(module(name))
    result = decode(wasm)
    validate(result)
    validate_original(wasm)
    assert {item.module for item in result.imports} == {"ic0"}
    assert wasm_without_wasi(wasm) == wasm
    count = original.imported_function_count
    assert result.imported_function_count == count
    same = sum(old.body == new.body for old, new in zip(original.codes, result.codes, strict=False))
    assert same > 0.8 * len(original.codes)
    assert [item.name for item in original.imports if item.module == "ic0"] == [
        new.name
        for old, new in zip(original.imports, result.imports, strict=True)
        if old.module == "ic0" and old.kind is ExternKind.FUNCTION
    ]


def test_without_asking_for_it_the_network_refuses() -> None:
    with pytest.raises(RejectError, match="'wasi_snapshot_preview1' that is not exported by the runtime") as caught:
        Subnet().install(module("wasi_c"))
    assert caught.value.error_code == "IC0505"


@pytest.mark.slow
def test_installed_reinstalled_and_installed_again_on_an_empty_canister() -> None:
    subnet = Subnet()
    canister = subnet.install(module("wasi_c"), wasi=True)
    assert canister.update("inc") == b"1"
    canister.reinstall(module("wasi_c"), wasi=True)
    assert canister.update("inc") == b"1"
    canister.uninstall()
    canister.install(inflate(module("wasi_c")), wasi=True)
    assert canister.update("inc") == b"1"
    assert canister.status().module_hash is not None


def test_what_nothing_stands_in_for_is_refused_before_anything_changes() -> None:
    subnet = Subnet()
    with pytest.raises(UnsupportedError, match=r"host\.f, which the Internet Computer does not have"):
        subnet.install(b"\0asm\1\0\0\0\1\4\1\x60\0\0\2\x0a\1\4host\1f\0\0", wasi=True)
    assert subnet.canisters == ()
