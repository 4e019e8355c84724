"""`perdure explain-cost`: its sums are what executing charges."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure import Subnet
from perdure.execution import SubnetConfig
from perdure.execution.cycles import CYCLES_2026_08
from perdure.measure.costs import DAY_NS, Load, explain

Run = Callable[..., tuple[int, str, str]]


def by_name(load: Load) -> dict[str, int]:
    return {line.what: line.cycles for line in explain(load)}


def test_a_call_and_a_day_cost_what_a_canister_is_charged(built: Callable[[str], Path]) -> None:
    subnet = Subnet(config=SubnetConfig())
    canister = subnet.install(built("kv32"), bytes(8))
    before = canister.status().cycles
    canister.update("echo", bytes(1_000))
    assert canister.last is not None
    load = Load(instructions=canister.last.instructions, method_name_bytes=4, argument_bytes=1_000)
    lines = by_name(load)
    assert sum(lines[name] for name in ("call: ingress", "call: execution")) == before - canister.status().cycles

    before, size = canister.status().cycles, canister.status().memory_bytes
    subnet.advance_time(DAY_NS)
    subnet.tick()
    charged = before - canister.status().cycles
    assert by_name(Load(storage_bytes=size))["day: storage"] == pytest.approx(charged, abs=1)


def test_each_line_has_its_rule() -> None:
    load = Load(
        instructions=10_000_000, argument_bytes=300, reply_bytes=50, calls_per_day=1_000, from_canister=True,
        operators=50_000, install_instructions=7, storage_bytes=2 << 30, compute_allocation=10, is_64=True,
    )  # fmt: skip
    lines = explain(load)
    fees = CYCLES_2026_08.wasm64
    assert {line.what: line.cycles for line in lines} == {
        "call: request": fees.request(0, 300),
        "call: execution": fees.execution(10_000_000),
        "call: response": 50_000,
        "install: creating a canister": 500_000_000_000,
        "install: the module": fees.execution(300_000_007),
        "day: calls": 1_000 * (fees.request(0, 300) + fees.execution(10_000_000) + 50_000),
        "day: storage": 2 * 127_000 * 86_400,
        "day: compute allocation": 10 * 10_000_000 * 86_400,
        "day: all": sum(line.cycles for line in lines if line.what.startswith("day: ") and line.what != "day: all"),
        "year: all": 365 * next(line.cycles for line in lines if line.what == "day: all"),
    }
    assert all(line.rule and line.section for line in lines)
    assert next(line.rule for line in lines if line.what == "call: execution").endswith("× 20 / 10")


def test_the_command(run: Run, built: Callable[[str], Path]) -> None:
    words = ("explain-cost", built("kv32"), "echo=6869", "--init", "00" * 8, "--calls-per-day", "10")
    code, out, _ = run(*words, "--json")
    assert code == 0
    lines = {line["what"]: line for line in json.loads(out)["lines"]}
    subnet = Subnet()
    canister = subnet.install(built("kv32"), bytes(8))
    canister.update("echo", b"hi")
    assert canister.last is not None
    assert lines["call: execution"]["cycles"] == canister.last.cycles
    assert lines["call: ingress"]["cycles"] == 1_200_000 + 6 * 2_000
    code, out, _ = run(*words)
    assert "= 1,200,000 + 6 bytes × 2,000  [developer documentation, Cycle costs: Messaging, ingress]" in out
    assert run(*words, "--quiet")[1] == f"{lines['day: all']['cycles']}\n"
    assert run("explain-cost")[0] == 2
    assert run("explain-cost", "--instructions", "-1")[0] == 2
