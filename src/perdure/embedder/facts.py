"""What is known of a compiled module besides its code, as a value and as bytes for the compile cache."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure.canister import MemoryKind
from perdure.instrument import Count, Counts, PageCharges

if TYPE_CHECKING:
    from perdure.instrument import Instrumented
    from perdure.wasm import Module

__all__ = ["ModuleFacts", "decode_facts", "encode_facts", "facts_of"]


class ModuleFacts(NamedTuple):
    """What an instance needs to know.

    `global_types` and `global_places` have an entry for each saved global; a place in message memory occurs more than
    once where a global is exported more than once. `memories` are those beside heap and stable memory;
    `engine_memories` the names of those that the module itself has, by index; `noted_memories` those of which the
    header says whether they were written, bit by bit. `is_heap_alone`: the canister's own instructions reach the heap
    and no other memory. `profiled`: of code that counts instructions by call path, the names of what it counts beside
    the canister's own functions, by number; empty: it does not. `points`: how many blocks it counts, see
    `perdure.instrument.coverage`.
    """

    is_64: bool
    methods: frozenset[str]
    global_types: tuple[str, ...]
    global_places: tuple[int, ...]
    own_function_count: int
    redirected_imports: tuple[str, ...]
    accounting: bool
    metered: bool
    page_charges: PageCharges | None
    data_segments: tuple[tuple[str, int, bytes], ...]
    custom_sections: Mapping[str, bytes]
    memories: tuple[MemoryKind, ...]
    max_heap_wasm_pages: int | None
    is_heap_alone: bool
    engine_memories: tuple[str, ...]
    noted_memories: tuple[str, ...]
    counts: Counts
    profiled: tuple[tuple[int, str], ...]
    points: int


def facts_of(module: Module, linked: Instrumented, counts: Counts) -> ModuleFacts:
    """The facts of a module that has been linked."""
    from perdure.instrument import SCHEDULES

    return ModuleFacts(
        is_64=linked.is_64,
        methods=linked.methods,
        global_types=tuple(item.val_type.text for item in linked.saved_globals),
        global_places=linked.global_places,
        own_function_count=linked.own_function_count,
        redirected_imports=linked.redirected_imports,
        accounting=linked.options.accounting,
        metered=linked.options.schedule is not None,
        page_charges=SCHEDULES[linked.options.schedule].page_charges if linked.options.schedule else None,
        data_segments=linked.data_segments,
        custom_sections={section.name: section.data for section in reversed(module.custom_sections)},
        memories=(
            *linked.options.memories,
            *(one.kind._replace(max_wasm_pages=one.limits.maximum) for one in linked.plan.own),
        ),
        max_heap_wasm_pages=linked.plan.types[linked.plan.heap].limits.maximum,
        is_heap_alone=not linked.plan.noted and linked.options.accounting,
        engine_memories=linked.plan.names,
        noted_memories=linked.plan.noted,
        counts=counts,
        profiled=linked.profiled,
        points=linked.points,
    )


def encode_facts(facts: ModuleFacts) -> bytes:
    """JSON, its length first (u32, little-endian), then the bytes of data segments and custom sections in order."""
    plain = {
        **facts._asdict(),
        "methods": sorted(facts.methods),
        "data_segments": [(*place, len(data)) for *place, data in facts.data_segments],
        "custom_sections": [(name, len(data)) for name, data in facts.custom_sections.items()],
    }
    text = json.dumps(plain).encode()
    blobs = [data for *_, data in facts.data_segments] + list(facts.custom_sections.values())
    return b"".join((len(text).to_bytes(4, "little"), text, *blobs))


def decode_facts(data: bytes) -> ModuleFacts | None:
    """The inverse of `encode_facts`; `None`: that has not made it, whatever its checksum says."""
    try:
        facts = _decoded(data)
        return facts if encode_facts(facts) == data else None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return None


def _decoded(data: bytes) -> ModuleFacts:
    at = 4 + int.from_bytes(data[:4], "little")
    plain = json.loads(data[4:at])

    def blobs(table: list[list[Any]]) -> list[bytes]:
        nonlocal at
        found = []
        for *_, length in table:
            found.append(data[at : at + length])
            at += length
        return found

    segments = blobs(plain["data_segments"])
    sections = blobs(plain["custom_sections"])
    return ModuleFacts(
        is_64=plain["is_64"],
        methods=frozenset(plain["methods"]),
        global_types=tuple(plain["global_types"]),
        global_places=tuple(plain["global_places"]),
        own_function_count=plain["own_function_count"],
        redirected_imports=tuple(plain["redirected_imports"]),
        accounting=plain["accounting"],
        metered=plain["metered"],
        page_charges=None if plain["page_charges"] is None else PageCharges(*plain["page_charges"]),
        data_segments=tuple(
            (memory, address, blob) for (memory, address, _), blob in zip(plain["data_segments"], segments, strict=True)
        ),
        custom_sections={name: blob for (name, _), blob in zip(plain["custom_sections"], sections, strict=True)},
        memories=tuple(MemoryKind(*kind) for kind in plain["memories"]),
        max_heap_wasm_pages=plain["max_heap_wasm_pages"],
        is_heap_alone=plain["is_heap_alone"],
        engine_memories=tuple(plain["engine_memories"]),
        noted_memories=tuple(plain["noted_memories"]),
        counts=Counts({name: Count(*count) for name, count in plain["counts"][0].items()}, *plain["counts"][1:]),
        profiled=tuple((number, name) for number, name in plain["profiled"]),
        points=plain["points"],
    )
