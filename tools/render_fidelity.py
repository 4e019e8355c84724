"""What works, what is a local stand-in, what is refused: the rows of ``docs/fidelity.md``, from the tables in code.

`python tools/render_fidelity.py > docs/fidelity.md` makes the document. Each row that works names the test that proves
it; a test fails when one names none that exists, or when the document is not what these rows say.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import Final, NamedTuple

from perdure.canister import Context
from perdure.execution.config import SubnetConfig
from perdure.execution.management import BITCOIN_METHODS, METHODS
from perdure.execution.management.elsewhere import BITCOIN_CANISTERS
from perdure.ic.ic0 import ALL_CONTEXTS, FUNCTIONS, NON_SPECIFIED, START_CONTEXTS
from perdure.ic.ic0_ext import DIRECT, EXTENSION_FUNCTIONS, MODULE
from perdure.instrument import HIGHEST, REPLICA, Bounds

__all__ = ["Row", "render", "rows"]

WORKS: Final = "works"
LOCAL: Final = "local stand-in"
REJECTED: Final = "rejected"
EXTRA: Final = "extension"

_EXECUTE: Final = "tests/execution/test_execute.py::"
_LIFECYCLE: Final = "tests/execution/test_lifecycle.py::"
_INGRESS: Final = "tests/execution/test_ingress.py::"
_LIMITS: Final = "tests/execution/test_limits.py::"
_MANAGEMENT: Final = "tests/execution/test_management.py::"
_OUTCALLS: Final = "tests/execution/test_outcalls.py::"
_SYSTEM_API: Final = "tests/system_api/test_host_functions.py::"


class Row(NamedTuple):
    """One promise of the interface specification and how it is kept."""

    section: str
    name: str
    detail: str
    state: str
    test: str = ""


_CONTEXT_TEST: Final = _SYSTEM_API + "test_table_of_contexts"
_IDENTITY: Final = "tests/execution/test_identity.py::"
_FUNCTION_TESTS: Final = {
    "root_key_size": _IDENTITY + "test_root_key_is_what_canisters_see",
    "root_key_copy": _IDENTITY + "test_root_key_is_what_canisters_see",
    "data_certificate_size": _IDENTITY + "test_queries_get_certificates_that_verify",
    "data_certificate_copy": _IDENTITY + "test_queries_get_certificates_that_verify",
    "subnet_self_size": _IDENTITY + "test_identity_follows_from_the_seed",
    "subnet_self_copy": _IDENTITY + "test_identity_follows_from_the_seed",
}
"""Better proofs than the table of contexts alone; that one holds for every function."""
_LOCAL_FUNCTIONS: Final = {
    "root_key_size": "key made from the subnet's seed",
    "root_key_copy": "key made from the subnet's seed",
    "data_certificate_size": "signed by the local root key, no delegation",
    "data_certificate_copy": "signed by the local root key, no delegation",
    "subnet_self_size": "one subnet",
    "subnet_self_copy": "one subnet",
    "cost_sign_with_ecdsa": "prices of the public key names",
    "cost_sign_with_schnorr": "prices of the public key names",
    "cost_vetkd_derive_key": "prices of the public key names",
}

_ENTRY_POINTS: Final = (
    ("canister_init", WORKS, _LIFECYCLE + "TestInstall::test_init_gets_argument_and_caller"),
    ("(start)", WORKS, _LIFECYCLE + "TestInstall::test_start_runs_first_and_knows_nothing"),
    ("canister_pre_upgrade", WORKS, _LIFECYCLE + "TestUpgrade::test_pre_upgrade_sees_the_old_version"),
    (
        "canister_post_upgrade",
        WORKS,
        _LIFECYCLE + "TestUpgrade::test_default_keeps_stable_memory_and_certified_data",
    ),
    ("canister_update", WORKS, _EXECUTE + "TestOneCanister::test_update_commits"),
    ("canister_query, replicated", WORKS, _EXECUTE + "TestOneCanister::test_replicated_query_keeps_no_state"),
    ("canister_query, non-replicated", WORKS, _EXECUTE + "TestOneCanister::test_query_changes_nothing"),
    (
        "canister_composite_query",
        WORKS,
        _EXECUTE + "TestCompositeQueries::test_calls_queries_and_sees_its_own_changes",
    ),
    ("canister_inspect_message", WORKS, _EXECUTE + "TestInspection::test_decides"),
    ("canister_heartbeat", WORKS, _EXECUTE + "TestTasks::test_heartbeat_every_round"),
    ("canister_global_timer", WORKS, _EXECUTE + "TestTasks::test_timer_fires_once_and_is_cleared_before"),
    ("canister_on_low_wasm_memory", WORKS, _EXECUTE + "TestTasks::test_low_memory_hook_once_per_crossing"),
    ("reply callback", WORKS, _EXECUTE + "TestCalls::test_reply"),
    ("reject callback", WORKS, _EXECUTE + "TestCalls::test_explicit_reject_is_passed_as_it_is"),
    (
        "cleanup callback",
        WORKS,
        _EXECUTE + "TestCallbacks::test_cleanup_runs_over_the_state_before_the_callback",
    ),
    (
        "callbacks and cleanup in a composite query",
        WORKS,
        _EXECUTE + "TestCompositeQueries::test_callback_trap_and_cleanup",
    ),
    ("HTTP outcall transform", WORKS, _OUTCALLS + "TestAnswers::test_transform"),
)

_METHOD_TESTS: Final = {
    "create_canister": "TestCreation::test_by_a_canister_for_cycles",
    "provisional_create_canister_with_cycles": "TestCreation::test_provisional",
    "provisional_top_up_canister": "TestCreation::test_provisional",
    "update_settings": "TestSettings::test_update",
    "upload_chunk": "TestCode::test_chunks",
    "clear_chunk_store": "TestCode::test_chunks",
    "stored_chunks": "TestCode::test_chunks",
    "install_code": "TestCode::test_install_upgrade_reinstall",
    "install_chunked_code": "TestCode::test_chunks",
    "uninstall_code": "TestCode::test_install_upgrade_reinstall",
    "start_canister": "TestRunning::test_stop_and_start",
    "stop_canister": "TestRunning::test_stop_by_a_canister_returns_its_cycles",
    "delete_canister": "TestRunning::test_stop_and_start",
    "deposit_cycles": "TestRunning::test_deposit",
    "raw_rand": "TestRunning::test_raw_rand",
    "canister_status": "TestKnowledge::test_status",
    "canister_metrics": "TestMetrics::test_what_cycles_went_for",
    "list_canisters": "TestWho::test_administrators",
    "canister_info": "TestKnowledge::test_info",
    "canister_metadata": "TestKnowledge::test_metadata",
    "fetch_canister_logs": "TestKnowledge::test_logs",
    "take_canister_snapshot": "TestSnapshots::test_take_and_load",
    "load_canister_snapshot": "TestSnapshots::test_take_and_load",
    "list_canister_snapshots": "TestSnapshots::test_list_delete_limit",
    "delete_canister_snapshot": "TestSnapshots::test_list_delete_limit",
    "read_canister_snapshot_metadata": "TestSnapshots::test_download_and_upload_to_another_canister",
    "read_canister_snapshot_data": "TestSnapshots::test_download_and_upload_to_another_canister",
    "upload_canister_snapshot_metadata": "TestSnapshots::test_download_and_upload_to_another_canister",
    "upload_canister_snapshot_data": "TestSnapshots::test_download_and_upload_to_another_canister",
    "ecdsa_public_key": "TestSignatures::test_sign",
    "sign_with_ecdsa": "TestSignatures::test_sign",
    "schnorr_public_key": "TestSignatures::test_sign",
    "sign_with_schnorr": "TestSignatures::test_taproot",
    "vetkd_public_key": "TestSignatures::test_vetkd",
    "vetkd_derive_key": "TestSignatures::test_vetkd",
    "subnet_info": "TestElsewhere::test_subnet_info",
    "node_metrics_history": "TestElsewhere::test_node_metrics_history",
    "http_request": _OUTCALLS + "TestConsensus::test_thirteen_answers",
    "flexible_http_request": _OUTCALLS + "TestFlexible::test_responses_as_nodes_got_them",
}
_PUBLIC_KEYS: Final = "keys are public, PocketIC's"
_LOCAL_METHODS: Final = {
    "raw_rand": "a function of the subnet's seed",
    "ecdsa_public_key": f"{_PUBLIC_KEYS}; of secp256r1 our own",
    "sign_with_ecdsa": f"{_PUBLIC_KEYS}; of secp256r1 our own",
    "canister_metrics": "nothing for an uninstallation: what is left then is memory's",
    "list_canisters": "the subnet has none, and says so to everybody",
    "subnet_info": "versions that stand for none",
    "node_metrics_history": "thirteen nodes that are imagined",
    "http_request": "nodes that differ are imagined; priced by version 1",
    "flexible_http_request": "nodes that differ are imagined; priced as `http_request`, without reports of resources",
    **dict.fromkeys(("schnorr_public_key", "sign_with_schnorr", "vetkd_public_key", "vetkd_derive_key"), _PUBLIC_KEYS),
}

_TOLD: Final = _EXECUTE + "test_engine_sees_no_more_than_the_limits"
_INSTALL: Final = _LIMITS + "TestEntries::test_install"
_HEAP: Final = _LIMITS + "TestEntries::test_heap_limit"
_SETTINGS: Final = _MANAGEMENT + "TestSettings::test_refused"
_CHUNKS: Final = _MANAGEMENT + "TestCode::test_chunk_limits"

_LIMIT_TESTS: Final = {
    "max_instructions_per_message": _TOLD,
    "max_instructions_per_query_message": _TOLD,
    "max_instructions_per_install_code": _INSTALL,
    "max_instructions_for_message_acceptance_calls": _LIMITS + "TestEntries::test_inspect",
    "max_instructions_per_composite_query_call": _LIMITS + "TestQueries::test_composite_budget",
    "max_instructions_per_round": _LIMITS + "TestRounds::test_a_round_ends_when_its_instructions_are_used_up",
    "instruction_overhead_per_query_call": _LIMITS + "TestQueries::test_composite_budget",
    "reserved_cleanup_execution_in_percent": _LIMITS + "TestEntries::test_callbacks_keep_some_back_for_cleanup",
    "max_query_call_depth": _EXECUTE + "TestCompositeQueries::test_depth",
    "queue_capacity": _EXECUTE + "TestCalls::test_queue_of_500",
    "max_ingress_payload_bytes": _EXECUTE + "TestOneCanister::test_ingress_too_large",
    "max_local_request_payload_bytes": _LIMITS + "TestCallTerms::test_limits_of_calls_are_configuration",
    "max_replicated_reply_bytes": _TOLD,
    "max_query_reply_bytes": _TOLD,
    "max_call_timeout_seconds": _LIMITS + "TestCallTerms::test_limits_of_calls_are_configuration",
    "stop_canister_timeout_ns": _LIFECYCLE + "TestStopping::test_times_out",
    "max_stable_memory_bytes": _HEAP,
    "default_wasm_memory_limit_bytes": _HEAP,
    "stable_accessed_pages_message": _TOLD,
    "stable_accessed_pages_upgrade": _INSTALL,
    "stable_accessed_pages_query": _TOLD,
    "stable_dirty_pages_message": _LIMITS + "TestEntries::test_inspect",
    "stable_dirty_pages_upgrade": _INSTALL,
    "stable_dirty_pages_query": _LIMITS + "TestEntries::test_inspect",
    "wasm_max_size_bytes": _LIFECYCLE + "TestInstall::test_too_large",
    "wasm_chunk_bytes": _CHUNKS,
    "wasm_chunk_store_max_chunks": _CHUNKS,
    "max_controllers": _SETTINGS,
    "max_allowed_viewers": _SETTINGS,
    "max_environment_variables": _SETTINGS,
    "max_environment_variable_name_bytes": _SETTINGS,
    "max_environment_variable_value_bytes": _SETTINGS,
    "max_canister_history_changes": _MANAGEMENT + "TestKnowledge::test_history_is_cut",
    "max_snapshots_per_canister": _MANAGEMENT + "TestSnapshots::test_list_delete_limit",
    "max_wasm64_memory_bytes": _MANAGEMENT + "TestSnapshots::test_upload_limits",
    "max_inter_canister_payload_bytes": _MANAGEMENT + "TestSnapshots::test_download_and_upload_to_another_canister",
    "default_log_memory_limit_bytes": _MANAGEMENT + "TestLogs::test_default_and_store_size",
    "min_log_memory_limit_bytes": _MANAGEMENT + "TestSettings::test_ranges",
    "max_log_memory_limit_bytes": _MANAGEMENT + "TestSettings::test_ranges",
    "max_fetch_canister_logs_bytes": _MANAGEMENT + "TestLogs::test_no_more_than_a_response_holds",
    "max_sum_exported_function_name_lengths": "tests/subnet/test_benchmarking.py::test_names_of_exports",
    "max_canisters": _MANAGEMENT + "TestCreation::test_no_room",
    "default_freezing_threshold_seconds": _MANAGEMENT + "TestSettings::test_idle_burn_and_freezing_limit",
    "default_reserved_cycles_limit": _MANAGEMENT + "TestCreation::test_by_a_canister_for_cycles",
    "default_provisional_cycles": _MANAGEMENT + "TestCreation::test_default_amount",
    "allocation_charge_period_ns": _LIMITS + "TestStorage::test_charged_at_most_every_ten_seconds",
    "dirty_page_overhead": _LIMITS + "TestEntries::test_install",
    "debug_prints": "tests/embedder/test_charges.py::test_printing_is_charged_where_it_is_on",
    "ingress_ttl_ns": _INGRESS + "TestExpiry::test_too_old_and_too_far_ahead",
    "ingress_drift_ns": _INGRESS + "TestExpiry::test_too_old_and_too_far_ahead",
    "ingress_history_max_answers": _INGRESS + "TestBounds::test_by_number",
    "ingress_history_max_bytes": _INGRESS + "TestBounds::test_by_size",
    "ingress_history_max_requests": _INGRESS + "TestBounds::test_when_no_more_can_be_remembered",
    "cost_to_compile_wasm_instruction": _LIMITS + "TestCompiling::test_install",
    "production_key_names": _MANAGEMENT + "TestSignatures::test_production_names_are_an_option",
    "round_ns": _LIMITS + "TestRounds::test_time_goes_on",
}
_MODULE_LIMITS: Final = {
    "max_functions": (19_580, "PHP 8.3", "test_functions_are_limited_in_number"),
    "max_globals": (36, "Motoko", "test_globals_are_numbers_and_limited"),
    "max_code_bytes": (12_270_875, "PHP 8.3", "test_the_code_section_is_limited"),
    "max_function_instructions": (87_743, "esbuild, in Go", "test_functions_are_limited_in_size"),
}
"""Of `perdure.instrument.Policy`, whose values are the replica's."""
_BOUNDS: Final = "tests/instrument/test_bounds.py::test_each_bound_is_inclusive_and_refuses_by_name"
_LOCAL_LIMITS: Final = frozenset(
    [
        "production_key_names",
        "round_ns",
        "max_canisters",
        "default_provisional_cycles",
        "ingress_history_max_answers",
        "ingress_history_max_bytes",
        "ingress_history_max_requests",
    ]
)

DIFFERENCES: Final = (
    "On a `Subnet` every call stays, so that a request may have 10 MiB; between subnets of a `Network` it has 2 MiB. "
    "None is lost on the way.",
    "No time passes by itself. The clock is virtual; a round moves it by a nanosecond, whoever tests moves it further.",
    "Messages are never sliced over rounds; a canister may use up what is left of a round's budget and go beyond it by "
    "one message.",
    "Compute allocations are paid for and have no effect; every canister that has work runs in every round.",
    "Resource reservation begins above 750 GiB of a subnet's memory, which is never reached; the reserved balance is "
    "used first where there is one.",
    "No rate limits for installs and heap changes, no limit on the memory that messages take.",
    "Schedule `2026-07`, which charges pages of both memories for their first access and their first write, is"
    " approximate: heap pages that are only read cost nothing, written ones are charged at the end of an entry."
    " Where what is read of heaps is looked at (`Subnet.heat(heap_reads=True)`), heap pages are charged for both, whole"
    " Wasm pages at a time as the network's tracker maps them; pages of stable memory are charged one by one.",
    "A query's statistics count at once; the network aggregates them over days.",
    "Messages that are refused for what they lack are answered, not retried.",
    "`canister_version` grows with a replicated query too, as the replica does; the specification lets both.",
    "The hash of environment variables is left out of a canister's history.",
    "`sender_canister_version` is recorded and not compared with the sender's version.",
    "Taking, reading and uploading snapshots costs no instructions, loading one those of compiling its module; their "
    "storage is paid for.",
    "Compiling costs the same each time; the replica charges a hundredth for a module that it has compiled since its "
    "last checkpoint.",
    "Certificates say the virtual time; a client that compares it with its own clock has to be told.",
    "Rejections for memory that cannot grow name no numbers of bytes and cycles.",
    "A round runs what its canisters had before it; the network goes on within a round until nothing is left to do.",
    "After `msg_reply` cycles are available and can be accepted until the entry ends, as in the replica; the "
    "specification says that there are none.",
    "A call to an id outside of the subnet's 2^20 finds `No route to canister`, as on the network where no subnet has "
    "it.",
    "Silence has the replica's words: a query or composite query `did not produce a response`, an update or replicated "
    "query `did not reply to the call`, and a canister that called hears `No response`.",
    "As in the replica, a composite query that comes to a canister that waits for it, is too deep or has no "
    "instructions left ends as a whole (`IC0517`, `IC0525`, `IC0526`); the specification lets canisters be entered "
    "again.",
    "`SubnetConfig.benchmarking()` lifts the limits of instructions and of export names, as PocketIC does for "
    "canbench.",
    "Modules with tables or values of external references are refused.",
    "A mistyped callback is `IC0502`; the help sentences of rejects, and some words of the management canister's, are "
    "from memory of the replica's and not compared with it.",
)
"""What differs from the network and is no row above."""


_HANDING: Final = "tests/subnet/test_handing.py::"
_EXTENSION_TESTS: Final = {
    name: "tests/instrument/test_direct.py::test_a_store_is_what_wasm_stores"
    if access.is_store
    else "tests/instrument/test_direct.py::test_a_load_is_what_wasm_loads_of_the_same_bytes"
    for name, access in DIRECT.items()
} | {"call_memory_add": _HANDING + "test_the_callee_has_it_and_each_goes_its_own_way"}

# The extensions that bring no function: what they are, and what proves it.
_EXTENSION_ROWS: Final = (
    (
        "(import LIFETIME NAME (memory ...))",
        "memories",
        "tests/subnet/test_own_memories.py::test_a_message_commits_all_of_them",
    ),
    (
        "(import LIFETIME:NAME INSTRUCTION (func ...))",
        "memories",
        "tests/instrument/test_named.py::test_every_load_and_store",
    ),
    (
        "memory 1 as stable memory",
        "memories=index",
        "tests/subnet/test_own_memories.py::test_memory_1_as_stable_memory",
    ),
    (
        "declared memories as heap",
        "memories=declared",
        "tests/subnet/test_own_memories.py::test_declared_memories_are_heap",
    ),
    (
        "modules lowered for the network",
        "direct, memories",
        "tests/instrument/test_lowering.py::test_random_stories_are_the_same_in_both_forms",
    ),
)


def _contexts(letters: frozenset[str]) -> str:
    if letters == START_CONTEXTS:
        return "* s"
    if letters == ALL_CONTEXTS:
        return "*"
    return " ".join(context.value for context in Context if context.value in letters)


def rows() -> Iterator[Row]:
    """Every row, section by section."""
    for name, function in {**FUNCTIONS, **NON_SPECIFIED}.items():
        contexts = _contexts(function.contexts)
        if not function.specified:
            yield Row("ic0 functions", name, f"{contexts}; in no specification, traps when called", REJECTED)
            continue
        local = _LOCAL_FUNCTIONS.get(name)
        detail = contexts if local is None else f"{contexts}; {local}"
        test = _FUNCTION_TESTS.get(name, f"{_CONTEXT_TEST}[{name}]")
        yield Row("ic0 functions", name, detail, WORKS if local is None else LOCAL, test)
    for name, state, test in _ENTRY_POINTS:
        yield Row("Entry points", name, "", state, test)
    for name, method in METHODS.items():
        ways = [way for way, offered in (("update", method.update), ("query", method.query)) if offered]
        detail = f"{method.who.value}; {', '.join(ways)}{'' if method.ingress else '; not by users as an update'}"
        local = _LOCAL_METHODS.get(name)
        detail = detail if local is None else f"{detail}; {local}"
        test = _METHOD_TESTS[name] if _METHOD_TESTS[name].startswith("tests/") else _MANAGEMENT + _METHOD_TESTS[name]
        yield Row("Management canister", name, detail, WORKS if local is None else LOCAL, test)
    for name in BITCOIN_METHODS:
        test = f"{_MANAGEMENT}TestElsewhere::test_an_installed_bitcoin_canister_answers[{name}]"
        ids = ", ".join(f"{network} `{one}`" for network, one in BITCOIN_CANISTERS.items())
        yield Row("Management canister", name, f"a Bitcoin canister answers, installed as: {ids}", LOCAL, test)
    defaults = SubnetConfig()
    for field in fields(SubnetConfig):
        value = f"{getattr(defaults, field.name):,}".replace(",", "_")
        state = LOCAL if field.name in _LOCAL_LIMITS else WORKS
        yield Row("Limits", field.name, value, state, _LIMIT_TESTS[field.name])
    for name, (seen, where, test) in _MODULE_LIMITS.items():
        value = f"{getattr(REPLICA, name):_}; the most seen in a real module: {seen:_}, {where}"
        yield Row("Limits of modules", name, value, WORKS, f"tests/instrument/test_validation.py::{test}")
    for bound in fields(Bounds):
        seen, where = HIGHEST[bound.name]
        value = f"{getattr(Bounds(), bound.name):_}; the most seen in a real module: {seen:_}, {where}"
        yield Row("Limits of what is compiled here", bound.name, value, LOCAL, f"{_BOUNDS}[{bound.name}]")
    for name, (extension, function) in EXTENSION_FUNCTIONS.items():
        detail = f"{_contexts(function.contexts)}; extension `{extension}`, off unless asked for"
        yield Row("Extensions: not on the network", f"{MODULE}.{name}", detail, EXTRA, _EXTENSION_TESTS[name])
    for what, extension, test in _EXTENSION_ROWS:
        detail = f"extension `{extension}`, off unless asked for"
        yield Row("Extensions: not on the network", what, detail, EXTRA, test)


def render() -> str:
    """The document."""
    lines = [
        "# Fidelity",
        "",
        "What perdure does of interface specification 0.66, and how it is proven. Made by",
        "`python tools/render_fidelity.py > docs/fidelity.md` from the tables that the code runs by; a test fails",
        "when this page is not what they say, or when a row names a test that does not exist. `*` is every context but",
        "start; the letters are the specification's. Every function is also called in every context on Wasm, with 32-",
        "and 64-bit heaps: `tests/system_api/test_universal.py`. The behaviour stories run on Python canisters",
        "(`tests/execution/test_execute.py`), on Wasm (`test_stories.py`), in Motoko and Rust (`test_languages.py`).",
    ]
    section = ""
    for row in rows():
        if row.section != section:
            section = row.section
            lines += ["", f"## {section}", "", "| what | where, or value | state | proof |", "|---|---|---|---|"]
        proof = f"`{row.test}`" if row.test else ""
        lines.append(f"| `{row.name}` | {row.detail} | {row.state} | {proof} |")
    lines += ["", "## What differs otherwise", "", *(f"- {difference}" for difference in DIFFERENCES), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(render())
