"""Make golden state directories: what a version of the format looks like, for good.

    python tests/storage/golden/make.py [NAME]

A directory here is made once, when its version of the format is settled, and never again: later revisions have to read
it as it is. Each is a tar archive (the log and the reserve are mostly zeros); beside it `NAME.json` says what is in it.
A new version of the format gets new names; the old ones stay. `v1-python-early` is `v1-python` as revision a3a0281 made
it, before canisters in Python had a name and a schema. Those before `v1-range` have canisters whose ids begin at 0.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "canisters" / "universal"))

import wasmtime  # noqa: E402
from universal import Hook, Program  # noqa: E402

from perdure import Network, Principal, Subnet  # noqa: E402
from perdure.canister import GlobalValue, PageDelta  # noqa: E402
from perdure.execution import submit_ingress  # noqa: E402
from perdure.storage import Answer, CanisterChange, Message, PythonCode, StateDirectory  # noqa: E402

MODULES = HERE.parents[1] / "canisters" / "modules"
PAGE = 4096
DAY_NS = 86_400 * 10**9
ALICE = Principal(b"\1" * 29)


def busy(path: Path) -> dict[str, Any]:
    """A subnet with all of its history, in the middle of something: calls in flight, a timer, a snapshot, chunks."""
    with Subnet(path, history=None, seed=b"golden") as subnet:
        kv = subnet.install(MODULES / "kv32.wasm", (5).to_bytes(8, "little"))
        kv.update("stable64_grow", (1).to_bytes(8, "little"))
        kv.update("store", (4096).to_bytes(8, "little") + b"golden bytes")
        kv.update("inc", request_id=b"a named request")
        snapshot = kv.take_snapshot()
        kv.update("inc")
        kv.update_settings(
            freezing_threshold=10_000, environment_variables=[{"name": "z", "value": "1"}, {"name": "a", "value": "2"}]
        )
        one, two = (subnet.install(MODULES / "universal32.wasm", b"", controllers=[ALICE]) for _ in range(2))
        gone = subnet.install(MODULES / "kv32.wasm", bytes(8))
        gone.stop()
        gone.delete()
        subnet.checkpoint()
        timer = Program().hook(Hook.GLOBAL_TIMER, Program().debug_print(b"the timer"))
        one.update(
            "update", bytes(timer.global_timer_set(subnet.time_ns + DAY_NS).drop().debug_print(b"set").reply(b""))
        )
        one._manage("upload_chunk", chunk=b"a chunk")
        waits = Program().call(
            bytes(two.id.raw_bytes),
            "update",
            Program().call(bytes(one.id.raw_bytes), "update", Program().reply(b"from far")),
            on_reply=Program().reply(Program().msg_arg_data()),
            cycles=1000,
        )
        submit_ingress(subnet._world, one.id.raw_bytes, "update", bytes(waits))
        subnet.tick()
        state = subnet._state
        open_calls = sum(len(canister.open_calls) for canister in state.canisters.values())
        assert open_calls, "nothing is in flight"
        return {
            "kv": str(kv.id),
            "one": str(one.id),
            "snapshot": snapshot.hex(),
            "open_calls": open_calls,
            "request": next(iter(state.ingress.callees)).hex(),
            **facts_of(subnet),
        }


def plain(path: Path) -> dict[str, Any]:
    """A subnet without history whose last messages are in the log only."""
    subnet = Subnet(path, durability="message", seed=b"plain")
    kv = subnet.install(MODULES / "kv32.wasm", (1).to_bytes(8, "little"))
    subnet.checkpoint()
    kv.update("inc")
    kv.update("inc")
    facts = {"kv": str(kv.id), **facts_of(subnet)}
    subnet._world.host.directory.abandon()  # type: ignore[attr-defined]
    return facts


def facts_of(subnet: Subnet) -> dict[str, Any]:
    directory: StateDirectory = subnet._world.host.directory  # type: ignore[attr-defined]
    return {"version": directory.version, "state_hash": directory.state_hash().hex(), "answers": len(directory.answers)}


def kept(path: Path) -> dict[str, Any]:
    """What no canister uses yet: memories of other names, code that is no Wasm, extensions, answers forgotten."""
    with StateDirectory.open(path, history=10, extensions=["memories", "schema"]) as state:
        page = b"golden".ljust(PAGE, b".")
        memories = {name: PageDelta(1, [(0, page)]) for name in ("heap", "log", "users-1.x")}
        code = PythonCode("counter", bytes(range(32)), b"a schema")
        change = CanisterChange(memories, global_values=(GlobalValue("i64", bytes(8)),), record=b"opaque", code=code)
        answers = [Answer(bytes([n]), 10**18 + n, b"answer %d" % n) for n in range(5)]
        state.commit(Message(b"m1", b"actor", "update", "set"), {b"actor": change}, answers=answers, apply=True)
        state.checkpoint()
        change = CanisterChange({"heap": PageDelta(2, [(PAGE, page)])}, frozenset(["log"]))
        state.commit(Message(b"m2", b"actor"), {b"actor": change}, forgotten=[b"\2"], subnet_record=b"s", apply=True)
        state.commit(Message(b"m3"), {b"actor": CanisterChange(record=b"changed")}, answers=[Answer(b"\4", 1, b"anew")])
        facts = {"version": state.version, "state_hash": state.state_hash().hex(), "answers": len(state.answers)}
        state.abandon()
        return facts


def python(path: Path) -> dict[str, Any]:
    """Canisters in Python: variables, attributes, a snapshot, a call in flight, all of the history."""
    sys.path.insert(0, str(HERE))
    from keeper import Keeper

    with Subnet(path, history=None, seed=b"python") as subnet:
        keeper, other = subnet.install(Keeper), subnet.install(Keeper)
        keeper.actor(ALICE).add("Ada")
        snapshot = keeper.take_snapshot()
        keeper.actor().add("Bob")
        subnet.checkpoint()
        request = submit_ingress(
            subnet._world, keeper.id.raw_bytes, "ask", keeper.service().methods["ask"].encode([other.id])
        )
        subnet.tick()
        assert subnet._state.canisters[keeper.id.raw_bytes].open_calls, "nothing is in flight"
        assert keeper.module is not None
        return {
            "keeper": str(keeper.id),
            "other": str(other.id),
            "snapshot": snapshot.hex(),
            "request": request.hex(),
            "module_hash": keeper.module.module_hash.hex(),
            **facts_of(subnet),
        }


def memories(path: Path) -> dict[str, Any]:
    """A canister with memories of its own, one of them unused, and all of its history."""
    text = (HERE / "memories.wat").read_text()
    with Subnet(path, history=None, seed=b"memories", extensions=["memories"]) as subnet:
        canister = subnet.install(bytes(wasmtime.wat2wasm(text)))
        canister.update("add")
        subnet.checkpoint()
        canister.update("add")
        canister.upgrade(bytes(wasmtime.wat2wasm(text.replace('"old"', '"new"'))))
        canister.update("add")
        return {"canister": str(canister.id), **facts_of(subnet)}


def copies(path: Path) -> dict[str, Any]:
    """Snapshots and a handed memory in layers, in the checkpoint and in the log after it, and all of their history."""
    modules = MODULES.parent / "modules_memories"
    with Subnet(path, history=None, seed=b"copies", extensions=["memories"]) as subnet:
        one, other = (subnet.install(modules / f"memories_c_{number}.wasm") for number in (1, 2))
        one.memories["users"].grow(31)
        one.memories["users"].write(0, bytes(range(1, 256)) * 8_000)
        one.memories["users"].write(8, bytes(8))
        subnet.checkpoint()
        first = one.take_snapshot()
        one.update("add")
        one.update("give", other.id.raw_bytes)
        other.update("add")
        subnet.checkpoint()
        one.update("add")
        second = one.take_snapshot()
        one.load_snapshot(first)
        one.update("add")
        facts = {"one": str(one.id), "other": str(other.id), "first": first.hex(), "second": second.hex()}
        facts |= facts_of(subnet)
        subnet._host.directory.abandon()  # type: ignore[union-attr]  # with a log
        return facts


def range_(path: Path) -> dict[str, Any]:
    """A subnet whose canisters' ids begin where PocketIC's do, and all of its history."""
    with Subnet(path, history=None, seed=b"range") as subnet:
        kv = subnet.install(MODULES / "kv32.wasm", bytes(8))
        kv.update("inc")
        return {"canister": str(kv.id), **facts_of(subnet)}


def network(path: Path) -> dict[str, Any]:
    """Two subnets between which calls, an answer, a rejection and a refund are on their way; all of their history."""

    def counting(callee: Principal, register: int, **more: Any) -> Program:
        def count(number: int) -> Program:
            return Program().set(number, Program().add(Program().get(number), 1))

        reached, done, refused = (count(number).reply(b"") for number in (3, 2, 4))
        return count(register).call(callee.raw_bytes, "update", reached, on_reply=done, on_reject=refused, **more)

    with Network(["nns", "application"], path=path, history=None, seed=b"network") as made:
        near, far = (subnet.install(MODULES / "universal32.wasm", b"") for subnet in made.subnets)
        gone = Principal.from_index(int.from_bytes(near.id.raw_bytes[:8]) + 9)
        made.subnets[0].advance_time("1h")  # so that what expires within it has, once it is there
        programs = [
            (near, counting(far.id, 1, cycles=1_000)),
            (far, counting(near.id, 1, cycles=2_000)),
            (far, counting(gone, 1, cycles=3_000)),
            (far, counting(near.id, 1, cycles=4_000, timeout_seconds=10)),
        ]
        for own, program in programs:
            submit_ingress(own._subnet._world, own.id.raw_bytes, "update", bytes(program))
        made.tick()
        late = counting(far.id, 1, cycles=5_000)
        submit_ingress(near._subnet._world, near.id.raw_bytes, "update", bytes(late))
        made.tick()
        streams = [one for subnet in made.subnets for one in subnet._state.xnet_streams.values()]
        kinds = sorted({type(message).__name__ for stream in streams for message in stream.messages})
        assert kinds == ["CallMessage", "RefundMessage", "ResponseMessage"], kinds
        for subnet in made.subnets:
            subnet.advance_time(0)
        return {
            "near": str(near.id),
            "far": str(far.id),
            "sent_cycles": made.sent_cycles,
            "members": {
                f"{number}-{kind}": facts_of(subnet)
                for number, (subnet, kind) in enumerate(zip(made.subnets, made.kinds.values(), strict=True))
            },
        }


MAKERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "v1-busy": busy,
    "v1-plain": plain,
    "v1-kept": kept,
    "v1-python": python,
    "v1-memories": memories,
    "v1-range": range_,
    "v1-copies": copies,
    "v1-network": network,
    "v2-plain": plain,
    "v2-range": range_,
}


def pack(directory: Path, target: Path) -> None:
    """Without locks and reserve, with no times and owners in it."""
    with tarfile.open(target, "w:xz") as archive:
        for path in sorted(directory.rglob("*")):
            if path.name in ("lock", "reserve"):
                continue
            entry = tarfile.TarInfo(str(path.relative_to(directory)))
            entry.type = tarfile.DIRTYPE if path.is_dir() else tarfile.REGTYPE
            entry.mode = 0o755 if path.is_dir() else 0o644
            data = b"" if path.is_dir() else path.read_bytes()
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def main() -> None:
    for name in sys.argv[1:] or MAKERS:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "state"
            facts = MAKERS[name](path)
            pack(path, HERE / f"{name}.tar.xz")
        (HERE / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
