"""What a stranger broke from the command line, by its kind: clear words, an exit code, nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure import Subnet
from perdure.units import meant

Run = Callable[..., tuple[str, str]]
COUNTER = Path(__file__).parents[1] / "canisters/modules/motoko_classical_v1.wasm.gz"


def test_no_amount_of_cycles_makes_a_directory_that_cannot_be_opened(perdure: Run, tmp_path: Path) -> None:
    perdure("canister", "--state", "st", "create", "c")
    for amount in (str(10**80), str(1 << 128), "1" + "0" * 190):
        assert "128" in perdure("canister", "--state", "st", "deposit-cycles", amount, "c", code=2)[1]
    assert "a number has at most" in perdure("canister", "--state", "st", "deposit-cycles", "1" * 5_000, "c", code=2)[1]
    most = (1 << 128) - 1
    for _ in range(2):
        perdure("canister", "--state", "st", "deposit-cycles", str(most), "c")
    with Subnet(tmp_path / "st") as subnet:
        (canister,) = subnet.canisters
        assert canister.status().cycles == most  # sums saturate, as the replica's
        with pytest.raises(ValueError, match="2\\^128-1"):
            canister.add_cycles(1 << 128)
    perdure("state", "verify", "st")


def test_verify_reads_what_opening_reads(perdure: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Subnet(tmp_path / "st") as subnet:
        subnet.install(COUNTER)
        subnet._state.minted_cycles = 1 << 256  # by a mistake that nobody has made yet
        subnet.set_time(subnet.time_ns + 1)
    _, errors = perdure("state", "verify", "st", code=1)
    assert "minted_cycles" in errors


@pytest.mark.parametrize("words", [("--init", "@/dev/zero", COUNTER), (COUNTER, "get=@/dev/zero")])
def test_a_device_is_no_argument(perdure: Run, words: tuple[str | Path, ...]) -> None:
    assert "is a device" in perdure("run", *words, code=2)[1]


@pytest.mark.parametrize("line", ["wasm_path: /dev/zero", "wasm_path: c.wasm\nresults_path: /dev/zero"])
def test_benchmarks_read_no_devices(perdure: Run, tmp_path: Path, line: str) -> None:
    (tmp_path / "canbench.yml").write_text(line)
    (tmp_path / "c.wasm").write_bytes(b"\0asm\1\0\0\0")
    _, errors = perdure("bench", code=1)
    assert "/dev/zero" in errors or "device" in errors


@pytest.mark.parametrize("value", ['!!timestamp "x"', '!!int ""', '!!float ""', "!!bool zz"])
def test_a_tag_that_its_value_does_not_fit(perdure: Run, tmp_path: Path, value: str) -> None:
    (tmp_path / "icp.yaml").write_text(f"canisters: {value}")
    assert "icp.yaml cannot be read: a value is not what its tag says" in perdure("canister", "list", code=2)[1]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ('init_args: {path: "a\\0b"}', "zero byte"),
        ('settings: {environment_variables: {A: {path: "a\\0b"}}}', "zero byte"),
        ('settings: {environment_variables: {"\\uD800": "x"}}', "half a surrogate"),
        ('settings: {environment_variables: {A: "\\uD800"}}', "half a surrogate"),
    ],
)
def test_names_that_no_file_and_no_text_can_have(perdure: Run, tmp_path: Path, entry: str, told: str) -> None:
    build = f"build: {{steps: [{{type: pre-built, path: {COUNTER}}}]}}"
    (tmp_path / "icp.yaml").write_text(f"canisters:\n  - name: a\n    {build}\n    {entry}\n")
    assert told in perdure("canister", "install", "a", code=2)[1]


def test_a_time_after_all_clocks(perdure: Run) -> None:
    perdure("canister", "create", "c")
    assert "more than 2^64-1" in perdure("canister", "advance", "99999999999999999999d", code=2)[1]
    assert "where clocks end" in perdure("canister", "advance", "9999999w", code=2)[1]


@pytest.mark.slow
@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_closed_stream_ends_no_command_in_a_traceback(tmp_path: Path, closed: int) -> None:
    def close() -> None:
        os.close(closed)

    command = [sys.executable, "-m", "perdure", "canister", "create", "c"]
    done = subprocess.run(command, cwd=tmp_path, preexec_fn=close, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    with Subnet(tmp_path / ".perdure") as subnet:
        assert len(subnet.canisters) == 1


def test_an_id_that_is_a_text_is_told() -> None:
    with Subnet() as subnet, pytest.raises(TypeError, match=r"Principal\.from_text reads a text"):
        subnet.canister("lxzze-o7777-77777-aaaaa-cai")  # type: ignore[arg-type]


def test_what_reads_a_state_directory_knows_names_and_says_what_is_not_kept(perdure: Run) -> None:
    perdure("canister", "install", "counter", "--wasm", COUNTER)
    assert ".perdure keeps no messages" in perdure("state", "blame", ".perdure:counter", "--heap", "0x100", code=1)[1]
    assert "no canister 'other' in it" in perdure("state", "blame", ".perdure:other", "--heap", "0", code=2)[1]
    assert "keeps no messages" in perdure("stable", "lifecycle", ".perdure:counter")[1]


def test_an_extension_that_nobody_knows_is_told(perdure: Run) -> None:
    told = perdure("canister", "install", "c", "--wasm", COUNTER, "--extension", "memori", code=2)[1]
    assert "no extension is named 'memori'" in told
    assert "Traceback" not in told


def test_an_upgrade_of_motokos_that_keeps_its_heap_is_profiled(perdure: Run) -> None:
    old, new = COUNTER.with_name("motoko_eop_v1.wasm.gz"), COUNTER.with_name("motoko_eop_v2.wasm.gz")
    assert "instructions" in perdure("profile", old, "inc", "--upgrade", new)[0]
    assert "post_upgrade" in perdure("heatmap", old, "inc", "--upgrade", new)[0]


def test_names_of_others_are_told_on_one_line():
    assert meant("?", ["a b", "x\nperdure: all is well"]) == r"expected one of: a b, x\u{a}perdure: all is well"
    assert meant("?", map(str, range(100, 300))).endswith("198, 199 and 100 more")
