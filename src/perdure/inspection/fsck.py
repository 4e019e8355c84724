"""Proves a stable memory sound, or says what is broken.

Errors are what is unreadable or unsafe: the canister would read wrong entries, panic, or overwrite live ones. Notes are
what released crates do produce and what costs only space. `findings.KINDS_OF_DAMAGE` lists all of it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any, Final, final

from perdure.errors import MalformedError, PerdureError, UnsupportedError
from perdure.inspection.codec import RAW, Codec, codec
from perdure.inspection.find import (
    KINDS,
    LOG_DATA_ADDRESS,
    LOG_INDEX_ADDRESS,
    VEC_DATA_ADDRESS,
    VEC_HEADER,
    Inventory,
    Manager,
    Structure,
    slot_bytes,
)
from perdure.inspection.findings import Finding, Findings
from perdure.inspection.region import Region
from perdure.inspection.schema import MemorySchema, Schema
from perdure.inspection.shape import MapShape, bounds_sum, map_shape
from perdure.inspection.table import KEYED, load_tree, open_table, tree_order
from perdure.memory import WASM_PAGE_BYTES
from perdure.stable.btree import DEFAULT_PAGE_BYTES, MIN_PAGE_BYTES, MapHeader
from perdure.stable.memory_manager import MAX_BUCKETS

__all__ = ["Report", "fsck"]

SAMPLED_VALUES: Final = 1000
_MAGIC_KINDS: Final = {b"BTR": "map", b"SVC": "vec", b"SMH": "minheap", b"SCL": "cell", b"GLI": "log", b"GLD": "log"}
_OWNERS_ADDRESS: Final = 2080
_SIZES_ADDRESS: Final = 40


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
    facts: dict[str, Any] = {}
    for structure in inventory.structures:
        findings = Findings(structure.label)
        collected.append(findings)
        declared = schema.memories.get(structure.label) if schema else None
        found = _check_structure(structure, declared, findings, all_values)
        if found is not None:
            facts[structure.label] = found
        if schema is not None:
            _check_declared(structure, declared, findings)
    if schema is not None:
        collected.append(_check_missing(inventory, schema))
    listed = [finding for findings in collected for finding in findings.listed]
    return Report(
        tuple(sorted(listed, key=lambda finding: finding.severity != "error")),
        {findings.label: dict(findings.counts) for findings in collected if findings.counts},
        facts,
        len(inventory.structures),
    )


# The memory manager


def _check_manager(manager: Manager, inventory: Inventory) -> Findings:
    findings = Findings("manager")
    header, base = manager.header, manager.address

    def add(code: str, message: str, address: int) -> None:
        findings.add(code, message, address, base + address)

    allocated, per_bucket = header.allocated_buckets, header.bucket_wasm_pages
    if per_bucket == 0:
        add("manager-bucket-size", "buckets of 0 Wasm pages", 6)
    if allocated > MAX_BUCKETS:
        add("manager-bucket-count", f"{allocated} buckets allocated, expected at most {MAX_BUCKETS}", 4)
    wasm_pages = inventory.memory.size() - manager.wasm_page
    if 1 + allocated * per_bucket > wasm_pages:
        add(
            "manager-truncated",
            f"{allocated} buckets of {per_bucket} Wasm pages in a memory of {wasm_pages}",
            4,
        )
    if any(inventory.memory.read(base + 8, 32)):
        add("manager-reserved", "the 32 reserved bytes are not zero", 8)
    for index in _owned_beyond(header.owners, allocated):
        message = f"bucket {index} belongs to memory {header.owners[index]}, only {allocated} are allocated"
        add("manager-owner-beyond", message, _OWNERS_ADDRESS + index)
    for index in _indexes(header.owners[:allocated], 255):
        add("manager-bucket-hole", f"bucket {index} belongs to no memory", _OWNERS_ADDRESS + index)
    for memory_id, size in enumerate(header.wasm_pages):
        owned = header.owners[:allocated].count(memory_id)
        needed = -(-size // per_bucket) if per_bucket else 0
        if size and owned < needed:
            message = f"memory {memory_id} has {size} Wasm pages and {owned} buckets, expected {needed}"
            add("manager-memory-size", message, _SIZES_ADDRESS + 8 * memory_id)
        elif owned > needed and per_bucket:
            message = f"memory {memory_id} owns {owned} buckets, {needed} would do"
            add("manager-bucket-surplus", message, _SIZES_ADDRESS + 8 * memory_id)
    if manager.trouble and not findings.counts:
        add("manager-header", manager.trouble, 0)
    _check_waste(manager, inventory, findings)
    return findings


def _owned_beyond(owners: bytes, allocated: int) -> Iterator[int]:
    beyond = owners[allocated:]
    return (
        (allocated + index for index, owner in enumerate(beyond) if owner != 255) if beyond.strip(b"\xff") else iter(())
    )


def _indexes(data: bytes, byte: int) -> Iterator[int]:
    index = data.find(byte)
    while index >= 0:
        yield index
        index = data.find(byte, index + 1)


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
    if declared.state == "retired":
        findings.add("memory-retired", f"retired, still takes {structure.allocated_bytes} bytes")
    elif declared.state == "reserved":
        findings.add("memory-reserved", f"reserved, but holds a {structure.kind}")
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


def _check_structure(structure: Structure, declared: MemorySchema | None, findings: Findings, all_values: bool) -> Any:
    """Check one structure; the facts of a map."""
    facts = None
    key = codec(declared.key) if declared and declared.key else RAW
    value = codec(declared.value) if declared and declared.value else RAW
    head = _read(structure.region, 0, 3)
    if structure.kind in KEYED or (structure.kind == "unknown" and head == b"BTR"):
        facts = _check_map(structure, key, findings)
    elif structure.kind in ("vec", "minheap") or (structure.kind == "unknown" and head in (b"SVC", b"SMH")):
        _check_array(structure, value, findings)
    elif structure.kind == "cell" or (structure.kind == "unknown" and head == b"SCL"):
        _check_cell(structure, findings)
    elif structure.kind.startswith("log") or (structure.kind == "unknown" and head in (b"GLI", b"GLD")):
        _check_log(structure, findings)
    elif structure.kind == "unknown" and structure.label != "page:0":
        findings.add_in(structure.region, "unknown", structure.note, 0)
    if structure.kind in KINDS and not _has_errors(findings) and (key is not RAW or value is not RAW):
        _check_types(structure, key, value, findings, all_values)
    return facts


def _has_errors(findings: Findings) -> bool:
    return any(finding.severity == "error" for finding in findings.listed)


def _read(region: Region, address: int, size_bytes: int) -> bytes:
    try:
        return region.read(address, size_bytes)
    except IndexError:
        return b""


def _check_map(structure: Structure, key: Codec, findings: Findings) -> Any:
    """The header, then everything below it."""
    from perdure.inspection.tree_check import check_tree  # NumPy only where it is needed

    region = structure.region
    data = _read(region, 0, 100)
    if not _check_map_bytes(region, data, findings):
        return None
    try:
        header = MapHeader.read(region)
    except (MalformedError, UnsupportedError) as error:
        findings.add_in(region, "map-version" if isinstance(error, UnsupportedError) else "map-header", str(error), 0)
        return None
    _check_map_header(region, header, findings)
    if header.page_bytes < MIN_PAGE_BYTES or header.page_bytes > region.size_bytes:
        return None
    shape = structure.shape or map_shape(region, header)
    facts = check_tree(region, header, _reading(structure, shape, header, key, findings), findings)
    if key.order is not None and _order_name(key) == "other" and not _has_errors(findings):
        _check_other_order(structure, key, findings)
    return facts


def _check_map_bytes(region: Region, data: bytes, findings: Findings) -> bool:
    """Magics and versions; whether the header can be read on."""
    if len(data) < 100:
        findings.add("map-header", "a map's header of 100 bytes does not fit into the memory", 0)
        return False
    if data[3] not in (1, 2) or (data[3] == 2 and data[8:12] != b"\xff\xff\xff\xff"):
        findings.add_in(region, "map-version", f"version {data[3]}, page size marker {data[8:12].hex()}", 3)
        return False
    if data[52:56] != b"BTA\x01":
        findings.add_in(region, "allocator-header", f"bad magic {data[52:56]!r}, expected b'BTA\\x01'", 52)
        return False
    if any(data[28:52]) or any(data[84:100]):
        findings.add_in(region, "map-reserved", "reserved bytes of the header are not zero", 28)
    return True


def _check_map_header(region: Region, header: MapHeader, findings: Findings) -> None:
    if header.page_bytes < MIN_PAGE_BYTES or header.page_bytes > region.size_bytes:
        findings.add_in(region, "map-page-size", f"page size {header.page_bytes}, expected at least 128", 4)
    if header.allocator.chunk_bytes != header.page_bytes:
        message = f"chunks of {header.allocator.chunk_bytes} bytes, expected the page size {header.page_bytes}"
        findings.add_in(region, "allocator-header", message, 60)
    if (header.root == 0) != (header.length == 0):
        message = f"{header.length} entries with the root at address {header.root:#x}"
        findings.add_in(region, "root-length", message, 12)
    if header.slots is None and header.page_bytes != DEFAULT_PAGE_BYTES and bounds_sum(header.page_bytes) is None:
        findings.add_in(region, "map-page-size-custom", f"a page size of {header.page_bytes}", 4)


def _order_name(key: Codec) -> str:
    from perdure.inspection.tree_check import key_reading

    return key_reading(key, None, False).order


def _reading(structure: Structure, shape: MapShape, header: MapHeader, key: Codec, findings: Findings) -> Any:
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


def _check_other_order(structure: Structure, key: Codec, findings: Findings) -> None:
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


def _check_types(structure: Structure, key: Codec, value: Codec, findings: Findings, all_values: bool) -> None:
    """Decode keys and values as declared: the first thousand, or all."""
    schema = Schema({structure.label: MemorySchema(structure.label, None, None, key.name, value.name)})
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


def _check_array(structure: Structure, element: Codec, findings: Findings) -> None:
    region = structure.region
    data = _read(region, 0, VEC_HEADER.size)
    if len(data) < VEC_HEADER.size:
        findings.add("array-header", "a header of 17 bytes does not fit into the memory", 0)
        return
    _, version, entries, max_bytes, fixed = VEC_HEADER.unpack(data)
    if version != 1 or fixed > 1:
        findings.add_in(region, "array-header", f"version {version}, fixed flag {fixed}, expected 1 and 0 or 1", 3)
        return
    width = slot_bytes(max_bytes, bool(fixed))
    prefix = width - max_bytes
    end = VEC_DATA_ADDRESS + entries * width
    if end - (max_bytes if prefix else 0) > region.size_bytes:
        message = f"{entries} slots of {width} bytes reach past the {region.size_bytes} of the memory"
        findings.add_in(region, "array-truncated", message, 4)
        return
    if structure.kind in KINDS:
        try:
            open_table(structure)
        except PerdureError as error:
            findings.add_in(region, "array-header", str(error), 4)
            return
    if prefix:
        _check_elements(region, entries, width, prefix, max_bytes, findings)
    if structure.kind == "minheap" and not _has_errors(findings):
        _check_heap(structure, element, findings)


def _check_elements(region: Region, entries: int, width: int, prefix: int, max_bytes: int, findings: Findings) -> None:
    """The length of each element, against its bound and the end of the memory."""
    for start in range(0, entries, 1 << 16):
        count = min(1 << 16, entries - start)
        address = VEC_DATA_ADDRESS + start * width
        block = _read(region, address, min(count * width, region.size_bytes - address))
        for place in range(count):
            size = int.from_bytes(block[place * width : place * width + prefix], "little")
            end = address + place * width + prefix + size
            if size > max_bytes or end > region.size_bytes:
                message = f"element {start + place} has {size} bytes, expected at most {max_bytes}"
                findings.add_in(region, "array-element", message, address + place * width)


def _check_heap(structure: Structure, element: Codec, findings: Findings) -> None:
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
    data = _read(structure.region, 0, 8)
    if len(data) < 8 or data[3] != 1:
        findings.add_in(structure.region, "cell-header", f"starts with {data.hex(' ')}, expected 'SCL', 1", 0)
        return
    (size_bytes,) = struct.unpack_from("<I", data, 4)
    if 8 + size_bytes > structure.region.size_bytes:
        message = f"a value of {size_bytes} bytes in a memory of {structure.region.size_bytes}"
        findings.add_in(structure.region, "cell-truncated", message, 4)


def _check_log(structure: Structure, findings: Findings) -> None:
    region = structure.region
    head = _read(region, 0, LOG_INDEX_ADDRESS)
    if len(head) < 4 or head[3] != 1:
        findings.add_in(region, "log-header", f"starts with {head[:4].hex(' ')}, expected 'GLI' or 'GLD', 1", 0)
        return
    if head[:3] == b"GLD":
        findings.add_in(region, "log-alone", "the data of a log without its index", 0)
        return
    entries = int.from_bytes(head[32:40], "little")
    if LOG_INDEX_ADDRESS + 8 * entries > region.size_bytes:
        message = f"an index of {entries} entries in a memory of {region.size_bytes} bytes"
        findings.add_in(region, "log-index-truncated", message, 32)
        return
    last = _check_offsets(region, entries, findings)
    if structure.data is None:
        findings.add_in(region, "log-alone", "the index of a log without its data", 0)
    elif LOG_DATA_ADDRESS + last > structure.data.size_bytes:
        message = f"{last} bytes of entries in a data memory of {structure.data.size_bytes}"
        findings.add_in(structure.data, "log-data-truncated", message, 0)


def _check_offsets(region: Region, entries: int, findings: Findings) -> int:
    """The ends of a log's entries, which must ascend; the last."""
    previous = 0
    for start in range(0, entries, WASM_PAGE_BYTES):
        count = min(WASM_PAGE_BYTES, entries - start)
        address = LOG_INDEX_ADDRESS + 8 * start
        ends: Iterable[int] = struct.unpack(f"<{count}Q", region.read(address, 8 * count))
        for place, end in enumerate(ends):
            if end < previous:
                message = f"entry {start + place} ends at {end}, the one before at {previous}"
                findings.add_in(region, "log-offsets", message, address + 8 * place)
            previous = end
    return previous
