"""Coverage: what has run and what has not, to the line; and nothing else tells a covered run from a plain one."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import wasmtime

from perdure import Canister, RejectError, Subnet
from perdure.errors import MalformedError
from perdure.kit import plugin_measure
from perdure.measure.coverage import Coverage, cover_everything
from perdure.measure.coverage_formats import html, lcov, own_files, percentage, table, totals
from perdure.subnet.residency import Residents

Built = Callable[[str], Path]
Run = Callable[..., tuple[int, str, str]]
SOURCES = Path(__file__).parents[1] / "canisters"
FILE = "c/branches.c"


def number(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


def line_of(text: str) -> int:
    """The number of the line of the source that begins so."""
    lines = (SOURCES / FILE).read_text().splitlines()
    (found,) = (at for at, line in enumerate(lines, 1) if line.strip().startswith(text))
    return found


@pytest.fixture
def branches(built: Built) -> Iterator[Canister]:
    with Subnet() as subnet:
        yield subnet.install(built("branches"))


def test_a_branch_that_never_ran_shows(branches: Canister) -> None:
    with branches._subnet.coverage() as coverage:
        for value in (3, 5, 4):
            branches.update("add", number(value))
    lines = coverage.files()[FILE]
    taken, not_taken, other = line_of("sum += value"), line_of("ic0_trap("), line_of("sum -= value")
    assert (lines[taken], lines[not_taken], lines[other]) == (2, 0, 1)
    assert lines[line_of("if (value % 2)")] == 3
    (module,) = coverage.modules
    calls = {function.name: function.counts[0] for function in module.functions()}
    assert (calls["step"], calls["fail"], calls["update_add"], calls["update_idle"]) == (3, 1, 3, 0)
    fail = next(function for function in module.functions() if function.name == "fail")
    assert (fail.file, fail.line) == (FILE, line_of("static void fail"))
    assert sorted(map(bool, fail.counts)) == [False, True, True]


def test_what_traps_has_run(branches: Canister) -> None:
    with branches._subnet.coverage() as coverage:
        with pytest.raises(RejectError, match="too much"):
            branches.update("add", number(102))
        with pytest.raises(RejectError):
            branches.update("divide", number(1, 0))
    lines = coverage.files()[FILE]
    assert lines[line_of("ic0_trap(")] == 1
    assert lines[line_of("sum -= value")] == 0
    assert lines[line_of("reply_u64(argument_u64(0) / ")] == 1


def story(subnet: Subnet, built: Built) -> None:
    canister = subnet.install(built("branches"))
    for method, arg in [("add", number(3)), ("add", number(200)), ("divide", number(7, 2)), ("divide", number(7, 0))]:
        with suppress(RejectError):
            canister.update(method, arg)
    canister.upgrade(built("branches"))
    with subnet.anchor():
        canister.update("add", number(4))
    subnet.fork().canister(canister.id).update("add", number(4))
    canister.load_snapshot(canister.take_snapshot())
    motoko = subnet.install(built("motoko_classical_v1")).actor()
    motoko.put("key", 7)


@pytest.mark.slow
def test_nothing_else_becomes_different(built: Built, tmp_path: Path) -> None:
    """Events with their instructions and cycles, history, state hashes and bytes: those of a plain run."""
    seen = []
    for is_covered in (False, True):
        with ExitStack() as stack:
            coverage = stack.enter_context(cover_everything()) if is_covered else None
            subnet = stack.enter_context(Subnet(tmp_path / str(is_covered), history=None))
            with subnet.events() as stream:
                story(subnet, built)
                happened = [event for event in stream if type(event).__name__ != "Checkpointed"]
            subnet.checkpoint()
            history = [(one.version, one.message, one.state_hash) for one in subnet._durable.directory.history()]
            left = [(one.status(), one.globals, one.logs(), one.heap.read(0, 65536)) for one in subnet.canisters]
            seen.append((happened, history, left))
        if coverage is not None:
            assert len(coverage.modules) == 2
            assert coverage.files()[FILE][line_of("sum -= value")] == 2  # in the anchor and on the fork
    assert seen[0] == seen[1]
    assert Residents.everywhere == ()


@pytest.mark.slow
def test_instances_that_nobody_closes_count(built: Built) -> None:
    with cover_everything() as coverage:
        for _ in range(3):
            Subnet().install(built("branches")).update("add", number(3))
            gc.collect()
        kept = Subnet().install(built("branches"))
        kept.update("add", number(3))
        with kept._subnet.profile() as profile:
            kept.update("add", number(3))
        assert profile.total_instructions > 0
        kept.update("add", number(3))
    assert coverage.files()[FILE][line_of("sum += value")] == 6
    kept.update("add", number(3))
    assert coverage.files()[FILE][line_of("sum += value")] == 6


def test_coverage_within_a_profile_and_the_other_way_round(branches: Canister) -> None:
    subnet = branches._subnet
    with subnet.profile() as outer, subnet.coverage() as coverage, subnet.profile() as inner:
        branches.update("add", number(3))
    assert coverage.files()[FILE][line_of("sum += value")] == 1
    assert outer.total_instructions == inner.total_instructions == branches.last.instructions


@pytest.mark.parametrize("text", ["equal", "(module)"])
def test_modules_without_lines_have_functions_and_blocks(text: str) -> None:
    """Equal bodies are counted apart; names may be missing."""
    functions = "(func (nop) (nop))" * 3
    wat = f"""(module (import "ic0" "msg_reply" (func $reply)) (table 3 funcref) (elem (i32.const 0) 1 2 3) {functions}
      (func (export "canister_update go") (call 2) (call_indirect (i32.const 2)) (call $reply)))"""
    wasm = bytes(wasmtime.wat2wasm(wat if text == "equal" else text))
    with Subnet() as subnet, cover_everything() as coverage:
        canister = subnet.install(wasm)
        if text == "equal":
            canister.update("go")
    (module,) = coverage.modules if text == "equal" else (None,)
    if module is not None:
        assert [(one.name, one.counts[0]) for one in module.functions()] == [
            ("wasm-function[1]", 0), ("wasm-function[2]", 1), ("wasm-function[3]", 1), ("wasm-function[4]", 1)
        ]  # fmt: skip
        assert "no lines" in table(coverage, {})
    assert coverage.files() == {}
    assert 0 <= percentage(totals(coverage, {})) <= 100


def with_section(wasm: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """A module with a custom section changed; it stays of its size."""
    at = wasm.index(bytes([len(name)]) + name.encode()) + 1 + len(name)
    return wasm[:at] + change(wasm[at:])


def test_a_broken_section_gives_one_warning(built: Built) -> None:
    wasm = built("branches").read_bytes()
    broken = with_section(wasm, ".debug_line", lambda rest: rest[:4] + b"\x63" + rest[5:])
    with Subnet() as subnet, cover_everything() as coverage:
        subnet.install(broken).update("add", number(3))
    assert len(coverage.warnings) == 1
    assert "DWARF version 99, expected 2 to 5" in coverage.warnings[0]
    assert table(coverage, coverage.files()).count("DWARF version") == 1
    (module,) = coverage.modules
    assert sum(module.counts) > 0


# --- what is written


@pytest.fixture
def covered(branches: Canister) -> Coverage:
    with branches._subnet.coverage() as found:
        branches.update("add", number(3))
        branches.update("add", number(4))
    return found


def test_a_table(covered: Coverage) -> None:
    text = table(covered, own_files(covered))
    row = next(line for line in text.splitlines() if line.startswith(FILE))
    assert re.search(rf"\b{line_of('ic0_trap(')}\b", row)
    assert f"{line_of('UPDATE(divide)')}-{line_of('reply_u64(0)') + 1}" in row


def test_only_what_was_asked_for(covered: Coverage) -> None:
    assert set(own_files(covered)) == {FILE, "c/ic0.h"}
    assert set(own_files(covered, [Path("c/branches.c")], SOURCES)) == {FILE}
    assert set(own_files(covered, [Path("rust")], SOURCES)) == set()
    foreign = ["/rustc/" + "0" * 40 + "/library/core/src/fmt.rs", "/home/a/.cargo/registry/src/x/lib.rs", "/usr/a.h"]
    (module,) = covered.modules
    module.lines.update({file: {1: [[0]]} for file in foreign})
    assert set(own_files(covered)) == {FILE, "c/ic0.h"}


def test_a_tracefile(covered: Coverage) -> None:
    lines = lcov(covered, own_files(covered), SOURCES).splitlines()
    assert f"SF:{SOURCES / FILE}" in lines
    assert f"FN:{line_of('static void fail')},fail" in lines
    assert "FNDA:1,fail" in lines
    assert f"DA:{line_of('ic0_trap(')},0" in lines
    assert f"DA:{line_of('sum += value')},1" in lines
    assert lines.count("end_of_record") == 2


@pytest.mark.slow
def test_genhtml_reads_it(covered: Coverage, tmp_path: Path) -> None:
    if shutil.which("genhtml") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("genhtml comes with lcov, which is not here")
    (tmp_path / "it.lcov").write_text(lcov(covered, own_files(covered), SOURCES))
    command = ["genhtml", "-q", "-o", str(tmp_path / "out"), str(tmp_path / "it.lcov")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    page = next((tmp_path / "out").rglob("branches.c.gcov.html")).read_text()
    assert "ic0_trap" in page


def test_a_page(covered: Coverage) -> None:
    (module,) = covered.modules
    module.name = "<name>"
    page = html(covered, own_files(covered), SOURCES)
    assert "&lt;name&gt;" in page
    assert "<name>" not in page
    row = next(row for row in page.split("<tr") if "ic0_trap(" in row)
    assert row.startswith(f' class="n"><td>{line_of("ic0_trap(")}<td>0<td>')
    assert "<li>update_idle" in page


def test_a_page_has_no_file_that_only_the_module_names(covered: Coverage, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not yours")
    (tmp_path / "project").mkdir()
    files = {str(tmp_path / "secret"): {1: 0}, "../secret": {1: 0}}
    assert "not yours" not in html(covered, files, tmp_path / "project")
    assert "not yours" in html(covered, files, tmp_path / "project", [tmp_path / "secret"])


def test_sums(covered: Coverage) -> None:
    again = Coverage.loads(covered.dumps())
    again.add(covered)
    once, twice = covered.files()[FILE], again.files()[FILE]
    assert twice == {line: 2 * count for line, count in once.items()}
    (module,) = covered.modules
    module.counts.append(1)
    with pytest.raises(MalformedError, match="blocks, expected"):
        again.add(covered)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"perdure coverage": 2}', '{"perdure coverage": 1, "modules": [{"hash": 1}]}', "[" * 100_000],
)
def test_what_is_no_coverage_is_refused(text: str) -> None:
    with pytest.raises(MalformedError, match="coverage"):
        Coverage.loads(text)


@pytest.mark.parametrize(
    "damage",
    [
        {"functions": [["f", "a.c", 1, 999]]},
        {"functions": [["f", "a.c", 1, 0], ["g", "a.c", 1, 0]]},
        {"lines": {"a.c": [[1, 5]]}},
        {"lines": {"a.c": [[1, [999]]]}},
        {"lines": {"a.c": [[1, [-1]]]}},
        {"lines": {"a.c": [[1, []]]}},
    ],
)
def test_blocks_that_are_not_there_are_refused(covered: Coverage, damage: dict[str, object]) -> None:
    plain = json.loads(covered.dumps())
    plain["modules"][0] |= damage
    with pytest.raises(MalformedError, match="coverage"):
        Coverage.loads(json.dumps(plain))


@pytest.mark.slow
def test_the_command(run: Run, built: Built, tmp_path: Path) -> None:
    one, both = tmp_path / "one.json", tmp_path / "both.lcov"
    code, out, err = run("coverage", built("branches"), f"add={number(3).hex()}", "-o", one)
    assert (code, err) == (0, "")
    assert FILE in out
    code, out, err = run(
        "coverage",
        built("branches"),
        f"add={number(102).hex()}",
        "--add",
        one,
        "-o",
        both,
        "--json",
        "--fail-under",
        99,
    )
    assert code == 1  # the rejection, told last
    assert "too much" in err
    found = json.loads(out)
    assert found["files"][FILE][str(line_of("ic0_trap("))] == 1
    assert found["files"][FILE][str(line_of("sum += value"))] == 1
    assert f"DA:{line_of('sum -= value')},0" in both.read_text()
    code, _, err = run("coverage", "--add", one, "--fail-under", 99, "-q")
    assert code == 1
    assert "less than --fail-under 99" in err
    for words, said in [
        ((), "nothing ran"),
        (("--add", both), "no coverage that"),
        ((built("branches"), "-o", "x.pdf"), "ends with none of .lcov"),
    ]:
        code, _, err = run("coverage", *words)
        assert code == 2
        assert said in err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--perdure-cov-report", "pdf"), "expected one of term,"),
        (("--perdure-cov-report", "term:file"), "expected one of term,"),
        (("--perdure-profile", "it.pdf"), "a name that ends with .svg"),
    ],
)
def test_options_that_say_nothing_are_refused(option: tuple[str, str], said: str) -> None:
    parser = pytest.Parser(_ispytest=True)
    plugin_measure.pytest_addoption(parser)
    with pytest.raises((pytest.UsageError, SystemExit)) as error:
        parser.parse(list(option))
    assert said in str(error.value)


TESTS = """
import pytest
W = "{wasm}"
@pytest.mark.parametrize("value", [3, 4, 5, 7])
def test_some(install, value):
    install(W).update("add", value.to_bytes(8, "little"))
"""


@pytest.mark.slow
def test_in_pytest_over_workers(tmp_path: Path, built: Built) -> None:
    (tmp_path / "test_it.py").write_text(TESTS.replace("{wasm}", str(built("branches"))))
    options = ["--perdure-cov", "--perdure-cov-report", "term", "--perdure-cov-report", "lcov:it.lcov"]
    options += ["--perdure-cov-fail-under", "95", "-n", "2", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    options += ["--perdure-profile", "it.txt"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(tmp_path), *options],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    assert " 4 " in next(line for line in (tmp_path / "it.txt").read_text().splitlines() if "update_add (" in line)
    assert "less than --perdure-cov-fail-under 95" in done.stdout
    assert f"DA:{line_of('sum += value')},3\n" in (tmp_path / "it.lcov").read_text()
    assert f"DA:{line_of('ic0_trap(')},0\n" in (tmp_path / "it.lcov").read_text()


LOSING = """
import os, signal
def test_one(install):
    install("{wasm}").update("add", bytes(8))
def test_two():
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-n", "1"], ["a worker was lost: what ran there is not in the figures of canisters"]),
        (
            ["-p", "no:xdist"],
            [
                "2 passed",
                "coverage of canisters (lcov) not written to no/it.lcov: No such file",
                "profile of canisters not written to no/it.svg: No such file",
                "report of canisters not written to no/it.md: No such file",
            ],
        ),
    ],
)
def test_what_is_lost_or_not_written_is_told(options: list[str], said: list[str], tmp_path: Path, built: Built) -> None:
    (tmp_path / "test_it.py").write_text(LOSING.replace("{wasm}", str(built("branches"))))
    measured = ["--perdure-cov", "--perdure-cov-report", "lcov:no/it.lcov", "--perdure-profile", "no/it.svg"]
    measured += ["--perdure-report-file", "no/it.md"]
    command = [sys.executable, "-m", "pytest", str(tmp_path), *measured, *options]
    command += ["-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=tmp_path, env=outside, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert all(line in done.stdout for line in said), done.stdout
    assert "INTERNALERROR" not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
