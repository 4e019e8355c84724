"""Where code comes from: the line tables of DWARF 2 to 5, which compilers put into a module's custom sections.

Addresses count from the first byte behind the header of the code section. Units that cannot be read are left out, and
one warning says which was the first: lines only decorate. Time and memory are linear in the size of the sections and
bounded.

Sources: "DWARF for WebAssembly", https://yurydelendik.github.io/webassembly-dwarf; DWARF 5, chapters 6.2 and 7.
"""

from __future__ import annotations

import posixpath
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, final

from perdure.errors import MalformedError
from perdure.wasm.leb import encode_unsigned
from perdure.wasm.module import Module, SectionId

__all__ = ["LineTable", "Row", "body_addresses", "line_table", "module_lines"]

MAX_LINE_BYTES: Final = 32 << 20
MAX_ROWS: Final = 6_000_000
_MAX_NAMES: Final = 1_000_000
_MAX_ABBREVIATIONS: Final = 1_000
"""What is read of the table that a unit's first entry is looked up in; compilers have it in the first place."""


@final
class Row(NamedTuple):
    """A piece of code and the line that it comes from."""

    start: int
    end: int
    file: str
    line: int


@final
class LineTable:
    """Lines by address."""

    def __init__(self) -> None:
        self.files: list[str] = [""]
        """Paths; the first stands for none."""
        self.warning = ""
        """What could not be read, once."""
        self._starts, self._files, self._lines = array("I"), array("I"), array("I")

    def __len__(self) -> int:
        return len(self._starts)

    def at(self, address: int) -> tuple[str, int] | None:
        """File and line of the instruction at an address; `None`: not known, or of the compiler's own making."""
        place = bisect_right(self._starts, address) - 1
        if place < 0 or not self._files[place] or not self._lines[place]:
            return None
        return self.files[self._files[place]], self._lines[place]

    def rows(self, start: int, end: int) -> Iterator[Row]:
        """What lies within a range of addresses, ascending."""
        place = max(0, bisect_right(self._starts, start) - 1)
        while place < len(self._starts) and (first := self._starts[place]) < end:
            last = self._starts[place + 1] if place + 1 < len(self._starts) else end
            if self._files[place] and self._lines[place] and max(first, start) < min(last, end):
                yield Row(max(first, start), min(last, end), self.files[self._files[place]], self._lines[place])
            place += 1

    def _take(self, rows: _Rows) -> None:
        """Have the rows, by address."""
        # The end of a piece of code stands before what begins there; of other equal addresses the last one counts.
        keys = [start << 1 | (line > 0) for start, line in zip(rows.starts, rows.lines, strict=True)]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        for column, values in zip(
            (self._starts, self._files, self._lines), (rows.starts, rows.files, rows.lines), strict=True
        ):
            column.extend(map(values.__getitem__, order))


def body_addresses(module: Module) -> list[int]:
    """Of each function that a decoded module has, the address at which its body begins, and the last one's end."""
    original = module.originals.get(SectionId.CODE)
    if not module.codes or original is None:
        return []
    count = len(encode_unsigned(len(module.codes)))
    raw, at = original.raw, 1
    while raw[at] & 0x80:
        at += 1
    payload = at + 1
    at = payload
    while raw[at] & 0x80:  # the count may be padded
        at += 1
    count, size = at + 1 - payload, at + 1
    at = size
    while raw[at] & 0x80:
        at += 1
    first = count + at + 1 - size
    shift = first - module.codes[0].offset
    return [*(code.offset + shift for code in module.codes), len(raw) - payload]


def module_lines(module: Module) -> tuple[LineTable, list[int]]:
    """The line table of a decoded module, and the addresses of its bodies."""
    addresses = body_addresses(module)
    sections = {section.name: section.data for section in reversed(module.custom_sections)}
    return line_table(sections, addresses[-1] if addresses else 0), addresses


def line_table(sections: Mapping[str, bytes], code_bytes: int) -> LineTable:
    """The line table in these custom sections; empty where there is none.

    Args:
        sections: by name, as in a module.
        code_bytes: size of the code section; what lies elsewhere is of functions that the linker has left out.
    """
    table = LineTable()
    data = sections.get(".debug_line", b"")
    if len(data) > MAX_LINE_BYTES:
        table.warning = f".debug_line has {len(data):,} bytes, more than {MAX_LINE_BYTES:,} are not read"
        return table
    directories = _compilation_directories(sections) if data else {}
    rows, names, at = _Rows(), {"": 0}, 0
    while at < len(data):
        unit = at
        try:
            reader = _Reader(data, at)
            size, width = reader.initial_length()
            at = end = reader.at + size
            if end > len(data):
                raise MalformedError(f"ends at {end:#x}, behind the section")
            program = _program(reader, width, end, sections, directories.get(unit, ""))
            files = [_numbered(names, file) for file in program.files]
            _run(program, data, files, rows, code_bytes)
        except (MalformedError, IndexError, OverflowError, ValueError, KeyError) as error:
            known = isinstance(error, MalformedError | ValueError)
            what = str(error) if known and str(error) else "ends too early, or has a number that is too large"
            table.warning = table.warning or f".debug_line at {unit:#x}: {what}; lines of this unit are not known"
            if at == unit:
                break
        if len(rows.starts) > MAX_ROWS or len(names) > _MAX_NAMES:
            table.warning = f".debug_line has more than {MAX_ROWS:,} rows or {_MAX_NAMES:,} files: the rest is not read"
            break
    table.files = list(names)
    table._take(rows)
    return table


def _numbered(names: dict[str, int], name: str) -> int:
    return names.setdefault(name, len(names))


# ------------------------------------------------------------------------------------------------------------- reading


class _Reader:
    """Little-endian fields, one after the other."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def take(self, size: int) -> bytes:
        if size < 0 or self.at + size > len(self.data):
            raise MalformedError(f"ends at {len(self.data):#x}, expected {size:,} bytes from {self.at:#x} on")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def uleb(self) -> int:
        value, self.at = _uleb(self.data, self.at)
        return value

    def text(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise MalformedError(f"a text at {self.at:#x} has no end")
        found, self.at = self.data[self.at : end], end + 1
        return found.decode(errors="replace")

    def initial_length(self) -> tuple[int, int]:
        """Bytes of what follows, and the width of its offsets."""
        size = self.number(4)
        if size == 0xFFFF_FFFF:
            return self.number(8), 8
        if size >= 0xFFFF_FFF0:
            raise MalformedError(f"has the length {size:#x}, which is reserved")
        return size, 4


def _uleb(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise MalformedError(f"a number at {at:#x} has more than 64 bits")


def _sleb(data: bytes, at: int) -> tuple[int, int]:
    start = at
    value, at = _uleb(data, at)
    return (value - (1 << 7 * (at - start)) if data[at - 1] & 0x40 else value), at


_BLOCK1, _BLOCK2, _BLOCK4, _BLOCK, _STRING, _STRP, _LINE_STRP, _DATA16, _UDATA, _SDATA, _IMPLICIT = (
    *(0x0A, 0x03, 0x04, 0x09, 0x08, 0x0E, 0x1F, 0x1E, 0x0F, 0x0D, 0x21),
)
_SIZES: Final = {
    0x01: 4, 0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x0C: 1, 0x11: 1, 0x12: 2, 0x13: 4, 0x14: 8, 0x19: 0, 0x1C: 4,
    0x20: 8, 0x24: 8, 0x25: 1, 0x26: 2, 0x27: 3, 0x28: 4, 0x29: 1, 0x2A: 2, 0x2B: 3, 0x2C: 4, _DATA16: 16,
}  # fmt: skip
"""Forms of a fixed size; addresses of 32-bit code."""
_OFFSETS: Final = frozenset({0x10, 0x17, 0x1D, _STRP, _LINE_STRP})
_NUMBERS: Final = frozenset({_UDATA, 0x15, 0x1A, 0x1B, 0x22, 0x23})


def _value(  # noqa: PLR0911 - a table of forms
    reader: _Reader, form: int, width: int, sections: Mapping[str, bytes], address_bytes: int = 4
) -> int | str | bytes:
    """A field of this form. The texts of `strx` and the like are not looked up."""
    if form == _STRING:
        return reader.text()
    if form in _OFFSETS:
        offset = reader.number(width)
        section = {_STRP: ".debug_str", _LINE_STRP: ".debug_line_str"}.get(form)
        return offset if section is None else _Reader(sections.get(section, b""), offset).text()
    if form in _NUMBERS:
        return reader.uleb()
    if form == _SDATA:
        value, reader.at = _sleb(reader.data, reader.at)
        return value
    if form in {_BLOCK1, _BLOCK2, _BLOCK4}:
        return reader.take(reader.number({_BLOCK1: 1, _BLOCK2: 2, _BLOCK4: 4}[form]))
    if form in {_BLOCK, 0x18}:
        return reader.take(reader.uleb())
    if form not in _SIZES:
        raise MalformedError(f"has a field of the unknown form {form:#x}")
    return reader.number(address_bytes if form == 0x01 else _SIZES[form])


# ------------------------------------------------------------------------------------------------------- line programs


class _Program(NamedTuple):
    """The header of a unit's line program, and where its instructions are."""

    start: int
    end: int
    minimum: int
    line_base: int
    line_range: int
    lengths: bytes
    """How many numbers each standard instruction has, from instruction 1 on."""
    files: list[str]
    """Paths by the numbers that the program has for them; those that stand for none are empty."""


def _program(reader: _Reader, width: int, end: int, sections: Mapping[str, bytes], directory: str) -> _Program:
    version = reader.number(2)
    if not 2 <= version <= 5:
        raise MalformedError(f"is of DWARF version {version}, expected 2 to 5")
    if version == 5:
        reader.number(2)  # sizes of addresses and selectors
    header_bytes = reader.number(width)
    start = reader.at + header_bytes
    minimum = reader.number(1)
    if version >= 4:
        reader.number(1)  # operations of one instruction
    reader.number(1)  # whether lines begin statements
    line_base, line_range, opcode_base = reader.number(1), reader.number(1), reader.number(1)
    if not line_range or not opcode_base or start > end:
        raise MalformedError(f"has the line range {line_range}, the first special opcode {opcode_base}, and code there")
    lengths = reader.take(opcode_base - 1)
    files = _files_5(reader, width, sections, directory) if version == 5 else _files(reader, directory)
    return _Program(start, end, minimum, line_base - (line_base >> 7 << 8), line_range, lengths, files)


def _files(reader: _Reader, directory: str) -> list[str]:
    """Of versions 2 to 4: numbers begin with 1, and so do those of directories but for the unit's own."""
    directories = [directory]
    while path := reader.text():
        directories.append(posixpath.join(directory, path))
    files = [""]
    while name := reader.text():
        place = reader.uleb()
        reader.uleb()  # when it was changed
        reader.uleb()  # its size
        files.append(posixpath.normpath(posixpath.join(directories[place], name)))
    return files


_PATH, _DIRECTORY_INDEX = 1, 2


def _files_5(reader: _Reader, width: int, sections: Mapping[str, bytes], directory: str) -> list[str]:
    """Of version 5: all numbers begin with 0, the fields are described."""
    directories: list[str] = []
    files: list[str] = []
    for found in (directories, files):
        fields = [(reader.uleb(), reader.uleb()) for _ in range(reader.number(1))]
        count = reader.uleb()
        if count and (not fields or count > len(reader.data) - reader.at):
            raise MalformedError(f"has {count:,} files or directories of {len(fields)} fields each, which have no room")
        for _ in range(count):
            values = {content: _value(reader, form, width, sections) for content, form in fields}
            path, place = values.get(_PATH, ""), values.get(_DIRECTORY_INDEX, 0)
            if not isinstance(path, str) or not isinstance(place, int):
                raise MalformedError(f"has a path of the form {dict(fields).get(_PATH, 0):#x}")
            # Directory 0 is where the unit was compiled, which the others are relative to.
            base = directories[place] if found is files else directories[0] if directories else directory
            found.append(posixpath.normpath(posixpath.join(base, path)))
    return files


class _Rows:
    """Rows as they come."""

    def __init__(self) -> None:
        self.starts, self.files, self.lines = array("I"), array("I"), array("I")

    def cut(self, length: int) -> None:
        for column in (self.starts, self.files, self.lines):
            del column[length:]


def _run(program: _Program, data: bytes, files: list[int], rows: _Rows, code_bytes: int) -> None:  # noqa: C901, PLR0912, PLR0915 - a machine
    """Execute a line program; rows of code that the linker has left out are dropped again."""
    first = len(program.lengths) + 1
    advances = [0] * first + [(number // program.line_range) * program.minimum for number in range(256 - first)]
    deltas = [0] * first + [program.line_base + number % program.line_range for number in range(256 - first)]
    add_start, add_file, add_line = rows.starts.append, rows.files.append, rows.lines.append
    default = files[1] if len(files) > 1 else 0
    at, end, begun = program.start, program.end, len(rows.starts)
    address, file, line, is_code = 0, default, 1, False
    try:
        while at < end:
            opcode = data[at]
            at += 1
            if opcode >= first or opcode == 1:
                if opcode >= first:
                    address += advances[opcode]
                    line += deltas[opcode]
                if is_code:
                    add_line(line)
                    add_file(file)
                    add_start(address)
            elif opcode == 0:
                size, at = _uleb(data, at)
                if not size or at + size > end:
                    raise MalformedError(f"has an instruction of {size:,} bytes at {at:#x}")
                kind = data[at]
                if kind == 2:  # DW_LNE_set_address
                    address = int.from_bytes(data[at + 1 : at + size], "little")
                    is_code = 0 < address < code_bytes
                elif kind == 1:  # DW_LNE_end_sequence
                    if is_code:
                        add_line(0)
                        add_file(0)
                        add_start(min(address, code_bytes))
                    begun = len(rows.starts)
                    address, file, line, is_code = 0, default, 1, False
                at += size
            elif opcode == 2:  # DW_LNS_advance_pc
                number, at = _uleb(data, at)
                address += number * program.minimum
            elif opcode == 3:  # DW_LNS_advance_line
                number, at = _sleb(data, at)
                line += number
            elif opcode == 4:  # DW_LNS_set_file
                number, at = _uleb(data, at)
                file = files[number] if number < len(files) else 0
            elif opcode == 8:  # DW_LNS_const_add_pc
                address += advances[255]
            elif opcode == 9:  # DW_LNS_fixed_advance_pc
                address += int.from_bytes(data[at : at + 2], "little")
                at += 2
            else:
                for _ in range(program.lengths[opcode - 1]):
                    _, at = _uleb(data, at)
    finally:
        rows.cut(begun)  # of a sequence that has no end


# ------------------------------------------------------------------------------------------------------------- units

_COMP_DIR, _STMT_LIST = 0x1B, 0x10


def _compilation_directories(sections: Mapping[str, bytes]) -> dict[int, str]:
    """Where each unit was compiled, by the place of its line program; of version 5 too, where directory 0 is it."""
    info, found, at = _Reader(sections.get(".debug_info", b"")), {}, 0
    while at < len(info.data):
        info.at = at
        try:
            size, width = info.initial_length()
            at = info.at + size
            entry = _first_entry(info, width, sections)
        except (MalformedError, IndexError, OverflowError):
            break  # paths stay as they are
        program, directory = entry.get(_STMT_LIST), entry.get(_COMP_DIR)
        if isinstance(program, int) and isinstance(directory, str):
            found[program] = directory
    return found


def _first_entry(info: _Reader, width: int, sections: Mapping[str, bytes]) -> dict[int, int | str | bytes]:
    """The attributes of a unit, as far as the two that are wanted."""
    version = info.number(2)
    kind = info.number(1) if version >= 5 else 1
    address_bytes = info.number(1) if version >= 5 else 4
    abbreviations = _Reader(sections.get(".debug_abbrev", b""), info.number(width))
    if version < 5:
        address_bytes = info.number(1)
    elif kind in {4, 5}:  # a skeleton, or what one stands for: an id
        info.number(8)
    code, found = info.uleb(), {}
    for attribute, form, implicit in _abbreviation(abbreviations, code):
        value = implicit if form == _IMPLICIT else _value(info, form, width, sections, address_bytes)
        found[attribute] = value
        if found.keys() >= {_COMP_DIR, _STMT_LIST}:
            break
    return found


def _abbreviation(reader: _Reader, code: int) -> list[tuple[int, int, int]]:
    """Attributes, forms and values that stand in the table itself, of one entry of a table."""
    for _ in range(_MAX_ABBREVIATIONS):
        number = reader.uleb()
        if not number:
            break
        reader.uleb()  # tag
        reader.number(1)  # whether it has children
        fields = []
        while True:
            attribute, form, implicit = reader.uleb(), reader.uleb(), 0
            if form == _IMPLICIT:
                implicit, reader.at = _sleb(reader.data, reader.at)
            if not attribute and not form:
                break
            fields.append((attribute, form, implicit))
        if number == code:
            return fields
    return []
