"""Stories of canisters with a database: filled, upgraded, opened from outside, written, undone, forked."""

from __future__ import annotations

import json
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "subnet"))
from built_canisters import CANISTERS, load_file, module
from guest import text, value, values
from sqlite_files import in_wal_mode, made

from perdure import RejectError, Subnet
from perdure.candid import decode as decode_values
from perdure.candid import encode as encode_values
from perdure.candid import parse_values
from perdure.errors import HostError, PerdureError, StorageError, UnsupportedError
from perdure.inspection import Limits, open_source, open_sqlite
from perdure.inspection.find import find_in_memory
from perdure.inspection.sqlite import choose_database
from perdure.inspection.sqlite_live import CommitError
from perdure.kit import canister as python_canister
from perdure.kit import update
from perdure.memory import WASM_PAGE_BYTES
from perdure.subnet import Canister

SCHEMA = "create table t(a integer primary key, b); insert into t values (1, 'one'), (2, 'two')"
EMPTY = b"DIDL\0\0"


@pytest.fixture
def subnet() -> Iterator[Subnet]:
    with Subnet() as subnet:
        yield subnet


@pytest.fixture
def canister(subnet: Subnet) -> Canister:
    canister = subnet.install(module("sqlite"))
    canister.update("exec", SCHEMA.encode())
    return canister


def ask(canister: Canister, sql: str) -> list[list[str]]:
    return [line.split("\t") for line in canister.query("query", sql.encode()).decode().splitlines()]


def rows(connection: apsw.Connection, sql: str = "select a from t order by a") -> list[object]:
    return [row[0] if len(row) == 1 else row for row in connection.execute(sql)]


def is_sound(canister: Canister) -> bool:
    return ask(canister, "pragma integrity_check") == [["ok"]]


def test_the_story_of_the_guest_in_c(subnet, canister):
    canister.update("exec", b"insert into t select a + 10, b from t")
    canister.upgrade(module("sqlite"))
    outside = canister.sqlite(write=True)
    assert rows(outside) == [1, 2, 11, 12]
    with outside:
        outside.execute("insert into t values (3, 'from outside')")
    assert ask(canister, "select b from t where a = 3") == [["from outside"]]
    canister.update("exec", b"begin; delete from t; rollback")
    assert ask(canister, "select count(*) from t") == [["5"]]
    before = canister.stable.read(0, 8192)
    with pytest.raises(RejectError, match="UNIQUE"):
        canister.update("exec", b"insert into t values (4, 'gone'); insert into t values (1, 'twice')")
    assert canister.stable.read(0, 8192) == before
    fork = subnet.fork()
    twin = fork.canister(canister.id)
    with twin.sqlite(write=True) as inside_fork:
        inside_fork.execute("delete from t")
    assert (ask(twin, "select count(*) from t"), ask(canister, "select count(*) from t")) == ([["0"]], [["5"]])
    assert rows(outside) == [1, 2, 3, 11, 12]
    assert is_sound(canister)


def test_rows_come_and_go_in_both_directions(canister):
    outside = canister.sqlite(write=True)
    for number in range(100, 140):
        if number % 2:
            canister.update("exec", f"insert into t values ({number}, '{'x' * number * 20}')".encode())
        else:
            with outside:
                outside.execute("insert into t values (?, ?)", (number, "y" * number * 20))
    expected = [1, 2, *range(100, 140)]
    assert rows(outside) == expected
    assert ask(canister, "select a from t order by a") == [[str(number)] for number in expected]
    canister.update("exec", b"delete from t where a > 110; vacuum")
    assert rows(outside) == [1, 2, *range(100, 111)]
    with outside:
        outside.execute("delete from t where a > 100")
    outside.execute("vacuum")
    assert ask(canister, "select count(*) from t") == [["3"]]
    assert is_sound(canister)
    assert rows(outside, "pragma integrity_check") == ["ok"]


def test_a_commit_of_sqlite_is_one_commit_of_its_own_kind(tmp_path):
    with Subnet(tmp_path / "state", history=None) as subnet:
        canister = subnet.install(module("sqlite"))
        canister.update("exec", SCHEMA.encode())
        version = subnet.version
        with canister.sqlite(write=True) as outside:
            outside.execute("insert into t values (3, 'x')")
            outside.execute("update t set b = 'y'")
        assert subnet.version == version + 1
        for ended in ("rollback", "commit"):  # of nothing
            outside.execute("begin immediate")
            outside.execute(ended)
        outside.execute("begin")
        outside.execute("delete from t")
        outside.execute("rollback")
        assert subnet.version == version + 1
        assert rows(canister.sqlite(at=version)) == [1, 2]
        assert rows(canister.sqlite(at=version + 1), "select distinct b from t") == ["y"]
        with pytest.raises(UnsupportedError, match="what was is not written to"):
            canister.sqlite(at=version, write=True)
    from perdure.storage import StateDirectory

    directory = StateDirectory.open(tmp_path / "state", read_only=True)
    kinds = [entry.message.kind for entry in directory.history()]
    directory.close()
    assert kinds.count("sqlite") == 1
    with open_source(f"{tmp_path / 'state'}:{canister.id}") as source:
        assert rows(open_sqlite(source.memory)) == [1, 2, 3]
    with Subnet(tmp_path / "state") as again:
        assert ask(again.canister(canister.id), "select count(*) from t") == [["3"]]


@pytest.mark.parametrize(
    ("version", "error", "words"),
    [
        (0, UnsupportedError, "was not there yet at version 0"),
        (10**9, StorageError, "there is no version 1000000000: they go from 0 to 2"),
        (-1, StorageError, "there is no version -1"),
        ("x", TypeError, "a version is a number, found 'x'"),
    ],
)
def test_versions_that_there_are_not(tmp_path, version, error, words):
    with Subnet(tmp_path / "state", history=None) as subnet:
        canister = subnet.install(module("sqlite"))
        canister.update("exec", SCHEMA.encode())
        with pytest.raises(error, match=words):
            canister.sqlite(at=version)
        with pytest.raises(StorageError, match="open in this process already"):
            Subnet(tmp_path / "state")


def test_a_snapshot_is_read_where_it_lies(canister, tmp_path):
    canister.write_snapshot(tmp_path / "snapshot")
    with open_source(str(tmp_path / "snapshot")) as source:
        assert rows(open_sqlite(source.memory)) == [1, 2]
    assert rows(Subnet.open(tmp_path / "snapshot").canisters[0].sqlite()) == [1, 2]


def test_a_transaction_sees_one_state_or_ends(canister):
    canister.update("exec", b"with recursive n(i) as (select 10 union all select i + 1 from n where i < 9999) "
                            b"insert into t select i, 'some text ' || i from n")  # fmt: skip
    outside = canister.sqlite()
    reading = outside.execute("select a from t")
    assert [next(reading)[0] for _ in range(3)] == [1, 2, 10]
    canister.update("exec", b"insert into t values (3, 'meanwhile')")
    with pytest.raises(apsw.BusyError):
        list(reading)
    assert len(rows(outside)) == 9993


@pytest.mark.parametrize("begin", ["begin", "begin immediate"])
def test_two_writers_and_nothing_is_lost(canister, begin):
    outside, other = canister.sqlite(write=True), canister.sqlite(write=True)
    outside.execute(begin)
    assert rows(outside) == [1, 2]
    with other:
        other.execute("insert into t values (3, 'first')")
    with pytest.raises((CommitError, apsw.BusyError)):  # noqa: PT012 - as early as it may be
        outside.execute("insert into t values (3, 'second')")
        outside.execute("commit")
    if outside.in_transaction:
        outside.execute("rollback")
    assert rows(outside) == rows(other) == [1, 2, 3]
    assert ask(canister, "select b from t where a = 3") == [["first"]]
    assert is_sound(canister)


def test_a_guest_that_grew_the_file_meanwhile(canister):
    outside = canister.sqlite(write=True)
    outside.execute("begin immediate")
    outside.execute("insert into t values (7, 'lost')")
    canister.update("exec", b"create table more(x); insert into more values (zeroblob(300000))")
    with pytest.raises(CommitError, match="the canister has changed the database"):
        outside.execute("commit")
    assert rows(outside) == [1, 2]
    with outside:
        outside.execute("insert into t values (7, 'kept')")
    assert ask(canister, "select b from t where a = 7") == [["kept"]]
    assert ask(canister, "select length(x) from more") == [["300000"]]
    assert is_sound(canister)


def test_a_block_that_cannot_be_committed_says_why(canister):
    outside = canister.sqlite(write=True)

    def write(number: int, then: Callable[[], object]) -> None:
        with outside:
            outside.execute("insert into t values (?, 'x')", (number,))
            then()

    def meanwhile(number: int, then: Callable[[], object] = bool) -> Callable[[], object]:
        def run() -> None:
            canister.update("exec", f"insert into t values ({number}, 'y')".encode())
            then()

        return run

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(CommitError, match="the canister has changed the database"):
        write(3, meanwhile(4))
    assert not outside.in_transaction
    for then in (fail, meanwhile(5, fail)):
        with pytest.raises(ZeroDivisionError):
            write(3, then)
        assert not outside.in_transaction
    assert rows(outside) == [1, 2, 4, 5]
    with outside:
        with pytest.raises(ZeroDivisionError):
            write(6, fail)
        assert outside.in_transaction
        write(7, bool)
    assert rows(outside) == [1, 2, 4, 5, 7]
    assert is_sound(canister)


def test_what_the_guest_was_reading_when_others_wrote(canister):
    reply = canister.update("prepare", b"select a from t")
    (number,) = struct.unpack_from("<I", reply)
    assert canister.update("step", struct.pack("<II", number, 1))[0] == 0
    with canister.sqlite(write=True) as outside:
        outside.execute("insert into t values (3, 'x')")
    with pytest.raises(RejectError, match="changed from outside while this was being read"):
        canister.update("step", struct.pack("<II", number, 1))
    canister.update("reset", struct.pack("<I", number))
    reply = canister.update("step", struct.pack("<II", number, 10))
    assert struct.unpack_from("<BII", reply) == (1, 1, 3)


def test_an_anchor_undoes_what_was_written_within(subnet, canister):
    outside = canister.sqlite(write=True)
    assert rows(outside) == [1, 2]
    with subnet.anchor():
        with outside:
            outside.execute("insert into t values (3, 'x')")
        canister.update("exec", b"insert into t values (4, 'y')")
        assert rows(outside) == [1, 2, 3, 4]
    assert rows(outside) == [1, 2]
    canister.update("exec", b"insert into t values (5, 'z')")
    assert rows(outside) == [1, 2, 5]
    outside.execute("begin immediate")
    with subnet.anchor():
        outside.execute("insert into t values (6, 'across')")
        with pytest.raises(CommitError):
            outside.execute("commit")
    assert rows(outside) == [1, 2, 5]


def test_another_database_in_its_place_is_seen_as_another(subnet, canister):
    outside = canister.sqlite(write=True)
    assert rows(outside) == [1, 2]
    canister.reinstall(module("sqlite"))
    with pytest.raises((UnsupportedError, PerdureError, apsw.Error)):
        rows(outside)
    canister.update("exec", SCHEMA.replace("one", "eins").encode())
    assert rows(outside, "select b from t") == ["eins", "two"]


def test_a_module_that_does_not_look_again_is_read_only(subnet, canister):
    other = subnet.install(b"\0asm\1\0\0\0")
    other.stable.grow(1)
    other.stable.write(0, made(SCHEMA))
    assert rows(other.sqlite()) == [1, 2]
    with pytest.raises(UnsupportedError, match="does not say"):
        other.sqlite(write=True)
    with pytest.raises(UnsupportedError, match=r"for within `with subnet\.anchor"):
        other.sqlite(write="unsafe")
    with subnet.anchor():
        with other.sqlite(write="unsafe") as outside:
            outside.execute("insert into t values (3, 'x')")
        assert rows(other.sqlite()) == [1, 2, 3]
    assert rows(other.sqlite()) == [1, 2]
    with pytest.raises(ValueError, match="'unsafe'"):
        canister.sqlite(write="yes")


WAITING: dict[str, Callable[[], None]] = {}


@python_canister
class Waiting:
    """Does what a test has put into `WAITING`, while its caller waits for the answer."""

    @update
    def do(self) -> None:
        WAITING["do"]()


def test_nobody_writes_while_a_canister_waits_for_an_answer(subnet):
    universal = load_file(CANISTERS / "universal" / "universal.py")
    waiting = subnet.install(Waiting)
    caller = subnet.install(module("universal32"), b"")
    caller.stable.grow(1)
    caller.stable.write(0, made(SCHEMA))
    told: list[str] = []

    def write() -> None:
        assert caller.open_call_contexts == 1
        assert rows(caller.sqlite()) == [1, 2]
        for attempt in (lambda: caller.sqlite(write="unsafe"), lambda: connection.execute("delete from t")):
            with pytest.raises(UnsupportedError, match="within 1 calls that it has not answered"):
                attempt()
            told.append("refused")

    with subnet.anchor():
        connection = caller.sqlite(write="unsafe")
        WAITING["do"] = write
        program = universal.Program().call(waiting.id.raw_bytes, "do", EMPTY)
        assert caller.update("update", bytes(program)) == EMPTY
        assert told == ["refused", "refused"]
        with connection:
            connection.execute("delete from t where a = 1")
        assert rows(connection) == [2]
    assert rows(connection) == [1, 2]


@pytest.mark.parametrize(
    "sql",
    [
        "attach 'x.db' as x", "vacuum into 'x.db'", "pragma locking_mode = exclusive", "pragma journal_mode = delete",
        "pragma writable_schema = 1", "select load_extension('x')", "select writefile('x.db', 'x')",
    ],
)  # fmt: skip
def test_who_writes_reaches_no_other_file(canister, sql, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UnsupportedError, apsw.Error)):
        canister.sqlite(write=True).execute(sql).fetchall()
    assert list(tmp_path.iterdir()) == []


def test_a_canister_without_a_database(subnet):
    with pytest.raises(UnsupportedError, match="no SQLite database here, found nothing"):
        subnet.install(module("sqlite")).sqlite()
    with pytest.raises(ValueError, match="has no code"):
        subnet.create_canister().sqlite()


@pytest.mark.parametrize(("committed", "message"), [(False, "not committed"), (None, "committed or not")])
def test_a_commit_that_fails_leaves_both_as_they_were(canister, monkeypatch, committed, message):
    outside = canister.sqlite(write=True)
    refusal = StorageError("as asked", "here")
    refusal.committed = committed

    def fail(*_: object, **__: object) -> None:
        raise refusal

    with monkeypatch.context() as patched:
        patched.setattr(Canister, "commit_pages", fail)
        outside.execute("begin")
        outside.execute("insert into t values (3, 'x')")
        with pytest.raises(CommitError, match=f"{message}: here: as asked") as caught:
            outside.execute("commit")
        assert caught.value.committed is committed
    assert rows(outside) == [1, 2]
    with outside:
        outside.execute("insert into t values (4, 'x')")
    assert ask(canister, "select a from t") == [["1"], ["2"], ["4"]]
    assert is_sound(canister)


@pytest.mark.parametrize("page_bytes", [512, 1024, 65_536])
def test_pages_of_every_size_are_written(subnet, page_bytes):
    canister = subnet.install(b"\0asm\1\0\0\0")
    data = made("create table t(a integer primary key, b); create index i on t(b)", page_bytes=page_bytes)
    canister.stable.grow(-(-len(data) // 65_536))
    canister.stable.write(0, data)
    with subnet.anchor():
        with canister.sqlite(write="unsafe") as outside:
            outside.executemany(
                "insert into t values (?, ?)", ((number, "x" * (number % 700)) for number in range(2000))
            )
        with outside:
            outside.execute("delete from t where a % 3")
        outside.execute("vacuum")
        again = open_sqlite(canister.stable)
        assert rows(again, "select count(*) from t") == [667]
        assert rows(again, "pragma integrity_check") == ["ok"]


def test_a_database_in_wal_mode_is_not_written(subnet, tmp_path):
    canister = subnet.install(b"\0asm\1\0\0\0")
    data = in_wal_mode(tmp_path / "wal.db")
    canister.stable.grow(-(-len(data) // 65_536))
    canister.stable.write(0, data)
    assert rows(canister.sqlite()) == [1, 2]
    with subnet.anchor(), pytest.raises(UnsupportedError, match="in WAL mode"):
        canister.sqlite(write="unsafe")


def test_a_database_does_not_grow_over_what_lies_behind_it(subnet):
    from perdure.stable import RestrictedMemory, StableCell, types

    canister = subnet.install(b"\0asm\1\0\0\0")
    canister.stable.grow(4)
    canister.stable.write(0, made("create table t(a integer primary key, b)"))
    StableCell.create(RestrictedMemory(canister.stable, 2, 4), types.text, "behind")
    with subnet.anchor():
        outside = canister.sqlite(write="unsafe")
        outside.execute("insert into t values (1, zeroblob(50000))")
        with pytest.raises(apsw.FullError):
            outside.execute("insert into t values (2, zeroblob(100000))")
        assert rows(outside) == [1]
        assert rows(outside, "pragma integrity_check") == ["ok"]
        assert StableCell.load(RestrictedMemory(canister.stable, 2, 4), types.text).value == "behind"


def test_threads_that_write_from_inside_and_outside(canister):
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        return threading.Thread(target=run)

    def inside() -> None:
        for number in range(30):
            canister.update("exec", f"insert into t values ({1000 + number}, 'i')".encode())

    def outside() -> None:
        number = 0
        while number < 30:
            try:
                with canister.sqlite(write=True) as connection:
                    connection.execute("insert into t values (?, 'o')", (2000 + number,))
                number += 1
            except (apsw.BusyError, CommitError):
                continue

    threads = [guarded(inside), guarded(outside)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert failures == []
    assert ask(canister, "select count(*) from t") == [["62"]]
    assert is_sound(canister)


# --- the guest's methods


def test_values_of_every_kind_through_every_method(canister):
    row = (7, None, -(1 << 63), 0.1, "häß\0x", b"\0\xff")
    columns = "a integer primary key, b, c, d, e, f"
    canister.update("exec", f"create table v({columns})".encode())
    insert = text("insert into v values (?, ?, ?, ?, ?, ?)")
    canister.update("run", insert + b"".join(map(value, row)))
    assert values(canister.query("select", text("select * from v where a = ?") + value(7))) == (True, [row])
    many = b"".join(value(number) + b"".join(map(value, row[1:])) for number in range(100, 350))
    assert canister.update("run_many", insert + struct.pack("<I", 250) + many) == struct.pack("<Q", 250)
    number, parameters, count = struct.unpack_from(
        "<III", canister.update("prepare", b"select a, e from v where a >= ?")
    )
    assert (parameters, count) == (1, 2)
    canister.update("bind", struct.pack("<II", number, 1) + value(340))
    assert values(canister.update("step", struct.pack("<II", number, 6))) == (
        False, [(340 + index, row[4]) for index in range(6)],
    )  # fmt: skip
    assert values(canister.update("step", struct.pack("<II", number, 6)))[0]
    canister.update("finalize", struct.pack("<I", number))
    with pytest.raises(RejectError, match="no such statement"):
        canister.update("step", struct.pack("<II", number, 6))


@pytest.mark.parametrize(
    ("method", "arg", "message"),
    [
        ("exec", b"begin; insert into t values (9, 9)", "a transaction ends with its message"),
        ("exec", b"select from", "syntax error"),
        ("exec", b"pragma locking_mode = exclusive", "not authorized"),
        ("exec", b"attach 'x' as x", "not authorized"),
        ("run", b"\xff\xff\xff\xff", "the argument ends too early"),
        ("run", text("select 1; select 2"), "one statement, found more"),
        ("run", text("select ?") + b"\5", "no such kind of value"),
        ("run", text("select ?") + b"\3\xff\xff\xff\x7f", "the argument ends too early"),
        ("run", text("select 1") + value(1), "out of range"),
        ("run_many", text("insert into t values (?, 1)") + b"\2\0\0\0" + value(7), "the argument ends too early"),
        ("step", b"\1\0\0\0\1\0\0\0", "no such statement"),
        ("prepare", b"  ", "no statement"),
        ("prepare", b"select 1; drop table t", "one statement, found more"),
    ],
)
def test_what_the_guest_refuses_changes_nothing(canister, method, arg, message):
    before = canister.stable.read(0, 8192)
    with pytest.raises(RejectError, match=message):
        canister.update(method, arg)
    assert canister.stable.read(0, 8192) == before
    assert ask(canister, "select count(*) from t") == [["2"]]


def test_only_controllers_write(canister):
    from perdure import Principal

    with pytest.raises(RejectError, match="updates are for controllers"):
        canister.update("exec", b"select 1", sender=Principal(b"\7" * 10))
    assert canister.query("query", b"select count(*) from t", sender=Principal(b"\7" * 10)) == b"2\n"


def test_the_guest_writes_over_nothing_else(subnet):
    canister = subnet.install(module("sqlite"))
    canister.stable.grow(1)
    canister.stable.write(0, b"something else")
    with pytest.raises(RejectError, match="begins with something else than a database"):
        canister.update("exec", b"create table t(a)")
    assert canister.stable.read(0, 14) == b"something else"


def test_full_text_and_r_trees_in_the_guest(canister):
    canister.update(
        "exec",
        b"create virtual table words using fts5(text); insert into words values ('hello world'), ('other');"
        b"create virtual table boxes using rtree(id, low, high); insert into boxes values (1, 2, 3)",
    )
    assert ask(canister, "select text from words where words match 'hello'") == [["hello world"]]
    assert rows(canister.sqlite(), "select text from words where words match 'hello'") == ["hello world"]
    with canister.sqlite(write=True) as outside:
        outside.execute("insert into words values ('hello again')")
        outside.execute("insert into boxes values (2, 10, 11)")
    assert ask(canister, "select count(*) from words where words match 'hello'") == [["2"]]
    assert ask(canister, "select id from boxes where low > 5") == [["2"]]
    assert is_sound(canister)


# --- other guests


def people(canister: Canister, method: str, arguments: str = "()") -> object:
    send = canister.query if method in {"adults", "check"} else canister.update
    found = decode_values(send(method, encode_values(*parse_values(arguments))))
    return found[0] if found else None


@pytest.mark.slow
@pytest.mark.parametrize(("name", "offset"), [("wasi_sqlite", 0), ("sqlite_vfs", 65_536)])
def test_the_story_of_a_guest_by_a_crate(subnet, name, offset):
    wasm = module(name)
    canister = subnet.install(wasm, EMPTY, wasi=name.startswith("wasi"))
    people(canister, "fill", "(2000 : int64)")
    found = choose_database(find_in_memory(canister.stable))
    assert (found.label, found.offset) == ("120", offset)
    outside = canister.sqlite()
    assert rows(outside, "select count(*) from person") == [2000]
    canister.upgrade(wasm, EMPTY, wasi=name.startswith("wasi"))
    people(canister, "fill", "(1000 : int64)")
    assert rows(outside, "select count(*) from person") == [3000]
    assert rows(outside, "pragma integrity_check") == ["ok"]
    with pytest.raises(UnsupportedError, match="does not say"):
        canister.sqlite(write=True)
    of_age = people(canister, "adults", "(18 : int64)")
    # A message that traps leaves nothing, seen from outside and from inside.
    before = canister.stable.read(0, canister.stable.size() * WASM_PAGE_BYTES)
    with pytest.raises(RejectError, match="as asked"):
        people(canister, "add_and_trap", '("nobody")')
    assert canister.stable.read(0, len(before)) == before
    assert rows(outside, "select count(*) from person where name = 'nobody'") == [0]
    # Its SQLite never lets go of its lock, so that the change counter in the header stays as it is.
    counter = choose_database(find_in_memory(canister.stable)).region.read(24, 4)
    reading = canister.sqlite()
    reading.execute("begin")
    assert rows(reading, "select max(id) from person") == [3000]
    people(canister, "add", '("Ada", 36 : int64)')
    assert choose_database(find_in_memory(canister.stable)).region.read(24, 4) == counter
    with pytest.raises(apsw.BusyError):
        rows(reading, "select sum(age) from person")
    assert rows(outside, "select name, age from person where id > 3000") == [("Ada", 36)]
    assert (people(canister, "adults", "(18 : int64)"), people(canister, "check")) == (of_age + 1, "ok")
    # What is written from outside is read inside.
    with subnet.anchor():
        with canister.sqlite(write="unsafe") as inside:
            inside.execute("update person set age = 50 where id <= 100")
        canister.upgrade(wasm, EMPTY, wasi=name.startswith("wasi"))
        young = sum(number % 90 < 18 for number in range(1, 101))
        assert (people(canister, "adults", "(18 : int64)"), people(canister, "check")) == (of_age + 1 + young, "ok")
        if name == "wasi_sqlite":  # the other keeps the size in a page of its own, so that nobody may make it grow
            with canister.sqlite(write="unsafe") as inside:
                inside.execute("insert into person(name, age) select name, 50 from person limit 100")
            canister.upgrade(wasm, EMPTY, wasi=True)
            assert people(canister, "adults", "(18 : int64)") == of_age + 1 + young + 100
    assert people(canister, "adults", "(18 : int64)") == of_age + 1
    fork = subnet.fork().canister(canister.id)
    people(fork, "fill", "(1 : int64)")
    assert rows(fork.sqlite(), "select count(*) from person") == [3002]
    assert rows(outside, "select count(*) from person") == [3001]


def test_a_database_in_a_virtual_memory_grows_with_its_buckets(subnet):
    from perdure.memory import BytesMemory
    from perdure.stable import MemoryManager, StableCell, types

    wasm = module("sqlite")
    memory = BytesMemory()
    manager = MemoryManager.create(memory, bucket_wasm_pages=1)
    data = made("create table t(a integer primary key, b)")
    manager.get(3).grow(1)
    manager.get(3).write(0, data)
    StableCell.create(manager.get(4), types.text, "beside")
    canister = subnet.install(wasm)
    canister.stable.grow(memory.size())
    canister.stable.write(0, bytes(memory.data))
    with canister.sqlite(write=True) as outside:
        outside.executemany("insert into t values (?, ?)", ((number, "x" * 100) for number in range(5000)))
    assert rows(outside, "select count(*) from t") == [5000]
    assert rows(canister.sqlite(), "pragma integrity_check") == ["ok"]
    assert StableCell.load(MemoryManager.load(canister.stable).get(4), types.text).value == "beside"
    assert MemoryManager.load(canister.stable).get(3).size() > 8


def test_what_events_say(subnet, canister):
    with subnet.events() as stream, canister.sqlite(write=True) as outside:
        outside.execute("insert into t values (3, 'x')")
    told = [json.loads(json.dumps(type(event).__name__)) for event in stream]
    assert told == ["Taken", "Committed"]


def test_tables_are_those_of_the_database_that_came_instead(subnet, canister):
    """Another one with the same counter and the same cookie: made, and undone, and another made."""
    writing, reading = canister.sqlite(write=True), canister.sqlite()
    with subnet.anchor():
        canister.update("exec", b"create table aa(x)")
        assert not writing.execute("select * from aa").fetchall()
        assert not reading.execute("select * from aa").fetchall()
    canister.update("exec", b"create table bb(y text unique)")
    for connection in (writing, reading):
        with pytest.raises(apsw.SQLError, match="no such table: aa"):
            connection.execute("select * from aa")
    writing.execute("insert into bb values ('one')")
    writing.execute("create table cc(z)")
    assert reading.execute("select y from bb").fetchall() == [("one",)]
    assert canister.query("query", b"select y from bb; select * from cc; pragma integrity_check") == b"one\nok\n"
    canister.update("exec", b"drop table bb")
    for connection in (writing, reading):
        with pytest.raises(apsw.SQLError, match="no such table: bb"):
            connection.execute("select * from bb")


def test_a_snapshot_that_was_loaded_has_tables_of_its_own(canister):
    reading = canister.sqlite()
    snapshot = canister.take_snapshot()
    canister.update("exec", b"create table aa(x)")
    assert not reading.execute("select * from aa").fetchall()
    canister.load_snapshot(snapshot)
    canister.update("exec", b"create table bb(y); insert into bb values (2)")
    with pytest.raises(apsw.SQLError, match="no such table: aa"):
        reading.execute("select * from aa")
    assert reading.execute("select * from bb").fetchall() == [(2,)]


def test_a_database_that_is_gone_and_comes_back(canister):
    writing, reading = canister.sqlite(write=True), canister.sqlite()
    assert rows(reading) == rows(writing) == [1, 2]
    canister.reinstall(module("sqlite"))
    for connection in (writing, reading):
        with pytest.raises(UnsupportedError, match="no SQLite database here, found nothing"):
            rows(connection)
    canister.update("exec", b"create table q(a)")
    writing.execute("insert into q values (7)")
    assert rows(reading, "select a from q") == [7]
    assert ask(canister, "select a from q; pragma integrity_check") == [["7"], ["ok"]]


@pytest.mark.parametrize("setting", ["page_size = 512", "page_size = 65536", "auto_vacuum = full"])
def test_a_database_that_is_made_anew_from_outside(canister, setting):
    """The guest has it open, and SQLite takes these from the header again."""
    writing, reading = canister.sqlite(write=True), canister.sqlite()
    assert rows(reading) == [1, 2]
    writing.execute(f"pragma {setting}")
    writing.execute("vacuum")
    name, value = setting.split(" = ")
    assert ask(canister, f"select a from t; pragma {name}") == [["1"], ["2"], ["1" if value == "full" else value]]
    canister.update("exec", b"insert into t values (3, hex(zeroblob(9000))); delete from t where a = 1")
    assert rows(reading) == rows(writing) == [2, 3]
    assert is_sound(canister)


def test_nobody_takes_the_memory_of_the_process(canister):
    """Which SQLite has for all its connections together."""
    before = apsw.hard_heap_limit(-1)
    writing = canister.sqlite(write=True)
    for name in ("hard_heap_limit", "soft_heap_limit"):
        with pytest.raises(UnsupportedError, match=name):
            writing.execute(f"pragma {name} = 1000")
        with pytest.raises(RejectError, match="not authorized"):
            canister.update("exec", f"pragma {name} = 1000".encode())
    assert apsw.hard_heap_limit(-1) == before
    assert rows(writing) == [1, 2]


def test_an_interrupted_write_leaves_nothing(canister):
    writing = canister.sqlite(write=True)
    endless = "insert into t(b) with recursive n(i) as (select 1 union all select i + 1 from n) select i from n"
    timer = threading.Timer(0.2, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 -- the timer must not be before
        timer.start()
        writing.execute(endless)
    timer.join()
    with pytest.raises(HostError, match=r"worked for 0\.2 s"):
        canister.sqlite(write=True, limits=Limits(seconds=0.2)).execute(endless)
    assert not writing.in_transaction
    assert rows(writing) == [1, 2]
    assert is_sound(canister)


def test_a_connection_does_not_outlive_its_subnet(subnet, canister):
    fork = subnet.fork()
    twin = fork.canister(canister.id)
    writing, reading = twin.sqlite(write=True), twin.sqlite()
    writing.execute("begin immediate")
    fork.close()
    for connection, sql in ((writing, "commit"), (reading, "select * from t"), (writing, "delete from t")):
        with pytest.raises(ValueError, match="the subnet is closed"):
            connection.execute(sql).fetchall()
    assert rows(canister.sqlite()) == [1, 2]


def test_a_transaction_does_not_outlive_its_anchor(subnet, canister):
    writing, reading = canister.sqlite(write=True), canister.sqlite()
    canister.update("exec", b"create table aa(x)")
    with subnet.anchor():
        canister.update("exec", b"create table bb(x)")
        writing.execute("begin")
        writing.execute("insert into aa values (9)")
        reading.execute("begin")
        assert not reading.execute("select * from aa").fetchall()
    with pytest.raises(CommitError, match="not committed"):
        writing.execute("commit")
    with pytest.raises(apsw.BusyError):
        reading.execute("select * from bb").fetchall()
    for connection in (writing, reading):
        if connection.in_transaction:
            connection.execute("rollback")
        assert not connection.execute("select * from aa").fetchall()
