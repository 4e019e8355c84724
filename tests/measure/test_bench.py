"""`perdure bench` with a canister of ours that canbench-rs has been compiled into."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.candid import encode, parse_types
from perdure.measure.bench import BenchFailedError, Benchmarks
from perdure.measure.canbench_files import Config, parse_results, rendered

GREETING = encode(parse_types("(opt text)"), ("hello",))
NAMES = ["environment", "greets", "grow_heap", "grow_stable", "insert", "nothing", "scopes", "silent", "stable_file"]
RULE = "-" * 51

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def wasm(built: Callable[[str], Path]) -> bytes:
    return built("benches").read_bytes()


@pytest.fixture
def project(tmp_path: Path, wasm: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to run canbench in."""
    (tmp_path / "benches.wasm.gz").write_bytes(wasm)
    (tmp_path / "stable.bin").write_bytes(b"ABCDE")
    (tmp_path / "variables.csv").write_text("COLOUR, blue\nOTHER,a,b\n")
    (tmp_path / "canbench.yml").write_text(
        f"wasm_path: ./benches.wasm.gz\ninit_args:\n  hex: {GREETING.hex()}\n"
        "stable_memory:\n  file: stable.bin\nenv_vars:\n  file: variables.csv\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path


def test_results_are_printed_and_kept(run: Run, project: Path) -> None:
    code, out, err = run("bench", "gr", "--persist", "--csv")
    assert (code, err) == (0, "")
    assert out.startswith(
        f"{RULE}\n\nBenchmark: greets (new)\n  total:\n    instructions: 2104 (new)\n    heap_increase: 0 pages (new)\n"
    )
    assert "|  new   | grow_stable |       |   358 |         |  0 |        |   5 |         |\n" in out
    assert out.endswith(
        f"\n{RULE}\nCSV results saved to canbench_results.csv\nSuccessfully persisted results to canbench_results.yml\n"
    )
    kept = (project / "canbench_results.yml").read_text()
    results = parse_results(kept)
    assert rendered(results.benches, results.version) == kept
    assert list(results.benches) == ["greets", "grow_heap", "grow_stable"]
    assert results.benches["grow_heap"].total.heap_increase == 16
    assert results.benches["grow_stable"].total[1:] == (358, 0, 5)
    assert (project / "canbench_results.csv").read_text().splitlines()[1] == "new,greets,,,,2104,,,0,,,0,,"

    code, out, _ = run("bench", "gr")
    assert code == 0
    assert "    instructions: 358 (no change)\n" in out
    assert "    status:   No significant changes 👍\n" in out
    assert "Only significant changes" not in out


def test_several_at_once_measure_the_same(wasm: bytes, project: Path) -> None:
    config = Config("", init_args=GREETING, stable_memory="stable.bin", env_vars="variables.csv")
    benchmarks = Benchmarks(config, wasm)
    assert benchmarks.names == NAMES
    names = [name for name in NAMES if name != "silent"]
    alone = list(benchmarks.run(names, with_details=True))
    assert list(benchmarks.run(names, jobs=3, with_details=True)) == alone
    scopes = next(one for one in alone if one.name == "scopes").bench.scopes
    assert {name: one.calls for name, one in scopes.items()} == {"a scope: with # signs": 10, "descend": 8, "round": 10}
    insert = next(one for one in alone if one.name == "insert")
    assert insert.details is not None
    assert insert.details.instructions > insert.bench.total.instructions
    assert [(use.memory, use.kind) for use in insert.details.structures][:1] == [("7", "btreemap")]
    assert sum(use.accessed_pages for use in insert.details.structures) == insert.details.stable_accessed_pages
    assert benchmarks.compile_instructions > 6_000 * 10_000


def test_what_fails_is_told_after_what_did_not(run: Run, project: Path) -> None:
    code, out, err = run("bench", "s", "--show-canister-output", "--jobs", "2")
    assert code == 1
    assert err.endswith(
        "Error executing benchmark silent. Error:\n"
        "IC0506: Canister lxzze-o7777-77777-aaaaa-cai did not produce a response\n"
    )
    assert "[Canister lxzze-o7777-77777-aaaaa-cai] greeting: hello\n" in err
    assert "Benchmark: scopes (new)" in out
    assert "Benchmark: silent" not in out
    assert not (project / "canbench_results.yml").exists()


def test_a_benchmark_that_traps(wasm: bytes) -> None:
    benchmarks = Benchmarks(Config(""), wasm)
    with pytest.raises(BenchFailedError, match=r"^Error executing benchmark greets. Error:\nIC0503: .*Panicked"):
        list(benchmarks.run(["greets"]))


def test_flags(run: Run, project: Path) -> None:
    code, out, _ = run("bench", "nothing", "--hide-results", "--runtime-path", "x", "--no-runtime-integrity-check")
    assert (code, out.splitlines()[:3]) == (0, [RULE, "", "Summary:"])
    code, out, _ = run("bench", "nothing", "--less-verbose")
    assert (code, out) == (
        0,
        f"{RULE}\n\nBenchmark: nothing (new)\n  total:\n    instructions: 200 (new)\n    heap_increase: 0 pages (new)\n"
        f"    stable_memory_increase: 0 pages (new)\n\n{RULE}\n",
    )
    assert "Summary:" in run("bench", "nothing", "--less-verbose", "--show-summary")[1]
    assert run("bench", "nothing", "--quiet")[:2] == (0, "")
    (project / "canbench_results.yml").write_text(
        "benches:\n  nothing:\n    total:\n      calls: 1\n      instructions: 210\nversion: 0.6.0\n"
    )
    assert "200 (improved by 4.76%)" in run("bench", "nothing")[1]
    assert "200 (-4.76%) (change within noise threshold)" in run("bench", "nothing", "--noise-threshold", "5.0")[1]


def test_more_goes_to_a_file_of_its_own(run: Run, project: Path) -> None:
    code, out, _ = run(
        "bench", "grow_stable", "--details", "more.json", "--show-details", "--usd-per-trillion-cycles", "2"
    )
    assert code == 0
    assert "Whole messages, 1 T cycles at 2.0 USD (" in out
    found = json.loads((project / "more.json").read_text())
    message = found["benches"]["grow_stable"]["message"]
    assert message["instructions"] > 358
    assert message["cycles"] == 5_000_000 + message["instructions"]
    assert message["usd"] == message["cycles"] / 1e12 * 2
    code, out, _ = run("bench", "grow_stable", "--json", "--usd-per-trillion-cycles", "2")
    assert json.loads(out)["benches"] == found["benches"]


def test_instruction_tracing(run: Run, project: Path) -> None:
    code, out, _ = run("bench", "nothing", "--instruction-tracing", "--less-verbose")
    assert code == 0
    assert out.endswith(
        f"    stable_memory_increase: 0 pages (new)\nInstruction traces written to nothing.svg\n\n{RULE}\n"
    )
    assert "query __canbench__nothing" in (project / "nothing.svg").read_text()


def test_a_plain_module_and_a_build(run: Run, project: Path, wasm: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "canbench.yml").unlink()
    (project / "other.yml").write_text("build_cmd: gunzip benches.wasm.gz\nwasm_path: benches.wasm\n")
    assert gzip.decompress(wasm)[:4] == b"\0asm"
    monkeypatch.setenv("CANBENCH_CFG_FILE", "other.yml")
    assert run("bench", "nothing", "--less-verbose")[0] == 0
    code, _, err = run("bench")
    assert code == 1
    assert err.endswith("build_cmd ended with exit code 1: gunzip benches.wasm.gz\n")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("canbench.yml", None, "configuration file not found: 'canbench.yml'\n"),
        (
            "canbench.yml",
            "wasm_path:\n  ./wasm.wasm",
            "Couldn't read file at ./wasm.wasm. Are you sure the file exists?\n",
        ),
        ("canbench.yml", "wasm_path: stable.bin", "stable.bin is no module that can be run: "),
        ("canbench.yml", "[", "canbench.yml: while parsing"),
        (
            "canbench_results.yml",
            "version: 99.0.0\nbenches: {}\n",
            "canbench is at version 0.6.0 while the results were generated with version 99.0.0. "
            "Please upgrade canbench.\n",
        ),
        ("canbench_results.yml", "nonsense", "canbench_results.yml: the file is 'nonsense'"),
        (
            "stable.bin",
            None,
            "Error reading stable memory file stable.bin\nError: No such file or directory (os error 2)\n",
        ),
        (
            "variables.csv",
            None,
            "Error reading environment variables file variables.csv\nError: No such file or directory (os error 2)\n",
        ),
        (
            "variables.csv",
            "name\n",
            "Invalid line in environment variables file variables.csv: 'name'\n",
        ),
    ],
)
def test_bad_files_are_told(run: Run, project: Path, file: str, content: str | None, said: str) -> None:
    (project / file).unlink(missing_ok=True)
    if content is not None:
        (project / file).write_text(content)
    code, out, err = run("bench", "nothing")
    assert (code, out) == (1, "")
    assert err.startswith(said)
