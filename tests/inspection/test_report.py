"""The shapes of JSON: what is there, under which names, and that JSON takes it."""

from __future__ import annotations

import json

from perdure.inspection.diff import diff
from perdure.inspection.fsck import fsck
from perdure.inspection.infer import draft
from perdure.inspection.report import diff_json, draft_json, inventory_json, record_of, report_json
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager, StableBTreeMap, types
from perdure.values.schema import parse_schema

WIDTH = {"max_bytes", "is_fixed", "is_unbounded", "seen_bytes"}
STRUCTURE = {
    *("memory", "name", "kind", "version", "entries", "key", "value", "wasm_pages", "used_bytes", "allocated_bytes"),
    *("wasted_bytes", "address", "data_memory", "note"),
}


def test_a_label_is_a_memory_everywhere():
    class Found:
        def __init__(self):
            self.label, self.what = "3", "x"

    assert record_of(Found()) == {"memory": "3", "what": "x"}


def test_an_inventory(look, every_structure):
    found = look(every_structure)
    shape = json.loads(json.dumps(inventory_json(found)))
    assert set(shape) == {"source", "wasm_pages", "managers", "lost_manager", "structures", "variables"}
    assert [one["memory"] for one in shape["structures"]] == [one.label for one in found.structures]
    for structure in shape["structures"]:
        assert set(structure) == STRUCTURE
        for side in ("key", "value"):
            assert structure[side] is None or set(structure[side]) == WIDTH
    trees = inventory_json(found, {found.structures[0].label: {"depth": 1}})["structures"]
    assert [one["tree"] for one in trees] == [{"depth": 1}, *[None] * (len(trees) - 1)]


def test_a_check(look, every_structure):
    sound = fsck(look(every_structure))
    damaged = fsck(look(every_structure.replace(b"BTN\1", b"BTX\1", 1).replace(b"BTN\2", b"BTX\2", 1)))
    for report in (sound, damaged):
        shape = json.loads(json.dumps(report_json(report)))
        assert set(shape) == {"errors", "checked", "counts", "findings", "trees"}
        assert shape["errors"] == len(report.errors)
        for finding in shape["findings"]:
            assert {"memory", "severity", "advice"} <= set(finding)
    assert not sound.errors
    assert damaged.errors


def test_a_difference_and_its_limit(look, schema_text, every_structure):
    """Values by the names of the schema's columns, under the side that has them."""
    memory = BytesMemory(every_structure)
    names = StableBTreeMap.load(MemoryManager.load(memory).get(1), types.u64, types.text)
    names[0], names[1] = "another", "one more"
    before, after = look(every_structure), look(memory.read(0, memory.size() << 16))
    (found,) = [one for one in diff(before, after, parse_schema(schema_text)) if one.status != "same"]
    shape = json.loads(json.dumps(diff_json(found, 1)))
    assert (shape["memory"], shape["changed"], len(shape["changes"])) == (found.label, 2, 1)
    assert set(shape["pages"]) == {"all", "compared", "changed"}
    (change,) = shape["changes"]
    assert change["what"] == "changed"
    assert list(change["after"].values()) == ["another"]
    assert len(json.loads(json.dumps(diff_json(found, 0)))["changes"]) == 2


def test_a_draft(look, every_structure):
    for found in draft(look(every_structure)):
        shape = json.loads(json.dumps(draft_json(found), default=str))
        assert {"memory", "sampled", "key_guesses", "value_guesses"} <= set(shape)
