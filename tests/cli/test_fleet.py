"""`perdure fleet`, as a person calls it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import wasmtime
from pyarrow import parquet

from perdure import Subnet
from perdure.cli.fleet import campaigns
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager, StableBTreeMap, types
from perdure.wasm import decode, encode
from perdure.wasm.module import CustomSection

Run = Callable[..., tuple[str, str]]
KV32 = Path(__file__).parent.parent / "canisters" / "modules" / "kv32.wasm"
SQL = "select count(*) as n, max(value) as most from memory_0"


@pytest.fixture
def dumps(tmp_path: Path) -> Callable[[int], Path]:
    """A directory with so many dumps of a map with three rows."""

    def make(count: int) -> Path:
        directory = tmp_path / "dumps"
        directory.mkdir()
        for number in range(count):
            memory = BytesMemory()
            rows = StableBTreeMap.create(MemoryManager.create(memory).get(0), types.u64, types.u64)
            for key in range(3):
                rows[key] = number
            (directory / f"{number:04}.bin").write_bytes(memory.data)
        return directory

    return make


@pytest.mark.slow
def test_dumps_are_looked_through_and_one_that_is_broken_is_a_row(
    dumps: Callable[[int], Path], perdure: Run, tmp_path: Path
) -> None:
    directory = dumps(5)
    (directory / "0003.bin").write_bytes(b"not a memory")
    (directory / "0004.bin").rename(directory / os.fsdecode(b"\xff4.bin"))  # which is no text
    assert "5 sources" in perdure("fleet", "query", directory, SQL, "--dry-run")[0]
    out, _ = perdure("fleet", "query", directory, SQL, "-o", "out", "--workers", "1", "--json", code=2)
    report = json.loads(out)
    assert report["outcomes"] == {"failed": 1, "fine": 4}
    assert "a text, not a stable memory" in report["rows"][0]["error"]
    assert report["rows"][0]["repro"].startswith("perdure stable query -- ")
    entries = parquet.read_table(tmp_path / "out" / "entries.parquet").to_pylist()
    assert Counter((one["n"], one["most"]) for one in entries) == Counter(
        (3, f"{number:016}") for number in (0, 1, 2, 4)
    )
    assert parquet.read_table(tmp_path / "out" / "results.parquet").num_rows == 5
    # What could not be done is done again once it can be.
    (directory / "0003.bin").write_bytes((directory / "0002.bin").read_bytes())
    out, _ = perdure("fleet", "query", directory, SQL, "-o", "out", "--workers", "1", "--resume")
    assert out.splitlines()[0] == "5 sources: 5 fine"
    assert len((tmp_path / "out" / "rows.jsonl").read_text().splitlines()) == 6


AT_THE_16TH = """
import sys, time

def wait(event, found):
    if event == "open" and str(found[0]).endswith("0015.bin"):
        time.sleep(1000)

if "perdure.fleet.worker" in sys.orig_argv:
    sys.addaudithook(wait)
"""


def waiting_at_the_16th(place: Path) -> dict[str, str]:
    """An environment in which no worker comes past the sixteenth of the dumps."""
    (place / "hooks").mkdir()
    (place / "hooks" / "sitecustomize.py").write_text(AT_THE_16TH)
    return {**os.environ, "PYTHONPATH": str(place / "hooks")}


@pytest.mark.slow
def test_what_is_interrupted_keeps_what_is_done_and_goes_on(dumps: Callable[[int], Path], tmp_path: Path) -> None:
    directory = dumps(30)
    command = [sys.executable, "-m", "perdure", "fleet", "fsck", str(directory), "-o", "out", "--workers", "1"]
    rows = tmp_path / "out" / "rows.jsonl"
    env = waiting_at_the_16th(tmp_path)
    campaign = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    while not (rows.exists() and rows.read_text()):
        assert campaign.poll() is None
        time.sleep(0.01)
    campaign.send_signal(signal.SIGINT)
    out, err = campaign.communicate(timeout=300)
    done = len(rows.read_text().splitlines())
    assert (campaign.returncode, err) == (130, "interrupted\n")
    assert 0 < done <= 15
    assert f"{30 - done} not done\n" in out
    assert "--resume goes on with what is not done\n" in out
    again = subprocess.run([*command, "--resume", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout)["outcomes"] == {"fine": 30}
    assert Counter(json.loads(line)["source"] for line in rows.read_text().splitlines()) == Counter(
        f"{directory}/{number:04}.bin" for number in range(30)
    )


@pytest.mark.slow
def test_workers_go_with_who_was_killed(dumps: Callable[[int], Path], tmp_path: Path) -> None:
    """Nobody has told them: their input has ended."""
    command = [sys.executable, "-m", "perdure", "fleet", "fsck", str(dumps(30)), "-o", "out", "--workers", "1"]
    env = waiting_at_the_16th(tmp_path)
    campaign = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    rows = tmp_path / "out" / "rows.jsonl"
    while not (rows.exists() and rows.read_text()):
        assert campaign.poll() is None
        time.sleep(0.01)
    children = Path(f"/proc/{campaign.pid}/task/{campaign.pid}/children").read_text().split()
    campaign.kill()
    campaign.wait()
    assert children
    for child in children:
        while Path(f"/proc/{child}/status").exists() and "Z (zombie)" not in Path(f"/proc/{child}/status").read_text():
            time.sleep(0.01)


@pytest.mark.slow
def test_upgrades_of_many(perdure: Run, tmp_path: Path) -> None:
    subnet = Subnet()
    canister = subnet.install(KV32)
    for number in range(3):
        canister.write_snapshot(tmp_path / "snaps" / str(number))
    os.truncate(tmp_path / "snaps" / "1" / "wasm_memory.bin", 100)
    broken = tmp_path / "broken.wasm"
    broken.write_bytes(b"\0asm\1\0\0\0")
    out, _ = perdure("fleet", "upgrade-check", "snaps/*", broken, "--workers", "1", "--json", code=1)
    report = json.loads(out)
    assert report["outcomes"] == {"found": 2, "failed": 1}
    assert len(report["modules"]) == 1
    told, _ = perdure("fleet", "upgrade-check", "snaps", KV32, "--workers", "1", "--require-way-back", code=2)
    assert f"perdure upgrade-check --require-way-back -- snaps/1 {KV32}" in told


@pytest.mark.slow
def test_what_a_row_came_to_is_told_in_the_commands_words(perdure: Run, tmp_path: Path) -> None:
    replies_nothing = """(module (import "ic0" "msg_reply" (func $reply))
      (func (export "canister_update odd") (call $reply)))"""
    found = decode(bytes(wasmtime.wat2wasm(replies_nothing)))
    section = CustomSection("icp:public candid:service", b"service : { odd : () -> () }")
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "odd.wasm").write_bytes(encode(replace(found, custom_sections=(section,))))
    out, _ = perdure("fleet", "fuzz", "modules", "--examples", "5", "--workers", "1", "-o", "out", code=1)
    assert "found: bad magic b'', expected b'DIDL'" in out
    (story,) = (tmp_path / "out").glob("test_found_odd_*.py")
    assert "def test_" in story.read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fsck", "empty"], "no memories found"),
        (["fsck", "none*"], "no memories found: looked for snapshots, state directories and dumps (*.bin, *.bin.gz)"),
        (["bench", "empty"], "no benches found: looked for directories with a canbench.yml"),
        (["fsck", "@none"], "no such file"),
        (["fsck", "a", "--resume"], "-o, which is not given"),
        (["query", "a"], "Missing argument"),
        (["upgrade-check", "a", "none.wasm"], "does not exist"),
        (["fsck", "a", "--kill-after", "0"], "--kill-after"),
    ],
)
def test_what_cannot_begin_is_said(arguments: list[str], told: str, perdure: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert told in perdure("fleet", *arguments, code=2)[1]


def test_what_no_source_could_do_is_said_once(
    perdure: Run, dumps: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = dumps(2)
    monkeypatch.setattr(campaigns, "find_spec", lambda name: None)
    out, told = perdure("fleet", "query", str(directory), "select 1", code=2)
    assert (out, told.count("fleet query needs `pip install 'perdure[sql]'`")) == ("", 1)
    assert "perdure[fuzz]" in perdure("fleet", "fuzz", str(KV32), code=2)[1]


def test_the_first_rows_of_a_query_are_printed(perdure: Run, dumps: Callable[[int], Path]) -> None:
    directory = dumps(3)
    out, _ = perdure("fleet", "query", str(directory), "select 'x\x1b' as text, 2 as n")
    lines = out.splitlines()
    assert lines[0].endswith(": 3 fine")
    assert len(lines) == 4
    assert lines[1].startswith(str(directory))
    assert '"n": 2' in lines[1]
    assert "\x1b" not in out
    with_many = "with recursive r(n) as (select 1 union all select n + 1 from r where n < 20) select n from r"
    out, _ = perdure("fleet", "query", str(directory), with_many)
    assert len(out.splitlines()) == 42
    assert "entries.parquet" in out.splitlines()[-1]


def test_another_campaign_is_told_in_its_words(perdure: Run, dumps: Callable[[int], Path], tmp_path: Path) -> None:
    directory, out = str(dumps(1)), str(tmp_path / "out")
    perdure("fleet", "query", directory, "select 1", "-o", out)
    told = perdure("fleet", "fsck", directory, "-o", out, "--resume", code=2)[1]
    assert "has another campaign, query select 1; this one is fsck: name another -o" in told


def test_a_full_disk_is_told_with_the_campaigns_place(
    perdure: Run, dumps: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = str(dumps(1))

    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        told = perdure("fleet", "fsck", directory, "-o", "full", code=2)[1]
    assert "full: a campaign could not be begun: No space left on device" in told
    monkeypatch.setattr(campaigns, "_write", full)
    told = perdure("fleet", "fsck", directory, "-o", "full", code=2)[1]
    assert "full: the reports could not be written: No space left on device" in told


def test_a_directory_may_be_named_with_a_slash(perdure: Run, tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "bad.wasm").write_text("none")
    out = perdure("fleet", "fuzz", f"{tmp_path}/modules/", "--json", code=2)[0]
    assert [one["source"] for one in json.loads(out)["rows"]] == [f"{tmp_path}/modules/bad.wasm"]
