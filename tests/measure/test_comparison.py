"""What canbench prints, to the byte."""

from __future__ import annotations

from perdure.measure.canbench_files import Bench, Measurement
from perdure.measure.comparison import benchmark_lines, csv_lines, entries, report_lines


def plain(text: str, kind: str) -> str:
    return text


def bench(*totals: int, **scopes: tuple[int, int, int, int]) -> Bench:
    return Bench(Measurement(1, *totals), {name: Measurement(*counts) for name, counts in scopes.items()})


def test_a_benchmark_beside_what_it_was() -> None:
    now = bench(207, 62, 123, inner=(10, 3_390_000, 0, 0), added=(1, 5, 0, 0))
    before = bench(210, 65, 0, inner=(10, 3_540_000, 0, 0))
    assert (
        "\n".join(benchmark_lines("name", now, before, 2.0, plain))
        == """\
Benchmark: name
  total:
    instructions: 207 (-1.43%) (change within noise threshold)
    heap_increase: 62 pages (improved by 4.62%)
    stable_memory_increase: 123 pages (regressed from 0)

  added (scope):
    calls: 1 (new)
    instructions: 5 (new)
    heap_increase: 0 pages (new)
    stable_memory_increase: 0 pages (new)

  inner (scope):
    calls: 10 (no change)
    instructions: 3.39 M (improved by 4.24%)
    heap_increase: 0 pages (no change)
    stable_memory_increase: 0 pages (no change)"""
    )


def test_units_begin_where_canbench_begins_them() -> None:
    counts = [9_999, 10_000, 999_999, 1_000_000, 999_999_999, 10**9, 10**12 - 1, 10**12, 10**16]
    lines = [list(benchmark_lines("b", bench(count, 0, 0), None, 2.0, plain))[2] for count in counts]
    assert [line.removeprefix("    instructions: ").removesuffix(" (new)") for line in lines] == [
        "9999", "10.00 K", "1000.00 K", "1.00 M", "1000.00 M", "1.00 B", "1000.00 B", "1.00 T", "10000.00 T",
    ]  # fmt: skip


def test_a_summary_and_its_table() -> None:
    now = {"up": bench(207, 0, 0), "down": bench(207, 0, 0, in_it=(3, 50, 0, 0)), "new": bench(5_000, 1, 0)}
    before = {"up": bench(10, 0, 0), "down": bench(3_100, 0, 0, in_it=(3, 50, 0, 0))}
    assert (
        "\n".join(report_lines(entries(now, before), 2.0))
        == """
Summary:
  instructions:
    status:   Regressions, improvements, and new benchmarks 🔴🟢➕
    counts:   [total 3 | regressed 1 | improved 1 | new 1 | unchanged 0]
    change:   [max +197 | p75 -576 | median -1.35K | p25 -2.12K | min -2.89K]
    change %: [max +1970.00% | p75 +1454.17% | median +938.34% | p25 +422.51% | min -93.32%]

  heap_increase:
    status:   New benchmarks added ➕
    counts:   [total 3 | regressed 0 | improved 0 | new 1 | unchanged 2]
    change:   [max 0 | p75 0 | median 0 | p25 0 | min 0]
    change %: [max 0.00% | p75 0.00% | median 0.00% | p25 0.00% | min 0.00%]

  stable_memory_increase:
    status:   New benchmarks added ➕
    counts:   [total 3 | regressed 0 | improved 0 | new 1 | unchanged 2]
    change:   [max 0 | p75 0 | median 0 | p25 0 | min 0]
    change %: [max 0.00% | p75 0.00% | median 0.00% | p25 0.00% | min 0.00%]

---------------------------------------------------

Only significant changes:
| status | name | calls |   ins |    ins Δ% | HI |  HI Δ% | SMI |  SMI Δ% |
|--------|------|-------|-------|-----------|----|--------|-----|---------|
|   +    | up   |       |   207 | +1970.00% |  0 |  0.00% |   0 |   0.00% |
|   -    | down |       |   207 |   -93.32% |  0 |  0.00% |   0 |   0.00% |
|  new   | new  |       | 5.00K |           |  1 |        |   0 |         |

ins = instructions, HI = heap_increase, SMI = stable_memory_increase, Δ% = percent change

---------------------------------------------------"""
    )


def test_a_long_table_is_cut_in_its_middle() -> None:
    now = {f"b{number:02}": bench(number, 0, 0) for number in range(52)}
    lines = list(report_lines(entries(now, {}), 2.0))
    rows = [line for line in lines if line.startswith("|")][2:]
    assert len(rows) == 51
    assert rows[25] == "|  ...   | ... 2 rows omitted ... |       |     |         |    |        |     |         |"
    assert "b24" in rows[24]
    assert "b27" in rows[26]
    assert next(line for line in lines if "change:" in line) == "    change:   n/a"


def test_csv() -> None:
    now = {
        "a": bench(11_000_000, 0, 0),
        "inf": bench(10, 0, 0, my_scope=(100, 10_000_000, 0, 0)),
        "zero": bench(0, 0, 0),
        "other": bench(1, 2, 3),
    }
    before = {
        "a": bench(10_000_000, 0, 1),
        "inf": bench(0, 0, 0, my_scope=(50, 9_000_000, 0, 0)),
        "zero": bench(10_000_000, 0, 0),
    }
    assert (
        "\n".join(csv_lines(entries(now, before)))
        == """\
status,name,scope_calls,scope_calls Δ,scope_calls Δ%,instructions,instructions Δ,instructions Δ%,\
heap_increase,heap_increase Δ,heap_increase Δ%,stable_memory_increase,stable_memory_increase Δ,\
stable_memory_increase Δ%
,a,,,,11000000,1000000,10.00%,0,0,0.00%,0,-1,-100.00%
,inf,,,,10,10,1.0E99,0,0,0.00%,0,0,0.00%
,inf::my_scope,100,50,100.00%,10000000,1000000,11.11%,0,0,0.00%,0,0,0.00%
new,other,,,,1,,,2,,,3,,
,zero,,,,0,-10000000,-100.00%,0,0,0.00%,0,0,0.00%"""
    )
