"""One place knows where things lie: no offset, no mark outside of `layout`; nodes are read by two modules alone.

A third, `parts`, sorts chunks by their marks and has `bulk` read the nodes among them.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import perdure
from perdure.errors import MalformedError
from perdure.memory import BytesMemory
from perdure.stable import CellHeader, LogHeader, MapHeader, StableBTreeMap, StableCell, layout, types

SOURCE = Path(perdure.__file__).parent
ROOMS = [path for room in ("stable", "inspection") for path in sorted((SOURCE / room).glob("*.py"))]
OF_VALUES = {"types.py", "plain_types.py", "composed_types.py", "codec.py", "infer.py"}
OUTSIDE = [path for path in ROOMS if path.name not in OF_VALUES | {"layout.py"}]

MARKS = {value for name, value in vars(layout).items() if name.endswith("_MAGIC")}
OFFSETS = {
    value
    for name, value in vars(layout).items()
    if isinstance(value, int) and name.endswith(("_ADDRESS", "_HEADER_BYTES")) and value > 16
} | {layout.OWNERS_END, 12, 20, 28, 52, 84}
NODES = {"NODE_HEADER", "V2_HEADER_BYTES", "OVERFLOW_HEADER", "NODE_MAGIC", "OVERFLOW_MAGIC"}
CHUNKS = {"CHUNK_HEADER", "CHUNK_MAGIC", "CHUNK_VERSION"}


def literals(path: Path) -> list[ast.Constant]:
    """The constants of a module that are not text, without docstrings."""
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]


def imported(path: Path) -> set[str]:
    """Names that a module takes from `layout`."""
    return {
        name.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "perdure.stable.layout"
        for name in node.names
    }


def _is_shift(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.LShift)


def places(path: Path) -> list[ast.Constant]:
    """Constants that say where something is: in slices, as the address of an error or a finding, in what is read."""
    found: list[ast.AST] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Subscript):
            found.append(node.slice)
        elif isinstance(node, ast.Call):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("MalformedError", "read", "read_exact", "view", "write", "add", "add_in", "rows"):
                found += node.args
    powers = {id(node.right) for tree in found for node in ast.walk(tree) if _is_shift(node)}
    nodes = [node for tree in found for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [node for node in nodes if id(node) not in powers]  # ``1 << 64``


def test_the_tables_of_this_test_are_not_empty():
    assert {b"BTR", b"BTN", b"NOF", b"BTA", b"CHK", b"MGR", b"SVC", b"SMH", b"SCL", b"GLI", b"GLD"} <= MARKS
    assert {100, 116, 52, 2080, 40, 64, 32} <= OFFSETS
    assert len(ROOMS) > 30


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_other_module_knows_a_mark(path):
    known = {bytes(mark) for mark in MARKS}
    assert [node.value for node in literals(path) if isinstance(node.value, bytes) and node.value[:3] in known] == []


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_other_module_knows_an_offset(path):
    assert [node.value for node in places(path) if type(node.value) is int and node.value in OFFSETS] == []


@pytest.mark.parametrize(
    ("names", "readers"),
    [(NODES, {"nodes.py", "bulk.py", "parts.py"}), (CHUNKS, {"chunks.py", "bulk.py", "parts.py"})],
    ids=["nodes", "chunks"],
)
def test_few_know_how_it_is_read(names, readers):
    assert names <= set(vars(layout))
    assert {path.name for path in SOURCE.rglob("*.py") if imported(path) & names} == readers


def test_headers_are_written_as_they_are_read():
    memory = BytesMemory()
    StableBTreeMap.create(memory, types.u64, types.text)[1] = "one"
    header = MapHeader.read(memory)
    assert memory.read(0, 28) == header.encode()
    assert list(header.faults(memory)) == []


def test_faults_are_data_until_somebody_raises_them():
    memory = BytesMemory()
    StableCell.create(memory, types.text, "value")
    memory.write(4, (1 << 20).to_bytes(4, "little"))
    (fault,) = CellHeader.read(memory).faults(memory)
    assert (fault.code, fault.address) == ("cell-truncated", 4)
    with pytest.raises(MalformedError, match="1048576 bytes"):
        StableCell.load(memory, types.text)


def test_an_index_that_is_longer_than_its_memory():
    memory = BytesMemory(layout.log_mark(layout.LOG_INDEX_MAGIC).ljust(32, b"\0") + (1 << 40).to_bytes(8, "little"))
    header = LogHeader.read(memory)
    assert (header.length, header.data_bytes) == (1 << 40, -1)
    assert [fault.code for fault in header.index_faults(memory)] == ["log-index-truncated"]


@pytest.mark.parametrize("total", [0, 3, 8, 16, 58, 1000, 100_000])
def test_the_page_size_tells_the_bounds(total):
    assert layout.bounds_sum(layout.packed_page_bytes(0, total)) == total
