"""What each instruction and each page costs, in instructions: named schedules.

Source: ``instruction_to_cost`` in the replica's ``instrumentation.rs``, 2025, second half; of the page
charges of ``2026-07``: the replica's change of 2026-07-16. A figure may be compared with one from canbench only under
the same schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from perdure.instrument.terms import PageCharges
from perdure.wasm import OPCODE_BY_NAME

__all__ = ["SCHEDULES", "CostSchedule"]


@final
@dataclass(frozen=True)
class CostSchedule:
    """Costs by instruction name, the same for every module that is metered under this name.

    Args:
        name: what figures are labelled with.
        costs: by name as in `perdure.wasm.OPCODES`; those absent cost 1. ``else`` and ``end`` must cost 0, which
            metering relies on.
        costs_64: what differs on modules with a 64-bit heap.
        prologue: charged on entry of every function.
        page_charges: of both memories; `None`: only written pages are charged, as the `Limits` of the entry say.
        approximate: that counts differ from the network's: heap pages that are only read are not charged, written ones
            at the end of the entry and where their bytes differ, unless somebody looks at what is read of heaps.
    """

    name: str
    costs: Mapping[str, int]
    costs_64: Mapping[str, int]
    prologue: int = 1
    page_charges: PageCharges | None = None
    approximate: bool = False

    def __post_init__(self) -> None:
        unknown = (self.costs.keys() | self.costs_64.keys()) - OPCODE_BY_NAME.keys()
        if unknown:
            raise ValueError(f"no instruction is named {', '.join(sorted(unknown))}")
        if any(self.cost(name, is_64=is_64) for name in ("else", "end") for is_64 in (False, True)):
            raise ValueError("else and end must cost 0")

    def cost(self, name: str, *, is_64: bool) -> int:
        """Cost of the instruction named `name`, without what depends on its operands."""
        if is_64 and name in self.costs_64:
            return self.costs_64[name]
        return self.costs.get(name, 1)


def _by_name(groups: Mapping[int, str]) -> dict[str, int]:
    return {name: cost for cost, names in groups.items() for name in names.split()}


_2025 = _by_name(
    {
        0: "block else end loop",
        2: """
            f32.add f32.sub f32.mul f32.ceil f32.floor f32.trunc f32.nearest f32.copysign
            f64.add f64.sub f64.mul f64.ceil f64.floor f64.trunc f64.nearest
            global.get global.set if br br_if br_table
            i8x16.lt_u i8x16.gt_u i16x8.lt_u i16x8.gt_u i32x4.lt_u i32x4.gt_u
            i8x16.shr_u i16x8.shl i16x8.shr_s i16x8.shr_u i32x4.shl i32x4.shr_s i32x4.shr_u i64x2.shl i64x2.shr_u
            i16x8.extadd_pairwise_i8x16_u i16x8.extmul_high_i8x16_s i16x8.extmul_high_i8x16_u
            i32x4.mul i32x4.extmul_low_i16x8_s i32x4.extmul_high_i16x8_s i32x4.extmul_low_i16x8_u
            i32x4.extmul_high_i16x8_u i32x4.trunc_sat_f32x4_s i32x4.trunc_sat_f64x2_s_zero
            f32x4.ceil f32x4.floor f32x4.trunc f32x4.nearest f32x4.abs f32x4.neg f32x4.add f32x4.sub f32x4.mul
            f64x2.ceil f64x2.floor f64x2.trunc f64x2.nearest f64x2.abs f64x2.neg f64x2.add f64x2.sub f64x2.mul
        """,
        3: """
            f32.div f64.copysign f32.eq f32.ne f32.lt f32.gt f32.le f32.ge f64.eq f64.ne f64.lt f64.gt f64.le f64.ge
            f32.convert_i32_s f64.convert_i64_s f32.convert_i64_s f64.convert_i32_s
            i8x16.shuffle i8x16.popcnt i8x16.shl i8x16.shr_s i32x4.extadd_pairwise_i16x8_u i64x2.shr_s
            i32x4.trunc_sat_f64x2_u_zero return_call
        """,
        4: "i64x2.mul f32x4.min f32x4.max f64x2.min i32x4.trunc_sat_f32x4_u f32x4.convert_i32x4_u",
        5: "f64.div f32.sqrt table.get table.set call ref.is_null f32x4.sqrt f64x2.max",
        8: "f64.sqrt",
        10: """
            i32.div_s i32.div_u i32.rem_s i32.rem_u i64.div_s i64.div_u i64.rem_s i64.rem_u call_indirect f32x4.div
        """,
        12: "f64x2.div",
        14: "f64x2.sqrt",
        16: "f64.convert_i32_u f32.convert_i64_u f32.convert_i32_u f64.convert_i64_u",
        18: "f32.min f32.max f64.min f64.max",
        20: """
            i32.trunc_sat_f32_s i32.trunc_sat_f32_u i32.trunc_sat_f64_s i32.trunc_sat_f64_u
            i64.trunc_sat_f32_s i64.trunc_sat_f32_u i64.trunc_sat_f64_s i64.trunc_sat_f64_u
            i32.trunc_f32_s i32.trunc_f32_u i32.trunc_f64_s i32.trunc_f64_u
            i64.trunc_f32_s i64.trunc_f32_u i64.trunc_f64_s i64.trunc_f64_u memory.size
        """,
        60: "return_call_indirect",
        100: "table.size memory.fill memory.copy table.fill table.copy memory.init table.init",
        130: "ref.func",
        300: "table.grow memory.grow data.drop elem.drop",
    }
)

_2025_64 = _by_name(
    {
        2: """
            i32.load i64.load f32.load f64.load i32.load8_s i32.load8_u i32.load16_s i32.load16_u i64.load8_s
            i64.load8_u i64.load16_s i64.load16_u i64.load32_s i64.load32_u i32.store i64.store f32.store f64.store
            i32.store8 i32.store16 i64.store8 i64.store16 i64.store32 v128.load v128.load8x8_s v128.load8x8_u
            v128.load16x4_s
            v128.load16x4_u v128.load32x2_s v128.load32x2_u v128.load8_splat v128.load16_splat v128.load32_splat
            v128.load64_splat v128.load32_zero v128.load64_zero v128.store v128.load8_lane v128.load16_lane
            v128.load32_lane v128.load64_lane v128.store8_lane v128.store16_lane v128.store32_lane v128.store64_lane
        """,
    }
)

SCHEDULES: Mapping[str, CostSchedule] = {
    "2025": CostSchedule("2025", _2025, _2025_64),
    "2026-07": CostSchedule("2026-07", _2025, _2025_64, page_charges=PageCharges(5_000, 5_000), approximate=True),
}
"""Every schedule by name."""
