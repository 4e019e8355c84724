"""What commands print with `--json` is what docs/json.md says, and names mean one thing.

Each command is run in a directory, and what it prints has a shape: a line for each path, ``structures[].memory: text``.
Keys that are names of something (of canisters, columns, codes) are ``*``. After a change that is meant, ``python
tests/cli/test_json.py`` writes the page's lists anew.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
import pytest
import wasmtime

from perdure.cli import main, perdure
from perdure.embedder import CompileCache, Compiler, Engine
from perdure.embedder.cache import cache_directory
from perdure.memory import WASM_PAGE_BYTES, BytesMemory
from perdure.stable import MemoryManager, StableBTreeMap, StableCell, types

DID: Final = "service : { put : (nat32) -> (); size : () -> (nat32) query }"
QUERY: Final = '(func (export "canister_query size")'
PROGRAM: Final = f"""(module
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
  (import "ic0" "debug_print" (func $print (param i32 i32)))
  (memory 1) (data (i32.const 0) "DIDL\\00\\00DIDL\\00\\01\\79\\07\\00\\00\\00")
  (@custom "icp:public candid:service" "{DID}")
  (func (export "canister_init") (drop (call $grow (i64.const 1))))
  (func (export "canister_update put")
    (call $print (i32.const 0) (i32.const 4)) (call $write (i64.const 0) (i64.const 6) (i64.const 4))
    (call $append (i32.const 0) (i32.const 6)) (call $reply))
  {QUERY} (call $append (i32.const 6) (i32.const 11)) (call $reply)))"""

NAMES: Final = {
    "canister id": r"",
    "explain": r"",
    "stable export": r"",
    "stable fsck": r"counts(\..*)?|trees",
    "stable rows": r"\[\]",
    "stable query": r"\[\]",
    "stable get": r"",
    "state blame": r"changed_pages",
    "state du": r"memories|others",
    "state history": r"\[\]\.changed_pages",
    "upgrade-check": r"calls",
}
"""Below which paths keys are names of something, as regular expressions."""

RUNS: Final[dict[str, Sequence[str]]] = {
    "run": ["run todo.wasm put=(1) size"],
    "fuzz": ["fuzz todo.wasm --examples 3 --steps 3", "fuzz broken.wasm --examples 5 --steps 5"],
    "bindgen": ["bindgen todo.wasm -o made.py"],
    "instrument": ["instrument todo.wasm -o made.wasm"],
    "explain": ["explain", "explain no-interface"],
    "explain-cost": ["explain-cost todo.wasm put=(1) --calls-per-day 10"],
    "coverage": ["coverage todo.wasm put=(1)"],
    "profile": ["profile todo.wasm put=(1)"],
    "heatmap": ["heatmap todo.wasm put=(1)"],
    "canister create": ["canister create other"],
    "canister install": [
        "canister install todo --wasm todo.wasm",
        "canister install todo --wasm todo.wasm --mode upgrade",
    ],
    "canister advance": ["canister advance 1h"],
    "canister call": ["canister call todo put (1)", "canister call todo size"],
    "canister deposit-cycles": ["canister deposit-cycles 1t todo"],
    "canister top-up": ["canister top-up todo --amount 1t"],
    "canister id": ["canister id todo"],
    "canister info": ["canister info todo"],
    "canister list": ["canister list"],
    "canister ls": ["canister ls"],
    "canister logs": ["canister logs todo"],
    "canister metadata": ["canister metadata todo candid:service"],
    "canister reject-management-call": ["canister reject-management-call"],
    "canister settings show": ["canister settings show todo"],
    "canister settings update": ["canister settings update todo --freezing-threshold 90d"],
    "canister update-settings": ["canister update-settings todo --freezing-threshold 60d"],
    "canister stop": ["canister stop todo"],
    "canister snapshot create": ["canister snapshot create todo"],
    "canister snapshot list": ["canister snapshot list todo"],
    "canister snapshot download": ["canister snapshot download todo {snapshot} -o taken"],
    "canister snapshot restore": ["canister snapshot restore todo {snapshot}"],
    "canister snapshot load": ["canister snapshot load todo {snapshot}"],
    "canister snapshot delete": ["canister snapshot delete todo {snapshot}"],
    "canister snapshot upload": ["canister snapshot upload todo -i taken"],
    "canister start": ["canister start todo"],
    "canister status": ["canister status todo", "canister status"],
    "upgrade-check": ["upgrade-check .perdure:todo todo.wasm"],
    "stable ls": ["stable ls every.bin", "stable ls .perdure:todo", "stable ls .perdure"],
    "stable tree": ["stable tree every.bin"],
    "stable schema": ["stable schema every.bin"],
    "stable map": ["stable map every.bin"],
    "stable infer": ["stable infer every.bin"],
    "stable fsck": ["stable fsck every.bin"],
    "stable rows": ["stable rows every.bin btreemap_1 --schema every.yaml"],
    "stable get": ["stable get every.bin btreemap_1 3 --schema every.yaml"],
    "stable query": ["stable query every.bin select|count(*)|as|many|from|btreemap_1 --schema every.yaml"],
    "stable diff": ["stable diff every.bin changed.bin"],
    "stable lifecycle": ["stable lifecycle every.bin changed.bin --schema every.yaml"],
    "stable export": ["stable export every.bin --schema every.yaml -o exported --format ndjson"],
    "stable compact": ["stable compact every.bin -o compact.bin"],
    "stable drop": ["stable drop every.bin 7 -o dropped.bin"],
    "memory ls": ["memory ls todo"],
    "memory show": ["memory show todo stable"],
    "memory export": ["memory export todo stable -o memory.bin"],
    "cache ls": ["cache ls"],
    "cache limit": ["cache limit"],
    "cache clear": ["cache clear"],
    "doctor": ["doctor"],
    "state history": ["state history .perdure"],
    "state blame": ["state blame .perdure:todo --stable 0"],
    "state du": ["state du .perdure"],
    "state verify": ["state verify .perdure"],
    "state replay": ["state replay .perdure"],
    "state backup": ["state backup .perdure -o backup"],
    "state salvage": ["state salvage backup -o saved"],
    "canister uninstall-code": ["canister uninstall-code other", "canister stop other"],
    "canister delete": ["canister delete other"],
}
"""Command lines of each command, in an order in which they find what they need."""

ELSEWHERE: Final = {
    "bench": "canbench's names; tests/measure/test_bench.py",
    "canister settings sync": "needs a project; as `canister settings update`",
    "demo": "takes a minute",
    "explore": "goes on until it is ended; tests/cli/test_explore.py",
    "fleet ...": "rows of a campaign: docs/fleet.md",
    "memory drop": "needs memories of one's own; tests/cli/test_memory.py",
    "memory import": "needs memories of one's own; tests/cli/test_memory.py",
    "network-launcher": "goes on until it is ended; tests/cli/test_launcher.py",
    "serve": "goes on until it is ended; tests/cli/test_serve.py",
    "snapshot pull": "needs object storage",
    "snapshot push": "needs object storage",
    "stable extract": "needs an SQLite database; tests/cli/test_sqlite.py",
    "stable patch": "needs an SQLite database; tests/cli/test_sqlite.py",
    "state archive": "needs object storage",
    "state archives": "needs object storage",
    "state prune": "needs object storage",
    "state restore": "needs object storage",
    "watch": "goes on until it is ended; tests/cli/test_watch.py",
}


KINDS: Final = {type(None): "null", bool: "truth", int: "number", float: "number", str: "text"}
PAGE: Final = Path(__file__).parents[2] / "docs" / "json.md"
BEGIN: Final = "## By command\n"


def shape(value: Any, names: str | None, path: str = "") -> Iterator[tuple[str, str]]:
    """Each path of a value with its type; an empty list or object has none for what is in it."""
    if isinstance(value, dict):
        is_named = names is not None and re.fullmatch(names, path) is not None
        for key, one in value.items():
            last = "*" if is_named else key
            yield from shape(one, names, f"{path}.{last}" if path else last)
    elif isinstance(value, list):
        for one in value:
            yield from shape(one, names, f"{path}[]")
        if not value:
            yield f"{path}[]", ""
    else:
        yield path, KINDS[type(value)]


def run(words: Sequence[str]) -> str:
    """What a command prints on standard output, in this process; what it exits with does not matter."""
    written, before = BytesIO(), sys.argv
    sys.argv = ["perdure", *words]
    with TextIOWrapper(written, encoding="utf-8", write_through=True) as out:
        try:
            with redirect_stdout(out), redirect_stderr(StringIO()), suppress(SystemExit):
                main()
        finally:
            sys.argv = before
        return written.getvalue().decode()


def _prepare() -> None:
    program = bytes(wasmtime.wat2wasm(PROGRAM))
    Path("todo.wasm").write_bytes(program)
    # Whoever compiled in this process before has a cache of their own, and for good.
    Compiler(Engine(), CompileCache(cache_directory(os.environ))).compile(program)
    broken = PROGRAM.replace(QUERY, f"{QUERY} (unreachable)")
    Path("broken.wasm").write_bytes(bytes(wasmtime.wat2wasm(broken)))
    memory = BytesMemory()
    manager = MemoryManager.create(memory, bucket_wasm_pages=4)
    StableCell.init(manager.get(7), types.u64, 7)
    numbers = StableBTreeMap.init(manager.get(1), types.u64, types.text)
    for name, value in (("every.bin", "before"), ("changed.bin", "after")):
        numbers.update({number: f"{value} {number}" for number in range(40)})
        Path(name).write_bytes(memory.read(0, memory.size() * WASM_PAGE_BYTES))
    Path("every.yaml").write_text(run(["stable", "infer", "every.bin"]))
    run(["canister", "install", "todo", "--wasm", "todo.wasm"])
    run(["state", "history", ".perdure", "--keep", "all"])


def shapes() -> dict[str, dict[str, set[str]]]:
    """By command, the types of each path; everything happens in the working directory."""
    _prepare()
    found: dict[str, dict[str, set[str]]] = {}
    snapshot = ""
    for command, lines in RUNS.items():
        for line in lines:
            words = [word.replace("{snapshot}", snapshot).replace("|", " ") for word in line.split(" ")]
            value = json.loads(run([*words, "--json"]))
            if command == "canister snapshot create":
                snapshot = value["snapshot_id"]
            for path, kind in shape(value, NAMES.get(command)):
                found.setdefault(command, {}).setdefault(path, set()).add(kind)
    return found


def render(found: dict[str, dict[str, set[str]]]) -> str:
    """The lists of the page."""
    parts = [BEGIN]
    for command, paths in sorted(found.items()):
        lines = []
        for path, kinds in paths.items():
            told = " or ".join(sorted(kinds - {""}, key=lambda kind: (kind == "null", kind)))
            lines.append(f"- `{path or '(the value)'}`{f': {told}' if told else ''}")
        parts.append(f"### `perdure {command}`\n\n" + "\n".join(lines) + "\n")
    others = "\n".join(f"- `perdure {command}`: {why}" for command, why in sorted(ELSEWHERE.items()))
    parts.append(f"### Others\n\nThese are not run for this list:\n\n{others}\n")
    return "\n".join(parts)


SEVERAL = {
    "calls": "calls of a story, how often a function was called, how many calls by what they were made of",
    "entries": "how many; never a list",
    "key": "its width where nobody has declared it, its format where somebody has, its value in rows",
    "value": "as `key`",
    "pages": "of a difference, by what happened to them",
    "wasm_pages": "how many; before and after",
    "found": "what a run of `fuzz` has found, or `doctor`",
    "functions": "one by one, or how many",
    "methods": "one by one, or how many",
    "canisters": "one by one, or how many",
    "memories": "one by one, or bytes by name",
    "before": "a side of a difference: a number, or a row",
    "after": "as `before`",
    "blocks": "how often each has run, or how many there are",
    "heap": "what becomes of it, or what was found there",
    "kinds": "of changes, by name; of instructions, one by one",
    "lines": "of a bill, one by one; of a source, how many",
}
"""Names of which there is more than one type, and why."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, set[str]]]]:
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("json")
        patch.chdir(directory)
        patch.setenv("PERDURE_CACHE_DIR", str(directory / "cache"))
        yield shapes()


def commands(group: click.Group, path: str = "") -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        elif command is not None and any("--json" in one.opts for one in command.params):
            yield f"{path}{name}"


def test_every_command_with_json_is_run_or_said_to_be_elsewhere() -> None:
    found = {re.sub("^fleet .*", "fleet ...", name) for name in commands(perdure)}
    assert found == {*RUNS, *ELSEWHERE}
    assert not {*RUNS} & {*ELSEWHERE}


@pytest.mark.slow
def test_the_page_has_what_commands_print(found: dict[str, dict[str, set[str]]]) -> None:
    assert PAGE.read_text(encoding="utf-8").partition(BEGIN)[2] == render(found).partition(BEGIN)[2], (
        "if that is meant, run: python tests/cli/test_json.py"
    )


@pytest.mark.slow
def test_a_name_has_one_type(found: dict[str, dict[str, set[str]]]) -> None:
    kinds: dict[str, set[str]] = defaultdict(set)
    for paths in found.values():
        for path, seen in paths.items():
            *above, last = path.split(".")
            kinds[last.removesuffix("[]")] |= {f"list of {one}" if last.endswith("[]") else one for one in seen if one}
            for one in above:
                kinds[one.removesuffix("[]")].add("list" if one.endswith("[]") else "object")
    several = {
        name: sorted(seen)
        for name, seen in kinds.items()
        if len({one for one in seen if one != "null"}) > 1 and name not in SEVERAL and name not in ("*", "")
    }
    assert several == {}


def test_the_page_is_named_where_commands_are() -> None:
    assert "json.md" in (Path(PAGE).parent / "canister.md").read_text(encoding="utf-8")


if __name__ == "__main__":
    with TemporaryDirectory() as directory, chdir(directory):
        os.environ["PERDURE_CACHE_DIR"] = directory
        text = render(shapes())
    PAGE.write_text(PAGE.read_text(encoding="utf-8").partition(BEGIN)[0] + text, encoding="utf-8")
