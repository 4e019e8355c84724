"""Modules that mean harm: without end, without memory, with names that want to be something else in a report."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
import wasmtime

from perdure import Subnet
from perdure.errors import MalformedError
from perdure.execution.config import SubnetConfig
from perdure.upgrade.patience import Patience
from perdure.upgrade.rehearsal import Options, rehearse
from perdure.upgrade.report import Report, judge

NAME = "<script>alert(1)</script>&\\1b[31m\\0a\\\"'"
"""Of a method: HTML, a terminal's escape, the end of a line, quotes."""

MODULE = """(module
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "trap" (func $trap (param i32 i32)))
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
  (memory 1)
  (data (i32.const 0) "{answer}")
  (func (export "canister_query {name}") {query} (call $append (i32.const 0) (i32.const 16)) (call $reply))
  (func (export "canister_update touch") {update} (call $reply))
  (func (export "canister_post_upgrade") {hook})
  {more}
)"""

FOREVER = "(loop $on (br $on))"
EAT_HEAP = "(loop $on (br_if $on (i32.ge_s (memory.grow (i32.const 100)) (i32.const 0)))) (unreachable)"
EAT_STABLE = "(drop (call $grow (i64.const 1000000)))"
SMALL = SubnetConfig(
    max_instructions_per_install_code=500_000_000,
    max_instructions_per_query_message=100_000_000,
    max_instructions_per_composite_query_call=100_000_000,
)


def built(*, query="", update="", hook="", name="answer", answer="safe", more="") -> bytes:
    text = MODULE
    parts = {"query": query, "update": update, "hook": hook, "name": name, "answer": answer, "more": more}
    for key, value in parts.items():
        text = text.replace("{" + key + "}", value)
    return bytes(wasmtime.wat2wasm(text))


def check(old: bytes, new: bytes, config: SubnetConfig | None = None, **options) -> Report:
    canister = Subnet(config=config).install(old)
    canister.update("touch")
    return canister.check_upgrade(new, **options)


@pytest.mark.parametrize("hook", [FOREVER, EAT_HEAP, "(unreachable)"], ids=["endless", "heap", "unreachable"])
def test_a_hook_that_does_not_end_well_is_breaking(hook):
    report = check(built(), built(hook=hook), SMALL)
    assert report.verdict == "breaking"
    assert set(report.causes) <= {"limit", "hook-traps"}


def test_a_hook_that_takes_all_stable_memory_is_told():
    report = check(built(), built(hook=EAT_STABLE))
    assert report.sizes["stable"] == (0, 1_000_000)


@pytest.mark.parametrize("code", [FOREVER, EAT_HEAP, "(unreachable)"], ids=["endless", "heap", "unreachable"])
def test_a_query_that_does_not_end_well_is_found(code):
    report = check(built(), built(query=code), SMALL)
    assert report.verdict == "breaking"
    assert report.causes == ["call-traps"]


def test_many_endless_methods_end_within_the_budget():
    more = "".join(f'(func (export "canister_query slow{number}") {FOREVER})' for number in range(30))
    fine = "".join(f'(func (export "canister_query slow{number}") (call $reply))' for number in range(30))
    canister = Subnet(config=SMALL).install(built(more=fine))
    report = judge(rehearse(canister, built(more=more), Options(max_instructions=1_000_000_000)), "many")
    assert report.verdict == "breaking"
    assert report.untried


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not {name for name, _ in attrs} & {"onerror", "onload", "onclick", "src", "href"}


def test_names_and_answers_are_text_in_every_report():
    answer = "<img src=x onerror=alert(1)>\\00\\1b"
    report = check(
        built(name=NAME, answer=answer),
        built(name=NAME, query="(call $trap (i32.const 0) (i32.const 28))", answer=answer),
    )
    assert report.verdict == "breaking"
    page = report.to_html(values=True)
    tags = _Tags()
    tags.feed(page)
    assert "script" not in tags.tags
    assert "img" not in tags.tags
    ET.fromstring(report.to_junit(values=True))
    text = report.to_text()
    assert "\x1b" not in text
    assert "\x00" not in page


def test_an_interface_that_is_none_is_not_certain():
    from dataclasses import replace

    from perdure.wasm import CustomSection, decode, encode

    def with_interface(wasm: bytes, text: str) -> bytes:
        module = decode(wasm)
        section = CustomSection("icp:public candid:service", text.encode())
        return encode(replace(module, custom_sections=(*module.custom_sections, section)))

    fine = with_interface(built(), "service : { answer : () -> () query; touch : () -> () }")
    broken = with_interface(built(), "service : { answer : (" + "vec " * 100_000)
    report = check(fine, broken)
    assert report.verdict == "not certain"
    assert report.causes == ["candid-missing"]


def waited_for(limit_seconds: float | None) -> tuple[Report, list[str]]:
    """A hook without end, of which a tenth of the network's limit is tried first."""
    told: list[str] = []
    canister = Subnet(config=SMALL).install(built())
    patience = Patience(limit_seconds, told.append, first_instructions=50_000_000)
    return judge(rehearse(canister, built(hook=FOREVER), Options(patience=patience)), "endless"), told


def test_a_hook_without_end_is_waited_for_to_the_limit_and_that_is_said():
    report, told = waited_for(None)
    assert report.causes == ["limit"]
    assert len(told) == 1
    assert "the network limit of 500,000,000" in told[0]


def test_a_hook_that_is_not_waited_for_is_not_certain():
    report, told = waited_for(1e-9)
    assert (report.verdict, report.causes, told) == ("not certain", ["hook-slow"], [])
    assert "was not waited for" in report.findings[0].what


def test_a_hook_that_needs_more_than_the_first_part_goes_through():
    body = (
        "(local $left i32) (local.set $left (i32.const 10000000)) (loop $on (br_if $on (local.tee $left "
        "(i32.sub (local.get $left) (i32.const 1)))))"
    )
    canister = Subnet(config=SMALL).install(built())
    options = Options(patience=Patience(first_instructions=1_000_000))
    found = rehearse(canister, built(hook=body), options)
    assert judge(found, "long").verdict == "safe"
    assert found.upgrade.instructions > 10_000_000


def test_a_check_that_tries_nothing_is_not_certain():
    for old in (bytes(wasmtime.wat2wasm("(module)")), built(query="(unreachable)", update="(unreachable)")):
        report = Subnet().install(old).check_upgrade(old)
        assert (report.verdict, report.causes) == ("not certain", ["nothing-tried"])
    report = Subnet().install(built()).check_upgrade(built(), volatile=["answer", "touch"])
    assert report.causes == ["nothing-tried"]
    assert "answer, touch: volatile" in report.findings[0].what


@pytest.mark.parametrize("name", ["anwser", ".anwser"])
def test_a_volatile_name_that_nothing_has_is_refused(name):
    with_interface = built(more='(@custom "icp:public candid:service" "service : { answer : () -> () query }")')
    with pytest.raises(MalformedError, match=r"anwser.*expected some of"):
        Subnet().install(with_interface).check_upgrade(with_interface, volatile=[name])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"method": 5}', "method is a text, found 5"),
        ("nonsense", "Expecting value"),
        ("[]", "an object is expected"),
        ('{"method": "touch", "args": 5}', "args is a text, found 5"),
        ('{"method": "touch", "arg_hex": 5}', "arg_hex is a text, found 5"),
        ('{"method": "touch", "arg_hex": "0"}', "non-hexadecimal|fromhex"),
        ('{"method": "touch", "sender": 5}', "sender is a text, found 5"),
        ('{"method": "touch", "kind": "oneway"}', "kind is one of query, composite_query, update, found 'oneway'"),
        ('{"callee": 5, "reply": "(1)"}', "callee is a text, found 5"),
        ('{"callee": "*", "method": "x"}', "an answer has reply, reply_hex or reject"),
        ('{"callee": "*", "reply": 5}', "reply is a text, found 5"),
        ('{"callee": "*", "reject": "no", "code": "x"}', "code is a number from 1 to 6, found 'x'"),
        ('{"callee": "*", "reject": "no", "code": 70}', "code is a number from 1 to 6, found 70"),
    ],
)
def test_a_recording_that_is_none_is_refused_with_its_line(tmp_path, line, said):
    path = tmp_path / "calls"
    path.write_text('{"method": "touch"}\n' + line + "\n")
    canister = Subnet().install(built())
    with pytest.raises(MalformedError, match=f"line 2: .*({said})"):
        canister.check_upgrade(built(), replay=path)
