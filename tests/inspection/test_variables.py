"""Motoko's stable variables through `perdure stable`: of snapshots, state directories, dumps; both persistences."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click import BadParameter
from click.testing import CliRunner

from perdure import Subnet
from perdure.candid.types import Some
from perdure.cli import perdure
from perdure.errors import UnsupportedError
from perdure.inspection.labels import ModuleLabels
from perdure.inspection.motoko import gathered
from perdure.inspection.variables import NO_VARIABLES, Variables
from perdure.values.motoko_reading import Reference, RegionValue
from perdure.values.motoko_state import MotokoState
from perdure.values.show import json_text, to_json

MODULES = Path(__file__).parents[1] / "canisters" / "modules"


def run(*words: object) -> str:
    done = CliRunner().invoke(perdure, ["stable", *map(str, words)], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.fixture(scope="module", params=["classical", "eop"])
def states(request, tmp_path_factory) -> tuple[str, Path]:
    """The kind of persistence; a snapshot, a later one, a state directory, a dump of what is read, and the module."""
    directory = tmp_path_factory.mktemp(request.param)
    module = MODULES / f"state_{request.param}.wasm.gz"
    with Subnet(directory / "state") as subnet:
        canister = subnet.install(module)
        canister.actor().regions()
        canister.actor().fill(5)
        canister.write_snapshot(directory / "before")
        memories = gathered(subnet.fork().canister(canister.id)).memories
        memory = memories["stable" if request.param == "classical" else "heap"]
        (directory / "dump.bin").write_bytes(memory.read(0, memory.size() << 16))
        assert canister.stable_variables().values["people"][4] == {"name": "person 4", "age": 4}
        canister.actor().fill(6)
        canister.actor().grow(2)
        canister.write_snapshot(directory / "after")
    return request.param, directory


def test_ls_shows_names_and_types(states):
    _, directory = states
    found = json.loads(run("ls", directory / "before", "--json"))
    types = {one["name"]: one["type"] for one in found["variables"]}
    assert types["people"] == "[{age : Nat; name : Text}]"
    assert types["maybe"] == "[?Bool]"
    assert len(types) >= 41
    assert found["note"] is None
    assert "people    [{age : Nat; name : Text}]" in run("ls", directory / "before")
    assert "people" in run("ls", directory / "before", "--quiet").split()


def test_rows_and_get_read_values(states):
    kind, directory = states
    before = directory / "before"
    assert json.loads(run("rows", before, "people", "--from", 1, "--to", 3, "--reverse", "--json")) == [
        {"position": at, "age": at, "name": f"person {at}"} for at in (3, 2, 1)
    ]
    assert [row["value"] for row in json.loads(run("rows", before, "list", "--json"))] == [1, 2]
    assert json.loads(run("get", before, "rec", "--json")) == {"a": 1, "m": "mut"}
    assert json.loads(run("get", before, "people", 4, "--json"))["name"] == "person 4"
    assert json.loads(run("get", before, "reg", "--json")) == {"value": {"region": 16, "wasm_pages": 2}}
    assert json.loads(run("get", before, "small", 0, "--json"))["value"] == [-3]
    ring = json.loads(run("get", before, "ring", "--json"))
    loop = {"reference": 3} if kind == "classical" else {"reference": 2}
    assert ring["next"] == ({"v": 1, "next": loop} if kind == "classical" else loop)
    table = csv.reader(io.StringIO(run("rows", before, "people", "--csv")))
    assert next(table) == ["position", "age", "name"]
    with pytest.raises(UnsupportedError, match=r"no structure 'peopl' here, found .*people"):
        run("rows", before, "peopl")
    with pytest.raises(UnsupportedError, match="has one row and no positions"):
        run("rows", before, "n", "--from", 1)
    with pytest.raises(BadParameter, match="'x' is no integer, and rows of people go by their position"):
        run("get", before, "people", "x")
    with pytest.raises(UnsupportedError, match="-1 is no position in people"):
        run("get", before, "people", "--", "-1")


def test_a_state_directory_and_a_dump_say_the_same(states):
    _, directory = states
    wanted = run("rows", directory / "after", "people", "--json")
    with Subnet.read(directory / "state") as subnet:
        (canister,) = subnet.canisters
        assert run("rows", f"{directory / 'state'}:{canister.id}", "people", "--json") == wanted
        module = directory / "after" / "wasm_module.bin"
        types = directory / "types.most"
        types.write_text(ModuleLabels(module.read_bytes).stable_types() or "")
    for named in (module, types):
        told = json.loads(run("rows", directory / "dump.bin", "people", "--json", "--module", named))
        assert [row["name"] for row in told] == [f"person {at}" for at in range(5)]


def test_query_joins_variables(states):
    _, directory = states
    sql = "select p.name, l.value from people p join list l on l.position = p.position where p.age > 0"
    assert json.loads(run("query", directory / "before", sql, "--json")) == [{"name": "person 1", "value": 2}]


def test_diff_finds_what_changed(states):
    _, directory = states
    done = CliRunner().invoke(
        perdure, ["stable", "diff", str(directory / "before"), str(directory / "after"), "--json"]
    )
    assert done.exit_code == 1
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert {name for name, one in found.items() if one["status"] == "changed"} >= {"list", "people"}
    assert found["people"]["changes"] == [
        {"what": "added", "position": 5, "before": None, "after": {"age": 5, "name": "person 5"}}
    ]
    assert found["arr"]["status"] == "same"


def test_export_writes_tables(states, tmp_path):
    _, directory = states
    written = json.loads(run("export", directory / "before", "-o", tmp_path / "all.db", "--json"))
    assert (written["people"], written["rec"]) == (5, 1)
    with closing(sqlite3.connect(tmp_path / "all.db")) as database:
        assert database.execute("select age, name from people where position = 2").fetchall() == [(2, "person 2")]
    run("export", directory / "before", "bools", "tup", "tree", "-o", tmp_path, "--format", "parquet")
    assert pq.read_table(tmp_path / "bools.parquet").to_pydict() == {"position": [0, 1], "value": [True, False]}
    assert pq.read_table(tmp_path / "tup.parquet").to_pydict() == {"part_0": ["1"], "part_1": ["one"]}
    assert pq.read_table(tmp_path / "tree.parquet").num_rows == 1
    assert "create table people (position" in run("schema", directory / "before")


def test_a_canister_of_another_language_has_none():
    assert NO_VARIABLES.tables() == []
    with pytest.raises(UnsupportedError, match="no stable variables of Motoko"):
        assert NO_VARIABLES.state


def test_lists_and_references_as_tables():
    deep = None
    for number in range(20_000):
        deep = ({"a": number}, deep)
    values = {"l": deep, "again": [Reference(0), {"a": 1, "b": "x"}], "pairs": [(1, "one"), Reference(4)]}
    text = "type L = ?({a : Nat}, L); actor { stable l : L; stable again : [{var a : Nat; b : Text}]; "
    text += "stable pairs : [(Nat, Text)] }"
    variables = Variables(lambda: text, lambda types: MotokoState(values, types, 0, 0, 0))
    again, long, pairs = variables.tables()
    assert (long.columns, long.count()) == (("position", "a"), 20_000)
    assert list(long.rows(1, 2, reverse=True)) == [(2, 19_997), (1, 19_998)]
    assert (again.columns, list(again.rows())) == (("position", "a", "b"), [(0, Reference(0), None), (1, 1, "x")])
    assert list(pairs.rows()) == [(0, 1, "one"), (1, Reference(4), None)]


def test_what_only_motoko_has_is_shown():
    assert to_json([Some(None), Reference(2), RegionValue(16, 3)]) == [
        [None],
        {"reference": 2},
        {"region": 16, "wasm_pages": 3},
    ]
    assert json_text({"a": Some(Some(1))}) == '{"a": [[1]]}'
