"""Blocks are numbered alike by whoever links and by whoever reads what was counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perdure.instrument import Options, instrument
from perdure.instrument.counted import COUNTER_BYTES, COUNTERS, LOST, NODE
from perdure.instrument.coverage import block_starts
from perdure.wasm import decode, instructions, locals_end

ROOT = Path(__file__).parents[2]
HASHES = json.loads((ROOT / "tests/canisters/hashes.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["branches", "kv32", "kv64", "universal64", "globals"])
@pytest.mark.parametrize("profile", [False, True])
def test_a_number_for_each_block(name: str, profile: bool) -> None:
    module = decode((ROOT / HASHES[name]["file"]).read_bytes())
    linked = instrument(module, Options(coverage=True, profile=profile))
    starts = block_starts(module, "2025")
    assert linked.points == sum(map(len, starts))
    accounting = linked.module.memories[linked.plan.accounting]
    assert accounting.limits.minimum << 16 >= COUNTERS + linked.points * COUNTER_BYTES
    for code, blocks in zip(module.codes, starts, strict=True):
        begins = {one.start for one in instructions(code.body, locals_end(code.body))}
        assert blocks[0] == locals_end(code.body)
        assert blocks == sorted(set(blocks))
        assert begins.issuperset(blocks)


def test_counters_lie_behind_the_tree_of_a_profile() -> None:
    assert LOST + NODE.size < COUNTERS


def test_without_a_meter_nothing_is_counted() -> None:
    module = decode((ROOT / HASHES["branches"]["file"]).read_bytes())
    assert instrument(module, Options(coverage=True, schedule=None)).points == 0
    plain = instrument(module, Options())
    assert plain.points == 0
    assert plain.module.codes == instrument(module, Options(coverage=False)).module.codes
