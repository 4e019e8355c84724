"""Times as callers give them; the numbers are those of the list of what newcomers stumbled over."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta, timezone
from functools import partial

import pytest
import wasmtime

import perdure.kit
from perdure import ANONYMOUS, Subnet, rejects
from perdure.errors import UnsupportedError
from perdure.execution.state import LAST_TIME_NS

NEW_YEAR_2030 = 1_893_456_000 * 10**9


@pytest.fixture
def subnet():
    return Subnet()


@pytest.mark.parametrize(
    ("duration", "ns"),
    [
        (5, 5),
        (timedelta(days=2, microseconds=3), 2 * 86_400 * 10**9 + 3_000),
        ("90s", 90 * 10**9),
        ("1.5h", 5_400 * 10**9),
        ("1d", 86_400 * 10**9),
    ],
)
def test_15_durations_are_nanoseconds_or_timedeltas(subnet, duration, ns):
    before = subnet.time_ns
    subnet.advance_time(duration)
    assert subnet.time_ns == before + ns
    assert type(subnet.time_ns) is int


@pytest.mark.parametrize(
    "time",
    [
        NEW_YEAR_2030,
        datetime(2030, 1, 1, tzinfo=UTC),
        datetime(2030, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_15_times_are_nanoseconds_or_datetimes(subnet, time):
    subnet.set_time(time)
    assert subnet.time_ns == NEW_YEAR_2030


def test_15_a_fraction_of_a_nanosecond_is_refused(subnet):
    """It was taken, and no canister ran any more."""
    with pytest.raises(
        TypeError, match=r"1\.5 is a float: a duration is an int of nanoseconds, a timedelta, or a text"
    ):
        subnet.advance_time(1.5)
    with pytest.raises(TypeError, match="'soon' is a str: a time is an int of nanoseconds, or a datetime"):
        subnet.set_time("soon")
    with pytest.raises(ValueError, match="no time zone"):
        subnet.set_time(datetime(2030, 1, 1))


def test_15_time_goes_forward_and_ends(subnet):
    before = subnet.time_ns
    with pytest.raises(ValueError, match="time does not go back"):
        subnet.advance_time(timedelta(seconds=-1))
    with pytest.raises(ValueError, match="where clocks end"):
        subnet.advance_time(LAST_TIME_NS - before)
    assert subnet.time_ns == before
    subnet.advance_time(LAST_TIME_NS - 1 - before)
    assert subnet.run_until_idle() >= 0


def test_16_a_timer_runs_with_the_rounds_after_its_time(subnet):
    text = """(module (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
      (import "ic0" "msg_reply" (func $reply)) (import "ic0" "global_timer_set" (func $set (param i64) (result i64)))
      (memory 1) (global $ran (mut i32) (i32.const 0))
      (func (export "canister_init") (drop (call $set (i64.const 1))))
      (func (export "canister_global_timer") (global.set $ran (i32.const 1)))
      (func (export "canister_query ran") (i32.store (i32.const 0) (global.get $ran))
        (call $append (i32.const 0) (i32.const 1)) (call $reply)))"""
    canister = subnet.install(bytes(wasmtime.wat2wasm(text)))
    subnet.advance_time(timedelta(seconds=1))
    assert canister.query("ran") == b"\0"
    subnet.run_until_idle()
    assert canister.query("ran") == b"\1"


def test_27_members_of_a_subnet_can_be_listed(subnet, tmp_path):
    assert subnet.version is None
    assert "version" in dict(inspect.getmembers(subnet))
    with Subnet(tmp_path / "state") as durable:
        assert durable.version == 0


WASM = bytes(wasmtime.wat2wasm('(module (func (export "canister_update f")))'))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cycles": 1.5}, r"1\.5 is a float: an amount of cycles is an int"),
        ({"cycles": -1}, r"-1 cycles: expected 0 to 2\^128-1"),
        ({"cycles": 1 << 128}, r"cycles: expected 0 to 2\^128-1"),
        ({"controllers": "alice"}, "controllers are several Principals, found 'alice'"),
        ({"controllers": ANONYMOUS}, "controllers are several Principals"),
        ({"controllers": ["alice"]}, "each of controllers is a Principal, found 'alice'"),
        ({"controllers": [ANONYMOUS] * 11}, "11 controllers: at most 10"),
        ({"canister_id": "aaaaa-aa"}, "the id is a Principal, found 'aaaaa-aa'"),
    ],
)
def test_what_canisters_are_made_of_is_looked_at(subnet, change, message):
    for make in (subnet.create_canister, partial(subnet.install, WASM)):
        with pytest.raises((TypeError, ValueError), match=message):
            make(**change)
    assert not subnet.canisters


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arg": None}, "the argument is bytes, found None"),
        ({"arg": "(5)"}, r"the argument is bytes, found '\(5\)': perdure.candid.encode makes them of values"),
        ({"method": b"f"}, "the method is named by a str"),
        ({"sender": "alice"}, "the sender is a Principal, found 'alice'"),
    ],
)
def test_what_calls_are_made_of_is_looked_at(subnet, change, message):
    canister = subnet.install(WASM)
    for call in (canister.update, canister.query):
        with pytest.raises(TypeError, match=message):
            call(**{"method": "f", **change})
    for call in (canister.update, canister.query):
        with pytest.raises(ValueError, match=r"the method 'f\\udcff' has half of a surrogate pair"):
            call("f\udcff")
    with rejects(match="no update method 'é'"):
        canister.update("é")
    with pytest.raises(ValueError, match="-1 cycles"):
        canister.update("f", cycles=-1)


def test_an_argument_that_changes_later_is_copied(subnet):
    echo = """(module (import "ic0" "msg_arg_data_size" (func $size (result i32)))
      (import "ic0" "msg_arg_data_copy" (func $copy (param i32 i32 i32))) (import "ic0" "msg_reply" (func $reply))
      (import "ic0" "msg_reply_data_append" (func $append (param i32 i32))) (memory 1)
      (func (export "canister_update f") (call $copy (i32.const 0) (i32.const 0) (call $size))
        (call $append (i32.const 0) (call $size)) (call $reply)))"""
    canister = subnet.install(bytes(wasmtime.wat2wasm(echo)))
    assert canister.update("f", bytearray(b"abc")) == canister.update("f", memoryview(b"abc")) == b"abc"


def test_wasi_of_a_canister_in_python_is_refused(subnet):
    """It was ignored in silence."""

    @perdure.kit.canister
    class Counter:
        @perdure.kit.update
        def inc(self) -> int:
            return 1

    with pytest.raises(UnsupportedError, match="a canister in Python, without imports of WASI"):
        subnet.install(Counter, wasi=True)
    canister = subnet.install(Counter)
    with pytest.raises(UnsupportedError, match="leave wasi out"):
        canister.upgrade(Counter, wasi=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [("90", "has no unit, expected one of s, m, h, d, w"), ("soon", "is not a number"), ("", "is not a number")],
)
def test_15_a_text_that_is_no_duration_is_refused(subnet, text, message):
    before = subnet.time_ns
    with pytest.raises(ValueError, match=message):
        subnet.advance_time(text)
    assert subnet.time_ns == before


@pytest.mark.parametrize(
    ("name", "told"),
    [("shop.py", "from shop import ..."), ("shop.did", "has no code"), ("shop.rs", "cargo build"), ("a.yml", "--all")],
)
def test_a_file_that_is_no_module_is_told_for_what_it_is(tmp_path, name, told):
    file = tmp_path / name
    file.write_text("from dataclasses import dataclass")
    subnet = Subnet()
    with pytest.raises(ValueError, match=f"is no Wasm module: it is .*{told}"):
        subnet.install(file)
    assert subnet.canisters == ()
