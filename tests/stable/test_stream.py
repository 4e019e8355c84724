from __future__ import annotations

import io
import json

import pytest

from perdure.memory import WASM_PAGE_BYTES, BytesMemory, ReadOnlyMemory
from perdure.stable import GrowFailedError, MemoryStream


def test_reads_to_the_end_of_the_memory():
    memory = BytesMemory(bytes(WASM_PAGE_BYTES - 3) + b"end")
    stream = MemoryStream(memory, WASM_PAGE_BYTES - 5)
    assert stream.read(4) == b"\0\0en"
    assert stream.read(4) == b"d"
    assert stream.read(4) == b""
    assert stream.seek(-3, io.SEEK_END) == WASM_PAGE_BYTES - 3
    assert stream.read() == b"end"
    assert stream.seek(5 * WASM_PAGE_BYTES) == stream.tell() == 5 * WASM_PAGE_BYTES
    assert stream.read() == b""


def test_writes_grow_the_memory_by_what_lacks():
    memory = BytesMemory(max_wasm_pages=2)
    stream = MemoryStream(memory)
    assert stream.write(bytes(WASM_PAGE_BYTES)) == WASM_PAGE_BYTES
    assert memory.size() == 1
    assert stream.write(memoryview(b"more")) == 4
    assert memory.size() == 2
    assert stream.seek(-4, io.SEEK_CUR) == WASM_PAGE_BYTES
    assert stream.read(4) == b"more"
    with pytest.raises(GrowFailedError):
        stream.write(bytes(WASM_PAGE_BYTES))


def test_buffered_and_text_layers_work_above_it():
    memory = BytesMemory()
    with io.TextIOWrapper(io.BufferedWriter(MemoryStream(memory, 16))) as text:
        json.dump({"state": list(range(1000))}, text)
    with io.BufferedReader(MemoryStream(memory, 16)) as reader:
        assert json.loads(reader.read().rstrip(b"\0")) == {"state": list(range(1000))}


def test_bad_offsets_and_read_only_memories_are_refused():
    stream = MemoryStream(ReadOnlyMemory(b"x"))
    with pytest.raises(ValueError, match="at least 0"):
        stream.seek(-1)
    with pytest.raises(ValueError, match="at least 0"):
        MemoryStream(BytesMemory(), -1)
    with pytest.raises(ValueError, match="whence"):
        stream.seek(0, 7)
    with pytest.raises(PermissionError):
        stream.write(b"y")
    assert stream.readable()
    assert stream.writable()
    assert stream.seekable()
