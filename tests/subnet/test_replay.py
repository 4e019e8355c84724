"""A state directory's history, done again: the same states, whoever asked on whichever threads, whatever cut it off."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from built_canisters import module
from test_threads import LONG, SHORT, WASM, await_state, is_outside

from perdure import Principal, RejectError
from perdure.errors import StorageError
from perdure.execution import SubnetConfig
from perdure.kit import canister as python_canister
from perdure.kit import ic, nat64, notify, stable, update
from perdure.stable import StableCell
from perdure.subnet import Canister, Subnet
from perdure.subnet.replay import Replayed, replay

FIVE = struct.pack("<Q", 5)


def crash(subnet: Subnet) -> None:
    subnet._host.directory.abandon()  # type: ignore[union-attr]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


def check(path: Path, start: int | None = None) -> Replayed:
    """Everything that is kept, or from a version on, comes out as it was."""
    result = replay(path, start=start)
    assert result.difference is None
    return result


def act(subnet: Subnet, canisters: list[Canister], steps: int, seed: int) -> None:
    """Updates, some with calls and some that trap, queries, and what a person does beside them."""
    choice = random.Random(seed)

    def write(canister: Canister) -> None:
        canister.stable.write(choice.randrange(1000, 60_000), b"from outside")

    def snapshot(canister: Canister) -> None:
        snapshot_id = canister.take_snapshot()
        canister.update("count")
        canister.load_snapshot(snapshot_id)
        canister.delete_snapshot(snapshot_id)

    def restart(canister: Canister) -> None:
        canister.stop()
        canister.start()

    alone: list[Callable[[Canister], object]] = [
        write,
        snapshot,
        restart,
        lambda canister: canister.upgrade(WASM),
        lambda canister: canister.update_settings(freezing_threshold=choice.randrange(10**6)),
        lambda _: subnet.advance_time(choice.randrange(20 * 10**9)),
        lambda _: [subnet.tick() for _ in range(choice.randrange(3))],
        lambda canister: canister.update("set_timer", struct.pack("<Q", subnet.time_ns + choice.randrange(30))),
    ]
    often: list[Callable[[Canister], object]] = [
        lambda canister: canister.update("count"),
        lambda canister: canister.update("count", request_id=choice.randbytes(1)),
        lambda canister: canister.update("spin", choice.choice((LONG, SHORT))),
        lambda canister: canister.update("call", choice.choice(canisters).id.raw_bytes),
        lambda canister: canister.update("nothing"),
        lambda canister: canister.query("read"),
    ]
    for _ in range(steps):
        with suppress(RejectError):  # a canister that another thread has stopped, say
            choice.choice(alone if choice.random() < 0.2 else often)(choice.choice(canisters))


def test_what_one_thread_did(path: Path) -> None:
    with Subnet(path, history=None, seed=b"seed") as subnet:
        act(subnet, [subnet.install(WASM) for _ in range(3)], 120, 1)
    result = check(path)
    assert result.start == 0
    assert result.end > 120
    assert check(path, start=result.end // 2).start >= result.end // 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"history": "all"}, "history is 'all', expected 0 to 2.*, None for all, or 'kept'"),
        ({"history": -1}, "history is -1"),
        ({"history": True}, "history is True"),
        ({"history": 1 << 62}, "history is 4611686018427387904"),
        ({"durability": "mesage"}, "durability is 'mesage', did you mean 'message'"),
    ],
)
def test_what_a_directory_cannot_keep_is_refused_before_there_is_one(path: Path, options: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Subnet(path, **options)
    assert not path.exists()


def test_looking_is_no_message(path: Path) -> None:
    with Subnet(path, history=None) as subnet:
        canister = subnet.install(WASM)
        taken, version = canister.take_snapshot(), subnet.version
        (listed,) = canister.snapshots()
        assert (listed["id"], listed["total_size"] > 0) == (taken, True)
        canister.status(), canister.settings(), canister.logs(), canister.write_snapshot(path.with_name("taken"))
        assert subnet.version == version


def test_what_racing_threads_did(path: Path) -> None:
    with Subnet(path, history=None) as subnet:
        canisters = [subnet.install(WASM) for _ in range(4)]
        with ThreadPoolExecutor(4) as threads:
            for done in [threads.submit(act, subnet, canisters, 40, seed) for seed in range(4)]:
                done.result()
    check(path)


def test_messages_that_overtook_each_other(path: Path) -> None:
    """The one that began first is committed last, with the time of its beginning."""
    with Subnet(path, history=None) as subnet, ThreadPoolExecutor(1) as threads:
        first, second = (subnet.install(WASM) for _ in range(2))
        late = threads.submit(first.update, "spin", struct.pack("<Q", 200_000_000), request_id=b"late")
        await_state(lambda: is_outside(first))
        second.update("count")
        assert not late.done()
        late.result()
        kept = subnet._durable.directory.history()
        assert [version.message.canister for version in kept[:2]] == [first.id.raw_bytes, second.id.raw_bytes]
        assert kept[0].message.time_ns < kept[1].message.time_ns
    check(path)


def test_processes_that_were_killed(path: Path) -> None:
    """What had not been committed is gone, and the next process goes on from what had."""
    for seed in range(4):
        subnet = Subnet(path, history=None)
        canisters = list(subnet.canisters) or [subnet.install(WASM) for _ in range(2)]
        act(subnet, canisters, 15, seed)
        for _ in range(3):
            subnet.tick()
        crash(subnet)
    check(path)


def test_installations_that_are_refused(path: Path) -> None:
    with Subnet(path, history=None) as subnet:
        canister = subnet.install(module("kv32"), FIVE)
        for wasm in (b"no module", module("universal32")):
            with pytest.raises(RejectError):
                subnet.install(wasm, b"\xff")
        with pytest.raises(RejectError):
            canister.install(module("kv32"), FIVE)
        canister.reinstall(module("kv32"), FIVE)
        assert len(subnet.canisters) == 1
        again = subnet.install(module("kv32"), FIVE)
        again.stop()
        again.delete()
        subnet.install(module("kv32"), FIVE).update("inc")
    check(path)
    with Subnet(path, history=None) as subnet:
        assert len(subnet.canisters) == 2
        subnet.canisters[1].update("inc")
    assert check(path, start=subnet.version - 1).start == subnet.version - 1


def test_a_history_that_was_begun_late(path: Path) -> None:
    with Subnet(path) as subnet:
        canister = subnet.install(module("kv32"), FIVE)
        canister.update("put", b"\3keyvalue")
        canister.take_snapshot()
    with pytest.raises(StorageError, match="keeps no history"):
        replay(path)
    with Subnet(path, history=None) as subnet:
        begun = subnet.version
        subnet.canister(canister.id).update("inc")
        subnet.canister(canister.id).load_snapshot(canister._state.snapshots.popitem()[0])
    assert check(path).start == begun


def test_answers_that_were_forgotten(path: Path) -> None:
    """They are part of the state; a replay that begins between forgets the same ones with the same message."""
    config = SubnetConfig(ingress_history_max_answers=256)
    with Subnet(path, history=None, config=config, durability="checkpoint") as subnet:
        canister = subnet.install(module("kv32"), FIVE)
        for number in range(600):
            canister.update("inc", request_id=b"%d" % number)
        assert subnet.request_status(b"0") == "done"
    for start in (None, 300):
        check(path, start)


def test_a_state_that_is_another_one_the_second_time(path: Path) -> None:
    seen: list[int] = []

    @python_canister
    class Moody:
        kept: StableCell[nat64] = stable(default=0)

        @update
        def calm(self) -> None:
            self.kept.set(7)

        @update
        def moody(self) -> None:
            seen.append(len(seen))
            self.kept.set(seen[-1])

    with Subnet(path, history=None) as subnet:
        actor = subnet.install(Moody).actor()
        actor.calm()
        calm = subnet.version
        actor.moody()
        actor.calm()
    result = replay(path, code=[Moody])
    assert (result.start, result.end) == (0, calm)
    difference = result.difference
    assert difference is not None
    assert (difference.version, difference.message.method) == (calm + 1, "moody")
    assert difference.found not in (None, difference.expected)


def test_a_message_that_was_cut_off_and_came_again(path: Path) -> None:
    """In the replay nothing cuts it off; still it is executed in the second round, with that one's time."""
    interrupts = [True]

    @python_canister
    class Tells:
        @update
        def tell(self, other: Principal) -> None:
            notify(other, "note_time", b"DIDL\0\0")

    @python_canister
    class Noting:
        time: StableCell[nat64] = stable(default=0)

        @update
        def note_time(self) -> None:
            if interrupts:
                interrupts.pop()
                raise KeyboardInterrupt
            self.time.set(ic.time_ns)

    with Subnet(path, history=None) as subnet:
        tells, noting = subnet.install(Tells), subnet.install(Noting)
        tells.actor().tell(noting.id)
        with pytest.raises(KeyboardInterrupt):
            subnet.tick()
        subnet.tick()
        noted = subnet.version
        tells.actor().tell(noting.id)
        subnet.run_until_idle()
    assert not interrupts
    result = replay(path, code=[Tells, Noting])
    assert result.difference is None
    assert result.end > noted


SCRIPT = """
import sys, threading
sys.path.insert(0, sys.argv[2])
from built_canisters import module
from perdure.subnet import Subnet

subnet = Subnet(sys.argv[1], seed=b"x", history=None)
canisters = [subnet.install(module("universal32"), b"") for _ in range(3)]  # each has a heartbeat
counters = [subnet.install(module("kv32"), bytes(8)) for _ in range(3)]
for number in range(6):
    thread = threading.Thread(target=counters[number % 3].update, args=("inc",), kwargs={"request_id": b"%d" % number})
    thread.start()
    thread.join()
subnet.run_until_idle()
subnet.tick()
print(*(version.state_hash.hex() for version in subnet._durable.directory.history()))
print(subnet._durable.directory.state_hash().hex())
subnet.close()
"""


def test_every_process_gives_the_same_states(tmp_path: Path) -> None:
    """Whatever the order of its sets, the way to its disk, the path, and the threads that ask one after another."""
    here = Path(__file__).parent
    outputs = set()
    for number, more in enumerate(({"PYTHONHASHSEED": "0"}, {"PYTHONHASHSEED": "77"}, {"PERDURE_PORTABLE": "1"})):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / ("longer" * number + "state")), str(here)]
        done = subprocess.run(
            command, env={**os.environ, **more}, capture_output=True, text=True, timeout=300, check=True
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1


WITHOUT_CERTIFICATION = """
import sys
sys.modules["py_arkworks_bls12381"] = None
from perdure import Subnet
from perdure.subnet.replay import replay
made, new, code = sys.argv[1:]
assert replay(made).difference is None
with Subnet(made) as subnet:
    print(subnet.id, subnet.root_key.hex())
    subnet.canisters[0].update("inc")
with Subnet(new, history=None) as subnet:
    assert not subnet.root_key
    subnet.install(code, bytes(8)).update("inc")
"""


def test_whether_certificates_can_be_given_where_it_is_done_again_makes_no_difference(path: Path) -> None:
    """Nor does a state that has an identity get another one where the extra is missing."""
    code, new = path.with_name("code.wasm"), path.with_name("new")
    code.write_bytes(module("kv32"))
    with Subnet(path, history=None) as subnet:
        subnet.install(code, FIVE).update("inc")
        who = f"{subnet.id} {subnet.root_key.hex()}\n"
    command = [sys.executable, "-c", WITHOUT_CERTIFICATION, str(path), str(new), str(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (who, 0), done.stderr
    assert replay(path).difference is None
    assert replay(new).difference is None
    with Subnet(new) as subnet:
        subnet.canisters[0].update("inc")
    assert replay(new).difference is None
