"""What things cost: pure arithmetic over one table of fees.

Fees are for a subnet of 13 nodes. Source: "Cycle costs" of the developer documentation (2026-08); the formula of an
inter-canister call's reservations: `cycles_account_manager` of the replica (2025-10).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Final, final

from perdure.execution.config import GIB
from perdure.memory import WASM_PAGE_BYTES

__all__ = ["CYCLES_2026_08", "FREE", "CostSchedule"]

_NS_PER_SECOND: Final = 1_000_000_000
_WASM64_INSTRUCTION_COST_OVERHEAD: Final = 2
_ALGORITHMS: Final = {"sign_with_ecdsa": 2, "sign_with_schnorr": 2, "vetkd_derive_key": 1}
"""How many curves or algorithms there are; they have numbers from 0."""


@final
@dataclass(frozen=True)
class CostSchedule:
    """A table of fees in cycles; `CYCLES_2026_08` is the newest, `FREE` is for system subnets.

    Serves as the `CostTable` that canisters can ask.
    """

    source: str
    canister_creation_fee: int
    compute_percent_allocated_per_second_fee: int
    update_message_execution_fee: int
    ten_update_instructions_execution_fee: int
    xnet_call_fee: int
    xnet_byte_transmission_fee: int
    ingress_message_reception_fee: int
    ingress_byte_reception_fee: int
    gib_storage_per_second_fee: int
    http_base_fee: int
    http_base_fee_per_node: int
    http_request_byte_fee: int
    http_response_byte_fee: int
    signature_fees: dict[str, int]
    nodes: int = 13
    max_response_bytes: int = 2 << 20
    max_response_instructions: int = 40_000_000_000

    @cached_property
    def wasm64(self) -> CostSchedule:
        """The table for canisters with 64-bit heaps: their instructions cost twice as much."""
        fee = self.ten_update_instructions_execution_fee * _WASM64_INSTRUCTION_COST_OVERHEAD
        return replace(self, ten_update_instructions_execution_fee=fee)

    def execution(self, instructions: int) -> int:
        """One message that used so many instructions."""
        return self.update_message_execution_fee + instructions * self.ten_update_instructions_execution_fee // 10

    def ingress(self, payload_bytes: int) -> int:
        """Letting in one ingress message; method name and argument count."""
        return self.ingress_message_reception_fee + payload_bytes * self.ingress_byte_reception_fee

    def request(self, method_name_bytes: int, payload_bytes: int) -> int:
        """Sending one request to a canister, its response not included."""
        return self.xnet_call_fee + (method_name_bytes + payload_bytes) * self.xnet_byte_transmission_fee

    def response_transmission(self, payload_bytes: int) -> int:
        """Sending so large a response; its largest possible size is paid beforehand by the caller."""
        return payload_bytes * self.xnet_byte_transmission_fee

    @property
    def prepaid_response_transmission(self) -> int:
        """What a caller sets aside for the transmission of a response."""
        return self.response_transmission(self.max_response_bytes)

    @property
    def prepaid_response_execution(self) -> int:
        """What a caller sets aside for its callback."""
        return self.execution(self.max_response_instructions)

    def storage_per_second(self, memory_bytes: int, compute_allocation: int) -> int:
        """What a canister of this size and allocation burns by existing, rounded up."""
        storage = -(-memory_bytes * self.gib_storage_per_second_fee // GIB)
        return storage + compute_allocation * self.compute_percent_allocated_per_second_fee

    def storage(self, memory_bytes: int, compute_allocation: int, duration_ns: int) -> int:
        """What a canister of this size and allocation owes for `duration_ns`."""
        storage = memory_bytes * self.gib_storage_per_second_fee * duration_ns // (GIB * _NS_PER_SECOND)
        compute = compute_allocation * self.compute_percent_allocated_per_second_fee * duration_ns // _NS_PER_SECOND
        return storage + compute

    def affordable_wasm_pages(self, cycles: int, threshold_seconds: int, paid_bytes: int = 0) -> int | None:
        """How many more Wasm pages can be kept for `threshold_seconds` with `cycles`; `None`: any number.

        `paid_bytes`: of these nobody has to pay for.
        """
        per_gib = self.gib_storage_per_second_fee * threshold_seconds
        if not per_gib:
            return None
        affordable = cycles * GIB // per_gib if cycles > 0 else 0
        return (affordable + paid_bytes) // WASM_PAGE_BYTES

    # -- what `ic0.cost_*` answers

    def call(self, method_name_bytes: int, payload_bytes: int) -> int:
        """An inter-canister call with its reservations for the largest response and the longest callback."""
        request = self.request(method_name_bytes, payload_bytes)
        return request + self.prepaid_response_transmission + self.prepaid_response_execution

    def create_canister(self) -> int:
        """Creating a canister."""
        return self.canister_creation_fee

    def http_request(self, request_bytes: int, max_response_bytes: int) -> int:
        """An HTTP outcall."""
        base = self.http_base_fee + self.http_base_fee_per_node * self.nodes
        size = self.http_request_byte_fee * request_bytes + self.http_response_byte_fee * max_response_bytes
        return (base + size) * self.nodes

    def sign(self, scheme: str, key_name: str, algorithm: int) -> int:
        """A threshold signature or key derivation.

        Raises:
            ValueError: `algorithm` is no curve or algorithm of `scheme`.
            KeyError: there is no such key.
        """
        if algorithm >= _ALGORITHMS[scheme]:
            raise ValueError(f"unknown curve or algorithm {algorithm} for {scheme}")
        return self.signature_fees[key_name]


CYCLES_2026_08: Final = CostSchedule(
    source="developer documentation, Cycle costs, 13-node application subnet, 2026-08",
    canister_creation_fee=500_000_000_000,
    compute_percent_allocated_per_second_fee=10_000_000,
    update_message_execution_fee=5_000_000,
    ten_update_instructions_execution_fee=10,
    xnet_call_fee=260_000,
    xnet_byte_transmission_fee=1_000,
    ingress_message_reception_fee=1_200_000,
    ingress_byte_reception_fee=2_000,
    gib_storage_per_second_fee=127_000,
    http_base_fee=3_000_000,
    http_base_fee_per_node=60_000,
    http_request_byte_fee=400,
    http_response_byte_fee=800,
    signature_fees={"test_key_1": 10_000_000_000, "dfx_test_key": 10_000_000_000, "key_1": 26_153_846_153},
)

FREE: Final = replace(
    CYCLES_2026_08,
    source="a system subnet, where nothing costs cycles",
    signature_fees=dict.fromkeys(CYCLES_2026_08.signature_fees, 0),
    **{one.name: 0 for one in fields(CYCLES_2026_08) if one.name.endswith("_fee")},
    http_base_fee_per_node=0,
)
