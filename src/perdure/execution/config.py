"""Every limit of a subnet, by the replica's name and with its default. Another value is an argument away.

Source: `rs/config/src/{subnet_config,embedders,execution_environment}.rs` and `rs/limits` of the replica (late 2025),
"Resource limits" of the developer documentation (2026-08).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, final

__all__ = ["GIB", "SubnetConfig", "changed_fields"]

GIB: Final = 1 << 30
_PAGE = 4096
_SECOND_NS = 1_000_000_000


@final
@dataclass(frozen=True, slots=True)
class SubnetConfig:
    """Limits of an application subnet. Sizes in bytes, pages of 4 KiB where the name says so."""

    max_instructions_per_message: int = 40_000_000_000
    max_instructions_per_query_message: int = 5_000_000_000
    max_instructions_per_install_code: int = 300_000_000_000
    max_instructions_for_message_acceptance_calls: int = 200_000_000
    max_instructions_per_composite_query_call: int = 5_000_000_000
    max_instructions_per_round: int = 7_000_000_000
    instruction_overhead_per_query_call: int = 50_000_000
    reserved_cleanup_execution_in_percent: int = 5
    dirty_page_overhead: int = 1_000
    cost_to_compile_wasm_instruction: int = 6_000
    """Instructions for each operator of a module as the replica instruments it, whenever it gets into a canister."""

    max_query_call_depth: int = 6
    queue_capacity: int = 500
    max_ingress_payload_bytes: int = 2 << 20
    max_inter_canister_payload_bytes: int = 2 << 20
    max_local_request_payload_bytes: int = 10 << 20
    max_replicated_reply_bytes: int = 2 << 20
    max_query_reply_bytes: int = 3 << 20
    max_call_timeout_seconds: int = 300
    stop_canister_timeout_ns: int = 300 * _SECOND_NS

    max_wasm64_memory_bytes: int = 6 * GIB
    max_stable_memory_bytes: int = 500 * GIB
    default_wasm_memory_limit_bytes: int = 3 * GIB
    stable_accessed_pages_message: int = 2 * GIB // _PAGE
    stable_accessed_pages_upgrade: int = 8 * GIB // _PAGE
    stable_accessed_pages_query: int = GIB // _PAGE
    stable_dirty_pages_message: int = 2 * GIB // _PAGE
    stable_dirty_pages_upgrade: int = 8 * GIB // _PAGE
    stable_dirty_pages_query: int = GIB // _PAGE

    wasm_max_size_bytes: int = 100 << 20
    max_sum_exported_function_name_lengths: int = 20_000
    wasm_chunk_bytes: int = 1 << 20
    wasm_chunk_store_max_chunks: int = 100
    max_controllers: int = 10
    max_canister_history_changes: int = 20
    max_snapshots_per_canister: int = 10
    max_environment_variables: int = 20
    max_environment_variable_name_bytes: int = 128
    max_environment_variable_value_bytes: int = 128
    default_log_memory_limit_bytes: int = 4 << 10
    min_log_memory_limit_bytes: int = 4 << 10
    max_log_memory_limit_bytes: int = 2 << 20
    max_fetch_canister_logs_bytes: int = 2_000_000
    debug_prints: bool = True
    """Whether somebody sees what is printed, beside the log, which costs an instruction a byte: as with dfx, PocketIC
    and system subnets. On application subnets of the mainnet nobody does."""
    max_allowed_viewers: int = 10
    max_canisters: int = 100_000

    default_freezing_threshold_seconds: int = 30 * 24 * 3600
    default_reserved_cycles_limit: int = 5_000_000_000_000
    default_provisional_cycles: int = 100_000_000_000_000
    allocation_charge_period_ns: int = 10 * _SECOND_NS
    ingress_ttl_ns: int = 300 * _SECOND_NS
    """How far ahead a request may expire, but for `ingress_drift_ns`."""
    ingress_drift_ns: int = 60 * _SECOND_NS
    ingress_history_max_answers: int = 20_000
    ingress_history_max_bytes: int = 64 << 20
    ingress_history_max_requests: int = 100_000
    """Requests in progress, and those of which it is only known that they were answered."""
    production_key_names: bool = False
    """Whether threshold keys are also offered by the names of the network's; they are as public as the others."""
    round_ns: int = 1
    """How far a round moves the virtual clock, so that time never stands still across rounds."""

    @classmethod
    def benchmarking(cls) -> SubnetConfig:
        """Limits of a benchmarking subnet, as PocketIC makes them for canbench.

        Instructions and names of exports last for longer than anything would.
        """
        instructions = 99_999_999_999_999
        return cls(
            max_instructions_per_message=instructions,
            max_instructions_per_query_message=instructions,
            max_instructions_per_composite_query_call=instructions,
            max_instructions_per_round=instructions,
            max_sum_exported_function_name_lengths=1 << 20,
            default_provisional_cycles=10**18,  # an update sets aside what its limit costs
        )

    @property
    def ingress_history_ns(self) -> int:
        """How long the answer to a request is kept: longer than the request can come again."""
        return self.ingress_ttl_ns + self.ingress_drift_ns


def changed_fields(config: SubnetConfig) -> dict[str, int]:
    """What a configuration has other than the default one, by name: ``SubnetConfig(**changed_fields(config))``."""
    default = SubnetConfig()
    values = ((field.name, getattr(config, field.name)) for field in fields(config))
    return {name: value for name, value in values if value != getattr(default, name)}
