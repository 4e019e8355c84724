"""Heat: pages that messages touch, by method, by structure, as a map; of subnets and of histories."""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY
from xml.etree import ElementTree

import pytest
from wasmtime import wat2wasm

from perdure import RejectError, Subnet
from perdure.canister import Return
from perdure.embedder import shared_engine
from perdure.embedder.pagemap import EveryPage
from perdure.errors import UnsupportedError
from perdure.execution.events import Ended
from perdure.inspection.occupancy import Span
from perdure.kit import canister as canister_class
from perdure.kit import nat64, update
from perdure.measure import heat as heats
from perdure.measure import heating
from perdure.measure.heat import Heat, Use
from perdure.measure.heat_map import draw, draw_terminal
from perdure.measure.structures import Layout, Owner
from perdure.memory import PAGE_BYTES
from perdure.stable import StableBTreeMap
from perdure.stable.types import u32
from perdure.subnet import Canister
from perdure.values.schema import parse_schema

Built = Callable[[str], Path]
Run = Callable[..., tuple[int, str, str]]
SOURCE = random.Random(1)


def rows(count: int) -> list[tuple[int, int]]:
    return [(SOURCE.getrandbits(128), SOURCE.getrandbits(128)) for _ in range(count)]


@pytest.fixture
def subnet() -> Subnet:
    return Subnet()


@pytest.fixture
def tree(subnet: Subnet, built: Built) -> Canister:
    canister = subnet.install(built("insert_many"))
    canister.actor().insert_many(rows(100))
    return canister


def test_pages_are_those_of_the_events(subnet: Subnet, tree: Canister) -> None:
    with subnet.events() as stream, subnet.heat() as heat:
        for _ in range(3):
            tree.actor().insert_many(rows(50))
        tree.actor().get(7)
    ended = [one for one in stream if isinstance(one, Ended)]
    stable = [use for use in heat.structures() if use.memory == "stable"]
    assert sum(use.read_pages or 0 for use in stable) == sum(one.stable_accessed_pages for one in ended)
    assert sum(use.written_pages for use in stable) == sum(one.stable_dirty_pages for one in ended)
    (heap,) = (use for use in heat.structures() if use.memory == "heap")
    assert (heap.read_pages, heap.written_pages) == (None, sum(one.heap_dirty_pages for one in ended))
    assert heat.total_messages == len(ended) == 4
    by_method = {method: (count, uses) for _, method, count, uses in heat.methods()}
    assert {name: count for name, (count, _) in by_method.items()} == {"update insert_many": 3, "query get": 1}
    assert all(use.written_pages == 0 for use in by_method["query get"][1])
    btree = stable[0]
    assert (btree.structure, btree.kind) == ("0", "btreemap")
    assert 0 < btree.written_set_pages <= btree.working_set_pages < (btree.read_pages or 0)
    assert btree.read_bytes == (btree.read_pages or 0) * PAGE_BYTES
    assert btree.write_amplification is None


def test_the_newest_messages_one_by_one(subnet: Subnet, tree: Canister, monkeypatch: pytest.MonkeyPatch) -> None:
    with subnet.events() as stream, subnet.heat(newest=3, heap_reads=True) as heat, subnet.heat(newest=9) as other:
        for count in (1, 2, 3, 4):
            tree.actor().insert_many(rows(count))
    written = [one.stable_dirty_pages for one in stream if isinstance(one, Ended)]
    found = heat.newest()
    assert [(one.number, one.method) for one in found] == [(4, "update insert_many"), (3, ANY), (2, ANY)]
    stable = [sum(use.written_pages for use in one.structures if use.memory == "stable") for one in found]
    assert stable == written[:0:-1]
    assert [use.read_pages for use in other.newest()[0].structures if use.memory == "heap"] == [None]
    assert f"message 4: {tree.id} update insert_many" in heat.table()
    assert [one["number"] for one in heat.to_json()["newest"]] == [4, 3, 2]
    monkeypatch.setattr(heats, "_MOST_KEPT_PAGES", 1)
    with subnet.heat(newest=3) as heat:
        tree.actor().insert_many(rows(1))
        tree.actor().insert_many(rows(1))
    assert [one.number for one in heat.newest()] == [2]


def test_names_come_from_a_schema(subnet: Subnet, tree: Canister) -> None:
    schema = parse_schema('memories: {"0": {name: balances, kind: btreemap}}')
    with subnet.heat(schema=schema) as heat:
        tree.actor().insert_many(rows(1))
    assert "stable 0 balances btreemap" in heat.table()
    assert "a 0 balances: btreemap, 8.0 MiB set aside" in "\n".join(heat.terminal())


def test_bytes_that_changed(subnet: Subnet, built: Built) -> None:
    canister = subnet.install(built("kv32"), bytes(8))
    canister.stable.grow(1)
    with subnet.heat(changed_bytes=True) as heat:
        canister.update("debug_print", b"said")
    assert all(use.changed_bytes is not None for use in heat.structures())
    tree = subnet.install(built("insert_many"))
    tree.actor().insert_many([(1, 2)])
    with subnet.heat(changed_bytes=True) as heat:
        tree.actor().insert_many([(1, 2)])  # the same again
        tree.actor().insert_many([(1, 3)])
    (use,) = (use for use in heat.structures() if use.memory == "stable")
    assert (use.written_pages, use.changed_bytes) == (2, 1)
    assert use.write_amplification == 2 * PAGE_BYTES


def test_a_trap_reads_and_writes_nothing(subnet: Subnet, built: Built) -> None:
    canister = subnet.install(built("kv32"), bytes(8))
    with subnet.heat() as heat, pytest.raises(RejectError):
        canister.update("trap", b"because")
    assert heat.total_messages == 1
    assert all(not use.written_pages for use in heat.structures())


def test_nobody_counts_before_and_after_and_on_forks(subnet: Subnet, tree: Canister) -> None:
    with subnet.heat() as heat:
        subnet.fork().canister(tree.id).actor().insert_many(rows(1))
    tree.actor().insert_many(rows(1))
    assert (heat.total_messages, heat.memories) == (0, [])
    assert subnet._world.watchers == ()
    assert "no page of a memory was touched" in heat.terminal()[0]
    ElementTree.fromstring(heat.svg())
    with pytest.raises(LookupError, match="nothing was touched of any canister's heap: found none"):
        heat.svg(memory="heap")


def test_several_canisters_and_one_that_goes(subnet: Subnet, tree: Canister, built: Built) -> None:
    other = subnet.install(built("insert_many"))
    with subnet.heat() as heat, subnet.heat() as inner:
        other.actor().insert_many(rows(30))
        tree.actor().insert_many(rows(5))
        other.stop()
        other.delete()
    assert heat.to_json() == inner.to_json()
    assert {canister for canister, _ in heat.memories} == {str(tree.id), str(other.id)}
    gone = [use for use in heat.structures() if use.canister == str(other.id) and use.memory == "stable"]
    assert [use.structure for use in gone] == ["other"]
    ElementTree.fromstring(heat.svg(canister=str(other.id)))
    assert f"{tree.id}, heap memory" in heat.svg(canister=str(tree.id), memory="heap")


def test_structures_that_come_with_the_message(subnet: Subnet, built: Built) -> None:
    canister = subnet.create_canister()
    with subnet.heat() as heat:
        canister.install(built("insert_many").read_bytes())
        canister.actor().insert_many(rows(2_000))
    kinds = {use.kind for use in heat.structures() if use.memory == "stable"}
    assert kinds == {"btreemap", "memory manager"}
    assert {method for _, method, _, _ in heat.methods()} == {"init", "update insert_many"}


def test_tables_of_a_database(subnet: Subnet, built: Built) -> None:
    pytest.importorskip("apsw")
    canister = subnet.install(built("sqlite"))
    canister.update("exec", b"create table owner (name text); create index by_name on owner (name);")
    canister.update("exec", b"insert into owner values ('a'), ('b')")
    with subnet.heat() as heat:
        canister.update("exec", b"insert into owner values ('c')")
    found = {(use.name, use.kind) for use in heat.structures() if use.memory == "stable"}
    assert {("owner", "table"), ("by_name", "index")} <= found


def test_a_database_with_a_hostile_table(subnet: Subnet, built: Built) -> None:
    pytest.importorskip("apsw")
    canister = subnet.install(built("sqlite"))
    name = '"</title><script>alert(1)</script>\n\x1b[31m|x"'
    canister.update("exec", f"create table {name} (a text)".encode())
    with subnet.heat() as heat:
        canister.update("exec", f"insert into {name} values (1)".encode())
    assert "\x1b" not in heat.table()
    assert sum("<script>" in line for line in heat.table().splitlines()) == 2  # overall, and of the method
    root = ElementTree.fromstring(heat.svg())
    assert not [one for one in root.iter() if one.tag.endswith("script")]


OWN = """(module
  (import "ic0" "msg_reply" (func $reply))
  (import "stable" "users" (memory $users i64 1 1000))
  (memory $heap 1)
  (func (export "canister_update add")
    (i64.store $users (i64.const 8192) (i64.add (i64.load $users (i64.const 8192)) (i64.const 1)))
    (call $reply))
  (func (export "canister_update grow")
    (drop (memory.grow $users (i64.const 9))) (i64.store $users (i64.const 600000) (i64.const 1)) (call $reply)))"""


def test_memories_of_ones_own() -> None:
    subnet = Subnet(extensions=("memories",))
    canister = subnet.install(bytes(wat2wasm(OWN)))
    with subnet.heat(changed_bytes=True) as heat, subnet.heat(heap_reads=True) as seen:
        canister.update("add")
        canister.update("add")
        canister.update("grow")
    (use,) = (one for one in heat.structures() if one.memory == "users")
    assert (use.read_pages, use.written_pages, use.written_set_pages, use.changed_bytes) == (None, 3, 2, 3)
    (use,) = (one for one in seen.structures() if one.memory == "users")
    assert (use.read_pages, use.working_set_pages) == (48, 32)
    lines = heat.terminal(memory="users")
    assert lines[0].endswith("users memory, 3 messages: 640.0 KiB, a letter is 4.0 KiB")
    assert [at for at, mark in enumerate("".join(lines[1:4])) if mark == "#"] == [2, 146]


def test_structures_in_memories_of_ones_own() -> None:
    subnet = Subnet(extensions=("memories",))
    canister = subnet.install(bytes(wat2wasm(OWN)))
    tree = StableBTreeMap.create(canister.memories["users"], u32, u32)
    for key in range(100):
        tree.insert(key, key)
    with subnet.heat() as heat:
        canister.update("add")
    assert [use.title for use in heat.structures() if use.memory == "users"] == ["users page:0 btreemap"]
    assert "a page:0: btreemap" in "\n".join(heat.terminal(memory="users"))


def test_canisters_in_python_and_what_they_call(subnet: Subnet) -> None:
    @canister_class
    class Counter:
        counts: StableBTreeMap[nat64, nat64]

        @update
        def count(self, key: nat64) -> None:
            self.counts[key] = self.counts.get(key, 0) + 1

    counter = subnet.install(Counter)
    with subnet.heat(heap_reads=True, changed_bytes=True) as heat:
        counter.actor().count(3)
    (use,) = heat.structures()
    assert (use.title, use.read_pages) == ("stable 0 counts btreemap", None)
    assert 0 < (use.changed_bytes or 0) < 100


def test_a_subnet_that_is_closed_meanwhile(subnet: Subnet, tree: Canister) -> None:
    with subnet.heat() as heat:
        tree.actor().insert_many(rows(1))
        subnet.close()
    assert heat.total_messages == 1
    assert heat.table()


def test_where_reads_of_heaps_are_not_seen(subnet: Subnet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_engine(), "private_pages", EveryPage())
    with pytest.raises(UnsupportedError, match="is not seen here"), subnet.heat(heap_reads=True):
        pass
    assert subnet._world.watchers == ()


def test_many_pages_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heats, "_MOST_PAGES", 1_000)
    heat = Heat()
    tally = heat.tally(b"c", "update m", "stable")
    for start in range(0, 400_000, 100_000):
        heat.add(tally, array("I", range(start, start + 100_000)), array("I", [start]))
    heat.messages[b"c", "update m"] = 4
    heat.settle(lambda canister_id, memory: Layout.plain(400_000 * PAGE_BYTES))
    heat.name({b"c": "name"})
    assert heat.page_bytes == 2 << 20
    (use,) = heat.structures()
    assert (use.canister, use.read_pages, use.written_pages) == ("name", 400_000, 4)
    assert use.working_set_pages == 400_384  # whole groups
    assert "2.0 MiB are counted as one" in heat.table()
    ElementTree.fromstring(heat.svg())


def test_hostile_names_are_drawn_as_text() -> None:
    name = "</title><script>alert(1)</script>\x00\x1b"
    layout = Layout(2 * PAGE_BYTES, [Span(0, 2 * PAGE_BYTES, name, "used")], None, {name: "#123456"}, {name: name})
    drawn = draw(name, layout, {0: (1, 1), 1: (2, 0)}, 0).svg()
    root = ElementTree.fromstring(drawn)
    assert not [one for one in root.iter() if one.tag.endswith("script")]
    assert draw_terminal("t", layout, {0: (1, 1), 1: (2, 0)}, 0)[1] == "##"


def test_what_is_in_no_use_is_left_out() -> None:
    spans = [Span(0, 4096, "0", "used"), Span(4096, 500 << 30, "", "free")]
    layout = Layout(500 << 30, spans, None, {"0": "#123456"}, {"0": "zero"})
    last = (500 << 30) // PAGE_BYTES - 1
    lines = draw_terminal("t", layout, {last: (3, 0)}, 0)
    assert lines[:2] == ["t: 8.0 KiB in use of 500.0 GiB, a letter is 4.0 KiB", "-#"]
    assert draw("t", layout, {last + 5: (1, 0)}, 0)  # a memory that is smaller now


def test_an_entry_of_code_without_accounting(subnet: Subnet) -> None:
    heating._Watcher(Heat())(object(), ("canister_update x",), None, Return())  # type: ignore[arg-type]
    assert Use("c", "heap", "", "", "", None, 1, 1, 1, None).to_json()["read_bytes"] is None
    assert Layout.plain(0).owner(3) == Owner("other")


# --- of a history, from the command line


@pytest.fixture
def kept(tmp_path: Path, built: Built) -> tuple[Path, str]:
    path = tmp_path / "state"
    with Subnet(path, history=None, durability="never") as subnet:
        canister = subnet.install(built("insert_many"))
        other = subnet.install(built("insert_many"))
        for _ in range(5):
            canister.actor().insert_many(rows(3))
        other.actor().insert_many(rows(1))
        return path, str(canister.id)


def test_a_directory_that_keeps_no_messages_is_told(run: Run, tmp_path: Path, built: Built) -> None:
    with Subnet(tmp_path / "state", durability="never") as subnet:
        canister = subnet.install(built("insert_many"))
        canister.actor().insert_many(rows(3))
    code, out, err = run("heatmap", f"{tmp_path / 'state'}:{canister.id}", "--history")
    assert (code, "0 messages" in out) == (0, True)
    assert "keeps no messages" in err
    assert f"`perdure state history {tmp_path / 'state'} --keep all`" in err


def test_the_heat_of_a_history(kept: tuple[Path, str], run: Run, tmp_path: Path) -> None:
    path, canister = kept
    picture = tmp_path / "h.svg"
    code, out, _ = run("heatmap", f"{path}:{canister}", "--history", "-o", picture)
    assert code == 0
    assert f"{canister} call insert_many: 5 messages" in out
    assert "a history has what messages wrote" in out
    assert "stable memory, 6 messages" in picture.read_text(encoding="utf-8")
    found = json.loads(run("heatmap", f"{path}:{canister}", "--history", "--last", 3, "--messages", 1, "--json")[1])
    assert [(one["number"], one["method"]) for one in found["newest"]] == [(7, "call insert_many")]
    assert (found["messages"], found["sees_reads"]) == (2, False)
    btree = next(one for one in found["structures"] if one["structure"] == "0")
    assert btree["read_pages"] is None
    assert 0 < btree["changed_bytes"] < btree["written_bytes"]


def test_the_command(run: Run, kept: tuple[Path, str], built: Built) -> None:
    path, canister = kept
    code, out, _ = run("heatmap", f"{path}:{canister}", "insert_many=(vec { record { 1; 2 } })", "--memory", "heap")
    assert (code, "heap memory, 1 message" in out, "update insert_many: 1 message\n" in out) == (0, True, True)
    code, out, err = run("heatmap", built("kv32"), "--init", "0000000000000000", "trap=6e6f", "-q")
    assert (code, out) == (1, "")
    assert "no" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["get"], "is of a state directory"),
        ([], "name methods, or say --upgrade or --ticks, or --history"),
        (["--history", "--ticks", "1"], "--history and --ticks: one or the other"),
        (["get", "--last", "3"], "--last is for --history"),
        (["get", "-o", "x.jpg"], "name it x.svg or x.png"),
        (["get", "--init", "()"], "--init is for a module"),
        (["get=(1)", "--memory", "bogus"], "--memory bogus: nothing was touched of any canister's bogus"),
    ],
)
def test_what_the_command_refuses(words: list[str], said: str, run: Run, kept: tuple[Path, str]) -> None:
    path, canister = kept
    source = str(path) if said.startswith("is of") else f"{path}:{canister}"
    code, _, err = run("heatmap", source, *(["--history"] if said.startswith("is of") else words))
    assert code == 2
    assert said in err
