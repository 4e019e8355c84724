"""Proves a stable memory sound, or says what is broken.

Errors are what is unreadable or unsafe: the canister would read wrong entries, panic, or overwrite live ones. Notes are
what released crates do produce and what costs only space. `findings.KINDS_OF_DAMAGE` lists all of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any, Final, final

from perdure.errors import MalformedError, PerdureError, UnsupportedError
from perdure.inspection.find import KIND_OF_MAGIC, KINDS, Inventory, Manager, Structure
from perdure.inspection.findings import Finding, Findings
from perdure.inspection.model_check import check_models
from perdure.inspection.overwritten import lost_manager
from perdure.inspection.rows import KEYED, load_tree, open_table, tree_order
from perdure.inspection.shape import MapShape, map_shape
from perdure.memory import WASM_PAGE_BYTES
from perdure.stable.headers import (
    ArrayHeader,
    CellHeader,
    Fault,
    LogHeader,
    MapHeader,
    check_log_mark,
    magic_of,
    map_reserved,
)
from perdure.stable.layout import (
    ALLOCATOR_ADDRESS,
    ARRAY_LENGTH_ADDRESS,
    DEFAULT_PAGE_BYTES,
    LOG_DATA_MAGIC,
    MANAGER_RESERVED_ADDRESS,
    MANAGER_RESERVED_BYTES,
    MAP_RESERVED_ADDRESS,
    MIN_PAGE_BYTES,
    OWNERS_ADDRESS,
    PAGE_SIZE_ADDRESS,
    U64,
    UNALLOCATED,
    VERSION_ADDRESS,
    bounds_sum,
    end_address,
    size_address,
)
from perdure.stable.region import Region
from perdure.values.format import Format
from perdure.values.plain import RAW
from perdure.values.schema import MemorySchema, Schema

__all__ = ["Report", "fsck"]

SAMPLED_VALUES: Final = 1000
_FOUND_BY_THE_WALK: Final = {"chunk-count", "entry-count", "node-address"}
"""Faults of a map's header that the walk over its nodes finds better."""


@final
@dataclass(frozen=True)
class Report:
    """What `fsck` has to say.

    Attributes:
        findings: errors first, as listed (`Findings` lists the first of each code only).
        counts: how many of each code there are, by memory label.
        facts: what the walk of each map counted, by memory label.
        checked: structures that were looked at.
    """

    findings: tuple[Finding, ...]
    counts: dict[str, dict[str, int]]
    facts: dict[str, Any]
    checked: int

    @property
    def errors(self) -> list[Finding]:
        """The findings that are errors."""
        return [finding for finding in self.findings if finding.severity == "error"]


def fsck(inventory: Inventory, schema: Schema | None = None, *, all_values: bool = False) -> Report:
    """Check everything that was found.

    Args:
        inventory: from `find`.
        schema: what is declared: kinds, key types, states.
        all_values: decode every value with its declared codec, not the first thousand.
    """
    collected = [_check_manager(manager, inventory) for manager in inventory.managers]
    lost = lost_manager(inventory)
    if lost is not None:
        collected.append(Findings("manager"))
        collected[-1].add("manager-overwritten", lost.message, 0, 0)
    facts: dict[str, Any] = {}
    for structure in inventory.structures:
        findings = Findings(structure.label)
        collected.append(findings)
        declared = schema.memories.get(structure.label) if schema else None
        found = _check_structure(structure, schema, findings, all_values)
        if found is not None:
            facts[structure.label] = found
        if schema is not None:
            _check_declared(structure, declared, findings)
    if schema is not None:
        collected.append(_check_missing(inventory, schema))
    collected += check_models(inventory)
    counts: dict[str, Counter[str]] = {}
    for findings in collected:
        if findings.counts:
            counts.setdefault(findings.label, Counter()).update(findings.counts)
    listed = [finding for findings in collected for finding in findings.listed]
    return Report(
        tuple(sorted(listed, key=lambda finding: finding.severity != "error")),
        {label: dict(found) for label, found in counts.items()},
        facts,
        len(inventory.structures),
    )


# The memory manager


def _check_manager(manager: Manager, inventory: Inventory) -> Findings:
    findings = Findings("manager")
    header, base = manager.header, manager.address

    def add(code: str, message: str, address: int) -> None:
        findings.add(code, message, address, base + address)

    for fault in header.faults(inventory.memory.size() - manager.wasm_page):
        add(*fault)
    if any(inventory.memory.read(base + MANAGER_RESERVED_ADDRESS, MANAGER_RESERVED_BYTES)):
        message = f"the {MANAGER_RESERVED_BYTES} reserved bytes are not zero"
        add("manager-reserved", message, MANAGER_RESERVED_ADDRESS)
    for index in header.buckets_of(UNALLOCATED):
        add("manager-bucket-hole", f"bucket {index} belongs to no memory", OWNERS_ADDRESS + index)
    for memory_id, size in enumerate(header.wasm_pages if header.bucket_wasm_pages else ()):
        owned, needed = len(list(header.buckets_of(memory_id))), -(-size // header.bucket_wasm_pages)
        if owned > needed:
            message = f"memory {memory_id} owns {owned} buckets, {needed} would do"
            add("manager-bucket-surplus", message, size_address(memory_id))
    if manager.trouble and not findings.counts:
        add("manager-header", manager.trouble, 0)
    _check_waste(manager, inventory, findings)
    return findings


def _check_waste(manager: Manager, inventory: Inventory, findings: Findings) -> None:
    """A note where more than half of what the buckets take is not in use."""
    set_aside = manager.header.allocated_buckets * manager.header.bucket_bytes
    wasted = sum(structure.wasted_bytes or 0 for structure in inventory.structures)
    if set_aside and 2 * wasted > set_aside:
        buckets = f"{manager.header.allocated_buckets} buckets of {manager.header.bucket_wasm_pages} Wasm pages"
        findings.add("waste", f"{wasted} of {set_aside} bytes in {buckets} are not in use")


# What is declared


def _check_declared(structure: Structure, declared: MemorySchema | None, findings: Findings) -> None:
    if declared is None:
        if structure.kind != "empty":
            findings.add("memory-undeclared", f"a {structure.kind} that stable.yaml does not mention")
        return
    if declared.life == "unused":
        findings.add("memory-retired", f"{declared.state}, still takes {structure.allocated_bytes} bytes")
    elif declared.life == "removed":
        findings.add("memory-removed", f"removed, but takes {structure.allocated_bytes} bytes")
    elif declared.state == "reserved" or (declared.life == "new" and structure.entries):
        findings.add("memory-reserved", f"{declared.state}, but holds a {structure.kind}")
    found = {structure.kind}
    if structure.kind in KEYED:
        found = set(KEYED)  # a set is a map of empty values: the bytes do not tell them apart
    if declared.kind is not None and declared.kind not in found:
        findings.add_in(structure.region, "kind-differs", f"holds a {structure.kind}, declared as {declared.kind}", 0)


def _check_missing(inventory: Inventory, schema: Schema) -> Findings:
    findings = Findings("schema")
    present = {structure.label for structure in inventory.structures}
    present |= {str(structure.data_memory_id) for structure in inventory.structures}
    for label, declared in schema.memories.items():
        if label not in present and declared.state == "active" and declared.kind is not None:
            findings.add("memory-missing", f"memory {label} is declared as {declared.kind}, and has no pages")
    return findings


# Structures


def _check_structure(structure: Structure, schema: Schema | None, findings: Findings, all_values: bool) -> Any:
    """Check one structure; the facts of a map."""
    facts = None
    schema = schema or Schema({})
    declared = schema.of(structure.label)
    key, value = schema.format(declared.key) or RAW, schema.format(declared.value) or RAW
    # What is unknown but begins like a structure is checked as that one: its header is what is broken.
    kind = KIND_OF_MAGIC.get(magic_of(structure.region), "unknown") if structure.kind == "unknown" else structure.kind
    if kind in KEYED:
        facts = _check_map(structure, key, findings)
    elif kind in ("vec", "minheap"):
        _check_array(structure, value, findings)
    elif kind == "cell":
        _check_cell(structure, findings)
    elif kind.startswith("log"):
        _check_log(structure, findings)
    elif kind == "sqlite":
        from perdure.inspection.sqlite_check import check_database  # apsw only where it is needed

        check_database(structure, findings)
    elif kind == "unknown" and structure.label != "page:0":
        findings.add_in(structure.region, "unknown", structure.note, 0)
    if structure.kind in KINDS and not _has_errors(findings) and (key is not RAW or value is not RAW):
        _check_types(structure, key, value, findings, all_values)
    return facts


def _has_errors(findings: Findings) -> bool:
    return any(finding.severity == "error" for finding in findings.listed)


def _add_faults(region: Region, faults: Iterable[Fault], findings: Findings) -> bool:
    """A finding for each fault; whether there was none."""
    listed = list(faults)
    for fault in listed:
        findings.add_in(region, *fault)
    return not listed


def _check_map(structure: Structure, key: Format, findings: Findings) -> Any:
    """The header, then everything below it."""
    from perdure.inspection.tree_check import check_tree  # NumPy only where it is needed

    region = structure.region
    try:
        header = MapHeader.read(region)
        reserved = map_reserved(region)
    except (MalformedError, UnsupportedError) as error:
        _add_refused_map(region, error, findings)
        return None
    if header.version == 2 and header.slots is not None:
        slots = f"{header.slots.key_bytes} and {header.slots.value_bytes}"
        findings.add_in(region, "map-version", f"version 2 with maximum sizes ({slots}) of version 1", VERSION_ADDRESS)
        return None
    if any(reserved):
        message = "reserved bytes of the header are not zero"
        findings.add_in(region, "map-reserved", message, MAP_RESERVED_ADDRESS)
    _add_faults(region, (fault for fault in header.faults(region) if fault.code not in _FOUND_BY_THE_WALK), findings)
    if header.slots is None and header.page_bytes != DEFAULT_PAGE_BYTES and bounds_sum(header.page_bytes) is None:
        findings.add_in(region, "map-page-size-custom", f"a page size of {header.page_bytes}", PAGE_SIZE_ADDRESS)
    if not MIN_PAGE_BYTES <= header.page_bytes <= region.size_bytes:
        return None  # an empty map of large pages has no room for one yet
    shape = structure.shape or map_shape(region, header)
    # Nodes and chunks are looked for where the page size says, whatever the allocator says.
    grid = replace(header, allocator=replace(header.allocator, chunk_bytes=header.page_bytes))
    facts = check_tree(region, grid, _reading(structure, shape, header, key, findings), findings)
    if key.order is not None and key.collation == "other" and not _has_errors(findings):
        _check_other_order(structure, key, findings)
    return facts


def _add_refused_map(region: Region, error: MalformedError | UnsupportedError, findings: Findings) -> None:
    if isinstance(error, UnsupportedError):
        findings.add_in(region, "map-version", str(error), VERSION_ADDRESS)
    elif (error.offset or 0) >= ALLOCATOR_ADDRESS:
        findings.add_in(region, "allocator-header", str(error), error.offset)
    else:
        findings.add_in(region, "map-header", str(error), 0)


def _reading(structure: Structure, shape: MapShape, header: MapHeader, key: Format, findings: Findings) -> Any:
    """How keys are read: as the bytes say, else as declared. A contradiction between the two is an error."""
    from perdure.inspection.tree_check import key_reading

    width, is_known = shape.key_bytes, shape.is_readable
    if key is not RAW:
        if not is_known or key.fixed_bytes in shape.possible:
            width, is_known = key.fixed_bytes, True
        elif key.fixed_bytes != width and not (header.slots and 2 not in shape.node_versions):
            found = "carry a length" if width is None else f"have {width} bytes each"
            findings.add_in(structure.region, "key-type", f"declared as {key.name}, but the keys {found}", header.root)
    if not is_known and header.length:
        findings.add("key-width-unknown", "the bytes admit several readings of the keys, or none")
    reading = key_reading(key, width, is_known)
    return reading if key is not RAW else replace(reading, order=_sampled_order(shape))


def _sampled_order(shape: MapShape) -> str:
    """The order of keys of unknown type: the first that the sample keeps."""
    orders: dict[str, Callable[[bytes], Any]] = {
        "bytes": bytes,
        "size": lambda key: (len(key), key),
        "little": lambda key: key[::-1],
    }
    for name, order in orders.items():
        if all(order(left[0]) < order(right[0]) for node in shape.entries for left, right in pairwise(node)):
            return name
    return "bytes"


def _check_other_order(structure: Structure, key: Format, findings: Findings) -> None:
    """Keys whose order no arithmetic on bytes expresses, one after the other."""
    try:
        tree = load_tree(structure, key)
        order = tree_order(tree)
        for (one_node, one), (node, other) in pairwise(tree.walk()):
            if not order(one_node.keys[one]) < order(node.keys[other]):
                message = f"{node.keys[other].hex()} follows {one_node.keys[one].hex()}"
                findings.add_in(
                    structure.region, "key-order" if key.is_ordered else "key-order-undeclared", message, node.address
                )
    except (PerdureError, ValueError) as error:
        findings.add_in(structure.region, "key-type", f"keys do not decode as {key.name}: {error}", 0)


def _check_types(structure: Structure, key: Format, value: Format, findings: Findings, all_values: bool) -> None:
    """Decode keys and values as declared: the first thousand, or all."""
    schema = Schema({structure.label: MemorySchema(structure.label, key=key, value=value)})
    try:
        table = open_table(structure, schema)
        for at, data in islice(table.entries(), None if all_values else SAMPLED_VALUES):
            place = at.hex() if isinstance(at, bytes) else at
            if key is not RAW and isinstance(at, bytes) and not key.is_valid(at):
                findings.add("key-type", f"key {place} does not decode as {key.name}")
            if value is not RAW and structure.kind != "btreeset" and not value.is_valid(data):
                findings.add("value-type", f"the value of {place} does not decode as {value.name}")
    except (PerdureError, ValueError) as error:
        findings.add("key-type", str(error))


def _check_array(structure: Structure, element: Format, findings: Findings) -> None:
    region = structure.region
    try:
        header = ArrayHeader.read(region, magic_of(region))
    except (MalformedError, UnsupportedError) as error:
        findings.add_in(region, "array-header", str(error), 0)
        return
    if not _add_faults(region, header.faults(region), findings):
        return
    if header.length_bytes:
        _check_elements(region, header, findings)
    elif header.used_bytes > region.size_bytes:
        message = f"{header.length} slots of {header.slot_bytes} bytes reach past the {region.size_bytes} of the memory"
        findings.add_in(region, "array-truncated", message, ARRAY_LENGTH_ADDRESS)
    if structure.kind == "minheap" and not _has_errors(findings):
        _check_heap(structure, element, findings)


def _check_elements(region: Region, header: ArrayHeader, findings: Findings) -> None:
    """The length of each element, against its bound and the end of the memory."""
    prefix, width = header.length_bytes, header.slot_bytes
    for start in range(0, header.length, 1 << 16):
        count = min(1 << 16, header.length - start)
        address = header.slot_address(start)
        block = region.read(address, min(count * width, region.size_bytes - address))
        for place in range(count):
            size = int.from_bytes(block[place * width : place * width + prefix], "little")
            end = address + place * width + prefix + size
            if size > header.max_size or end > region.size_bytes:
                message = f"element {start + place} has {size} bytes, expected at most {header.max_size}"
                findings.add_in(region, "array-element", message, address + place * width)


def _check_heap(structure: Structure, element: Format, findings: Findings) -> None:
    """No element less than its parent, by the declared order, or by bytes."""
    values = [data for _, data in open_table(structure).entries()]
    try:
        ordered = [element.order(data) for data in values] if element.order else values
    except (PerdureError, ValueError) as error:
        findings.add("value-type", f"elements do not decode as {element.name}: {error}")
        return
    code = "heap-order" if element is not RAW and element.is_ordered else "heap-order-undeclared"
    for place in range(1, len(ordered)):
        if ordered[place] < ordered[(place - 1) // 2]:
            findings.add(code, f"element {place} is less than its parent, element {(place - 1) // 2}")


def _check_cell(structure: Structure, findings: Findings) -> None:
    region = structure.region
    try:
        header = CellHeader.read(region)
    except (MalformedError, UnsupportedError) as error:
        findings.add_in(region, "cell-header", str(error), 0)
        return
    _add_faults(region, header.faults(region), findings)


def _check_log(structure: Structure, findings: Findings) -> None:
    region = structure.region
    try:
        if magic_of(region) == LOG_DATA_MAGIC:
            check_log_mark(region, LOG_DATA_MAGIC)
            findings.add_in(region, "log-alone", "the data of a log without its index", 0)
            return
        header = LogHeader.read(region)
    except (MalformedError, UnsupportedError) as error:
        findings.add_in(region, "log-header", str(error), 0)
        return
    if not _add_faults(region, header.index_faults(region), findings):
        return
    _check_offsets(region, header.length, findings)
    if structure.data is None:
        findings.add_in(region, "log-alone", "the index of a log without its data", 0)
    else:
        _add_faults(region, header.data_faults(structure.data), findings)


def _check_offsets(region: Region, entries: int, findings: Findings) -> None:
    """The ends of a log's entries, which must ascend."""
    previous = 0
    for start in range(0, entries, WASM_PAGE_BYTES):
        count = min(WASM_PAGE_BYTES, entries - start)
        ends = U64.iter_unpack(region.read(end_address(start), U64.size * count))
        for index, (end,) in enumerate(ends, start):
            if end < previous:
                message = f"entry {index} ends at {end}, the one before at {previous}"
                findings.add_in(region, "log-offsets", message, end_address(index))
            previous = end
