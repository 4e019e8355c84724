"""Backtraces say where: file and line of each frame, while what is kept of a trap stays what it was."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import wasmtime

from perdure import RejectError, Subnet
from perdure.embedder.code import Site
from perdure.embedder.lines import Lines
from perdure.errors import Backtrace, located
from perdure.instrument import Options, instrument
from perdure.instrument.origins import Origins
from perdure.wasm import Module, decode, instructions, locals_end

CANISTERS = Path(__file__).parents[1] / "canisters"
HASHES = json.loads((CANISTERS / "hashes.json").read_text(encoding="utf-8"))
BRANCHES = (CANISTERS.parents[1] / HASHES["branches"]["file"]).read_bytes()
TRACED = (CANISTERS.parents[1] / HASHES["traced"]["file"]).read_bytes()


def line_of(file: str, text: str) -> int:
    lines = (CANISTERS / file).read_text().splitlines()
    (found,) = (at for at, line in enumerate(lines, 1) if line.strip().startswith(text))
    return found


def backtrace(wasm: bytes, method: str, arg: bytes, way: str = "") -> RejectError:
    with Subnet() as subnet:
        canister = subnet.install(wasm)
        blocks = {"profile": [subnet.profile], "coverage": [subnet.coverage], "both": [subnet.coverage, subnet.profile]}
        entered = [block() for block in blocks.get(way, [])]
        for block in entered:
            block.__enter__()
        with pytest.raises(RejectError) as caught:
            canister.update(method, arg)
        str(caught.value)  # looked at while the module is there
        for block in reversed(entered):
            block.__exit__(None, None, None)
        caught.value.told = str(caught.value)  # type: ignore[attr-defined]
        return caught.value


@pytest.mark.parametrize("way", ["", "profile", "coverage", "both"])
def test_c(way: str) -> None:
    error = backtrace(BRANCHES, "add", (102).to_bytes(8, "little"), way)
    assert error.backtrace == ("fail", "step", "update_add")
    assert error.told.splitlines()[-3:] == [
        f"fail (c/branches.c:{line_of('c/branches.c', 'ic0_trap(')})",
        f"step (c/branches.c:{line_of('c/branches.c', 'fail(value)')})",
        f"update_add (c/branches.c:{line_of('c/branches.c', 'reply_u64(step(')})",
    ]
    assert "too much" in error.told.splitlines()[0]  # what it says comes first


def test_a_trap_of_the_engine() -> None:
    error = backtrace(BRANCHES, "divide", bytes(16))
    line = line_of("c/branches.c", "reply_u64(argument_u64(0) / ")
    assert error.told.splitlines()[-1] == f"update_divide (c/branches.c:{line})"


def test_a_panic_of_rust_says_why_first_and_names_are_those_of_the_source() -> None:
    error = backtrace(TRACED, "take", b"\0")
    file, lines = "rust/traced/src/lib.rs", error.told.splitlines()
    assert "Panicked at 'nothing is left of 7'" in lines[0]
    frames = lines[lines.index("Canister Backtrace:") + 1 :]
    assert frames[0].startswith("__rustc::rust_begin_unwind (canisters/traced/src/lib.rs:")
    assert frames[-3:] == [
        f"<traced::Down<T> as traced::Step>::step (canisters/traced/src/lib.rs:{line_of(file, 'panic!(')})",
        f"traced::apply (canisters/traced/src/lib.rs:{line_of(file, 'step.step(left)')})",
        f"canister_update take (canisters/traced/src/lib.rs:{line_of(file, 'let found = ')})",
    ]


def test_what_is_kept_knows_no_lines() -> None:
    """A backtrace is the tuple of its names, also after it was written somewhere; lines are not part of any state."""
    error = backtrace(BRANCHES, "add", (102).to_bytes(8, "little"))
    assert isinstance(error.backtrace, Backtrace)
    assert pickle.loads(pickle.dumps(error.backtrace)) == ("fail", "step", "update_add")
    assert type(pickle.loads(pickle.dumps(error.backtrace))) is tuple
    assert "c/branches.c" not in str(RejectError(5, "IC0503", "why", tuple(error.backtrace)))
    assert located(("a", "b")) == ("a", "b")
    logged = []
    for wasm in (BRANCHES, _without_lines(BRANCHES)):
        with Subnet() as subnet:
            canister = subnet.install(wasm)
            with pytest.raises(RejectError):
                canister.update("add", (102).to_bytes(8, "little"))
            logged.append([record.content for record in canister.logs()])
    assert logged[0] == logged[1]


def _without_lines(wasm: bytes) -> bytes:
    return wasm.replace(b".debug_line", b".debug_lime")


def test_broken_lines_are_told_and_names_stay() -> None:
    at = BRANCHES.index(b".debug_line") + len(".debug_line") + 4
    error = backtrace(BRANCHES[:at] + b"\x63" + BRANCHES[at + 1 :], "divide", bytes(16))
    assert error.told.splitlines()[-2] == "update_divide"
    assert error.told.splitlines()[-1].startswith("note: .debug_line at 0x0: is of DWARF version 99")


CPP = """(module (import "ic0" "msg_reply" (func $reply))
  (func $_ZN3app4failIiEEvT_ (param i32) (unreachable))
  (func (export "canister_update go") (call $_ZN3app4failIiEEvT_ (i32.const 1)) (call $reply)))"""


def test_names_of_cpp() -> None:
    error = backtrace(bytes(wasmtime.wat2wasm(CPP)), "go", b"")
    assert error.backtrace[0] == "_ZN3app4failIiEEvT_"
    assert "\nvoid app::fail<int>(int)\n" in error.told


# --- the way back


@pytest.mark.parametrize("options", [Options(), Options(coverage=True), Options(accounting=False)])
@pytest.mark.parametrize("name", ["branches", "kv32", "kv64"])
def test_every_instruction_is_found_again(name: str, options: Options) -> None:
    module = decode((CANISTERS.parents[1] / HASHES[name]["file"]).read_bytes())
    linked = instrument(module, options)
    _check(module, Origins(module, linked), linked.module)


def _check(module: Module, origins: Origins, new: Module) -> None:
    first = module.imported_function_count
    for place, code in enumerate(module.codes):
        body = new.codes[place].body
        old = {one.start: one for one in instructions(code.body, locals_end(code.body))}
        seen = set()
        for one in instructions(body, locals_end(body)):
            start = origins.offset(first + place, one.start)
            if start in old and old[start].opcode == one.opcode:
                seen.add(start)
            assert start is not None
            assert start == len(code.body) or start in old or start < locals_end(code.body), (place, one)
        # Calls of imports and growing have become something else, which leads back to them.
        changed = {start for start in old.keys() - seen if old[start].opcode not in {0x10, 0x40, 0xFC0A, 0xFC0B}}
        assert changed == set()


def test_no_way_back_where_imports_have_become_instructions() -> None:
    text = """(module (import "stable:users" "size" (func $size (result i64))) (import "ic0" "msg_reply" (func $reply))
      (func (export "canister_update go") (drop (call $size)) (unreachable)) (func $other (nop)))"""
    wasm = bytes(wasmtime.wat2wasm(text))
    module = decode(wasm)
    origins = Origins(module, instrument(module, Options(extensions=("memories",))))
    assert origins.offset(2, 20) is None
    assert origins.offset(3, 1) is not None
    assert origins.offset(99, 1) is None
    assert Lines(wasm, Options(extensions=("memories",))).located([Site(2, "", 20)]) == ("wasm-function[2]",)
