"""Campaigns over workers that die, hang, and print where answers go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from perdure.errors import HostError, MalformedError, StorageError
from perdure.fleet import Campaign, Job, Journal, Processes, Row, Summary
from perdure.fleet.command import run
from perdure.fleet.plan import estimate
from perdure.fleet.report import write_parquet


def job(source: str, what: str, file: Path, group: str = "", size_bytes: int = 0) -> Job:
    return Job(source, (what, str(file)), group, size_bytes)


def outcomes(rows: Iterable[Row]) -> dict[str, str]:
    return {row.source: row.outcome for row in rows}


@pytest.mark.slow
def test_what_one_job_meets_ends_that_one_only(tmp_path: Path, work: str) -> None:
    told = {"dies": "die", "hangs": "hang", "prints": "print", **{f"works {one}": "work" for one in range(8)}}
    jobs = [job(source, what, tmp_path / "ids") for source, what in told.items()]
    rows = {row.source: row for row in Campaign(jobs, Processes(work, 2), time_limit_seconds=3).rows()}
    assert {source: row.outcome for source, row in rows.items()} == {
        source: "failed" if what in ("die", "hang") else "fine" for source, what in told.items()
    }
    assert rows["dies"].error == "its worker ended by signal 9: a last word"
    assert rows["hangs"].error == "its time limit of 3 s is over"
    assert rows["hangs"].repro == f"perdure hang {tmp_path}/ids"


@pytest.mark.slow
def test_modules_have_workers_of_their_own_and_large_sources_come_first(tmp_path: Path, work: str) -> None:
    jobs = [
        Job(f"{group}{one}", ("meet", str(tmp_path / group), str(tmp_path / other)), group, one)
        for group, other in ("ab", "ba")
        for one in range(6)
    ]
    assert len(outcomes(Campaign(jobs, Processes(work, 2)).rows())) == 12
    first = {group: (tmp_path / group).read_text().split()[0] for group in "ab"}
    assert first["a"] != first["b"]
    alone = list(Campaign(jobs[:3], Processes(work, 1)).rows())
    assert [row.source for row in alone] == ["a2", "a1", "a0"]


@pytest.mark.slow
def test_whoever_stops_asking_ends_what_is_under_way(tmp_path: Path, work: str) -> None:
    rows = Campaign([job("works", "work", tmp_path / "ids"), job("hangs", "hang", tmp_path)], Processes(work, 2)).rows()
    assert next(rows).source == "works"
    rows.close()  # type: ignore[attr-defined]
    pid = (tmp_path / "ids").read_text().strip()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.slow
def test_workers_that_do_not_start_are_told() -> None:
    with pytest.raises(HostError, match=r"(?s)workers end before they begin: exit code 1: .*no_such_module"):
        list(Campaign([Job("a", ())], Processes("no_such_module:run", 1)).rows())


def test_a_job_that_floods_is_one_that_is_told(tmp_path: Path, work: str) -> None:
    """What it says last is kept, and nothing grows with the rest."""
    (told,) = Campaign([job("a", "flood", tmp_path / "done")], Processes(work, 1), 60).rows()
    assert told.error.startswith("its worker ended by signal 9: xxx")
    assert told.error.endswith("a last word")
    assert len(told.error) < 3_000


@pytest.mark.parametrize(
    ("printed", "said", "words"),
    [
        ((1, 65 << 20), (), "prints more than 64 MiB"),
        ((66, 1 << 20), (), "prints more than 64 MiB"),
        ((), (70, 1 << 20), "yyy"),
        ((1, 65 << 20), (70, 1 << 20), "prints more than 64 MiB"),
    ],
)
def test_what_a_command_prints_is_bounded(
    monkeypatch: pytest.MonkeyPatch, printed: tuple[int, ...], said: tuple[int, ...], words: str
) -> None:
    def main() -> None:
        for stream, sizes, letter in ((sys.stderr, said, "y"), (sys.stdout, printed, "x")):
            if sizes:
                for _ in range(sizes[0]):
                    stream.write(letter * sizes[1])

    monkeypatch.setattr("perdure.fleet.command.named", lambda _: main)
    monkeypatch.setattr("sys.argv", sys.argv)
    answer = json.loads(run(json.dumps({"main": "", "arguments": [], "directory": ""}).encode()))
    assert words in answer["error"]
    assert len(answer["error"]) <= 20_000
    assert len(answer["printed"]) <= 64 << 20


def row(source: str, outcome: str = "fine", mark: str = "") -> Row:
    return Row(source, "", mark, outcome, 0, 2.0, 1.0, "", f"perdure {source}", {})  # type: ignore[arg-type]


def test_a_journal_keeps_whole_rows(tmp_path: Path) -> None:
    with Journal(tmp_path / "out", "fsck", ["--all-values"], resume=False) as journal:
        journal.add(row("a"))
        journal.add(row("b", "failed"))
        journal.add(row("c", mark="1"))
        with pytest.raises(StorageError, match="another process"):
            Journal(tmp_path / "out", "fsck", ["--all-values"], resume=True)
    with (tmp_path / "out" / "rows.jsonl").open("a") as file:
        file.write('{"source": "d", "gro')
    jobs = [Job("a", ()), Job("b", ()), Job("c", (), mark="2"), Job("d", ())]
    with Journal(tmp_path / "out", "fsck", ["--all-values"], resume=True) as journal:
        assert [one.source for one in journal.left(jobs, failed_too=False)] == ["c", "d"]
        assert [one.source for one in journal.left(jobs, failed_too=True)] == ["b", "c", "d"]
        journal.add(row("d"))
    assert [one[:13] for one in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()] == [
        f'{{"source": "{name}"'[:13] for name in "abcd"
    ]


def test_a_journal_is_of_one_campaign(tmp_path: Path) -> None:
    Journal(tmp_path, "fsck", [], resume=False).close()
    with pytest.raises(StorageError, match="--resume goes on with it"):
        Journal(tmp_path, "fsck", [], resume=False)
    with pytest.raises(StorageError, match="has another campaign, fsck; this one is query select 1"):
        Journal(tmp_path, "query", ["select 1"], resume=True)
    (tmp_path / "rows.jsonl").write_text('{"source": 1}\n')
    with pytest.raises(MalformedError, match="no row of a campaign"):
        Journal(tmp_path, "fsck", [], resume=True)
    for text in ("{", "[" * 200_000):
        (tmp_path / "campaign.json").write_text(text)
        with pytest.raises(MalformedError, match=r"campaign\.json"):
            Journal(tmp_path, "fsck", [], resume=True)
    (tmp_path / "campaign.json").unlink()
    (tmp_path / "campaign.json").mkdir()
    with pytest.raises(StorageError, match="directory"):
        Journal(tmp_path, "fsck", [], resume=True)
    (tmp_path / "campaign.json").rmdir()
    with pytest.raises(StorageError, match=r"no campaign\.json"):
        Journal(tmp_path, "fsck", [], resume=True)


@pytest.mark.parametrize(
    "change",
    [
        {"source": [1]},
        {"group": ["x"]},
        {"mark": 4},
        {"outcome": ["fine"]},
        {"outcome": "<b>"},
        {"error": 5},
        {"repro": None},
        {"exit_code": "0"},
        {"exit_code": 1 << 70},
        {"seconds": "x"},
        {"seconds": float("nan")},
        {"processor_seconds": 1 << 2_000},
        {"more": 1},
        {"document": json.loads("[" * 200 + "]" * 200)},
    ],
)
def test_rows_that_somebody_else_wrote_are_rows_or_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(MalformedError, match="no row of a campaign"):
        Row.parse(json.dumps(asdict(row("a")) | change))


@pytest.mark.parametrize(
    "document",
    [
        {"findings": [1, {}, {"code": 1}, {"code": ["x"], "severity": ["x"]}], "verdict": 3},
        {"findings": 1},
        {"found": {"error": ["x"]}},
        [{}],
        [{"a": {}}, {"a": None}],
        [{"a": [{}]}],
        [{"a": {"b": {}}}],
        [{"a\ud800": 1}],
        [{"a": {"b\ud800": "\ud800"}}],
        [{"a": 1 << 70}, {"a": 1.5}, {"a": [1, "x"]}],
        json.loads("[" * 90 + "]" * 90),
    ],
)
def test_reports_are_written_whatever_documents_hold(tmp_path: Path, document: object) -> None:
    one = Row.parse(replace(row("a", "found"), document=document).to_json())
    summary = Summary.of("query", [one], 1)
    assert summary.to_text()
    assert summary.to_html()
    assert json.loads(summary.to_json())["rows"][0]["document"] == document
    write_parquet(summary, tmp_path / "results.parquet", tmp_path / "entries.parquet")
    assert parquet.read_table(tmp_path / "results.parquet").num_rows == 1
    assert parquet.read_table(tmp_path / "entries.parquet").num_rows == (
        sum(isinstance(entry, dict) for entry in document) if isinstance(document, list) else 0
    )


def test_memory_has_what_is_told_of_rows_and_no_more(tmp_path: Path) -> None:
    """Documents are read back from the disk, and each row is as it was."""
    finding = {"code": "lost", "severity": "error", "where": "x" * 100}
    documents: list[object] = [
        [{"n": 1, "name": "x" * 1_000}] * 20_000,
        [{"n": 1.5}, {"n": None, "more": [1]}],
        [{"n": 1 << 60}],
        {"verdict": "breaking", "findings": [finding] * 1_000},
        {"found": {"error": "a story\nof two lines"}},
        None,
    ]
    rows = [replace(row(str(number)), document=document) for number, document in enumerate(documents)]
    with Journal(tmp_path / "out", "query", [], resume=False) as journal:
        for one in rows:
            journal.add(one)
    with Journal(tmp_path / "out", "query", [], resume=True) as journal:
        assert max(len(one.to_json()) for one in journal.rows.values()) < 500
        assert [journal.whole(one) for one in journal.rows.values()] == rows
        assert [one.told for one in journal.rows.values()] == [one.told for one in rows]
        summary = Summary.of("query", list(journal.rows.values()), 6, journal.whole)
        assert summary.to_text() == Summary.of("query", rows, 6).to_text()
        assert json.loads(summary.to_json()) == json.loads(json.dumps(Summary.of("query", rows, 6).to_dict()))
        write_parquet(summary, tmp_path / "results.parquet", tmp_path / "entries.parquet")
    found = parquet.read_table(tmp_path / "entries.parquet")
    assert found.num_rows == 20_003
    assert found.column_names == ["source", "n", "name", "more"]
    # A float cannot be the last of these whole numbers.
    assert found.column("n").to_pylist()[-3:] == ["1.5", None, str(1 << 60)]


def test_numbers_of_two_kinds_are_numbers(tmp_path: Path) -> None:
    rows = [replace(row(str(number)), document=[{"n": n}] * 10_000) for number, n in enumerate((None, 1, 2.5))]
    write_parquet(Summary.of("query", rows, 3), tmp_path / "results.parquet", tmp_path / "entries.parquet")
    assert parquet.read_table(tmp_path / "entries.parquet").column("n").to_pylist()[::10_000] == [None, 1.0, 2.5]


def test_what_failed_is_told_by_the_error_and_not_by_what_is_behind_it() -> None:
    words = "perdure: a.bin: not a memory\n  `perdure explain not-a-memory` says more\n"
    assert replace(row("a", "failed"), error=words).told == "perdure: a.bin: not a memory"
    assert replace(row("a", "failed"), error="its worker ended by\nsignal 9").told == "signal 9"


def test_an_empty_campaign_is_a_report_too() -> None:
    assert json.loads(Summary.of("query", [], 0).to_json())["rows"] == []


def test_a_word_is_the_file_that_came_with_it(tmp_path: Path) -> None:
    (tmp_path / "dump.bin").write_bytes(bytes(65536))
    asked = {"main": "perdure.cli:main", "arguments": ["stable", "fsck", "--json", "--", "nowhere"], "directory": ""}
    for files, code in (({}, 2), ({"nowhere": str(tmp_path / "dump.bin")}, 0)):
        answer = json.loads(run(json.dumps(asked | {"files": files}).encode()))
        assert answer["exit_code"] == code, answer


def test_columns_of_the_same_name_as_the_source_stay(tmp_path: Path) -> None:
    one = replace(row("a"), document=[{"source": 1, "source_": 2, "source__": 3}])
    write_parquet(Summary.of("query", [one], 1), tmp_path / "results.parquet", tmp_path / "entries.parquet")
    assert parquet.read_table(tmp_path / "entries.parquet").to_pylist() == [
        {"source": "a", "source_": 1, "source__": 2, "source___": 3}
    ]


@pytest.mark.parametrize("depth", [101, 100_000])
def test_a_document_that_is_nested_too_deep_is_one_row_that_failed(depth: int) -> None:
    answer = {"exit_code": 0, "printed": "[" * depth + "]" * depth, "error": "", "processor_seconds": 0}
    found = Row.answered(Job("a", ()), json.dumps(answer).encode(), 1.0)
    assert (found.outcome, found.document) == ("failed", None)
    assert Row.parse(found.to_json()) == found


def test_the_gravest_comes_first_and_says_how_to_see_it() -> None:
    summary = Summary.of("fsck", [row("a"), row("c", "not certain"), row("b<i>", "failed"), row("d", "found")], 5)
    assert [one.source for one in summary.rows] == ["d", "b<i>", "c", "a"]
    assert (summary.counts, summary.exit_code) == (dict.fromkeys(("found", "failed", "not certain", "fine"), 1), 1)
    assert "perdure b<i>" in summary.to_text()
    assert "1 not done" in summary.to_text()
    assert "b&lt;i&gt;" in summary.to_html()
    assert Summary.of("fsck", [row("a")], 1).exit_code == 0


def test_an_estimate_follows_what_was_measured() -> None:
    jobs = [Job(str(number), (), group=str(number % 3), size_bytes=1 << 29) for number in range(9)]
    measured = estimate("fsck", jobs, [row("x")], 4, 0.1)
    assert (measured.modules, measured.processor_seconds, measured.seconds) == (3, 18, 4.5)
    assert estimate("fsck", jobs, [], 1, 0.1).processor_seconds > 9 * 0.5


@pytest.mark.parametrize("name", ["new\nline", "\x1b[31mred", "it's\t$(x)\\", "\udcff\udcfe", "\u202eevil"])
def test_a_name_is_one_line_and_its_command_means_it(tmp_path: Path, name: str) -> None:
    """Whoever gives names to sources neither writes lines of the report nor has the command mean something else."""
    one = Job(name, ("fsck", "--json", "--", name), directory=str(tmp_path / name))
    text = Summary.of("fsck", [Row.ended(one, "gone", 1.0)], 1).to_text()
    assert all(line.isprintable() for line in text.splitlines())
    assert len(text.splitlines()) == 4
    (tmp_path / name).mkdir()
    told = tmp_path / "told"
    program = f'perdure() {{ printf \'%s\\0\' "$PWD" "$@" > {told}; }}; {one.repro}'
    subprocess.run(["bash", "-c", program], check=True)
    assert told.read_bytes().split(b"\0")[:-1] == [os.fsencode(f"{tmp_path}/{name}"), b"fsck", b"--", os.fsencode(name)]
