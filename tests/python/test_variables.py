"""What a class declares, as it is kept and as those read it who do not have the class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from perdure import MalformedError, Principal
from perdure.kit import canister, nat32, nat64, stable
from perdure.python.variables import Schema
from perdure.stable import StableBTreeMap, StableBTreeSet, StableCell, StableLog, StableMinHeap, StableVec
from perdure.values.format import Format


@dataclass
class Tree:
    children: list[Tree]


class Own(Format):
    name = "of its own"

    def decode(self, data: bytes) -> Any:
        return data

    def encode(self, value: Any) -> bytes:
        return bytes(value)


@canister
class Many:
    trees: StableBTreeMap[tuple[nat32, Principal], Tree]
    names: StableBTreeSet[str]
    log: StableLog[bytes]
    owner: StableCell[Principal | None] = stable(default=None)
    queue: StableMinHeap[nat64]
    own: StableVec[Annotated[bytes, Own()]] = stable(9)


SCHEMA: Schema = Many.__canister_module__().declares  # type: ignore[attr-defined]


def test_there_and_back() -> None:
    assert Schema.decode(SCHEMA.encode()) == SCHEMA
    assert [one.memory_ids for one in SCHEMA.variables] == [(0,), (1,), (2, 3), (4,), (5,), (9,)]
    assert SCHEMA.place == f"{__name__}:Many"
    assert not Schema.decode(b"").is_known


@pytest.mark.parametrize("cut", range(1, 60, 3))
def test_what_is_none(cut: int) -> None:
    with pytest.raises(MalformedError):
        Schema.decode(SCHEMA.encode()[:cut])


def test_as_a_schema_of_memories() -> None:
    found = SCHEMA.memories()
    kinds = {one.name: (label, one.kind, one.data) for label, one in found.memories.items()}
    assert kinds == {
        "trees": ("0", "btreemap", None),
        "names": ("1", "btreeset", None),
        "log": ("2", "log", 3),
        "owner": ("4", "cell", None),
        "queue": ("5", "minheap", None),
        "own": ("9", "vec", None),
    }
    trees = found.of("0")
    assert found.format(trees.key).name == "(u32, Principal)"  # type: ignore[union-attr]
    tree = found.format(trees.value)
    assert tree is not None
    assert tree.decode(tree.encode({"children": []})) == {"children": []}
    assert found.of("9").value is None  # a format of one program's own
