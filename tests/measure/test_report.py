"""Reports of what tests cost, budgets, markers; and what the last entry took."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
import wasmtime

from perdure import RejectError, Subnet
from perdure.errors import MalformedError
from perdure.execution.events import Ended
from perdure.kit import plugin
from perdure.measure.report import Budget, Report, parse_budgets

Built = Callable[[str], Path]


def test_the_last_entry(built: Built) -> None:
    subnet = Subnet()
    canister = subnet.install(built("kv32"), bytes(8))
    assert canister.last is not None
    assert canister.last.entry == "canister_init"
    map_canister = subnet.install(built("insert_many"))
    with subnet.events() as stream:
        map_canister.actor().insert_many([(1, 2)])
    (event,) = (one for one in stream if isinstance(one, Ended))
    last = map_canister.last
    assert last is not None
    assert (last.entry, last.trap, last.instructions) == ("canister_update insert_many", "", event.instructions)
    assert last.pages_read == {"stable": event.stable_accessed_pages}
    assert last.pages_written == {"heap": event.heap_dirty_pages, "stable": event.stable_dirty_pages}
    assert 0 < event.stable_dirty_pages <= event.stable_accessed_pages
    assert last.cycles == 5_000_000 + last.instructions
    assert last.duration_ns > 0
    canister.update("debug_print", b"said")
    assert canister.last.logs == (b"said",)
    with pytest.raises(RejectError):
        canister.update("trap", b"because")
    assert "because" in canister.last.trap
    assert canister.last.pages_written == {"heap": 0, "stable": 0}
    canister.query("count")
    assert (canister.last.entry, canister.last.cycles) == ("canister_query count", 0)
    assert subnet.fork().canister(canister.id).last is None
    assert subnet.create_canister().last is None


OWN = """(module
  (import "ic0" "msg_reply" (func $reply))
  (import "stable" "users" (memory $users i64 9))
  (import "upgrade" "cache" (memory $cache 1))
  (memory $heap 1)
  (func (export "canister_update fill")
    (memory.fill $users (i64.const 0) (i32.const 7) (i64.const 20480))
    (i32.store $heap (i32.const 0) (i32.const 1)) (call $reply))
  (func (export "canister_update rest") (i32.store $cache (i32.const 0) (i32.const 1)) (call $reply)))"""


def test_pages_of_memories_of_ones_own() -> None:
    with Subnet(extensions=("memories",)) as subnet:
        canister = subnet.install(bytes(wasmtime.wat2wasm(OWN)))
        report = Report()
        report.watch(subnet._world, lambda _: "it")
        with subnet.events() as stream:
            canister.update("fill")
        assert canister.last.pages_written == {"heap": 1, "stable": 0, "users": 5}
        assert [one.written_pages["users"] for one in stream if isinstance(one, Ended)] == [5]
        canister.update("rest")
        assert canister.last.pages_written == {"heap": 0, "stable": 0, "cache": 1}
    assert {row.method: row.max_written_pages for row in report.rows()} == {"update fill": 6, "update rest": 1}


def test_pages_where_stable_memory_is_memory_1() -> None:
    with Subnet(extensions=("memories=index",)) as subnet:
        text = """(module (import "ic0" "msg_reply" (func $reply)) (memory 1) (memory $stable i64 1)
          (func (export "canister_update f") (i64.store $stable (i64.const 5000) (i64.const 1)) (call $reply)))"""
        canister = subnet.install(bytes(wasmtime.wat2wasm(text)))
        canister.update("f")
        assert canister.last.pages_written == {"heap": 0, "stable": 1}


def test_budgets() -> None:
    text = "ledger:\n  transfer: 5_000\n  settle:\n    - 10\n    - instructions: 20\n      reason: fees\n    - 15\n"
    assert parse_budgets(text) == {("ledger", "transfer"): Budget(5_000), ("ledger", "settle"): Budget(15)}
    report = Report()
    report.add("ledger", "update transfer", 6_000, 5_006_000, 1, 2)
    report.add("ledger", "update transfer", 4_000, 5_004_000, 3, 0)
    report.add("other|one", "query settle", 16, 0, 0, 0)
    (over,) = report.exceeded(parse_budgets(text))
    assert str(over) == "ledger update transfer: 6,000 instructions, 1,000 more than its budget of 5,000"
    again = Report()
    again.merge(report.plain())
    assert list(again.lines()) == list(report.lines())
    assert "| ledger | update transfer | 2 | 4,000 | 5,000 | 6,000 | 5,005,000 | 3 | 2 |\n" in report.markdown()
    assert "| other\\|one | query settle |" in report.markdown()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "the file is []"),
        ("a: 3", "budgets of a is 3"),
        ("a:\n  b: many", "the budget of a b is 'many'"),
        ("a:\n  b: [1, 2]", "rises from 1 to 2 without a reason"),
        ("a:\n  b: []", "the budget of a b is empty"),
        ("a:\n  b: {reason: x}", "the budget of a b is None"),
    ],
)
def test_bad_budgets_are_told(text: str, said: str) -> None:
    with pytest.raises(MalformedError) as error:
        parse_budgets(text)
    assert said in str(error.value)


def test_budgets_are_not_read_from_devices() -> None:
    with pytest.raises(pytest.UsageError, match="--perdure-budgets zeros: a device"):
        plugin._read_budgets(Path("/dev/zero"), "zeros")


def test_budgets_of_methods_that_nobody_has(built: Built) -> None:
    subnet, report = Subnet(), Report()
    report.watch(subnet._world, lambda raw_id: "map")
    subnet.install(built("insert_many")).actor().insert_many([(1, 2)])
    budgets = parse_budgets(
        "map: {insert_mny: 1, insert_many: 1, init: 9_000_000, callback: 9, get: 5}\nmpa: {get: 1, len: 1}"
    )
    again = Report()
    again.merge(report.plain())  # as from a worker of xdist
    for one in (report, again):
        assert one.misnamed(budgets) == ["map has no method 'insert_mny': did you mean 'insert_many'?"]
        assert one.unused(budgets) == ["no canister 'mpa' ran: did you mean 'map'?"]
        assert [over.row.method for over in one.exceeded(budgets)] == ["update insert_many"]
    assert Report().misnamed(budgets) == []
    assert Report().unused({("a", "b"): Budget(1)}) == ["no canister 'a' ran: expected one of: (none)"]


def test_methods_whose_names_have_spaces() -> None:
    report = Report()
    report.add("c", "update a b", 6, 1, 1, 1)
    assert [str(one.row.method) for one in report.exceeded({("c", "a b"): Budget(5)})] == ["update a b"]


def test_structures_in_a_report() -> None:
    report = Report()
    for pages in ((3, 2, 3), (5, 1, 4)):
        report.add_structure("c", "update m", "stable 0 bal|ances", pages)
    report.add_structure("c", "update m", "heap", (0, 9, 9))
    report.add("c", "update m", 1, 1, 1, 1)
    again = Report()
    again.merge(report.plain())
    assert list(again.lines()) == list(report.lines())
    row = next(line for line in report.lines() if "bal|ances" in line)
    assert row.split()[-8:] == ["32.0", "KiB", "8", "12.0", "KiB", "3", "16.0", "KiB"]
    heap = next(line for line in report.lines() if "heap" in line)
    assert heap.split()[-5:] == ["36.0", "KiB", "9", "36.0", "KiB"]
    assert "0 B" not in heap
    assert "| c | update m | heap |  | 9 | 9 |" in report.markdown()
    assert "| c | update m | stable 0 bal\\|ances | 8 | 3 | 4 |" in report.markdown()


TESTS = """
import pytest
W = "{wasm}"
@pytest.mark.canister("kv", wasm=W, args=None)
@pytest.mark.parametrize("n", range(4))
def test_some(canister, n):
    for _ in range(n):
        canister("kv").actor().inc()
@pytest.mark.canister("kv", wasm=W)
@pytest.mark.max_instructions(10)
def test_much(canister):
    canister("kv").actor().inc()
@pytest.mark.canister("kv", wasm=W)
@pytest.mark.max_instructions(1_000_000)
def test_little(canister):
    canister("kv").actor().inc()
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_in_pytest(tmp_path: Path, built: Built, workers: tuple[str, ...]) -> None:
    (tmp_path / "test_it.py").write_text(TESTS.replace("{wasm}", str(built("motoko_classical_v1"))))
    (tmp_path / "budgets.yml").write_text("kv:\n  inc: 100\n  icn: 100\nkw: {x: 1}\n")
    summary = tmp_path / "summary.md"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        tmp_path,
        tmp_path,
        "--cycles",
        *workers,
    ]
    command += ["--perdure-report-file", tmp_path / "report.md", "--perdure-budgets", "budgets.yml"]
    command += ["--junitxml", tmp_path / "junit.xml"]
    command += ["--perdure-report-structures", "--perdure-heatmap", "pictures"]
    env = {**os.environ, "GITHUB_STEP_SUMMARY": str(summary)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "5 passed" in done.stdout
    assert "1 failed" in done.stdout
    assert "more than max_instructions(10); most in one call: " in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("kv update inc "))
    assert row.split()[3] == "8"
    assert "over budget" in done.stdout
    assert "more than its budget of 100" in done.stdout
    assert "kv has no method 'icn': did you mean 'inc'?" in done.stdout
    assert "no canister 'kw' ran: expected one of: kv" in done.stdout
    assert "kv update inc: heap " in done.stdout
    pictures = sorted(one.name for one in (tmp_path / "pictures").iterdir())
    assert len(pictures) == 5  # one test calls nothing
    assert pictures[:2] == ["test_it.test_little.svg", "test_it.test_much.svg"]
    assert "kv, heap memory, " in (tmp_path / "pictures" / pictures[0]).read_text()
    assert summary.read_text() == (tmp_path / "report.md").read_text()
    assert "| kv | update inc | 8 |" in summary.read_text()
    properties = ET.parse(tmp_path / "junit.xml").getroot().iter("property")
    assert {one.get("name") for one in properties} == {"perdure_instructions"}


def test_a_report_changes_no_answer(built: Built) -> None:
    subnet = Subnet()
    canister = subnet.install(built("kv32"), bytes(8))
    report = Report()
    report.watch(subnet._world, lambda raw_id: "")
    canister.update("inc")
    assert canister.last is not None
    (row,) = report.rows()
    assert (row.method, row.calls, row.max_instructions) == ("update inc", 1, canister.last.instructions)
    assert row.canister == canister.module.module_hash.hex()[:8]
