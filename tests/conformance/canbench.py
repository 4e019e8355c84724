"""Runs benchmarks made with canbench and compares their instruction counts with the ones their authors published.

    python tests/conformance/canbench.py DIR [--schedule NAME] [--only TEXT] [--below INSTRUCTIONS] [--files]

`DIR` holds directories with a ``canbench_results.yml`` each: a checkout of github.com/dfinity/stable-structures, say,
whose benchmarks have been built as its ``canbench.yml`` files say. Each file is read and written again, which has to
give the same bytes, unless it is one with comments, which somebody has written by hand. With ``--files`` that is all.

The module is the one at ``wasm_path``; benchmarks of what is not built are not run. Each benchmark is a query
``__canbench__NAME`` that answers with what it measured of itself, by ``performance_counter(0)``.

Prints one line for each benchmark and scope that differs, and the counts; exits 1 if one differs, or a file does.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from perdure import Canister, RejectError, Subnet
from perdure.candid.codec import decode, encode
from perdure.candid.did import parse_types
from perdure.errors import MalformedError
from perdure.execution import SubnetConfig
from perdure.instrument import Options
from perdure.measure.canbench_files import parse_results, rendered
from perdure.wasm import decode as decode_module
from perdure.wasm import encode as encode_module

_MEASUREMENT = "record { calls : nat64; instructions : nat64; heap_increase : nat64; stable_memory_increase : nat64 }"
_RESULT = parse_types(f"(record {{ total : {_MEASUREMENT}; scopes : vec record {{ text; {_MEASUREMENT} }} }})")
_FIELDS = ("instructions", "heap_increase", "stable_memory_increase")
_PREFIX = "canister_query __canbench__"
_TRACING = "canister_query __tracing__"
"""Second entry points, not measured; with them the names of many benchmarks exceed what a module may export."""

Counts = dict[str, int]
"""Instructions and growth in Wasm pages, by the names of `_FIELDS`."""


@dataclass
class Tally:
    """What came of the comparisons."""

    equal: int = 0
    different: int = 0
    failed: int = 0
    missing: int = 0

    def compare(self, name: str, published: Counts, found: Counts) -> None:
        """Count one measurement; say where it differs."""
        wrong = [field for field in _FIELDS if published.get(field, 0) != found.get(field, 0)]
        if not wrong:
            self.equal += 1
            return
        self.different += 1
        for field in wrong:
            before, now = published.get(field, 0), found.get(field, 0)
            share = f" ({(now - before) / before:+.4%})" if before else ""
            print(f"  {name}: {field} {before:,} published, {now:,} found: {now - before:+,}{share}")


def published_counts(text: str) -> dict[tuple[str, str], Counts]:
    """The counts of a ``canbench_results.yml`` by benchmark and scope; the whole of a benchmark is scope ``""``."""
    found: dict[tuple[str, str], Counts] = {}
    name = scope = ""
    for line in text.splitlines():
        match = re.fullmatch(r"( *)([^:]+):(?: (\d+))?", line)
        if match is None:
            continue
        indent, key, value = len(match[1]), match[2], match[3]
        if value is not None:
            found.setdefault((name, scope), {})[key] = int(value)
        elif indent == 2:
            name, scope = key, ""
        elif indent == 6:
            scope = key
    return found


def unlimited() -> SubnetConfig:
    """A subnet for benchmarks: nothing runs out of instructions or pages."""
    return SubnetConfig(
        max_instructions_per_query_message=10**15,
        max_instructions_per_composite_query_call=10**15,
        stable_accessed_pages_query=1 << 40,
        stable_dirty_pages_query=1 << 40,
    )


def measured(canister: Canister, name: str) -> dict[str, Counts]:
    """Run a benchmark: its counts by scope, the whole as scope ``""``."""
    reply = canister.query(f"__canbench__{name}", encode(parse_types("(null)"), [None]))
    (result,) = decode(reply, _RESULT)
    return {"": result["total"]} | dict(result["scopes"])


def module_of(directory: Path) -> bytes | None:
    """The module that the ``canbench.yml`` of a directory names, or the only one that lies there, if it is there."""
    configuration = directory / "canbench.yml"
    named = re.search(r"^wasm_path:\s*(\S+)", configuration.read_text(), re.M) if configuration.exists() else None
    candidates = [directory / named[1].strip("\"'")] if named else sorted(directory.glob("*.wasm*"))
    if len(candidates) != 1 or not candidates[0].exists():
        return None
    module = decode_module(candidates[0].read_bytes())
    exports = tuple(item for item in module.exports if not item.name.startswith(_TRACING))
    return encode_module(replace(module, exports=exports))


def selected(text: str, arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, Counts]]]:
    """The published benchmarks that were asked for: name, counts by scope."""
    counts = published_counts(text)
    for name in dict.fromkeys(name for name, _ in counts):
        scopes = {scope: found for (owner, scope), found in counts.items() if owner == name}
        if arguments.only in name and scopes[""]["instructions"] <= arguments.below:
            yield name, scopes


def written_again(results: Path) -> tuple[int, bool | None]:
    """How many benchmarks a file has, and whether writing them gives its bytes; `None`: it was not made by canbench."""
    text = results.read_text(encoding="utf-8")
    version = re.search(r"^version: (\S+)$", text, re.M)
    if version is None or "#" in text:
        return 0, None
    try:
        benches = parse_results(text).benches
    except MalformedError as error:  # of a newer version than any
        print(f"  {error}")
        return 0, None
    return len(benches), rendered(benches, version[1]) == text


_WORDS = {True: "written again byte for byte", False: "written again DIFFERENTLY", None: "not a file of canbench's own"}


def run(results: Path, module: bytes, arguments: argparse.Namespace) -> Tally:
    """Run the benchmarks that a results file lists."""
    tally = Tally()
    with Subnet(config=unlimited(), instrumentation=Options(schedule=arguments.schedule)) as subnet:
        canister = subnet.install(module)
        code = canister.module
        assert code is not None
        names = {item.removeprefix(_PREFIX) for item in code.exported_methods if item.startswith(_PREFIX)}
        for name, scopes in selected(results.read_text(), arguments):
            if name not in names:
                tally.missing += 1
                print(f"  {name}: published, and not in the module")
                continue
            try:
                found = measured(canister, name)
            except RejectError as error:
                tally.failed += 1
                print(f"  {name}: {str(error).partition(chr(10))[0]}")
                continue
            for scope, counts in scopes.items():
                tally.compare(f"{name}/{scope}" if scope else name, counts, found.get(scope, {}))
    return tally


def main() -> int:
    """Run everything below a directory."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--schedule", default="2025")
    parser.add_argument("--only", default="", help="benchmarks whose names have this in them")
    parser.add_argument("--below", type=float, default=float("inf"), help="benchmarks of at most so many instructions")
    parser.add_argument("--files", action="store_true", help="only read results files and write them again")
    arguments = parser.parse_args()
    every = sorted(arguments.directory.rglob("canbench_results.yml"))
    if not every:
        raise SystemExit(f"no canbench_results.yml below {arguments.directory}")
    failed, equal_files, equal_benches = False, 0, 0
    for results in every:
        started = time.monotonic()
        print(results.parent.relative_to(arguments.directory))
        benches, is_equal = written_again(results)
        words = {
            True: "written again byte for byte",
            False: "written again DIFFERENTLY",
            None: "not canbench's own file",
        }
        print(f"  {benches} benchmarks, {words[is_equal]}")
        failed = failed or is_equal is False
        equal_files, equal_benches = equal_files + bool(is_equal), equal_benches + benches * bool(is_equal)
        module = None if arguments.files else module_of(results.parent)
        if module is None:
            if not arguments.files:
                print("  not built as its canbench.yml says: its benchmarks were not run")
            continue
        tally = run(results, module, arguments)
        counts = ", ".join(f"{count} {word}" for word, count in vars(tally).items())
        print(f"  {counts} in {time.monotonic() - started:.0f} s", flush=True)
        failed = failed or bool(tally.different or tally.failed or tally.missing)
    print(f"{equal_files} files with {equal_benches} benchmarks written again byte for byte")
    return failed


if __name__ == "__main__":
    sys.exit(main())
