"""What must not kill, hang or fool the process; mostly in a child process, so that a failure is a failed test."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from perdure.canister import Limits, Return, Trap, TrapCode
from perdure.embedder.creator import MemoryCreator
from perdure.embedder.guard import Spares
from perdure.embedder.settings import SIZES
from perdure.errors import InternalError
from perdure.instrument import Options

LOOPS = """(module
  (import "ic0" "time" (func $time (result i64)))
  (import "ic0" "canister_version" (func $version (result i64)))
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
  (memory 1)
  (func (export "canister_update spin") (i32.store (i32.const 0) (i32.const 1)) (loop (br 0)))
  (func (export "canister_update spin_in_host")
    (i32.store (i32.const 0) (i32.const 1)) (loop (drop (call $version)) (br 0)))
  (func (export "canister_update count") (local i32)
    (loop (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 100000))))
    (call $reply))
  (func $deep (param i64 i64 i64) (result i64)
    (i64.add (call $deep (local.get 2) (local.get 0) (local.get 1)) (call $version)))
  (func (export "canister_update recurse") (drop (call $deep (i64.const 1) (i64.const 2) (i64.const 3))))
  (func $deep_host (drop (call $version)) (call $deep_host))
  (func (export "canister_update recurse_host") (call $deep_host))
  (func (export "canister_update reply") (call $reply))
  (func (export "canister_update mark") (i32.store (i32.const 0) (i32.const 1)) (call $reply))
  (func (export "canister_update grow_bomb") (loop (br_if 0 (i64.ne (call $grow (i64.const 100000)) (i64.const -1)))))
  (func (export "canister_update grow_heap_bomb")
    (loop (br_if 0 (i32.ne (memory.grow (i32.const 100)) (i32.const -1)))))
)"""

CHILD = """
import faulthandler, os, signal, sys, threading, time
faulthandler.enable()
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in children of a background job
sys.path.insert(0, {tests!r})
from conftest import Harness
from perdure.canister import *
from perdure.embedder import shared_engine
harness = Harness(shared_engine())
instance = harness.fresh({source!r})

def once_it_runs(act):
    # On another thread, as soon as a message has written its first byte.
    def wait():
        while not instance.heap.bytes[0]:
            time.sleep(0.001)
        act()
    threading.Thread(target=wait, daemon=True).start()
"""


def child(script: str, source: str = LOOPS, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    text = CHILD.format(tests=str(Path(__file__).parent), source=source) + textwrap.dedent(script)
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spin", "spin_in_host"])
def test_ctrl_c_ends_a_message_and_rolls_it_back(method):
    done = child(f"""
        once_it_runs(lambda: os.kill(os.getpid(), signal.SIGINT))
        try:
            harness.run(instance, {method!r}, limits=Limits(instructions=1 << 62))
        except KeyboardInterrupt:
            assert instance.heap.read(0, 4) == bytes(4)
            assert isinstance(harness.run(instance, "reply"), Return)
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            print("interrupted")
    """)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


@pytest.mark.slow
def test_ctrl_c_ends_messages_on_other_threads_as_well():
    done = child("""
        def work():
            try:
                harness.run(instance, "spin", limits=Limits(instructions=1 << 62))
            except KeyboardInterrupt:
                print("stopped", instance.heap.read(0, 4) == bytes(4))
        thread = threading.Thread(target=work)
        thread.start()
        while not instance.heap.bytes[0]:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        thread.join()
    """)
    assert done.stdout == "stopped True\n"
    assert done.stderr.endswith("KeyboardInterrupt\n")


def test_messages_can_be_stopped_from_another_thread(harness):
    instance = harness.fresh(LOOPS)

    def stop():
        while not instance.heap.bytes[0]:  # it does not run yet
            time.sleep(0.001)
        harness.engine.stop_messages()

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        harness.run(instance, "spin")
    thread.join()
    assert isinstance(harness.run(instance, "reply"), Return)


@pytest.mark.slow
def test_storm_of_raising_signals_kills_nothing():
    """Signals arrive at any point: in callbacks, commits, instantiations. Each raises once, outside of all of these."""
    done = child("""
        class Alarm(Exception):
            pass
        def on_alarm(number, frame):
            global armed
            if armed:
                armed = False
                raise Alarm
        signal.signal(signal.SIGALRM, on_alarm)
        armed, end, alarms, runs, tries = False, time.monotonic() + 60, 0, 0, 0
        signal.setitimer(signal.ITIMER_REAL, 0.004, 0.004)
        while (alarms < 50 or runs < 50) and time.monotonic() < end:
            try:
                armed, tries = True, tries + 1
                outcome = harness.run(instance, ("reply", "recurse_host", "count", "grow_heap_bomb")[tries % 4])
                instance.commit() if isinstance(outcome, Return) and tries % 4 == 0 else instance.roll_back()
                runs += 1
                armed = False
            except Alarm:
                alarms += 1
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        instance.roll_back()
        assert isinstance(harness.run(instance, "reply"), Return)
        print("alarms", alarms > 10, "runs", runs > 10)
    """)
    assert (done.stdout, done.stderr, done.returncode) == ("alarms True runs True\n", "", 0)


@pytest.mark.slow
def test_handler_that_does_not_raise_does_not_stop_a_message():
    done = child("""
        seen = []
        signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        while len(seen) < 4:
            outcome = harness.run(instance, "count")
            assert isinstance(outcome, Return), outcome
        print(True)
    """)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("stack_kib", [0, 256, 1024, 4096, 16384])
def test_recursion_traps_on_a_thread_of_any_stack(stack_kib):
    done = child(f"""
        threading.stack_size({stack_kib} * 1024)
        def work():
            for method in ("recurse", "recurse_host"):
                print(harness.run(instance, method).code.name)
                instance.roll_back()
            print(isinstance(harness.run(instance, "reply"), Return))
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    """)
    assert (done.stdout, done.stderr) == ("STACK_OVERFLOW\nSTACK_OVERFLOW\nTrue\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("limit_kib", [1024, 8192, 65536])
def test_recursion_traps_on_the_main_thread_whatever_its_limit(limit_kib):
    script = CHILD.format(tests=str(Path(__file__).parent), source=LOOPS) + textwrap.dedent("""
        print(harness.run(instance, "recurse").code.name, harness.run(instance, "recurse_host").code.name)
    """)
    command = f'ulimit -s {limit_kib} && exec "$0" -c "$1"'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, script], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.stdout, done.stderr) == ("STACK_OVERFLOW STACK_OVERFLOW\n", "")


@pytest.mark.slow
def test_python_recursion_limit_reached_around_a_message_is_an_exception():
    done = child("""
        def deeper(n):
            try:
                method = "grow_heap_bomb" if n % 20 == 0 else "reply"
                harness.run(instance, method, limits=Limits(instructions=100_000))
                instance.roll_back()
            except RecursionError:
                return "exhausted"
            return deeper(n + 1)
        for extra in range(4):
            assert deeper(extra) == "exhausted"
        instance.roll_back()
        print(isinstance(harness.run(instance, "reply"), Return))
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n"


@pytest.mark.slow
def test_forked_child_may_run_and_must_not_commit():
    done = child("""
        instance.commit()
        harness.run(instance, "count")
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                assert isinstance(harness.run(instance, "reply"), Return)
                instance.roll_back()
                assert isinstance(harness.run(instance, "mark"), Return)
                instance.roll_back()
                assert instance.heap.read(0, 4) == bytes(4)
                instance.max_seconds = 0.2
                assert harness.run(instance, "spin").code is TrapCode.INTERRUPTED
                instance.commit()
            except BaseException as error:
                print(type(error).__name__, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        instance.commit()
        print("parent committed")
    """)
    assert (done.stdout, done.stderr) == ("InternalError\nparent committed\n", "")


@pytest.mark.slow
def test_unmetered_loop_ends_by_the_clock(harness):
    instance = harness.fresh(harness.compile(LOOPS, Options(schedule=None)))
    instance.max_seconds = 0.05
    trap = harness.run(instance, "spin")
    assert isinstance(trap, Trap)
    assert (trap.code, trap.message) == (TrapCode.INTERRUPTED, "the message ran for more than 0.05 seconds")
    instance.roll_back()
    assert isinstance(harness.run(instance, "reply"), Return)


@pytest.mark.parametrize("method", ["grow_bomb", "grow_heap_bomb"])
def test_growing_without_end_costs_nothing(harness, method):
    instance = harness.fresh(LOOPS)
    harness.run(instance, method, limits=Limits(instructions=10**9))
    instance.roll_back()
    assert (instance.heap.size(), instance.stable.size()) == (1, 0)
    assert isinstance(harness.run(instance, "reply"), Return)


def test_two_threads_run_two_instances_at_the_same_time(harness):
    module = harness.compile(LOOPS)
    instances = [harness.fresh(module) for _ in range(2)]
    failures = []

    def work(instance):
        for _ in range(30):
            outcome = harness.run(instance, "count")
            if not isinstance(outcome, Return):
                failures.append(outcome)
            instance.commit()
            if harness.run(instance, "recurse").code is not TrapCode.STACK_OVERFLOW:
                failures.append("no overflow")
            instance.roll_back()

    threads = [threading.Thread(target=work, args=(instance,)) for instance in instances]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def mapped(start: int, end: int) -> set[str]:
    """Access of every part of a range of this process, from the kernel; a hole is ``hole``."""
    found, at = set(), start
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high, access = re.match(r"(\w+)-(\w+) (....)", line).groups()
        low, high = int(low, 16), int(high, 16)
        if high <= at or low >= end:
            continue
        if low > at:
            found.add("hole")
        found.add(access)
        at = high
    return found if at >= end else found | {"hole"}


def test_what_lies_beyond_a_memory_cannot_be_accessed(harness):
    """Compiled code leaves out bounds checks in the reservation and guard that the engine was configured with."""
    instance = harness.fresh(LOOPS)
    harness.run(instance, "grow_heap_bomb", limits=Limits(instructions=10**6))
    instance.commit()
    memories = [*instance.memories.values(), instance._accounting, instance._message]
    assert [memory.range is not None for memory in memories] == [True] * 4
    for memory in memories:
        beyond = memory.base + memory.size_bytes
        end = memory.base + max(SIZES["memory_reservation"], memory.size_bytes) + SIZES["memory_guard_size"]
        assert mapped(beyond, end) == {"---p"}
        assert not memory.size_bytes or mapped(memory.base, beyond) == {"rw-p"}


@pytest.mark.parametrize("width", [32, 64])
def test_loads_at_every_edge_trap(harness, width):
    kind = f"i{width}"
    memory = "(memory 1)" if width == 32 else "(memory i64 1)"
    offsets = [0, 1, 65528, 65535, 2**31, 2**32 - 8, 2**32 - 1] + (
        [2**33, 2**48, 2**63, 2**64 - 1] if width == 64 else []
    )
    functions = "".join(
        f'(func (export "canister_query load{n}") (drop (i64.load offset={offset} ({kind}.load (i32.const 0)))))'
        if width == 32
        else f'(func (export "canister_query load{n}") (drop (i64.load offset={offset} (i64.load (i64.const 0)))))'
        for n, offset in enumerate(offsets)
    )
    writer = f"""(func (export "canister_update set")
        (call $copy ({kind}.const 0) ({kind}.const 0) ({kind}.const {width // 8})))"""
    imports = f'(import "ic0" "msg_arg_data_copy" (func $copy (param {kind} {kind} {kind})))'
    instance = harness.fresh(f"(module {imports} {memory} {functions} {writer})")
    size = 65536
    for address in (0, 1, 8, size - 8, size - 7, size - 1, size, 2**31, 2**width - 8, 2**width - 1):
        harness.run(instance, "set", address.to_bytes(width // 8, "little"))
        instance.commit()
        for n, offset in enumerate(offsets):
            outcome = harness.run(instance, f"load{n}")
            inside = address + offset + 8 <= size
            assert isinstance(outcome, Return if inside else Trap), (address, offset, outcome)
            if not inside:
                assert outcome.code is TrapCode.HEAP_OUT_OF_BOUNDS
            instance.roll_back()


def test_memory_creator_refuses_what_nobody_gave():
    creator = MemoryCreator(Spares(lambda: 1, lambda: 2))
    assert creator._new_memory(0, 0, 0, 0, 0, 0, 0) != 0


def test_closed_instances_give_their_memory_back(harness):
    def mappings() -> int:
        return len(Path("/proc/self/maps").read_text().splitlines())

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0])

    module = harness.compile(LOOPS)

    def cycle() -> None:
        state = harness.state()
        instance = module.instantiate(state)
        instance.commit()
        harness.run(instance, "recurse")
        instance.roll_back()
        harness.run(instance, "reply")
        instance.close()
        for image in state.memories.values():
            image.close()

    for _ in range(5):
        cycle()
    before = mappings(), resident()
    for _ in range(50):
        cycle()
    after = mappings(), resident()
    assert after[0] - before[0] <= 4
    assert (after[1] - before[1]) * 4096 < 1 << 30  # one instance reserves 17 GiB of addresses


def test_view_outlives_its_instance(harness):
    instance = harness.fresh(LOOPS)
    view = instance.heap.view(0, 65536)
    instance.close()
    assert bytes(view) == bytes(65536)


def test_view_of_uncommitted_growth_outlives_its_rollback(harness):
    instance = harness.fresh(LOOPS)
    harness.run(instance, "grow_bomb", limits=Limits(stable_wasm_pages=200_000))
    view = instance.stable.view(0, 8192)
    instance.roll_back()
    assert bytes(view) == bytes(8192)


def test_commit_in_a_child_is_refused_at_once(harness, monkeypatch):
    instance = harness.fresh(LOOPS)
    monkeypatch.setattr(instance._engine, "process", -1)
    with pytest.raises(InternalError, match="forked"):
        instance.commit()


def test_signal_handlers_are_back_after_a_message(harness):
    before = signal.getsignal(signal.SIGINT)
    instance = harness.fresh(LOOPS)
    harness.run(instance, "reply")
    instance.commit()
    assert signal.getsignal(signal.SIGINT) is before
    assert time.monotonic() > 0
