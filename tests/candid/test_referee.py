"""The reference implementation (the crate candid_parser) reads what perdure writes, and the other way round.

The program in `referee/` is built once, into the environment that runs the tests; `make referee` does it before them.
Where there is no cargo the tests are skipped, in CI they fail.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from build_referee import build
from generated_values import BOUNDED, NAMES, TYPES, chain, functions, tree, typed
from hypothesis import assume, given
from hypothesis import strategies as st

from perdure.candid import decode, encode, equal_types, parse, parse_type, parse_values, values_to_text
from perdure.candid.types import Service
from perdure.errors import MalformedError

DEFINITIONS = f"type Chain = {chain().type}; type Tree = {tree().type}; "

#: What is taken beyond the reference, by its words: an option without `opt`, an integer for a float, a service for a
#: principal.
LENIENT = re.compile(r"can ?not be of type (opt |float|principal)")


class Referee:
    """The program, asked a line at a time."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, verb: str, *operands: str | bytes) -> tuple[bytes | None, str]:
        """What it answers, or None and why not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        words = [one.hex() if isinstance(one, bytes) else one.encode().hex() for one in operands]
        print(verb, *words, file=self._process.stdin, flush=True)
        kind, _, answer = self._process.stdout.readline().strip().partition(" ")
        assert kind in ("ok", "no"), f"the referee ended over {verb} {operands}"
        data = bytes.fromhex(answer)
        return (data, "") if kind == "ok" else (None, data.decode())

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def referee() -> Iterator[Referee]:
    if shutil.which("cargo") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("cargo is not here to build the reference")
    target = Path(sys.prefix) / "referee"
    done = build(target)
    if done.returncode:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"the reference cannot be built: {done.stderr[-500:]}")
    made = Referee(target / "debug/referee")
    yield made
    made.close()


def ours(text, type_):
    try:
        return parse_values(text, [type_])[1]
    except MalformedError:
        return None


@BOUNDED
@given(pair=typed())
def test_it_reads_what_is_printed(referee, pair):
    type_, value = pair
    text = values_to_text([type_], [value])
    assume(not re.search(r"\b(inf|nan) : float", text))  # it has no text for those
    message, why = referee.ask("encode", f"{DEFINITIONS}({type_})", text)
    assert message is not None, f"{why}\n{text}"
    assert decode(message, [type_]) == (value,), text


@BOUNDED
@given(pair=typed())
def test_what_it_prints_is_read(referee, pair):
    type_, value = pair
    printed, why = referee.ask("print", f"{DEFINITIONS}({type_})", encode([type_], [value]))
    assert printed is not None, why
    assume(b"\\0" not in printed)  # Rust's escape in the name of a method, which Candid has not
    assert ours(printed.decode(), type_) == (value,), printed.decode()


TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[A-Za-z_]\w*|[+-]?[0-9][\w.]*(?:[eE][+-]?\d+)?|->|\S')
OTHERS = [
    *"(){};:,.=-+", *("opt", "vec", "record", "variant", "blob", "null", "true", "principal", "service", "func"),
    *('"a"', '"aaaaa-aa"', '""', "a", "nan", "1", "0x2", "-3", "1.5", "nat", "nat8", "text", "1_0", "0", "Ok"),
    *("// x\n", "/* y */", "type"),
]  # fmt: skip


@st.composite
def changed(draw, text):
    """The text with one or two tokens changed, left out, or one more."""
    tokens = TOKEN.findall(text)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(tokens) - 1))
        replaced = draw(st.integers(0, 1))
        tokens[at : at + replaced] = draw(st.lists(st.sampled_from([*OTHERS, *tokens]), max_size=1))
    return " ".join(tokens)


@BOUNDED
@given(pair=typed(), data=st.data())
def test_both_take_and_refuse_the_same_texts(referee, pair, data):
    type_, value = pair
    text = data.draw(changed(values_to_text([type_], [value])))
    assume(not re.search(r"\b(inf|nan)\b", text))
    message, why = referee.ask("encode", f"{DEFINITIONS}({type_})", text)
    found = ours(text, type_)
    if message is not None:
        assert found == decode(message, [type_]), f"{type_}\n{text}"
    elif not LENIENT.search(why):
        assert found is None, f"{why}\n{type_}\n{text}"


@BOUNDED
@given(st.data())
def test_both_decode_a_message_at_another_type_alike(referee, data):
    wire, value = data.draw(typed())
    want = data.draw(TYPES)
    message = encode([wire], [value])
    printed, why = referee.ask("print", f"{DEFINITIONS}({want})", message)
    try:
        found = decode(message, [want])
    except MalformedError:
        found = None
    assert found == (None if printed is None else ours(printed.decode(), want)), f"{wire} at {want}: {why or printed}"


@BOUNDED
@given(methods=st.dictionaries(NAMES, functions(TYPES), max_size=3))
def test_it_reads_interfaces_and_what_it_prints_is_read(referee, tmp_path_factory, methods):
    service = Service.of(methods)
    path = tmp_path_factory.mktemp("did") / "service.did"
    path.write_text(f"{DEFINITIONS}service : {str(service).removeprefix('service ')}", encoding="utf-8")
    printed, why = referee.ask("service", str(path))
    assert printed is not None, why
    found = parse(printed.decode()).service
    assert found is not None
    assert equal_types(found, service)


@pytest.mark.parametrize(
    ("wire", "want"),
    [(wire, want) for wire in ("vec nat32", "vec int8", "vec null", "vec text") for want in ("blob", "opt blob")]
    + [("blob", "vec nat32"), ("vec nat32", "vec text")],
)
def test_vectors_of_nothing(referee, wire, want):
    value = b"" if wire == "blob" else []
    message = encode([parse_type(wire)], [value])
    printed, _ = referee.ask("print", f"({want})", message)
    try:
        found = decode(message, [parse_type(want)])
    except MalformedError:
        found = None
    assert found == (None if printed is None else ours(printed.decode(), parse_type(want)))
