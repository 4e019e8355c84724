"""Every instruction, in one table: name, number, immediates.

The instruction reader, the tokeniser that metering is made of, and the cost table are all driven by it. Prefixed
instructions have numbers ``0xFC00 | n`` and ``0xFD00 | n``. What the Internet Computer does not take (threads, garbage
collection, exceptions, relaxed SIMD, typed function references) is not in the table.

Spec: "Index of Instructions", https://webassembly.github.io/spec/core/appendix/index-instructions.html
"""

from __future__ import annotations

from enum import Enum, unique
from typing import NamedTuple

__all__ = ["OPCODES", "OPCODE_BY_NAME", "PATTERNS", "Immediate", "Opcode"]

_LEB32 = rb"[\x80-\xff]{0,4}+[\x00-\x7f]"
_LEB64 = rb"[\x80-\xff]{0,9}+[\x00-\x7f]"


@unique
class Immediate(Enum):
    """A kind of immediate operand."""

    BLOCK_TYPE = "block type"
    LABEL = "label"
    LABELS = "labels"
    FUNCTION = "function"
    TYPE = "type"
    TABLE = "table"
    LOCAL = "local"
    GLOBAL = "global"
    MEMORY = "memory"
    DATA = "data segment"
    ELEMENT = "element segment"
    MEMARG = "memory argument"
    I32 = "i32"
    I64 = "i64"
    F32 = "f32"
    F64 = "f64"
    V128 = "v128"
    LANE = "lane"
    LANES = "lanes"
    VAL_TYPES = "value types"
    HEAP_TYPE = "heap type"


# Alignment, with bit 6 set where a memory index follows; the offset is 64 bits wide on 64-bit memories.
_ALIGNMENT = rb"(?:[\x00-\x3f]|[\x80-\xbf]\x80{0,3}+\x00|(?:[\x40-\x7f]|[\xc0-\xff]\x80{0,3}+\x00)" + _LEB32 + rb")"

PATTERNS: dict[Immediate, bytes] = {
    Immediate.BLOCK_TYPE: _LEB32,
    Immediate.LABEL: _LEB32,
    Immediate.FUNCTION: _LEB32,
    Immediate.TYPE: _LEB32,
    Immediate.TABLE: _LEB32,
    Immediate.LOCAL: _LEB32,
    Immediate.GLOBAL: _LEB32,
    Immediate.MEMORY: _LEB32,
    Immediate.DATA: _LEB32,
    Immediate.ELEMENT: _LEB32,
    Immediate.MEMARG: _ALIGNMENT + _LEB64,
    Immediate.I32: _LEB32,
    Immediate.I64: _LEB64,
    Immediate.F32: rb"[\x00-\xff]{4}",
    Immediate.F64: rb"[\x00-\xff]{8}",
    Immediate.V128: rb"[\x00-\xff]{16}",
    Immediate.LANE: rb"[\x00-\xff]",
    Immediate.LANES: rb"[\x00-\xff]{16}",
    Immediate.VAL_TYPES: rb"(?:\x01|\x81\x80{0,3}+\x00)[\x6f-\x7f]",
    Immediate.HEAP_TYPE: rb"[\x6f\x70]",
}
"""A regular expression for each kind of immediate: linear, possessive, and matching every valid form of it.

They also match some invalid forms; the reader in `instructions` is exact. LABELS is not here: a count followed by as
many labels and one more is not regular, so whoever meets a ``br_table`` steps over its labels by hand.
"""


class Opcode(NamedTuple):
    """One instruction of the table."""

    number: int
    name: str
    immediates: tuple[Immediate, ...]


_I = Immediate
_Runs = tuple[tuple[int, tuple[Immediate, ...], str], ...]

# First number, immediates, and the names of the instructions from that number on.
_PLAIN: _Runs = (
    (0x00, (), "unreachable nop"),
    (0x02, (_I.BLOCK_TYPE,), "block loop if"),
    (0x05, (), "else"),
    (0x0B, (), "end"),
    (0x0C, (_I.LABEL,), "br br_if"),
    (0x0E, (_I.LABELS,), "br_table"),
    (0x0F, (), "return"),
    (0x10, (_I.FUNCTION,), "call"),
    (0x11, (_I.TYPE, _I.TABLE), "call_indirect"),
    (0x12, (_I.FUNCTION,), "return_call"),
    (0x13, (_I.TYPE, _I.TABLE), "return_call_indirect"),
    (0x1A, (), "drop select"),
    (0x1C, (_I.VAL_TYPES,), "select_t"),
    (0x20, (_I.LOCAL,), "local.get local.set local.tee"),
    (0x23, (_I.GLOBAL,), "global.get global.set"),
    (0x25, (_I.TABLE,), "table.get table.set"),
    (
        0x28,
        (_I.MEMARG,),
        "i32.load i64.load f32.load f64.load i32.load8_s i32.load8_u i32.load16_s i32.load16_u"
        " i64.load8_s i64.load8_u i64.load16_s i64.load16_u i64.load32_s i64.load32_u"
        " i32.store i64.store f32.store f64.store i32.store8 i32.store16 i64.store8 i64.store16 i64.store32",
    ),
    (0x3F, (_I.MEMORY,), "memory.size memory.grow"),
    (0x41, (_I.I32,), "i32.const"),
    (0x42, (_I.I64,), "i64.const"),
    (0x43, (_I.F32,), "f32.const"),
    (0x44, (_I.F64,), "f64.const"),
    (
        0x45,
        (),
        "i32.eqz i32.eq i32.ne i32.lt_s i32.lt_u i32.gt_s i32.gt_u i32.le_s i32.le_u i32.ge_s i32.ge_u"
        " i64.eqz i64.eq i64.ne i64.lt_s i64.lt_u i64.gt_s i64.gt_u i64.le_s i64.le_u i64.ge_s i64.ge_u"
        " f32.eq f32.ne f32.lt f32.gt f32.le f32.ge f64.eq f64.ne f64.lt f64.gt f64.le f64.ge"
        " i32.clz i32.ctz i32.popcnt i32.add i32.sub i32.mul i32.div_s i32.div_u i32.rem_s i32.rem_u"
        " i32.and i32.or i32.xor i32.shl i32.shr_s i32.shr_u i32.rotl i32.rotr"
        " i64.clz i64.ctz i64.popcnt i64.add i64.sub i64.mul i64.div_s i64.div_u i64.rem_s i64.rem_u"
        " i64.and i64.or i64.xor i64.shl i64.shr_s i64.shr_u i64.rotl i64.rotr"
        " f32.abs f32.neg f32.ceil f32.floor f32.trunc f32.nearest f32.sqrt f32.add f32.sub f32.mul f32.div"
        " f32.min f32.max f32.copysign"
        " f64.abs f64.neg f64.ceil f64.floor f64.trunc f64.nearest f64.sqrt f64.add f64.sub f64.mul f64.div"
        " f64.min f64.max f64.copysign"
        " i32.wrap_i64 i32.trunc_f32_s i32.trunc_f32_u i32.trunc_f64_s i32.trunc_f64_u"
        " i64.extend_i32_s i64.extend_i32_u i64.trunc_f32_s i64.trunc_f32_u i64.trunc_f64_s i64.trunc_f64_u"
        " f32.convert_i32_s f32.convert_i32_u f32.convert_i64_s f32.convert_i64_u f32.demote_f64"
        " f64.convert_i32_s f64.convert_i32_u f64.convert_i64_s f64.convert_i64_u f64.promote_f32"
        " i32.reinterpret_f32 i64.reinterpret_f64 f32.reinterpret_i32 f64.reinterpret_i64"
        " i32.extend8_s i32.extend16_s i64.extend8_s i64.extend16_s i64.extend32_s",
    ),
    (0xD0, (_I.HEAP_TYPE,), "ref.null"),
    (0xD1, (), "ref.is_null"),
    (0xD2, (_I.FUNCTION,), "ref.func"),
)

_MISC: _Runs = (
    (
        0x00,
        (),
        "i32.trunc_sat_f32_s i32.trunc_sat_f32_u i32.trunc_sat_f64_s i32.trunc_sat_f64_u"
        " i64.trunc_sat_f32_s i64.trunc_sat_f32_u i64.trunc_sat_f64_s i64.trunc_sat_f64_u",
    ),
    (0x08, (_I.DATA, _I.MEMORY), "memory.init"),
    (0x09, (_I.DATA,), "data.drop"),
    (0x0A, (_I.MEMORY, _I.MEMORY), "memory.copy"),
    (0x0B, (_I.MEMORY,), "memory.fill"),
    (0x0C, (_I.ELEMENT, _I.TABLE), "table.init"),
    (0x0D, (_I.ELEMENT,), "elem.drop"),
    (0x0E, (_I.TABLE, _I.TABLE), "table.copy"),
    (0x0F, (_I.TABLE,), "table.grow table.size table.fill"),
)

_SIMD: _Runs = (
    (
        0x00,
        (_I.MEMARG,),
        "v128.load v128.load8x8_s v128.load8x8_u v128.load16x4_s v128.load16x4_u v128.load32x2_s v128.load32x2_u"
        " v128.load8_splat v128.load16_splat v128.load32_splat v128.load64_splat v128.store",
    ),
    (0x0C, (_I.V128,), "v128.const"),
    (0x0D, (_I.LANES,), "i8x16.shuffle"),
    (0x0E, (), "i8x16.swizzle i8x16.splat i16x8.splat i32x4.splat i64x2.splat f32x4.splat f64x2.splat"),
    (
        0x15,
        (_I.LANE,),
        "i8x16.extract_lane_s i8x16.extract_lane_u i8x16.replace_lane"
        " i16x8.extract_lane_s i16x8.extract_lane_u i16x8.replace_lane i32x4.extract_lane i32x4.replace_lane"
        " i64x2.extract_lane i64x2.replace_lane f32x4.extract_lane f32x4.replace_lane"
        " f64x2.extract_lane f64x2.replace_lane",
    ),
    (
        0x23,
        (),
        "i8x16.eq i8x16.ne i8x16.lt_s i8x16.lt_u i8x16.gt_s i8x16.gt_u i8x16.le_s i8x16.le_u i8x16.ge_s i8x16.ge_u"
        " i16x8.eq i16x8.ne i16x8.lt_s i16x8.lt_u i16x8.gt_s i16x8.gt_u i16x8.le_s i16x8.le_u i16x8.ge_s i16x8.ge_u"
        " i32x4.eq i32x4.ne i32x4.lt_s i32x4.lt_u i32x4.gt_s i32x4.gt_u i32x4.le_s i32x4.le_u i32x4.ge_s i32x4.ge_u"
        " f32x4.eq f32x4.ne f32x4.lt f32x4.gt f32x4.le f32x4.ge"
        " f64x2.eq f64x2.ne f64x2.lt f64x2.gt f64x2.le f64x2.ge"
        " v128.not v128.and v128.andnot v128.or v128.xor v128.bitselect v128.any_true",
    ),
    (
        0x54,
        (_I.MEMARG, _I.LANE),
        "v128.load8_lane v128.load16_lane v128.load32_lane v128.load64_lane"
        " v128.store8_lane v128.store16_lane v128.store32_lane v128.store64_lane",
    ),
    (0x5C, (_I.MEMARG,), "v128.load32_zero v128.load64_zero"),
    (
        0x5E,
        (),
        "f32x4.demote_f64x2_zero f64x2.promote_low_f32x4"
        " i8x16.abs i8x16.neg i8x16.popcnt i8x16.all_true i8x16.bitmask i8x16.narrow_i16x8_s i8x16.narrow_i16x8_u"
        " f32x4.ceil f32x4.floor f32x4.trunc f32x4.nearest i8x16.shl i8x16.shr_s i8x16.shr_u"
        " i8x16.add i8x16.add_sat_s i8x16.add_sat_u i8x16.sub i8x16.sub_sat_s i8x16.sub_sat_u"
        " f64x2.ceil f64x2.floor i8x16.min_s i8x16.min_u i8x16.max_s i8x16.max_u f64x2.trunc i8x16.avgr_u"
        " i16x8.extadd_pairwise_i8x16_s i16x8.extadd_pairwise_i8x16_u"
        " i32x4.extadd_pairwise_i16x8_s i32x4.extadd_pairwise_i16x8_u"
        " i16x8.abs i16x8.neg i16x8.q15mulr_sat_s i16x8.all_true i16x8.bitmask"
        " i16x8.narrow_i32x4_s i16x8.narrow_i32x4_u i16x8.extend_low_i8x16_s i16x8.extend_high_i8x16_s"
        " i16x8.extend_low_i8x16_u i16x8.extend_high_i8x16_u i16x8.shl i16x8.shr_s i16x8.shr_u"
        " i16x8.add i16x8.add_sat_s i16x8.add_sat_u i16x8.sub i16x8.sub_sat_s i16x8.sub_sat_u f64x2.nearest"
        " i16x8.mul i16x8.min_s i16x8.min_u i16x8.max_s i16x8.max_u",
    ),
    (
        0x9B,
        (),
        "i16x8.avgr_u i16x8.extmul_low_i8x16_s i16x8.extmul_high_i8x16_s"
        " i16x8.extmul_low_i8x16_u i16x8.extmul_high_i8x16_u i32x4.abs i32x4.neg",
    ),
    (0xA3, (), "i32x4.all_true i32x4.bitmask"),
    (
        0xA7,
        (),
        "i32x4.extend_low_i16x8_s i32x4.extend_high_i16x8_s i32x4.extend_low_i16x8_u i32x4.extend_high_i16x8_u"
        " i32x4.shl i32x4.shr_s i32x4.shr_u i32x4.add",
    ),
    (0xB1, (), "i32x4.sub"),
    (0xB5, (), "i32x4.mul i32x4.min_s i32x4.min_u i32x4.max_s i32x4.max_u i32x4.dot_i16x8_s"),
    (
        0xBC,
        (),
        "i32x4.extmul_low_i16x8_s i32x4.extmul_high_i16x8_s i32x4.extmul_low_i16x8_u i32x4.extmul_high_i16x8_u"
        " i64x2.abs i64x2.neg",
    ),
    (0xC3, (), "i64x2.all_true i64x2.bitmask"),
    (
        0xC7,
        (),
        "i64x2.extend_low_i32x4_s i64x2.extend_high_i32x4_s i64x2.extend_low_i32x4_u i64x2.extend_high_i32x4_u"
        " i64x2.shl i64x2.shr_s i64x2.shr_u i64x2.add",
    ),
    (0xD1, (), "i64x2.sub"),
    (
        0xD5,
        (),
        "i64x2.mul i64x2.eq i64x2.ne i64x2.lt_s i64x2.gt_s i64x2.le_s i64x2.ge_s"
        " i64x2.extmul_low_i32x4_s i64x2.extmul_high_i32x4_s i64x2.extmul_low_i32x4_u i64x2.extmul_high_i32x4_u"
        " f32x4.abs f32x4.neg",
    ),
    (
        0xE3,
        (),
        "f32x4.sqrt f32x4.add f32x4.sub f32x4.mul f32x4.div f32x4.min f32x4.max f32x4.pmin f32x4.pmax"
        " f64x2.abs f64x2.neg",
    ),
    (
        0xEF,
        (),
        "f64x2.sqrt f64x2.add f64x2.sub f64x2.mul f64x2.div f64x2.min f64x2.max f64x2.pmin f64x2.pmax"
        " i32x4.trunc_sat_f32x4_s i32x4.trunc_sat_f32x4_u f32x4.convert_i32x4_s f32x4.convert_i32x4_u"
        " i32x4.trunc_sat_f64x2_s_zero i32x4.trunc_sat_f64x2_u_zero"
        " f64x2.convert_low_i32x4_s f64x2.convert_low_i32x4_u",
    ),
)


def _numbered(prefix: int, runs: _Runs) -> dict[int, Opcode]:
    return {
        prefix + first + step: Opcode(prefix + first + step, name, immediates)
        for first, immediates, names in runs
        for step, name in enumerate(names.split())
    }


OPCODES: dict[int, Opcode] = _numbered(0, _PLAIN) | _numbered(0xFC00, _MISC) | _numbered(0xFD00, _SIMD)
"""Every instruction by number."""

OPCODE_BY_NAME: dict[str, Opcode] = {opcode.name: opcode for opcode in OPCODES.values()}
"""Every instruction by name; ``select_t`` is the select with a type."""
