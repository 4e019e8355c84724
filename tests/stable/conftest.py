"""The vectors written by the real library, and how their operations are replayed."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from perdure.stable import StableBTreeMap

VECTORS = Path(__file__).parent / "vectors"


@pytest.fixture(scope="session")
def vector() -> Callable[[str], bytes]:
    """The unpacked file of that name."""
    return lambda name: gzip.decompress((VECTORS / f"{name}.gz").read_bytes())


def _answer(value: bytes | None) -> str:
    return "N" if value is None else f"S{value.hex()}"


def _apply(mapping: StableBTreeMap, words: list[str]) -> str | None:
    # The operations are those of the crate on encoded keys and values, so they go to the tree below the types.
    tree, operation = mapping._tree, words[0]
    arguments = [bytes.fromhex(word) for word in words[1:]]
    if operation in ("pf", "pl"):
        entry = tree.pop(last=operation == "pl")
        return "N" if entry is None else f"S{entry[0].hex()} {entry[1].hex()}"
    if operation == "range":
        return ",".join(node.keys[index].hex() for node, index in tree.walk(*arguments))
    if operation == "prev":
        keys = list(mapping.iter_from_prev_key(mapping.key_type.decode(arguments[0])))[:5]
        return ",".join(mapping.key_type.encode(key).hex() for key, _ in keys)
    if operation == "c":
        tree.clear()
        return None
    return _answer({"i": tree.insert, "r": tree.remove, "g": tree.find}[operation](*arguments))


@pytest.fixture(scope="session")
def replay() -> Callable[[StableBTreeMap, Iterable[str], int], list[str]]:
    """Replay operations, one a line, on a map; the answers. ``o`` opens the map again, as after an upgrade."""

    def run(mapping: StableBTreeMap, lines: Iterable[str], node_version: int = 2) -> list[str]:
        answers = []
        for line in lines:
            if line == "o":
                mapping = StableBTreeMap.load(
                    mapping.memory, mapping.key_type, mapping.value_type, node_version=node_version
                )
                continue
            answer = _apply(mapping, line.split(" "))
            if answer is not None:
                answers.append(answer)
        return answers

    return run
