"""Runs Motoko's drun programs: the directory ``test/run-drun`` of github.com/dfinity/motoko.

    python tests/conformance/drun.py DIR [NAME ...]

Each program is compiled by the npm package `MOTOKO` (Node.js and npm are needed), installed, and called as its script
or its ``//CALL`` comments say; what it printed and answered is compared with ``ok/*.ok`` after the normalisation that
the suite itself uses. Prints the counts by category and each difference; exits 1 if there is one without explanation.

A program that differs is explained by the first of `EXPLANATIONS` that fits: by a flag of its own that the npm build
of the compiler does not take, by what its expected output holds, or by its name.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from perdure import Principal, RejectError, Subnet
from perdure.canister import Reply, Return
from perdure.execution import InstallMode, InstallOptions, install_code, submit_ingress
from perdure.execution.cycles import CYCLES_2026_08
from perdure.subnet.management import as_error
from perdure.subnet.residency import ResidentInstance

HERE = Path(__file__).resolve().parent
WORK = HERE.parent.parent / "build" / "conformance"
MOTOKO = "motoko@3.17.1"
"""Published on 2026-01-18; the suite is read at a revision of 2026-01-26."""

CANISTER = "rwlgt-iiaaa-aaaaa-aaaaa-cai"
APPLICATION_CANISTER = "22ajg-aqaaa-aaaap-adukq-cai"
FIRST_CREATED = "lxzze-o7777-77777-aaaaa-cai"
"""Where the suite's runner puts the canisters that programs create."""
ANONYMOUS = b"\x04"
STOP_ARGUMENT = "0x4449444c016c01b3c4b1f204680100010a00000000000000000101"
EMPTY = "4449444c0000"
CYCLES = 10**15
MAX_ROUNDS = 500
MAX_INNER_ROUNDS = 100
STABILIZE = "__motoko_stabilize_before_upgrade"
"""The one method whose ingress the suite's runner reports where it is refused; otherwise the script ends there."""
SECOND_NS = 10**9

TAKEN_FLAGS = {"--enhanced-orthogonal-persistence", "--default-persistent-actors", "--incremental-gc", "-A"}
FOR_OTHERS = re.compile(r"(//|# ?)(CLASSICAL-PERSISTENCE-ONLY|INCREMENTAL-GC-ONLY|SKIP drun|SKIP drun-run)")

EXPLANATIONS: tuple[tuple[str, str], ...] = (
    (
        "cycles of a call after its reply: none by the specification, still there on the replica",
        r"^-debug.print: oneshot cycles: 3_456",
    ),
    ("one subnet: an id outside of every subnet's range is answered by nobody's router", r"^-.*No route to canister"),
    ("the npm build does not force garbage collection at every message", r"^/(weak-ref-test|runtime-info)$"),
)
"""(category, pattern): a pattern is looked for in the differing lines, and in the name with a slash in front."""


@dataclass(frozen=True, slots=True)
class Program:
    """One entry of the suite: a ``.mo`` file with calls in its comments, or a ``.drun`` script over several."""

    suite: Path
    file: str

    @property
    def name(self) -> str:
        return self.file.rpartition(".")[0]

    @property
    def text(self) -> str:
        return (self.suite / self.file).read_text(encoding="utf-8", errors="replace")

    @property
    def expected(self) -> str:
        suffix = ".drun-run.ok" if self.file.endswith(".mo") else ".drun.ok"
        return (self.suite / "ok" / (self.name + suffix)).read_text(encoding="utf-8", errors="replace")

    @property
    def sources(self) -> list[str]:
        if self.file.endswith(".mo"):
            return [self.file]
        return sorted(set(re.findall(r"\S+\.mo\b", self.text)))

    @property
    def is_on_application_subnet(self) -> bool:
        return "# APPLICATION-SUBNET" in self.text

    @property
    def canister_id(self) -> str:
        return APPLICATION_CANISTER if self.is_on_application_subnet else CANISTER

    @property
    def is_for_others(self) -> bool:
        """Whether the suite itself runs it in another configuration alone."""
        return FOR_OTHERS.search(self.text) is not None

    @property
    def foreign_flags(self) -> set[str]:
        """Flags of its sources that the npm build does not take and that no setter stands for."""
        flags = {flag.partition("=")[0] for source in self.sources for flag in flags_of(self.suite / source)}
        return {flag for flag in flags if flag.startswith("-")} - TAKEN_FLAGS - {"--actor-alias", "--actor-idl"}

    def commands(self) -> Iterator[list[str]]:
        """The script's lines, as words."""
        if self.file.endswith(".mo"):
            yield ["install", self.canister_id, self.file, "0x"]
            for line in self.text.splitlines():
                call = re.match(r".*//OR-CALL (.*)", line) or re.match(r"//CALL (.*)", line)
                if call and call[1].startswith("upgrade"):
                    yield ["upgrade", self.canister_id, self.file, "0x"]
                elif call and call[1].startswith(("ingress ", "query ")):
                    kind, rest = call[1].split(" ", 1)
                    yield [kind, self.canister_id, *rest.split()]
            return
        for line in self.text.replace("$ID", self.canister_id).replace("$PRINCIPAL", STOP_ARGUMENT).splitlines():
            words = line.split()
            if words and not words[0].startswith("#"):
                yield words


def flags_of(source: Path) -> list[str]:
    """The compiler's flags in the comments of a source."""
    if not source.exists():
        return []
    return " ".join(re.findall(r"//MOC-FLAG(.*)", source.read_text(encoding="utf-8", errors="replace"))).split()


def module_path(source: str) -> Path:
    """Where a compiled module lies."""
    return WORK / "drun" / (source.replace("/", "__").removesuffix(".mo") + ".wasm")


def programs(suite: Path, names: list[str]) -> list[Program]:
    """The suite, or those of it that are named."""
    found = []
    for ok in sorted((suite / "ok").glob("*.ok")):
        for suffix, extension in ((".drun-run.ok", ".mo"), (".drun.ok", ".drun")):
            name = ok.name.removesuffix(suffix)
            if ok.name.endswith(suffix) and (suite / (name + extension)).exists() and (not names or name in names):
                found.append(Program(suite, name + extension))
    return found


# --- compiling


def job(suite: Path, source: str, *, mangled: bool) -> dict[str, object]:
    """What the compiler is asked for."""
    text = (suite / source).read_text(encoding="utf-8", errors="replace")
    flags = flags_of(suite / source)
    aliases = [[flags[at + 1], flags[at + 2]] for at, flag in enumerate(flags) if flag == "--actor-alias"]
    idl = [flags[at + 1] for at, flag in enumerate(flags) if flag == "--actor-idl"]
    return {
        "source": source,
        # Calls while an actor is installed are not possible on the network; the suite makes calls from outside of them.
        "mangled": re.sub(r"(?m)^.*//OR-CALL", "//CALL", text) if mangled else None,
        "flags": ["--default-persistent-actors" if "--default-persistent-actors" in flags else "--legacy-actors"],
        "aliases": aliases,
        "idl": idl[0] if idl else "",
        "out": str(module_path(source)),
    }


def compile_all(suite: Path, entries: list[Program]) -> dict[str, str]:
    """Compile what is not compiled yet; errors by source."""
    sources = {source: entry.file.endswith(".mo") for entry in entries for source in entry.sources}
    errors_file = WORK / "drun" / "errors.json"
    errors_file.parent.mkdir(parents=True, exist_ok=True)
    errors: dict[str, str] = json.loads(errors_file.read_text()) if errors_file.exists() else {}
    jobs = [
        job(suite, source, mangled=mangled)
        for source, mangled in sources.items()
        if (suite / source).exists() and source not in errors and not module_path(source).exists()
    ]
    if jobs:
        npm = WORK / MOTOKO.replace("@", "-")
        if not (npm / "node_modules").exists():
            npm.mkdir(parents=True, exist_ok=True)
            flags = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-save")
            subprocess.run(["npm", "install", *flags, MOTOKO], cwd=npm, check=True)
        print(f"compiling {len(jobs)} programs, some seconds each", flush=True)
        workers = os.cpu_count() or 1
        with ProcessPoolExecutor(workers) as pool:
            for found in pool.map(
                run_compiler, [jobs[k::workers] for k in range(workers)], [npm] * workers, [suite] * workers
            ):
                errors |= found
        errors_file.write_text(json.dumps(errors, indent=1))
    return errors


def run_compiler(jobs: list[dict[str, object]], npm: Path, suite: Path) -> dict[str, str]:
    """Compile one after the other in one process; errors by source."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(jobs, file)
        file.flush()
        command = ["node", "--stack-size=8000", HERE / "drun_compile.cjs", suite, file.name]
        done = subprocess.run([str(part) for part in command], cwd=npm, capture_output=True, text=True, check=False)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    errors = {one["source"]: one["error"] for one in told if one["error"]}
    for one in jobs[len(told) :]:
        errors[str(one["source"])] = f"the compiler ended: {done.stderr[-200:]}"
    return errors


# --- running


class Refused(Exception):  # noqa: N818 -- ends a script without a word, as in the suite's own runner
    """An ingress message was not let in."""


class Runner:
    """A subnet with one canister; `lines` is what the suite's runner prints.

    Args:
        canister_id: of the canister.
        fees: whether anything costs cycles; on system subnets nothing does.
    """

    def __init__(self, canister_id: str, *, fees: bool) -> None:
        self.subnet = Subnet()
        state = self.subnet._state
        if not fees:
            names = [field.name for field in dataclasses.fields(CYCLES_2026_08)]
            nothing = {name: 0 for name in names if name.endswith("fee") or name == "http_base_fee_per_node"}
            self.subnet._world.costs = dataclasses.replace(CYCLES_2026_08, **nothing)  # type: ignore[arg-type]
        own_id = Principal.from_text(canister_id)
        self.canister = self.subnet.create_canister(
            canister_id=own_id, controllers=(Principal(ANONYMOUS), own_id), cycles=CYCLES
        )
        state.first_canister_index = int.from_bytes(Principal.from_text(FIRST_CREATED).raw_bytes[:8], "big")
        self.lines: list[str] = [f"ingress Completed: Reply: {STOP_ARGUMENT}"]

    def execute(self, command: list[str]) -> None:
        """Run one line of a script."""
        kind = command[0]
        if kind == "create":
            return
        try:
            reply = getattr(self, kind)(*command[1:])
        except RejectError as error:
            start = "Err" if kind == "query" else "ingress Err"
            self.lines.append(f"{start}: {error.error_code}: {error.message}")
        else:
            self.lines.append(f"{'Ok' if kind == 'query' else 'ingress Completed'}: Reply: 0x{reply}")

    def _install(self, options: InstallOptions, source: str, arg: str) -> str:
        state = self.subnet._state
        wasm = module_path(source).read_bytes()
        canister = state.canisters[self.canister.id.raw_bytes]
        with self.subnet._transaction("install_code", canister.canister_id, argument(arg)):
            response = install_code(self.subnet._world, canister, options, wasm, argument(arg), ANONYMOUS)
        if isinstance(response, Reply) or response is None:
            return EMPTY
        raise as_error(response)

    def install(self, _: str, source: str, arg: str) -> str:
        return self._install(InstallOptions(InstallMode.INSTALL), source, arg)

    def reinstall(self, _: str, source: str, arg: str) -> str:
        return self._install(InstallOptions(InstallMode.REINSTALL), source, arg)

    def upgrade(self, _: str, source: str, arg: str) -> str:
        is_kept = b"icp:private enhanced-orthogonal-persistence" in module_path(source).read_bytes()
        options = InstallOptions(InstallMode.UPGRADE, False, "keep" if is_kept else None)
        return self._install(options, source, arg)

    def query(self, canister_id: str, method: str, arg: str) -> str:
        return self.subnet.canister(Principal.from_text(canister_id)).query(method, argument(arg)).hex()

    def round(self) -> None:
        """A round of the network: messages within the subnet go on as long as there are any, and instructions."""
        state = self.subnet._state
        for _ in range(MAX_INNER_ROUNDS):
            self.subnet.tick()
            if not (state.ready or state.outbox or state.management_calls):
                break

    def ingress(self, canister_id: str, method: str, arg: str) -> str:
        if method in ("stop_canister", "start_canister"):
            canister = self.subnet.canister(Principal(argument(arg)[-10:]))
            canister.stop() if method == "stop_canister" else canister.start()
            return EMPTY
        state = self.subnet._state
        raw_id = Principal.from_text(canister_id).raw_bytes
        request = submit_ingress(self.subnet._world, raw_id, method, argument(arg), b"\x04", 0)
        if not isinstance(request, bytes):
            if method == STABILIZE:
                raise as_error(request)
            raise Refused(request.message)
        for _ in range(MAX_ROUNDS):
            self.round()
            response = state.ingress.find(request, 0)
            if isinstance(response, Reply):
                return response.data.hex()
            if response is not None:
                raise as_error(response)
            self.subnet.advance_time(SECOND_NS)
        raise TimeoutError(f"no answer after {MAX_ROUNDS} rounds")


def argument(text: str) -> bytes:
    """An argument as scripts write it: ``0x`` and hexadecimal digits, or a text in quotes with escapes."""
    if not text.startswith('"'):
        return bytes.fromhex(text.removeprefix("0x"))
    escapes = {"x": 16, "b": 2}

    def unescaped(found: re.Match[str]) -> str:
        code = found[1]
        return chr(int(code[1:], escapes[code[0]])) if code[0] in escapes and len(code) > 1 else code

    return re.sub(r'\\(x[0-9a-fA-F]{2}|b[01]{8}|["\\])', unescaped, text[1 : text.rindex('"')]).encode("latin-1")


def run_program(entry: Program) -> str:
    """What a program printed, as the suite's runner would print it."""
    runner = Runner(entry.canister_id, fees=entry.is_on_application_subnet)
    run = ResidentInstance.run

    def printing(instance: ResidentInstance, entry_point: object, env: object) -> object:
        result = run(instance, entry_point, env)  # type: ignore[arg-type]
        logs = result.logs if isinstance(result, Return) else [*result.logs]
        runner.lines += ["debug.print: " + line.decode(errors="replace") for line in logs]
        return result

    ResidentInstance.run = printing  # type: ignore[method-assign, assignment]
    try:
        for command in entry.commands():
            runner.execute(command)
    except Refused:
        pass
    except Exception as error:  # whatever is raised is a failure of this program
        runner.lines.append(f"RAISED {type(error).__name__}: {error}")
    finally:
        ResidentInstance.run = run  # type: ignore[method-assign]
        runner.subnet.close()
    return "\n".join(runner.lines) + "\n"


UNCOMPARED = ("ic_trap", "Failed to submit ingress message: ")
"""Lines that the suite drops, and what its server writes to its own log."""


def normalised(text: str) -> str:
    """The suite's own normalisation, as far as a run's output needs it."""
    text = re.sub(r"Ignore Diff:.*", "Ignore Diff: (ignored)", text.replace("\0", ""), flags=re.IGNORECASE)
    lines = []
    for line in text.splitlines():
        if (
            re.match(r"Raised by|Raised at|Called from| +at ", line)
            or line.startswith(UNCOMPARED)
            or "PocketIC" in line
        ):
            continue
        lines.append(line)
        if "RTS error: Cannot grow memory" in line or "RTS error: Cannot allocate memory" in line:
            break
    return "\n".join(lines)


def difference(entry: Program) -> list[str]:
    """The lines that differ, in the form of a diff without context; empty where there are none."""
    expected, actual = normalised(entry.expected).splitlines(), normalised(run_program(entry)).splitlines()
    return [line for line in difflib.unified_diff(expected, actual, lineterm="", n=0) if line[:3] not in ("---", "+++")]


def explanation(entry: Program, diff: list[str]) -> str:
    """The category of a difference; empty where there is none."""
    text = "\n".join(diff) + f"\n/{entry.name}"
    found = next((category for category, pattern in EXPLANATIONS if re.search(pattern, text, re.MULTILINE)), "")
    if not found and (flags := entry.foreign_flags):
        return f"compiler flags that the npm build does not take: {' '.join(sorted(flags))}"
    return found


def main(suite: Path, names: list[str]) -> int:
    """Compile, run, compare, count."""
    entries = programs(suite, names)
    skipped = [entry for entry in entries if entry.is_for_others]
    entries = [entry for entry in entries if not entry.is_for_others]
    errors = compile_all(suite, entries)
    compiled = [entry for entry in entries if all(module_path(source).exists() for source in entry.sources)]
    categories: Counter[str] = Counter()
    unexplained = 0
    for entry in entries:
        if entry not in compiled:
            reason = next((errors[source] for source in entry.sources if source in errors), "no source")
            categories["not compiled by this version of the compiler"] += 1
            print(f"NOT COMPILED {entry.file}: {' '.join(reason.split())[:160]}")
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        for entry, diff in zip(compiled, pool.map(difference, compiled), strict=True):
            if not diff:
                categories["equal"] += 1
                continue
            category = explanation(entry, diff)
            categories[category or "unexplained"] += 1
            unexplained += not category
            print(f"DIFFERS {entry.file}: {category or 'unexplained'}")
            print("".join(f"    {line[:200]}\n" for line in diff[:8]), end="", flush=True)
    print(f"drun: {len(skipped)} are for other configurations")
    for category, count in categories.most_common():
        print(f"drun: {count} {category}")
    equal = categories["equal"]
    share = 100 * equal / max(len(compiled), 1)
    print(f"drun: {equal} of {len(compiled)} equal ({share:.1f} %), {unexplained} without explanation")
    return 1 if unexplained or not equal else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
