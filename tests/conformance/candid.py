"""Runs the official Candid test suite: the ``test/`` directory of github.com/dfinity/candid.

    python tests/conformance/candid.py DIR

Prints the counts and each failure; exits 1 if there is one. ``*.test.did`` hold assertions on values, ``*.good.did``
and ``*.bad.did`` programs to accept and to refuse. The encoder and the text form are checked along the way: every
value that decodes is written in both forms and must come back equal.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.candid.codec import decode, encode
from perdure.candid.did import TypeParser, parse
from perdure.candid.lexer import Tokens
from perdure.candid.printing import values_to_text
from perdure.candid.text import parse_values
from perdure.candid.types import Rec, Type
from perdure.errors import MalformedError


@dataclass
class Input:
    """What an assertion is about: text, or a message."""

    text: str | None
    data: bytes

    def values(self, types: tuple[Type, ...], names: dict[str, Rec]) -> tuple[Any, ...]:
        """The values at `types`."""
        if self.text is not None:
            return parse_values(self.text, types, names)[1]
        return decode(self.data, types)


@dataclass
class Assertion:
    """One line of a ``*.test.did`` file."""

    line: int
    left: Input
    relation: str
    right: Input | None
    types: tuple[Type, ...]
    description: str

    def failure(self, names: dict[str, Rec]) -> str | None:
        """Why it fails; None if it holds."""
        try:
            left = self.left.values(self.types, names)
        except MalformedError as error:
            return None if self.relation == "!:" else f"refused: {error}"
        if self.relation == "!:":
            return f"accepted as {left!r}"
        if self.right is not None:
            right = self.right.values(self.types, names)
            if (repr(left) == repr(right)) != (self.relation == "=="):
                return f"{left!r} {'!=' if self.relation == '==' else '=='} {right!r}"
        return self.round_trip(left, names)

    def round_trip(self, values: tuple[Any, ...], names: dict[str, Rec]) -> str | None:
        """Why the values do not survive the encoder or the text form; None if they do."""
        again = decode(encode(self.types, values), self.types)
        if repr(again) != repr(values):
            return f"{values!r} came back from the encoder as {again!r}"
        text = values_to_text(self.types, values)
        again = parse_values(text, self.types, names)[1]
        if repr(again) != repr(values):
            return f"{values!r} came back from {text} as {again!r}"
        return None


def read_input(parser: TypeParser) -> Input:
    """An input of an assertion."""
    if parser.tokens.accept("blob"):
        value = parser.tokens.expect("<text>").value
        return Input(None, value if isinstance(value, bytes) else value.encode())
    return Input(parser.text(), b"")


def read_tests(text: str) -> tuple[dict[str, Rec], list[Assertion]]:
    """The definitions and assertions of a test file."""
    tokens = Tokens(text)
    names: dict[str, Rec] = {}
    parser = TypeParser(tokens, names)
    assertions = []
    while not tokens.sees("<end>"):
        if tokens.sees("type"):
            parser.definition()
        else:
            start = tokens.expect("assert")
            left = read_input(parser)
            relation = tokens.expect("==", "!=", "!:", ":").kind
            right = None
            if relation in ("==", "!="):
                right = read_input(parser)
                tokens.expect(":")
            types = parser.types()[0]
            description = parser.text() if tokens.sees("<text>") else ""
            line = text.count("\n", 0, start.offset) + 1
            assertions.append(Assertion(line, left, relation, right, types, description))
        if not tokens.sees("<end>"):
            tokens.expect(";")
    parser.finish()
    return names, assertions


def check_values(path: Path) -> tuple[int, list[str]]:
    """The assertions of a file, and what failed."""
    names, assertions = read_tests(path.read_text())
    failures = []
    for one in assertions:
        start = time.perf_counter()
        try:
            reason = one.failure(names)
        except Exception as error:  # whatever is raised is a failure of this assertion
            reason = f"{type(error).__name__}: {error}"
        if reason is not None:
            failures.append(f"{path.name}:{one.line}: {one.description}: {reason}")
        elapsed = time.perf_counter() - start
        if elapsed > 1:
            failures.append(f"{path.name}:{one.line}: {one.description}: took {elapsed:.1f} s")
    return len(assertions), failures


def check_program(path: Path) -> tuple[int, list[str]]:
    """1, and what is wrong with the answer to a program."""
    good = path.name.endswith(".good.did")
    try:
        parse(path.read_text())
    except MalformedError as error:
        return 1, [f"{path.name}: refused: {error}"] if good else []
    return 1, [] if good else [f"{path.name}: accepted"]


def main(directory: Path) -> int:
    """Run the suite in `directory`."""
    count = 0
    failures: list[str] = []
    for path in sorted(directory.glob("*.did")):
        check = check_values if path.name.endswith(".test.did") else check_program
        if check is check_program and not path.name.endswith((".good.did", ".bad.did")):
            continue
        ran, failed = check(path)
        print(f"{path.name}: {ran - len(failed)} of {ran}")
        count += ran
        failures += failed
    for one in failures:
        print("FAILED", one)
    print(f"candid: {count - len(failures)} passed, {len(failures)} failed")
    return 1 if failures or not count else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
