"""Canisters, databases and files that somebody else made."""

from __future__ import annotations

import os
import signal
import sqlite3
from urllib.parse import quote

import pytest
import wasmtime

from perdure.candid import parse_type
from perdure.candid.did import parse
from perdure.candid.service import from_program
from perdure.cli.serve import until_ended
from perdure.errors import StorageError
from perdure.explorer import Explorer, data, subject
from perdure.explorer.calls import _MAX_FIELDS
from perdure.explorer.forms import example
from perdure.inspection import open_source
from perdure.inspection.source import Source
from perdure.memory import BytesMemory

from .conftest import Visitor

WITHIN = "record { " + "; ".join(f"f{at} : {{}}" for at in range(30)) + " }"


def with_interface(did: str) -> bytes:
    """A module that says an interface."""
    name, content = b"icp:public candid:service", did.encode()
    section = leb(len(name)) + name + content
    return wasmtime.wat2wasm("(module (memory 1))") + b"\0" + leb(len(section)) + section


def leb(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + leb(number >> 7)


def test_a_type_of_a_million_parts_has_no_example():
    names = [f"type t{at} = " + WITHIN.replace("{}", f"t{at + 1}" if at < 3 else "nat") for at in range(4)]
    program = parse(";".join(names) + "; service : { q : (t0) -> () }")
    (type_,) = from_program(program).methods["q"].func.args
    assert example(type_) == "null"
    assert example(parse_type("record { a : nat; b : opt text }")) == "record { a = 0; b = null }"


def test_methods_come_by_pages(subnet, visitor):
    methods = "; ".join(f"m{at:03} : (record {{ x : nat; y : text; z : opt bool }}) -> ()" for at in range(100))
    made = subnet.install(with_interface(f"service : {{ {methods} }}"))
    page = visitor.text(f"/_/c/{made.id}/methods")
    assert ">m039<" not in page
    assert "Call m039<" in page
    assert "Call m040<" not in page
    assert page.count("<input") < 6 * 40 + _MAX_FIELDS
    assert "Call m099<" in visitor.text(f"/_/c/{made.id}/methods?skip=80")
    assert "no methods" in visitor.text(f"/_/c/{made.id}/methods?skip=99999")


def test_words_of_an_interface_are_cut(subnet, visitor):
    long = "x" * 50_000
    made = subnet.install(
        with_interface(f'service : {{ q : (record {{ "{long}" : record {{ "{long}" : nat }} }}) -> () }}')
    )
    assert len(visitor.text(f"/_/c/{made.id}/methods")) < 10_000


def test_no_code_runs_for_who_only_looks(subnet, visitor):
    did = "service : { told : (nat) -> () }"
    reply = b"DIDL\0\1\x71" + leb(len(did)) + did.encode()
    text = "".join(f"\\{byte:02x}" for byte in reply)
    made = subnet.install(
        wasmtime.wat2wasm(
            f"""(module (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
            (import "ic0" "msg_reply" (func $reply)) (memory 1) (data (i32.const 0) "{text}")
            (func (export "canister_query __get_candid_interface_tmp_hack")
              i32.const 0 i32.const {len(reply)} call $append call $reply))"""
        )
    )
    path = f"/_/c/{made.id}/methods"
    with subnet.events() as stream:
        page = visitor.text(path)
        assert not list(stream)
    assert "Ask it" in page
    assert "told" not in page
    assert visitor.post(f"{path}/ask", token="").status == 403
    assert "told" in visitor.done(f"{path}/ask")
    with subnet.events() as stream:
        assert "told" in visitor.text(path)
        assert not list(stream)


def test_a_hook_that_gathers_variables_has_an_end(subnet, visitor, monkeypatch):
    monkeypatch.setattr(subject, "_GATHERING_INSTRUCTIONS", 100_000)
    module = wasmtime.wat2wasm('(module (memory 1) (func (export "canister_pre_upgrade") (loop $l br $l)))')
    name, content = b"icp:public motoko:stable-types", b"// Version: 1.0.0\nactor { stable var x : Nat; };"
    section = leb(len(name)) + name + content
    made = subnet.install(module + b"\0" + leb(len(section)) + section)
    assert "pre_upgrade traps" in visitor.text(f"/_/c/{made.id}/data")


ENDLESS = "with recursive c(x) as (select 1 union all select x + 1 from c) select x from c"
VIEWS = {
    "endless": ENDLESS,
    "nothing": f"{ENDLESS} where x < 0",
    "broken": "select a from nowhere",
    "wide": f"select {', '.join(f'zeroblob(60000000) a{at}' for at in range(100))}",
    "large": "select zeroblob(90000000) a",
    "odd\"<b>' x": 'select 1 as "<i>"',
}


@pytest.fixture
def looker(tmp_path):
    with sqlite3.connect(tmp_path / "db") as made:
        for name, selection in VIEWS.items():
            made.execute('create view "{}" as {}'.format(name.replace('"', '""'), selection))
    made.close()
    content = (tmp_path / "db").read_bytes()
    explorer = Explorer(None, memory=Source("a", BytesMemory(content + bytes(-len(content) % 65536))), title="t")
    yield Visitor(explorer)
    explorer.close()


@pytest.mark.parametrize(
    ("view", "query", "words"),
    [
        ("endless", "", ">25<"),
        ("endless", "&after=99999999999", "SQL: SQL has worked|too far away"),
        ("nothing", "", "SQL has worked"),
        ("broken", "", "no such table"),
        ("wide", "", "a row of more than 8 MiB"),
        ("large", "", "a row of more than 8 MiB"),
        ("odd\"<b>' x", "", "&lt;i&gt;"),
    ],
)
def test_views_take_little(looker, monkeypatch, view, query, words):
    monkeypatch.setattr(data, "_TABLE_SECONDS", 0.05 if "SQL has worked" in words else 60.0)
    page = looker.text(f"/_/c/memory/data?s={quote(f'sqlite page:0 {view}')}{query}")
    assert any(one in page for one in words.split("|")), page
    assert "<i>" not in page
    assert "<b>" not in page.replace("<b>perdure</b>", "")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "source"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(StorageError, match="a pipe or a device"):
        open_source(str(path))


def test_a_trial_remembers_a_bounded_past(visitor, ledger):
    base = f"/_/c/{ledger.id}/what-if"
    visitor.done(f"{base}/begin")
    trial = visitor.explorer._site.trials[ledger.id.raw_bytes]
    for number in range(50):
        trial.note(f"deed {number}")
    page = visitor.text(base)
    assert "deed 49" in page
    assert "deed 20," not in page


def test_a_trial_keeps_so_many_modules(visitor, ledger, monkeypatch):
    from perdure.explorer import trials

    base = f"/_/c/{ledger.id}/what-if"
    visitor.done(f"{base}/begin")
    monkeypatch.setattr(trials, "_MAX_MODULE_BYTES", 10)
    assert "fork anew" in visitor.send(f"{base}/upgrade", b"\0asm\1\0\0\0\0\0\0")


def test_a_second_signal_does_not_wait(monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with until_ended() as ended:
        signal.raise_signal(signal.SIGINT)
        assert ended.is_set()
        assert not codes
        signal.raise_signal(signal.SIGTERM)
    assert codes == [128 + signal.SIGTERM]
