"""Calls that leave the canister, and calls that somebody recorded: from the command line, with their exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import wasmtime

from perdure import Subnet
from perdure.cli import main
from perdure.upgrade.recorded import Recording, history_calls, history_outcalls
from perdure.upgrade.stage import Call, Stage

CALLEE = "mxzaz-hqaaa-aaaar-qaada-cai"
MODULE = """(module
  (import "ic0" "call_new" (func $new (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "ic0" "call_perform" (func $perform (result i32)))
  (import "ic0" "msg_arg_data_size" (func $size (result i32)))
  (import "ic0" "msg_arg_data_copy" (func $copy (param i32 i32 i32)))
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (memory 1) (table 2 funcref) (elem (i32.const 0) $answered $refused)
  (data (i32.const 0) "\\00\\00\\00\\00\\00\\00\\00\\02\\01\\01") (data (i32.const 16) "fee")
  (data (i32.const 32) "DIDL\\00\\00")
  (func $answered (param i32) ANSWERED)
  (func $refused (param i32) (call $append (i32.const 32) (i32.const 6)) (call $reply))
  (func $echo
    (call $copy (i32.const 64) (i32.const 0) (call $size)) (call $append (i32.const 64) (call $size)) (call $reply))
  (func (export "canister_query ready") (call $append (i32.const 32) (i32.const 6)) (call $reply))
  (func (export "canister_update fee_of_others")
    (call $new (i32.const 0) (i32.const 10) (i32.const 16) (i32.const 3)
      (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0))
    (drop (call $perform))))"""


def built(answered: str) -> bytes:
    return bytes(wasmtime.wat2wasm(MODULE.replace("ANSWERED", answered)))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A canister that asks another one, which is not here, and builds that do something with the answer."""
    monkeypatch.chdir(tmp_path)
    with Subnet("state", history=None) as subnet:
        subnet.install(built("(call $echo)")).query("ready")
    Path("same.wasm").write_bytes(built("(nop) (call $echo)"))
    Path("traps.wasm").write_bytes(built("(unreachable)"))
    return tmp_path


def run(capsys, monkeypatch, *words: str) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["perdure", "upgrade-check", "state:lxzze-o7777-77777-aaaaa-cai", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out + err


def test_a_call_that_nobody_answers_is_not_certain_and_never_a_trap(capsys, monkeypatch, files):
    for new in ("same.wasm", "traps.wasm"):
        code, told = run(capsys, monkeypatch, new)
        assert code == 3
        assert "[call-unanswered] fee_of_others calls fee of another canister, which is not here" in told
        assert "call-traps" not in told


@pytest.mark.parametrize(
    ("new", "answer", "code"),
    [
        ("same.wasm", {"reply": "(10_000)"}, 0),
        ("same.wasm", {"reject": "not today", "code": 4}, 0),
        ("traps.wasm", {"reply_hex": "4449444c0000"}, 1),
        ("traps.wasm", {"reject": "not today"}, 0),
    ],
)
def test_answers_come_from_a_file(capsys, monkeypatch, files, new, answer, code):
    Path("answers.jsonl").write_text(json.dumps({"callee": "*", "method": "fee", **answer}) + "\n")
    found, told = run(capsys, monkeypatch, new, "--replay", "answers.jsonl")
    assert found == code, told
    assert ("[call-traps] fee_of_others traps" in told) == (code == 1)


def test_answers_of_another_canister_are_not_taken(capsys, monkeypatch, files):
    Path("answers.jsonl").write_text(json.dumps({"callee": CALLEE, "method": "fee", "reply": "(1)"}) + "\n")
    assert run(capsys, monkeypatch, "same.wasm", "--replay", "answers.jsonl")[0] == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--replay", "history"), "the history has no calls of it"),
        (("--replay", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--replay", "same.wasm"), "same.wasm"),
        (("--no-such-flag",), "No such option"),
        (("--html", "no/such/place.html"), "no directory no/such to write place.html in"),
    ],
)
def test_what_is_used_badly_ends_with_2(capsys, monkeypatch, files, words, said):
    code, told = run(capsys, monkeypatch, "same.wasm", *words)
    assert code == 2
    assert said in told


def test_outcalls_are_answered_as_history_has_them(tmp_path):
    """A canister of ic-cdk asks a server in the rehearsal, and nobody else: it gets what the server once said."""
    url, root = "https://api.example.com/price", Path(__file__).parents[1] / "canisters" / "modules"
    with Subnet(tmp_path / "state", history=None) as subnet:
        signer = subnet.install((root / "signer.wasm.gz").read_bytes(), cycles=10**15)
        subnet.outcalls.get(url).respond(text="11").respond(text="12.5")
        assert [signer.actor().price(url) for _ in range(2)] == [{"Ok": "11"}, {"Ok": "12.5"}]
        price = signer.service().methods["price"]
    subnet = Subnet.read(tmp_path / "state")
    signer = subnet.canister(signer.id)
    recording = Recording(outcalls=history_outcalls(signer))
    stage = Stage(subnet.fork(), signer.id, recording.answerer(signer), outcalls=recording.answer_outcalls)
    for _ in range(2):
        outcome = stage.run(Call("update", "price", price.encode([url])))
        assert price.decode(outcome.reply) == ({"Ok": "12.5"},)
    outcome = stage.run(Call("update", "price", price.encode(["https://other.example/"])))
    assert outcome.is_open
    assert [one.method_name for one in outcome.held] == ["http_request"]
    assert history_calls(signer)[0].method == "price"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"method": "fee_of_other"}', "line 1: no method 'fee_of_other', did you mean 'fee_of_others'?"),
        ('{"method": "\\ud800"}', "line 1: no method"),
        ('{"method": "fee_of_others", "arguments": "()"}', "line 1: 'arguments' is nothing that a call has"),
        ("[" * 100_000, "line 1: maximum recursion depth"),
        ("[]", "line 1: an object is expected"),
    ],
)
def test_a_recording_that_cannot_be_followed_is_refused(capsys, monkeypatch, files, line, said):
    Path("calls.jsonl").write_text(line + "\n")
    code, told = run(capsys, monkeypatch, "same.wasm", "--replay", "calls.jsonl")
    assert (code, said in told) == (2, True), told


def test_a_recording_is_a_file(capsys, monkeypatch, files):
    os.mkfifo("pipe")
    code, told = run(capsys, monkeypatch, "same.wasm", "--replay", "pipe")
    assert (code, "no file that has an end" in told) == (2, True), told


@pytest.mark.parametrize(
    "words",
    [
        ("--html", "state/names.json"),
        ("--junit", "state/report.xml"),
        ("--html", "same.wasm"),
        ("--html", "link/report.html"),
        ("--html", "report", "--junit", "./report"),
    ],
)
def test_a_report_takes_nobodys_place(capsys, monkeypatch, files, words):
    Path("link").symlink_to("state")
    before = {path: path.read_bytes() for path in sorted(files.rglob("*")) if path.is_file()}
    code, told = run(capsys, monkeypatch, "same.wasm", *words)
    assert (code, "would take the place of what is checked" in told) == (2, True), told
    assert {path: path.read_bytes() for path in sorted(files.rglob("*")) if path.is_file()} == before
