"""The life of a variable: what stable.yaml says of it, held against states and histories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from perdure import Subnet
from perdure.cli import perdure
from perdure.inspection.find import find
from perdure.inspection.lifecycle import lives_in_states
from perdure.inspection.open import open_source
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager, StableBTreeMap, types
from perdure.values.schema import MalformedError, parse_schema

MODULES = Path(__file__).parents[1] / "canisters" / "modules"


def run(*words: str) -> Result:
    return CliRunner().invoke(perdure, ["stable", "lifecycle", *words])


@pytest.fixture(scope="module")
def states(tmp_path_factory) -> list[str]:
    """Three states: memory 0 is written, 1 is not, 2 is written once, 3 comes last, 4 goes."""
    directory = tmp_path_factory.mktemp("states")
    made = []
    for month in range(3):
        below = BytesMemory()
        manager = MemoryManager.create(below, bucket_wasm_pages=1)
        written = {0: month, 1: 0, 2: min(month, 1), 3: 0, 4: 0}
        for number, more in written.items():
            if (number == 3 and month < 2) or (number == 4 and month == 2):
                continue
            entries = StableBTreeMap.create(manager.get(number), types.u64, types.u64)
            for key in range(5 + more):
                entries[key] = key
        path = directory / f"month-{month}.bin"
        path.write_bytes(below.data)
        made.append(str(path))
    return made


def test_states_show_what_was_written(states):
    found = {one.label: one for one in lives_in_states([find(open_source(one)) for one in states], None)}
    assert {label: (one.steps, one.seen) for label, one in found.items()} == {
        "0": (("same", "written", "written"), "active"),
        "1": (("same", "same", "same"), "unwritten"),
        "2": (("same", "written", "same"), "active"),
        "3": (("absent", "absent", "new"), "new"),
        "4": (("same", "same", "removed"), "removed"),
    }
    assert all(one.note == "nobody declares it" for label, one in found.items() if label != "4")


JUDGED = [
    ("0: {name: a}", ""),
    ("0: {name: a, state: deprecated}", "!deprecated, and written between month-1.bin and month-2.bin"),
    ("0: {name: a, state: unused}", "!unused, and written between month-1.bin and month-2.bin"),
    ("0: {name: a, state: new}", "in use: declare it as active"),
    ("1: {name: a, state: deprecated}", ""),
    ("1: {name: a, state: retired}", ""),
    ("1: {name: a, state: removed}", "removed, and still there: `perdure stable drop` takes it out"),
    ("2: {name: a, state: deprecated}", "!deprecated, and written between month-0.bin and month-1.bin"),
    ("3: {name: a, state: new}", ""),
    ("3: {name: a, state: active}", ""),
    ("4: {name: a, state: active}", "!active, and gone"),
    ("4: {name: a, state: removed}", ""),
    ("9: {name: a, state: new}", ""),
    ("9: {name: a, state: removed}", ""),
]


@pytest.mark.parametrize(("line", "note"), JUDGED)
def test_what_does_not_fit_the_schema_is_told(states, tmp_path, monkeypatch, line, note):
    monkeypatch.chdir(Path(states[0]).parent)
    schema = tmp_path / "schema.yaml"
    schema.write_text(f"memories: {{{line}}}\n")
    done = run(*(Path(one).name for one in states), "--schema", str(schema), "--json")
    found = {one["memory"]: one for one in json.loads(done.stdout)}[line[0]]
    assert ("!" * found["is_wrong"]) + (found["note"] or "") == note
    assert done.exit_code == note.startswith("!")


def test_a_history_names_who_has_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Subnet(".perdure", history=None) as subnet:
        canister = subnet.install(MODULES / "managed_0_7.wasm.gz")
        for memory_id in (0, 1):
            canister.update("fill", bytes([memory_id]) + (5).to_bytes(8, "little") + bytes(8))
        before = subnet.version
        canister.update("fill", bytes([1]) + (6).to_bytes(8, "little") + bytes(8))
        canister.query("map", bytes([0]))
        source = f".perdure:{canister.id}"
    Path("stable.yaml").write_text("memories: {0: {name: old, state: deprecated}, 1: {name: users}}\n")
    done = run(source, "--json")
    old, users = json.loads(done.stdout)
    assert done.exit_code == 1
    assert old["note"].startswith("deprecated, and written by call fill in version ")
    assert (users["seen"], users["writes"], users["last_write"]["method"]) == ("active", 2, "fill")
    done = run(source, "--since", str(before))
    assert done.exit_code == 0
    assert "unwritten" in done.stdout
    assert f"{users['last_write']['version']}: call fill" in done.stdout


@pytest.mark.parametrize("kind", ["classical", "eop"])
def test_motokos_variables_have_lives_too(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    canister = Subnet().install(MODULES / f"state_{kind}.wasm.gz")
    canister.write_snapshot("january")
    canister.actor().fill(3)
    canister.write_snapshot("february")
    Path("stable.yaml").write_text("variables: {people: {state: deprecated}, list: {}}\n")
    done = run("january", "february", "--json")
    found = {one["memory"]: one for one in json.loads(done.stdout)}
    assert done.exit_code == 1
    assert found["people"]["note"] == "deprecated, and written between january and february"
    assert (found["list"]["seen"], found["list"]["declared"]) == ("unwritten", "active")


def test_the_schema_knows_the_words():
    assert parse_schema("memories: {0: {state: retired}}").of("0").life == "unused"
    assert parse_schema("memories: {0: {state: reserved}}").of("0").life == "new"
    assert parse_schema("variables: {a: {state: retired}}").variables == {"a": "unused"}
    for text in ("variables: 1", "variables: {a: 1}", "variables: {a: {state: old}}", "variables: {a: {kind: vec}}"):
        with pytest.raises(MalformedError, match="variable"):
            parse_schema(f"memories: {{}}\n{text}")
    with pytest.raises(MalformedError, match="unknown state 'old'"):
        parse_schema("memories: {0: {state: old}}")
