"""canbench's files, to the byte."""

from __future__ import annotations

import pytest

from perdure.errors import MalformedError
from perdure.measure.canbench_files import Bench, Measurement, parse_config, parse_results, rendered

WRITTEN = """\
benches:
  'null':
    total:
      calls: 1
      instructions: 841
      heap_increase: 2
      stable_memory_increase: 3
    scopes: {}
  yes:
    total:
      calls: 1
      instructions: 18446744073709551615
      heap_increase: 0
      stable_memory_increase: 0
    scopes:
      'a: b #c':
        calls: 4
        instructions: 5
        heap_increase: 6
        stable_memory_increase: 7
      "tab\\tin":
        calls: 0
        instructions: 0
        heap_increase: 0
        stable_memory_increase: 0
      zürich:
        calls: 0
        instructions: 0
        heap_increase: 0
        stable_memory_increase: 0
version: 0.6.0
"""


def test_what_is_read_is_written_again() -> None:
    found = parse_results(WRITTEN)
    assert list(found.benches) == ["null", "yes"]
    assert found.benches["yes"].scopes["a: b #c"] == Measurement(4, 5, 6, 7)
    assert rendered(found.benches, found.version) == WRITTEN
    assert rendered({}) == "benches: {}\nversion: 0.6.0\n"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        *((text, f"'{text}'") for text in ("", "~", "true", "0x1f", "0o17", "0b1", "007", "1e5", ".5", "-.inf", "12")),
        *((text, text) for text in ("yes", "no", "y", "on", "1e999", "0xg", "a b", "a'b", "-a", "b#c", "inf", "1_000")),
        *(
            (text, f"'{text}'")
            for text in ("- a", " a", "a ", "a: b", "a #b", "[a", "{a", "*a", "&a", "!a", "%a", "@a")
        ),
        ("'a", "'''a'"),
    ],
)
def test_names_have_quotes_where_serde_yaml_gives_them(name: str, shown: str) -> None:
    text = rendered({name: Bench(Measurement(), {})})
    assert text.splitlines()[1] == f"  {shown}:"
    assert list(parse_results(text).benches) == [name]


def test_the_order_is_that_of_the_bytes() -> None:
    names = ["b", "B", "a_", "a", "é", "\U0001f600", "\ue000"]
    text = rendered({name: Bench(Measurement(), {}) for name in names})
    assert [line[2:-1] for line in text.splitlines() if line.startswith("  ") and line[2] != " "] == [
        "B", "a", "a_", "b", "é", "\ue000", "\U0001f600",
    ]  # fmt: skip


def test_what_older_versions_do_not_say_is_zero() -> None:
    text = "benches:\n  a:\n    total:\n      instructions: 7\n      heap_delta: 3\nversion: 0.1.15\n"
    assert parse_results(text).benches == {"a": Bench(Measurement(0, 7, 0, 0), {})}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("benches: {}\nversion: 99.0.0\n", "canbench is at version 0.6.0 while the results were generated with 99.0.0"),
        ("benches: {}\nversion: newest\n", "version is 'newest'"),
        ("version: 0.6.0\n", "benches is None"),
        ("benches:\n  a: 3\nversion: 0.6.0\n", "benchmark 'a' is '3'"),
        ("benches:\n  [a]: {}\nversion: 0.6.0\n", ""),
        ("benches:\n  a:\n    total:\n      calls: -1\nversion: 0.6.0\n", "calls in the total of 'a' is '-1'"),
        ("benches:\n  a:\n    scopes: {}\nversion: 0.6.0\n", "the total of 'a' is None"),
        ("[" * 5_000, ""),
        ("benches: !!python/object:os.system []\nversion: 0.6.0\n", "benches is []"),
    ],
)
def test_bad_results_are_told(text: str, said: str) -> None:
    with pytest.raises(MalformedError) as error:
        parse_results(text)
    assert said.replace("generated with 99", "generated with version 99") in str(error.value)


def test_a_configuration_may_have_all_keys() -> None:
    config = parse_config(
        "build_cmd: cargo build\nwasm_path:\n  ./a.wasm\nresults_path: r.yml\ncsv_results_path: r.csv\n"
        "init_args:\n  hex: 4449444c\nstable_memory:\n  file: s.bin\nenv_vars:\n  file: e.csv\nsomething: else\n"
    )
    assert (config.build_cmd, config.wasm_path, config.init_args) == ("cargo build", "./a.wasm", b"DIDL")
    assert (config.results_path, config.csv_results_path) == ("r.yml", "r.csv")
    assert (config.stable_memory, config.env_vars) == ("s.bin", "e.csv")
    assert parse_config("wasm_path: a").results_path == "canbench_results.yml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is None"),
        ("build_cmd: x", "wasm_path is missing"),
        ("wasm_path: [a]", "wasm_path is ['a']"),
        ("wasm_path: a\ninit_args:\n  hex: xyz", "init_args.hex is not hexadecimal: 'xyz'"),
        ("wasm_path: a\nstable_memory: s.bin", "stable_memory is 's.bin'"),
        ("wasm_path: a\nenv_vars: {}", "env_vars has no file"),
        ("wasm_path: a\nwasm_path: b", "given twice"),
    ],
)
def test_a_bad_configuration_is_told(text: str, said: str) -> None:
    with pytest.raises(MalformedError) as error:
        parse_config(text)
    assert said in str(error.value)
