"""What the network charges, line by line, with the rule of each: from the tables that execution uses."""

from __future__ import annotations

from typing import Final, NamedTuple, final

from perdure.execution.config import SubnetConfig
from perdure.execution.cycles import CYCLES_2026_08, CostSchedule

__all__ = ["DAY_NS", "Line", "Load", "explain"]

DAY_NS: Final = 86_400 * 1_000_000_000
_YEAR_DAYS: Final = 365
_SECTION: Final = "developer documentation, Cycle costs"


@final
class Load(NamedTuple):
    """What is asked about; what is 0 is left out."""

    instructions: int = 0
    """Of one call."""
    method_name_bytes: int = 0
    argument_bytes: int = 0
    reply_bytes: int = 0
    calls_per_day: int = 0
    from_canister: bool = False
    """Whether a canister makes the call: it pays for it, and nobody for ingress."""
    operators: int = 0
    """Of a module that is installed, as the replica instruments it."""
    install_instructions: int = 0
    """Of start and init."""
    storage_bytes: int = 0
    compute_allocation: int = 0
    """Percent of a core."""
    is_64: bool = False


@final
class Line(NamedTuple):
    """One charge."""

    what: str
    cycles: int
    rule: str
    section: str


def explain(load: Load, costs: CostSchedule = CYCLES_2026_08, config: SubnetConfig | None = None) -> list[Line]:
    """The charges for a load, in the order call, install, day, year."""
    config = config or SubnetConfig()
    fees = costs.wasm64 if load.is_64 else costs
    lines = []
    if load.instructions or load.argument_bytes or load.calls_per_day:
        lines += _call(load, fees)
    if load.operators or load.install_instructions:
        lines += _install(load, fees, config)
    one_call = sum(line.cycles for line in lines if line.what.startswith("call: "))
    day = one_call * load.calls_per_day
    if load.calls_per_day:
        lines.append(Line("day: calls", day, f"{load.calls_per_day:,} × {one_call:,}", "the lines above"))
    if load.storage_bytes or load.compute_allocation:
        parts = _kept(load, fees)
        lines += parts
        day += sum(line.cycles for line in parts)
    if day:
        lines += [
            Line("day: all", day, "the lines of a day", "the lines above"),
            Line("year: all", day * _YEAR_DAYS, f"{_YEAR_DAYS} × {day:,}", "the line above"),
        ]
    return lines


def _execution(fees: CostSchedule, instructions: int) -> str:
    per_ten = fees.ten_update_instructions_execution_fee
    return f"{fees.update_message_execution_fee:,} + {instructions:,} instructions × {per_ten} / 10"


def _call(load: Load, fees: CostSchedule) -> list[Line]:
    payload = load.method_name_bytes + load.argument_bytes
    executed = Line(
        "call: execution",
        fees.execution(load.instructions),
        _execution(fees, load.instructions),
        f"{_SECTION}: Execution",
    )
    if not load.from_canister:
        rule = f"{fees.ingress_message_reception_fee:,} + {payload:,} bytes × {fees.ingress_byte_reception_fee:,}"
        return [Line("call: ingress", fees.ingress(payload), rule, f"{_SECTION}: Messaging, ingress"), executed]
    request = fees.request(load.method_name_bytes, load.argument_bytes)
    rule = f"{fees.xnet_call_fee:,} + {payload:,} bytes × {fees.xnet_byte_transmission_fee:,}"
    answer = f"{load.reply_bytes:,} bytes × {fees.xnet_byte_transmission_fee:,}"
    return [
        Line("call: request", request, rule, f"{_SECTION}: Messaging, inter-canister call"),
        executed,
        Line("call: response", fees.response_transmission(load.reply_bytes), answer, f"{_SECTION}: Messaging, bytes"),
    ]


def _install(load: Load, fees: CostSchedule, config: SubnetConfig) -> list[Line]:
    each = config.cost_to_compile_wasm_instruction
    compiling = min(each * load.operators, config.max_instructions_per_install_code)
    instructions = compiling + load.install_instructions
    parts = f"{load.operators:,} operators × {each:,} to compile, {load.install_instructions:,} of start and init"
    rule = f"{_execution(fees, instructions)}: {parts}"
    return [
        Line("install: creating a canister", fees.create_canister(), "one canister", f"{_SECTION}: Canister creation"),
        Line(
            "install: the module",
            fees.execution(instructions),
            rule,
            f"{_SECTION}: Execution; compilation as the replica counts it",
        ),
    ]


def _kept(load: Load, fees: CostSchedule) -> list[Line]:
    lines = []
    if load.storage_bytes:
        cycles = fees.storage(load.storage_bytes, 0, DAY_NS)
        rule = f"{load.storage_bytes:,} bytes × {fees.gib_storage_per_second_fee:,} a GiB and second × 86,400"
        lines.append(Line("day: storage", cycles, rule, f"{_SECTION}: Storage"))
    if load.compute_allocation:
        cycles = fees.storage(0, load.compute_allocation, DAY_NS)
        fee = fees.compute_percent_allocated_per_second_fee
        rule = f"{load.compute_allocation} percent × {fee:,} a second × 86,400"
        lines.append(Line("day: compute allocation", cycles, rule, f"{_SECTION}: Compute allocation"))
    return lines
