"""A network in worker processes: the same to the byte, whatever ends on the way."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
import wasmtime
from walker import WALK, Walker

from perdure import Canister, HostError, Network, Principal, RejectError, Subnet, UnsupportedError
from perdure.candid import decode, encode, parse_types
from perdure.execution import submit_ingress
from perdure.kit import canister, update
from perdure.memory import WASM_PAGE_BYTES
from perdure.network import frames
from perdure.storage import StateDirectory

MODULES = Path(__file__).parent.parent / "canisters" / "modules"
COUNTER = MODULES / "motoko_eop_v1.wasm.gz"
ENDLESS = bytes(
    wasmtime.wat2wasm(
        """(module (import "ic0" "msg_reply" (func $reply)) (memory 1)
          (func (export "canister_update spin") (loop (br 0)))
          (func (export "canister_query ok") (call $reply)))"""
    )
)
NOTHING = encode((), [])
ARGUMENT = parse_types(WALK.partition(" ->")[0])


CROSSING = {
    Subnet: "advance_time canister create_canister id install management root_key run_until_idle set_time tick",
    Canister: "actor heap install last logs memories query service settings stable status stop update upgrade",
}


def submit(network, canister_id, method, arg, count=1):
    """Let requests in, without running them."""
    found = network.canister(canister_id)
    if isinstance(found, Canister):
        for _ in range(count):
            submit_ingress(found._subnet._world, canister_id.raw_bytes, method, arg)
    else:
        found._ask("_submit", method, arg, count=count)


def busy(network, ids, seed, count=14):
    """Calls that cross each other, all of them begun at once, with cycles, refunds, traps and timeouts."""
    drawn = random.Random(seed)
    for _ in range(count):
        path = [drawn.choice(ids) for _ in range(drawn.randrange(1, 6))]
        end = drawn.choice(["", "", "trap", "pass"])
        values = [path, drawn.randrange(20_000), drawn.randrange(300), end, drawn.choice([0, 0, 300])]
        submit(network, drawn.choice(ids), "walk", encode(ARGUMENT, values))


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def gone(pids, seconds=120):
    """Whether processes are gone, soon."""
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, pids))


@contextmanager
def once(*moments):
    """On another thread, wait for each of these, a condition, and then do what is beside it."""

    def wait():
        for is_there, act in moments:
            while not is_there():
                time.sleep(0.001)
            act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    yield
    thread.join(60)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def pair():
    """Two subnets in two processes, and the ids of a counter in Motoko and of a walker on each."""
    with Network(2, processes=2) as network:
        counters = [subnet.install(COUNTER).id for subnet in network.subnets]
        walkers = [subnet.install(Walker).id for subnet in network.subnets]
        yield network, counters, walkers


@pytest.mark.slow
def test_states_are_equal_whatever_the_number_of_processes():
    """With cycles and refunds in streams, canisters in other ranges than theirs, a subnet that is halted, and time."""
    found = set()
    for count in (None, 1, 2, 4):
        hashes = []
        with Network(["nns", "application", "system", "application"], processes=count, seed=b"s") as network:
            ids = [subnet.install(Walker).id for subnet in network.subnets]
            away = Principal.from_index(0x77 << 20)
            ids.append(network.subnets[2].install(Walker, canister_id=away).id)
            busy(network, ids, 1)
            for _ in range(4):
                network.tick()
                hashes.append((network.state_hash(), network.sent_cycles))
            network.halt(network.subnets[1])
            busy(network, ids, 2)
            network.run_until_idle()
            hashes.append((network.state_hash(), network.sent_cycles))
            network.resume(network.subnets[1])
            network.advance_time("10m")
            network.run_until_idle()
            assert network.subnet_of(away) is network.subnets[2]
            seen = tuple(tuple(network.canister(one).actor().seen()) for one in ids)
            hashes.append((network.state_hash(), network.sent_cycles, network.time_ns, seen))
        assert all(cycles for _, cycles in hashes[1:5])
        assert hashes[-1][1] == 0
        found.add(tuple(hashes))
    assert len(found) == 1


def counted(network, counters, *, rounds=60):
    """What counters have come to that call each other, however often somebody has to say that it goes on."""
    for first, second in (counters, counters[::-1]):
        submit(network, first, "incOther", encode(parse_types("(principal)"), [second]), rounds)
    for subnet in network.subnets:
        subnet.advance_time(0)  # a commit, so that what was let in is on the disk


@pytest.mark.slow
def test_directories_are_equal_whatever_ends_on_the_way(tmp_path):
    """The same state by every number of processes; the same counts where workers are killed again and again."""
    hashes, counts = [], []
    for count in (None, 2):
        with Network(2, path=tmp_path / f"{count}", processes=count) as network:
            counters = [subnet.install(COUNTER).id for subnet in network.subnets]
            counted(network, counters)
            network.run_until_idle()
            counts.append([network.canister(one).query("count", NOTHING) for one in counters])
            network.subnets[0].advance_time(0)
        hashes.append([])
        for member in ("0-application", "1-application"):
            with StateDirectory.open(tmp_path / f"{count}" / member, read_only=True) as state:
                hashes[-1].append((state.version, state.state_hash()))
    assert hashes[0] == hashes[1]
    drawn = random.Random(3)
    with Network(2, path=tmp_path / "killed", processes=2) as network:
        counters = [subnet.install(COUNTER).id for subnet in network.subnets]
        counted(network, counters)
        for _ in range(6):
            process = network._workers._workers[drawn.randrange(2)].process
            timer = threading.Timer(drawn.random() * 0.08, process.kill if process is not None else int)
            timer.start()
            with suppress(HostError):
                for _ in range(3):
                    network.tick()
            timer.join()
        with suppress(HostError):
            network.run_until_idle()
        network.run_until_idle()
        assert network.sent_cycles == 0
        assert [network.canister(one).query("count", NOTHING) for one in counters] == counts[0]


class TestHandles:
    def test_calls_across(self, pair):
        network, counters, walkers = pair
        assert network.canister(walkers[0]).actor().walk([walkers[1], walkers[0]], 500, 10, "", 0) == 2
        before = network.canister(counters[1]).query("count", NOTHING)
        network.canister(counters[0]).update("incOther", encode(parse_types("(principal)"), [counters[1]]))
        assert network.canister(counters[1]).query("count", NOTHING) != before
        assert network.sent_cycles == 0

    def test_what_a_subnet_and_a_canister_have(self, pair, tmp_path):
        network, counters, walkers = pair
        subnet, counter = network.subnets[1], network.canister(counters[1])
        assert subnet.canister(counters[1]) == counter
        assert counter in subnet.canisters
        assert counters[1] in subnet
        assert counters[1] not in network.subnets[0]
        with pytest.raises(KeyError, match="on this subnet"):
            subnet.canister(counters[0])
        assert network.kinds[subnet.id] == "application"
        made = subnet.create_canister(cycles=5 * 10**12)
        assert made.status().cycles == 5 * 10**12
        assert made.add_cycles(7) == 5 * 10**12 + 7
        made.install(COUNTER)
        snapshot = made.take_snapshot()
        assert [one["id"] for one in made.snapshots()] == [snapshot]
        made.update("inc", NOTHING)
        changed = made.stable.read(0, 64), made.heap.size()
        made.load_snapshot(snapshot)
        made.write_snapshot(tmp_path / "snapshot")
        made.upload_snapshot(tmp_path / "snapshot")
        assert changed[1] == made.heap.size()
        assert made.module.module_hash == made.status().module_hash
        assert "canister_update inc" in made.module.exported_methods
        made.update_settings(freezing_threshold=1)
        assert made.settings()["freezing_threshold"] == 1
        made.stop()
        made.delete()
        assert made.id not in subnet
        start = subnet.time_ns
        subnet.advance_time(timedelta(seconds=3))
        assert subnet.time_ns == start + 3 * 10**9
        assert subnet.run_until_idle() == 0
        subnet.tick()
        assert network.canister(walkers[0]).last.entry == "callback"
        assert network.canister(walkers[0]).logs() == ()
        assert "worker process" in repr(made)
        assert "walk" in network.canister(walkers[0]).service().methods

    def test_memories(self, pair):
        made = pair[0].subnets[0].install(b"\0asm\1\0\0\0" + bytes([5, 3, 1, 0, 1]))
        heap = made.heap
        heap.write(70, b"abc")
        assert (heap.size(), heap.read(68, 6), heap.read(0, 0)) == (1, b"\0\0abc\0", b"")
        assert set(made.memories) == {"heap", "stable"}
        assert made.stable.grow(200) == 0
        whole = made.stable.read(0, 200 * WASM_PAGE_BYTES)  # in several pieces
        assert whole == bytes(200 * WASM_PAGE_BYTES)
        with pytest.raises(IndexError):
            made.stable.read(0, 300 * WASM_PAGE_BYTES)

    def test_every_public_name_crosses_or_says_that_it_does_not(self, pair):
        network, counters, _ = pair
        subnet = network.subnets[0]
        refused = set()
        for local, there in ((Subnet, subnet), (Canister, subnet.canister(counters[0]))):
            for name in (one for one in dir(local) if not one.startswith("_")):
                try:
                    getattr(there, name)
                except UnsupportedError as error:
                    refused.add(str(error).partition(" does not cross")[0])
        assert refused >= {"Subnet.fork", "Subnet.anchor", "Subnet.serve", "Canister.sqlite"}
        assert not {f"{one.__name__}.{name}" for one, names in CROSSING.items() for name in names.split()} & refused
        with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
            _ = subnet.nonsense
        with pytest.raises(UnsupportedError, match=r"Network\.fork does not cross"):
            network.fork()
        with pytest.raises(UnsupportedError, match="argument 2 of install is object, which does not cross"):
            subnet.install(COUNTER, object())

    def test_errors_cross_as_they_are(self, pair):
        network, _, walkers = pair
        there = network.canister(walkers[1])
        with Subnet() as here:
            near = here.install(Walker)
            for wrong in (
                lambda one: one.update("nothing"),
                lambda one: one.update("walk", b"nonsense"),
                lambda one: one.install(COUNTER),
                lambda one: one.update_settings(nonsense=1),
                lambda one: one.add_cycles(-1),
                lambda one: one.upload_snapshot("/nowhere"),
                lambda one: one.upgrade(b"nonsense"),
                lambda one: one.upgrade("/nowhere/at/all.wasm"),
                lambda one: one.update("walk", NOTHING, sender="nobody"),
            ):
                errors = []
                for one in (near, there):
                    with pytest.raises(Exception) as raised:
                        wrong(one)
                    errors.append(raised.value)
                local, crossed = errors
                assert type(crossed) is type(local)
                assert str(crossed).replace(str(there.id), str(near.id)) == str(local)
                for name in ("code", "error_code", "message", "committed"):
                    assert getattr(crossed, name, None) == getattr(local, name, None) or name == "message"
        with pytest.raises(RejectError) as raised:
            there.actor().walk([], 0, 0, "trap", 0)
        assert "ValueError: the end of the path" in str(raised.value.__cause__)

    def test_what_is_too_long_for_a_frame(self, pair, monkeypatch):
        network, _, walkers = pair
        heap = network.canister(walkers[0]).heap
        monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 1 << 16)
        with pytest.raises(UnsupportedError, match="bytes do not cross to a worker process at once, at most 65536 do"):
            heap.write(0, bytes(1 << 17))
        assert network.canister(walkers[0]).actor().seen()

    def test_a_class_that_workers_cannot_import(self, pair):
        @canister
        class Local:
            @update
            def nothing(self) -> None: ...

        with pytest.raises(UnsupportedError, match="does not cross to a worker process, which imports it by its name"):
            pair[0].subnets[0].install(Local)

    def test_two_threads(self, pair):
        network, counters, walkers = pair
        before = [network.canister(one).actor().seen()[0] for one in walkers]
        failed = []

        def work(first, second):
            try:
                for _ in range(8):
                    network.canister(walkers[first]).actor().walk([walkers[second]], 10, 1, "", 0)
                    network.canister(counters[first]).update("inc", NOTHING)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=pair) for pair in ((0, 1), (1, 0), (0, 1))]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert failed == []
        assert sum(network.canister(one).actor().seen()[0] for one in walkers) == sum(before) + 48

    def test_wrong_numbers_of_processes(self):
        for wrong in (0, -1, True, "2", 1.5, 5000):
            with pytest.raises(ValueError, match="processes are 1 to 1024"):
                Network(2, processes=wrong)
        with pytest.raises(UnsupportedError, match="a compiler does not cross"):
            Network(2, processes=2, compiler=object())


@pytest.mark.slow
class TestEnds:
    def test_a_worker_that_is_killed_goes_on_from_its_directory(self, tmp_path):
        with Network(2, path=tmp_path / "net", processes=2) as network:
            ids = [subnet.install(COUNTER).id for subnet in network.subnets]
            for one in ids:
                network.canister(one).update("inc", NOTHING)
            first = network.processes
            os.kill(first[1], signal.SIGKILL)
            while network.processes[1] is not None:
                time.sleep(0.01)
            assert network.canister(ids[1]).query("count", NOTHING) == network.canister(ids[0]).query("count", NOTHING)
            submit(network, ids[0], "incOther", encode(parse_types("(principal)"), [ids[1]]))
            network.tick()
            os.kill(network.processes[1], signal.SIGKILL)
            with suppress(HostError):  # where it ends after it was looked at
                network.run_until_idle()
            network.run_until_idle()
            assert network.processes[0] == first[0]
            counts = [network.canister(one).query("count", NOTHING) for one in ids]
            pids = network.processes
        assert gone([one for one in pids if one])
        with Network(path=tmp_path / "net") as network:
            assert [network.canister(one).query("count", NOTHING) for one in ids] == counts
            assert network.sent_cycles == 0

    def test_a_worker_that_is_killed_in_memory_is_lost(self):
        with Network(2, processes=2) as network:
            ids = [subnet.install(COUNTER).id for subnet in network.subnets]
            os.kill(network.processes[1], signal.SIGKILL)
            while network.processes[1] is not None:
                time.sleep(0.01)
            for act in (
                lambda: network.canister(ids[1]),
                lambda: network.subnets[1].install(COUNTER),
                lambda: network.subnets[1].time_ns,
                network.tick,
            ):
                with pytest.raises(
                    HostError, match=r"subnets 1 has ended \(SIGKILL\), and what they were with it"
                ) as it:
                    act()
                assert it.value.error_code == "worker-ended"
            network.subnets[0].canister(ids[0]).update("inc", NOTHING)
            network.halt(network.subnets[1])
            network.tick()
            assert network.canister(ids[0]).status().status == "running"

    def test_killed_between_asking_for_a_round_and_its_beginning(self, tmp_path):
        """The round begins another one, which has not asked for anything."""
        with Network(2, path=tmp_path / "net", processes=2) as network:
            ids = [subnet.install(COUNTER).id for subnet in network.subnets]
            workers, rounds = network._workers, []
            plain = workers.round

            def round_(*, always):
                if not rounds:
                    os.kill(network.processes[0], signal.SIGKILL)
                    while network.processes[0] is not None:
                        time.sleep(0.01)
                rounds.append(always)
                return plain(always=always)

            workers.round = round_
            with pytest.raises(HostError, match="the worker process of subnets 0 has ended") as it:
                network.canister(ids[0]).update("incOther", encode(parse_types("(principal)"), [ids[1]]))
            assert it.value.error_code == "worker-ended"
            network.run_until_idle()
            assert parse_count(network.canister(ids[1])) in ((0,), (1,))
            network.canister(ids[0]).update("inc", NOTHING)

    def test_killed_in_the_midst_of_a_call(self, tmp_path):
        with Network(2, path=tmp_path / "net", processes=2) as network:
            endless = network.subnets[1].install(ENDLESS)
            worker, pid = network._workers._workers[1], network.processes[1]
            words = "they go on from their last commit with the next call"
            killed = (lambda: worker.is_waited_for, lambda: os.kill(pid, signal.SIGKILL))
            with once(killed), pytest.raises(HostError, match=words) as raised:
                endless.update("spin")
            assert raised.value.committed is None
            assert endless.query("ok") == b""

    def test_an_interruption_ends_between_two_messages(self, pair):
        network, _, walkers = pair
        pids = network.processes
        before = sum(network.canister(one).actor().seen()[0] for one in walkers)
        calls = 300
        for first, second in (walkers, walkers[::-1]):
            submit(network, first, "walk", encode(ARGUMENT, [[second], 10, 1, "", 0]), calls)
        interrupted = 0
        for _ in range(100):
            timer = threading.Timer(0.03, os.kill, (os.getpid(), signal.SIGINT))
            try:
                timer.start()
                network.run_until_idle()
                timer.cancel()
                timer.join()
                break
            except KeyboardInterrupt:
                interrupted += 1
        network.run_until_idle()
        assert interrupted
        assert network.processes == pids
        assert network.sent_cycles == 0
        assert sum(network.canister(one).actor().seen()[0] for one in walkers) == before + 4 * calls

    def test_an_interruption_of_an_update_says_what_became_of_it(self, pair):
        network, counters, _ = pair
        counter, kept, is_known = network.canister(counters[0]), 0, 0
        (before,) = parse_count(counter)
        for number in range(20):
            timer = threading.Timer(0.0005 * number, os.kill, (os.getpid(), signal.SIGINT))
            try:
                timer.start()
                while True:
                    counter.update("inc", NOTHING)
                    kept += 1
            except KeyboardInterrupt as error:
                known = getattr(error, "committed", None)
                is_known += known is not None
                kept = parse_count(counter)[0] - before if known is None else kept + known
            timer.join()
            assert parse_count(counter) == (before + kept,)
        assert is_known > 5

    def test_an_interruption_ends_a_message_that_does_not_end(self, pair):
        network = pair[0]
        endless, worker = network.subnets[1].install(ENDLESS), network._workers._workers[1]
        for _ in range(2):
            with once((lambda: worker.is_waited_for, interrupt)), pytest.raises(KeyboardInterrupt) as raised:
                endless.update("spin")
            assert raised.value.committed is False
            assert endless.query("ok") == b""

    def test_an_interruption_before_the_worker_has_begun_is_not_lost(self, pair):
        network, pid = pair[0], pair[0].processes[1]
        endless, worker = network.subnets[1].install(ENDLESS), network._workers._workers[1]
        first = (lambda: worker.is_waited_for, interrupt)
        then = (lambda: worker.is_left and worker.is_waited_for, lambda: os.kill(pid, signal.SIGCONT))
        os.kill(pid, signal.SIGSTOP)
        with once(first, then), pytest.raises(KeyboardInterrupt) as raised:
            endless.update("spin")
        assert raised.value.committed is False
        assert endless.query("ok") == b""

    def test_interrupted_twice_by_somebody_who_does_not_wait(self, pair):
        """The first one waits for the worker, which does not answer; the second one does not."""
        network, counters, _ = pair
        counter, pid = network.canister(counters[1]), network.processes[1]
        worker = network._workers._workers[1]
        (before,) = parse_count(counter)
        os.kill(pid, signal.SIGSTOP)
        try:
            first = (lambda: worker.is_waited_for, interrupt)
            second = (lambda: worker.is_left and worker.is_waited_for, interrupt)
            with once(first, second), pytest.raises(KeyboardInterrupt):
                counter.update("inc", NOTHING)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert parse_count(counter)[0] - before in {0, 1}
        counter.update("inc", NOTHING)
        network.tick()
        assert parse_count(counter)[0] - before in {1, 2}
        assert network.processes[1] == pid

    @pytest.mark.parametrize("end", ["exit", "kill", "interrupt", "forget"])
    def test_workers_end_with_their_parent(self, tmp_path, end):
        script = tmp_path / "script.py"
        script.write_text(
            textwrap.dedent(f"""
            import gc, os, sys
            from perdure import Network
            network = Network(2, processes=2)
            made = network.subnets[0].install({str(COUNTER)!r})
            pids = network.processes
            if {end == "forget"}:
                del network, made
                gc.collect()
            print(*pids, flush=True)
            if {end != "exit"}:
                sys.stdin.readline()
            """),
            encoding="utf-8",
        )
        with subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            pids = [int(one) for one in process.stdout.readline().split()]
            assert len(pids) == 2
            if end == "forget":
                assert gone(pids)
            if end in ("kill", "interrupt"):
                process.send_signal(signal.SIGKILL if end == "kill" else signal.SIGINT)
            process.stdin.close()
            assert gone(pids)
            assert b"Traceback" not in process.stderr.read() or end == "interrupt"

    def test_a_script_whose_classes_are_imported_by_its_workers(self, tmp_path):
        """Without the usual guard, the import would begin workers of its own."""
        text = textwrap.dedent("""
            from perdure import Network
            from perdure.kit import canister, update

            @canister
            class Counter:
                count: int
                def __init__(self): self.count = 0
                @update
                def add(self, more: int) -> int:
                    self.count += more
                    return self.count

            def main():
                with Network(2, processes=2) as network:
                    print(network.subnets[1].install(Counter).actor().add(5))
            """)
        for ending, code, words in (
            ("if __name__ == '__main__':\n    main()\n", 0, "5\n"),
            ("main()\n", 1, "if __name__ == '__main__'"),
        ):
            script = tmp_path / f"of_{code}.py"
            script.write_text(text + ending, encoding="utf-8")
            done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=300)
            assert done.returncode == code, done.stderr
            assert words in done.stdout + done.stderr


def parse_count(counter):
    return tuple(decode(counter.query("count", NOTHING)))


class TestOddMoments:
    """What comes while somebody waits for a worker, or where nobody may come."""

    def test_a_child_that_was_forked_closes_nothing(self, pair):
        network, _, ids = pair
        child = os.fork()
        if not child:
            network.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert network.canister(ids[0]).actor().walk([ids[1]], 10, 1, "", 0) == 1

    def test_ended_by_a_signal_without_a_name(self):
        with Network(2, processes=2) as network:
            made = network.subnets[0].create_canister()
            os.kill(network.processes[0], signal.SIGRTMIN + 3)
            for _ in range(2):
                with pytest.raises(HostError, match=rf"has ended \(signal {signal.SIGRTMIN + 3}\)"):
                    made.status()

    def test_a_handler_that_calls_within_a_round(self, pair, monkeypatch):
        network, _, ids = pair
        said = []

        def handler(*_):
            with pytest.raises(RuntimeError, match="a round of the network is under way"):
                network.canister(ids[1]).status()
            said.append(True)

        before = signal.signal(signal.SIGALRM, handler)
        real = network._workers._workers[0].begin

        def begin(kind, *parts):
            real(kind, *parts)
            if kind == frames.Kind.RUN:
                os.kill(os.getpid(), signal.SIGALRM)

        try:
            with monkeypatch.context() as patched:
                patched.setattr(network._workers._workers[0], "begin", begin)
                network.tick()
        finally:
            signal.signal(signal.SIGALRM, before)
        assert said
        assert network.canister(ids[0]).actor().walk([ids[1]], 10, 1, "", 0) == 1

    def test_what_nobody_has_waited_for_answers_nothing_else(self, pair, monkeypatch):
        """A worker that owes an answer, as somebody was interrupted twice, takes part in a round of another's call."""
        network, _, ids = pair
        worker = network._workers._workers[0]
        real, left = worker.receive, [KeyboardInterrupt, KeyboardInterrupt]

        def receive():
            if left:
                raise left.pop()
            return real()

        monkeypatch.setattr(worker, "receive", receive)
        with pytest.raises(KeyboardInterrupt):
            network.canister(ids[0]).status()
        assert worker.owed == 1
        assert network.canister(ids[1]).actor().walk([ids[0]], 10, 1, "", 0) == 1
        assert worker.owed == 0

    def test_interrupted_when_the_worker_asks_for_a_round(self, pair, monkeypatch):
        """It takes no signal then, and is told that there is none."""
        network, _, ids = pair

        def interrupt(_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(network._gate, "become_alone", interrupt)
            with pytest.raises(KeyboardInterrupt):
                network.canister(ids[0]).actor().walk([ids[1]], 10, 1, "", 0)
        assert network._workers._workers[0].owed == 0
        assert network.canister(ids[0]).actor().walk([ids[1]], 10, 1, "", 0) == 1

    def test_values_that_no_frame_has(self, pair):
        network, _, ids = pair
        deep = []
        for _ in range(300):
            deep = [deep]
        made = network.canister(ids[0])
        for method, argument in (("walk", deep), ("\udc80", b""), ("walk", {made.id: 1})):
            with pytest.raises(UnsupportedError, match="cross to a worker process"):
                made.update(method, argument)
        assert made.actor().walk([ids[1]], 10, 1, "", 0) == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xff\xff\xff",
        b"\x01\0\0\0\xff",
        b"\x01\0\0\0\x05",
        b"\x01\0\0\0\x80",
        b"\x02\0\0\0\x81\x41",
        b"\x90\x01\0\0" + b"\x81" * 400,
    ],
)
def test_what_is_no_frame_ends_the_pipe(sent):
    """Whoever is out of step is gone: a network in a directory begins it again."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(sent)
        channel = frames.Channel(ours)
        with pytest.raises(frames.EndedError):
            channel.receive()
        channel.close()
