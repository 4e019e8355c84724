"""Line tables: what a compiler wrote, held against pyelftools; and what nobody should have written."""

from __future__ import annotations

import io
import json
import random
from inspect import signature
from pathlib import Path

import pytest
from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

from perdure.wasm import dwarf
from perdure.wasm.decoder import decode
from perdure.wasm.dwarf import Row, body_addresses, line_table

ROOT = Path(__file__).parents[2]
HASHES = json.loads((ROOT / "tests/canisters/hashes.json").read_text(encoding="utf-8"))
MODULE = decode((ROOT / HASHES["branches"]["file"]).read_bytes())
SECTIONS = {section.name: section.data for section in MODULE.custom_sections}
ADDRESSES = body_addresses(MODULE)
SOURCE = (ROOT / "tests/canisters/c/branches.c").read_text().splitlines()


def referee(sections: dict[str, bytes]) -> list[tuple[int, str, int]]:
    """Addresses, names of files and lines, as pyelftools reads them."""

    def section(name: str) -> DebugSectionDescriptor | None:
        data = sections.get("." + name.removesuffix("_sec"))
        return None if data is None else DebugSectionDescriptor(io.BytesIO(data), name, None, len(data), 0)

    names = list(signature(DWARFInfo.__init__).parameters)[2:]
    info = DWARFInfo(DwarfConfig(True, "wasm", 4), **{name: section(name) for name in names})
    found = []
    for unit in info.iter_CUs():
        program = info.line_program_for_CU(unit)
        files = program.header["file_entry"]
        base = 0 if program.header["version"] >= 5 else 1
        for entry in program.get_entries():
            state = entry.state
            if state is not None and not state.end_sequence and 0 < state.address < ADDRESSES[-1]:
                found.append((state.address, files[state.file - base].name.decode(), state.line))
    return sorted(found, key=lambda row: row[0])


def test_rows_are_those_that_pyelftools_reads() -> None:
    table = line_table(SECTIONS, ADDRESSES[-1])
    assert table.warning == ""
    assert sorted(table.files) == ["", "c/branches.c", "c/ic0.h"]
    expected = {address: (file, line) for address, file, line in referee(SECTIONS)}  # the last of equal ones
    assert len(expected) > 40
    found = {address: table.at(address) for address in expected}
    assert {at: row and (row[0].removeprefix("c/"), row[1]) for at, row in found.items()} == {
        at: (file.removeprefix("c/"), line) if line else None for at, (file, line) in expected.items()
    }


def test_functions_begin_on_their_lines() -> None:
    table = line_table(SECTIONS, ADDRESSES[-1])
    names = MODULE.function_names
    for place, address in enumerate(ADDRESSES[:-1]):
        name = names[MODULE.imported_function_count + place]
        row = next(table.rows(address, ADDRESSES[place + 1]))
        assert isinstance(row, Row)
        if row.file == "c/branches.c":
            assert name.removeprefix("update_") in SOURCE[row.line - 1], (name, row)
    assert table.at(0) is None
    assert table.at(ADDRESSES[-1] + 5) is None
    assert list(table.rows(ADDRESSES[-1], ADDRESSES[-1] + 9)) == []


def leb(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def unit_5(files: bytes, program: bytes = b"") -> bytes:
    """A unit of DWARF 5: its tables, its program."""
    header = bytes([1, 1, 1, 0xFB, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1]) + files
    body = b"\x05\0\x04\0" + len(header).to_bytes(4, "little") + header + program
    return len(body).to_bytes(4, "little") + body


DIRECTORIES = b"\x01\x01\x1f\x02" + b"\0\0\0\0" + b"\x04\0\0\0"
FILES = b"\x02\x01\x1f\x02\x0b\x02" + b"\x08\0\0\0\0" + b"\x0c\0\0\0\x01"
TEXTS = b"dir\0sub\0one\0two\0"
PROGRAM = b"\0\x05\x02\x09\0\0\0" + b"\x03\x06\x01" + b"\x04\x01" + b"\x02\x05\x01" + b"\x02\x04\0\x01\x01"


def test_version_5_numbers_from_zero() -> None:
    table = line_table({".debug_line": unit_5(DIRECTORIES + FILES, PROGRAM), ".debug_line_str": TEXTS}, 100)
    assert table.warning == ""
    assert [table.at(at) for at in (8, 9, 13, 14, 17, 18)] == [
        None,
        ("dir/sub/two", 7),  # file 1 until the program says another one
        ("dir/sub/two", 7),
        ("dir/sub/two", 7),
        ("dir/sub/two", 7),
        None,
    ]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x05", "expected 4 bytes"),
        (b"\xf0\xff\xff\xff", "which is reserved"),
        (b"\xff\xff\xff\xff" + b"\xff" * 8, "behind the section"),
        (b"\x02\0\0\0\x09\0", "DWARF version 9, expected 2 to 5"),
        (unit_5(b"\0" + leb(1 << 60)), "which have no room"),
        (unit_5(b"\x01\x01\x16\x01\0\0"), "unknown form 0x16"),
        (unit_5(DIRECTORIES + FILES, b"\x02" + b"\xff" * 12), "more than 64 bits"),
        (unit_5(DIRECTORIES + FILES, b"\0\x05\x02\x09\0\0\0\x03\x7e\x01"), "too large"),
        (unit_5(DIRECTORIES + FILES, b"\0\xff\x7f\x01"), "an instruction of 16,383 bytes"),
    ],
)
def test_what_is_broken_is_told_once_and_the_rest_is_read(data: bytes, said: str) -> None:
    good = unit_5(DIRECTORIES + FILES, PROGRAM)
    table = line_table({".debug_line": good + data, ".debug_line_str": TEXTS}, 100)
    assert said in table.warning
    assert table.warning.startswith(f".debug_line at {len(good):#x}: ")
    assert table.at(9) == ("dir/sub/two", 7)


def test_what_is_too_much_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dwarf, "MAX_LINE_BYTES", 50)
    table = line_table(SECTIONS, ADDRESSES[-1])
    assert len(table) == 0
    assert "more than 50 are not read" in table.warning
    monkeypatch.undo()
    monkeypatch.setattr(dwarf, "MAX_ROWS", 3)
    table = line_table({".debug_line": unit_5(DIRECTORIES + FILES, PROGRAM) * 9, ".debug_line_str": TEXTS}, 100)
    assert 3 < len(table) < 9
    assert "more than 3 rows" in table.warning


@pytest.mark.parametrize("seed", range(150))
def test_any_bytes_end_in_a_table(seed: int) -> None:
    """Whatever stands in the sections: an answer, and rows only within the code."""
    chance = random.Random(seed)
    sections = dict(SECTIONS)
    for name in (".debug_line", ".debug_info", ".debug_abbrev", ".debug_str"):
        data = bytearray(sections[name])
        for _ in range(chance.randrange(6)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        sections[name] = bytes(data[: chance.randrange(len(data))] if chance.random() < 0.2 else data)
    table = line_table(sections, ADDRESSES[-1])
    for row in table.rows(0, ADDRESSES[-1]):
        assert row.start < row.end <= ADDRESSES[-1]
        assert row.line > 0


def test_addresses_of_padded_counts() -> None:
    """Sizes in the code section may be written in more bytes than they need."""
    types, functions = b"\x01\x04\x01\x60\0\0", b"\x03\x02\x01\0"
    module = decode(b"\0asm\1\0\0\0" + types + functions + b"\x0a\x87\x00\x81\x00\x83\x00\x00\x01\x0b")
    assert body_addresses(module) == [4, 7]
