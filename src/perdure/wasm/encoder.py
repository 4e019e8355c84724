"""`encode`: `Module` to bytes. A section whose value is unchanged keeps its bytes; others get the shortest form."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.wasm.leb import encode_unsigned
from perdure.wasm.module import (
    SECTION_FIELDS,
    SECTION_ORDER,
    Code,
    CustomSection,
    DataSegment,
    Element,
    ElementMode,
    Export,
    FuncType,
    Global,
    GlobalType,
    Import,
    Limits,
    MemoryType,
    Module,
    SectionId,
    TableType,
    ValType,
)

__all__ = ["encode"]

_HEADER = b"\0asm\x01\0\0\0"


def encode(module: Module) -> bytes:
    """The module's bytes, not compressed. ``encode(decode(wasm)) == wasm`` for every module that decodes."""
    pieces = [_HEADER]
    pieces += _custom_sections(module, SectionId.CUSTOM)
    for section in SECTION_ORDER:
        pieces += _section(module, section)
        pieces += _custom_sections(module, section)
    return b"".join(pieces)


def _custom_sections(module: Module, after: SectionId) -> list[bytes]:
    return [section.raw or _encode_custom(section) for section in module.custom_sections if section.after is after]


def _encode_custom(section: CustomSection) -> bytes:
    return b"".join(_with_header(SectionId.CUSTOM, [_name(section.name), section.data]))


def _section(module: Module, section: SectionId) -> list[bytes]:
    value = getattr(module, SECTION_FIELDS[section])
    original = module.originals.get(section)
    if original is not None and (original.value is value or original.value == value):
        return [original.raw]
    if value is None or value == ():
        return []
    if isinstance(value, int):
        return _with_header(section, [encode_unsigned(value)])
    pieces = [encode_unsigned(len(value))]
    for item in value:
        pieces += _pieces(item)
    return _with_header(section, pieces)


def _with_header(section: SectionId, pieces: list[bytes]) -> list[bytes]:
    return [bytes((section,)), encode_unsigned(sum(map(len, pieces))), *pieces]


def _pieces(item: object) -> Iterable[bytes]:  # noqa: PLR0911 - one return per kind of section item
    match item:
        case Code():
            return (encode_unsigned(len(item.body)), item.body)
        case int():
            return (encode_unsigned(item),)
        case DataSegment():
            return _data_segment(item)
        case FuncType(params, results):
            return (b"\x60", _val_types(params), _val_types(results))
        case Import(import_module, name, kind, extern_type):
            return (_name(import_module), _name(name), bytes((kind,)), _extern_type(extern_type))
        case Export(name, kind, index):
            return (_name(name), bytes((kind,)), encode_unsigned(index))
        case Global(extern_type, init):
            return (_extern_type(extern_type), init.code)
        case Element():
            return _element(item)
        case TableType() | MemoryType():
            return (_extern_type(item),)
        case _:
            raise TypeError(f"not an item of a Wasm section: {item!r}")


def _name(name: str) -> bytes:
    raw = name.encode()
    return encode_unsigned(len(raw)) + raw


def _val_types(types: tuple[ValType, ...]) -> bytes:
    return encode_unsigned(len(types)) + bytes(types)


def _extern_type(value: int | TableType | MemoryType | GlobalType) -> bytes:
    match value:
        case int():
            return encode_unsigned(value)
        case TableType(element, limits):
            return bytes((element,)) + _limits(limits)
        case MemoryType(limits):
            return _limits(limits)
        case GlobalType(val_type, mutable):
            return bytes((val_type, mutable))


def _limits(limits: Limits) -> bytes:
    flags = (limits.maximum is not None) | limits.is_64 << 2
    sizes = encode_unsigned(limits.minimum) + (encode_unsigned(limits.maximum) if limits.maximum is not None else b"")
    return bytes((flags,)) + sizes


def _data_segment(segment: DataSegment) -> Iterable[bytes]:
    size = encode_unsigned(len(segment.init))
    if segment.offset is None:
        return (b"\x01", size, segment.init)
    if segment.memory_index == 0:
        return (b"\x00", segment.offset.code, size, segment.init)
    return (b"\x02", encode_unsigned(segment.memory_index), segment.offset.code, size, segment.init)


def _element(element: Element) -> Iterable[bytes]:
    functions = [item for item in element.items if isinstance(item, int)]
    expressions = [item for item in element.items if not isinstance(item, int)]
    use_expressions = bool(expressions) or element.type is not ValType.FUNCREF
    active = element.mode is ElementMode.ACTIVE
    explicit = element.table_index != 0 or element.type is not ValType.FUNCREF
    flags = (0 if active else 1) | (2 if (explicit if active else element.mode is ElementMode.DECLARATIVE) else 0)
    yield bytes((flags | (4 if use_expressions else 0),))
    if active:
        yield encode_unsigned(element.table_index) if explicit else b""
        yield element.offset.code if element.offset else b""
    if flags & 3:
        yield bytes((element.type,)) if use_expressions else b"\x00"
    yield encode_unsigned(len(element.items))
    yield from (item.code for item in expressions) if use_expressions else map(encode_unsigned, functions)
