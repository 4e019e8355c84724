from __future__ import annotations

import pytest

from perdure.canister import Context, Trap, TrapCode
from perdure.embedder.traps import trap_of
from perdure.instrument import abi
from perdure.system_api import CanisterTrap

NOTHING = (0, 0, 0, 0, 0)


def native(code, function="msg_reply", kind=0, offset=0, size=0):
    return (code, abi.NATIVE_MESSAGE_FUNCTIONS.index(function), kind, offset, size)


@pytest.mark.parametrize(
    ("reason", "code", "message"),
    [
        (native(2), TrapCode.STABLE_MEMORY_OUT_OF_BOUNDS, ""),
        (native(65), TrapCode.CONTRACT_VIOLATION, '"ic0_msg_reply" cannot be executed in cleanup mode'),
        (native(13), TrapCode.ALREADY_RESPONDED, "ic0.msg_reply: the call is already replied"),
        (
            native(12, "msg_reply_data_append", 1, 5),
            TrapCode.REPLY_TOO_LARGE,
            "ic0.msg_reply_data_append: application payload size (5) cannot be larger than 2097152.",
        ),
        (
            native(14, "msg_arg_data_copy", 1, 2, 3),
            TrapCode.CONTRACT_VIOLATION,
            "ic0.msg_arg_data_copy payload: src=2 + length=3 exceeds the slice size=4",
        ),
        (
            native(14, "msg_caller_copy", 1, 2, 3),
            TrapCode.CONTRACT_VIOLATION,
            "ic0.msg_caller_copy id: src=2 + length=3 exceeds the slice size=1",
        ),
    ],
)
def test_reason_of_the_kernel_counts_where_the_code_is_unreachable(harness, reason, code, message):
    env = harness.env(Context.CLEANUP, b"1234")
    assert trap_of(env, TrapCode.UNREACHABLE, reason, None, 1) == Trap(code, message)
    assert trap_of(env, TrapCode.INTEGER_OVERFLOW, reason, None, 1) == Trap(TrapCode.INTEGER_OVERFLOW)


def test_reason_of_a_host_function_counts_most(harness):
    failure = CanisterTrap(TrapCode.CALLED_TRAP, "why")
    assert trap_of(harness.env(), TrapCode.UNREACHABLE, native(2), failure, 1) == Trap(TrapCode.CALLED_TRAP, "why")


def test_what_is_no_trap_comes_out_of_a_host_function_as_what_it_is(harness):
    failure = KeyError(1)
    with pytest.raises(KeyError) as caught:
        trap_of(harness.env(), TrapCode.UNREACHABLE, NOTHING, failure, 1)
    assert caught.value is failure
    assert "host function" in failure.__notes__[0]
