"""Takes the modules of WebAssembly's test scripts through decode, instrument and encode.

    python tests/conformance/wasm_scripts.py DIR

DIR holds ``*.wast``, such as ``test/core`` of github.com/WebAssembly/memory64 and github.com/WebAssembly/multi-memory;
directories below it are read too. Each module of a script is assembled by the engine's package and then

- decoded and encoded; what comes out must decode to the same module and be valid;
- where it has one memory at most and imports none, instrumented and encoded; what comes out must be valid.

A module that uses what the Internet Computer's engine refuses (tail calls, garbage collection, exceptions...) only has
to be taken or refused with an error of ours; so have the modules that scripts call malformed or invalid.

Then the assertions are executed, see `wasm_assertions`. Prints the counts and each failure; exits 1 if there is one.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import wasmtime
from wasm_assertions import Execution, assertion_of, split

from perdure.errors import PerdureError
from perdure.instrument import instrument, validate
from perdure.wasm import ExternKind, decode, encode

TOKEN = re.compile(r"""\s+|;;[^\n]*|\(;|"(?:[^"\\]|\\.)*"|[()]|[^\s()";]+|;""", re.DOTALL)
ESCAPE = re.compile(r"""\\(?:u\{([0-9a-fA-F_]+)\}|([0-9a-fA-F]{2})|(.))""", re.DOTALL)
LETTERS = {"n": b"\n", "t": b"\t", "r": b"\r", '"': b'"', "'": b"'", "\\": b"\\"}
BAD = ("assert_malformed", "assert_invalid")


def config(*, all_memories: bool) -> wasmtime.Config:
    """Features as the network has them; with every memory for what we have instrumented."""
    chosen = wasmtime.Config()
    chosen.wasm_memory64 = True
    chosen.wasm_multi_memory = all_memories
    for feature in ("tail_call", "relaxed_simd", "threads", "gc", "function_references", "exceptions"):
        if hasattr(type(chosen), f"wasm_{feature}"):
            setattr(chosen, f"wasm_{feature}", False)
    return chosen


ENGINE = wasmtime.Engine(config(all_memories=True))


def forms(text: str) -> Iterator[str]:
    """The top-level forms of a script."""
    depth = start = at = 0
    while at < len(text):
        token = TOKEN.match(text, at)
        if token is None:
            raise ValueError(f"no token at {at}: {text[at : at + 20]!r}")
        at = token.end()
        if token[0] == "(;":
            at = end_of_comment(text, at)
        elif token[0] == "(":
            start = token.start() if depth == 0 else start
            depth += 1
        elif token[0] == ")":
            depth -= 1
            if depth == 0:
                yield text[start:at]


def end_of_comment(text: str, at: int) -> int:
    """Where a block comment ends; they nest."""
    depth = 1
    for bracket in re.finditer(r"\(;|;\)", text[at:]):
        depth += 1 if bracket[0] == "(;" else -1
        if depth == 0:
            return at + bracket.end()
    raise ValueError("a comment without end")


def string(literal: str) -> bytes:
    """The bytes of a string literal, quotes left out."""
    parts, at = [], 0
    for escape in ESCAPE.finditer(literal):
        parts.append(literal[at : escape.start()].encode())
        code, pair, letter = escape.groups()
        parts.append(chr(int(code, 16)).encode() if code else bytes.fromhex(pair) if pair else LETTERS[letter])
        at = escape.end()
    return b"".join([*parts, literal[at:].encode()])


def strings(form: str) -> bytes:
    """The strings of a form, joined; comments between them do not count."""
    return b"".join(string(token[0][1:-1]) for token in TOKEN.finditer(form) if token[0].startswith('"'))


def assemble(form: str) -> bytes:
    """The bytes of a ``(module ...)`` in any of its forms.

    Raises:
        wasmtime.WasmtimeError: the text is no module.
    """
    kind = re.match(r"\(\s*module\s+(?:definition\s+)?(?:\$\S+\s+)?(binary|quote)\b", form)
    if kind is None:
        return bytes(wasmtime.wat2wasm(re.sub(r"^\(\s*module\s+definition\b", "(module", form)))
    data = strings(form[kind.end() :])
    return data if kind[1] == "binary" else bytes(wasmtime.wat2wasm(data.decode(errors="surrogateescape")))


def lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """Forms of a script: line, first word, text."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    at = 0
    for form in forms(text):
        at = text.index(form, at)
        line = text.count("\n", 0, at) + 1
        if (head := re.match(r"\(\s*(\w+)", form)) is not None:
            yield line, head[1], form
        at += len(form)


def modules(path: Path) -> Iterator[tuple[int, bool, str]]:
    """Modules of a script: line, whether it is to be good, text."""
    for line, head, form in lines(path):
        if head == "module" and not re.match(r"\(\s*module\s+instance", form):
            yield line, True, form
        elif head in BAD and (inner := next((one for one in forms(form[1:-1]) if one.startswith("(module")), None)):
            yield line, False, inner


def is_valid(wasm: bytes) -> str:
    """Why the engine refuses a module; empty where it does not."""
    try:
        wasmtime.Module.validate(ENGINE, wasm)
    except wasmtime.WasmtimeError as error:
        return str(error).splitlines()[-1]
    return ""


def check(wasm: bytes) -> tuple[str, str]:
    """What became of a module that is good: (category, what is wrong with it)."""
    refused = is_valid(wasm)
    try:
        module = decode(wasm)
        again = encode(module)
    except PerdureError as error:
        return ("refused, as by the network's engine", "") if refused else ("", f"decode: {error}")
    if refused:
        return "refused by the network's engine, taken by the decoder", ""
    if decode(again) != module:
        return "", "another module comes out of the encoder"
    if why := is_valid(again):
        return "", f"encoded: {why}"
    if any(one.kind is not ExternKind.FUNCTION for one in module.imports) or len(module.memories) > 1:
        return "decoded and encoded; no form of a canister", ""
    try:
        why = is_valid(encode(instrument(module).module))
    except (KeyError, PerdureError) as error:
        why = f"{type(error).__name__}: {error}"
    if not why:
        return "decoded, instrumented, encoded", ""
    try:
        validate(module)
    except PerdureError:
        return "decoded and encoded; refused by the rules for canisters", ""
    return "", f"instrumented: {why}"


def run(path: Path) -> tuple[Counter[str], list[str]]:
    """Counts by category, and failures, of one script."""
    counts: Counter[str] = Counter()
    failures = []
    for line, is_good, form in modules(path):
        category = why = ""
        try:
            wasm = assemble(form)
        except (wasmtime.WasmtimeError, UnicodeEncodeError):
            counts["not assembled: text that the assembler refuses"] += 1
            continue
        try:
            if is_good:
                category, why = check(wasm)
            else:
                category = "bad modules taken or refused in order"
                encode(decode(wasm))
        except PerdureError as error:
            category, why = ("", f"{type(error).__name__}: {error}") if is_good else (category, "")
        except Exception as error:  # whatever else is raised is a failure
            why = f"{type(error).__name__}: {error}"
        if why:
            failures.append(f"{path.name}:{line}: {why}")
        else:
            counts[category] += 1
    return counts, failures


def execute(path: Path) -> Execution:
    """Execute the assertions of one script."""
    execution = Execution(path.name)
    for line, text, after in split(lines(path)):
        name = re.match(r"\(\s*module\s+(\$\S+)", text)

        def is_current(form: str, name: re.Match[str] | None = name) -> bool:
            return name is not None and re.search(re.escape(name[1]) + r"\s", form) is not None

        found = [assertion_of(at, head, form, is_current(form)) for at, head, form in after]
        try:
            wasm: bytes | str = assemble(text)
        except (wasmtime.WasmtimeError, UnicodeEncodeError):
            wasm = "text that the assembler refuses"
        try:
            execution.run(wasm, [one for one in found if one is not None])
        except Exception as error:  # whatever is raised is a failure
            execution.failures.append(f"{path.name}:{line}: {type(error).__name__}: {error}")
    return execution


def main(directory: Path) -> int:
    """Run every script below a directory."""
    counts: Counter[str] = Counter()
    executed: Counter[str] = Counter()
    failures: list[str] = []
    for path in sorted(directory.rglob("*.wast")):
        try:
            found, failed = run(path)
        except ValueError as error:
            found, failed = Counter(), [f"{path.name}: {error}"]
        counts += found
        failures += failed
        execution = execute(path)
        executed += execution.counts
        failures += execution.failures
    for one in failures:
        print("FAILED", one)
    for category, count in counts.most_common():
        print(f"wasm_scripts: {count} {category}")
    for category, count in executed.most_common():
        print(f"wasm_scripts: assertions: {count} {category}")
    print(f"wasm_scripts: {counts.total()} modules passed, {executed.total()} assertions, {len(failures)} failed")
    return 1 if failures or not counts else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
