"""Data models in an upgrade: what a catalogue said before, what it says after, and trees that do not follow."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pytest

from perdure import Subnet
from perdure.data import Catalogue, Store, Table, table
from perdure.errors import UnsupportedError
from perdure.kit import canister, nat32, nat64, query, update
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager, StableBTreeMap
from perdure.upgrade import check_canister
from perdure.values import kept_as

sys.path.insert(0, str(Path(__file__).parent.parent / "canisters" / "universal"))
from universal import Program

CANISTERS = Path(__file__).parent.parent / "canisters" / "modules"


@dataclass
class User:
    id: nat64
    email: str
    age: nat32


@dataclass
class Renamed:
    id: nat64
    age: nat32
    mail: str = ""


@dataclass
class Wider:
    id: nat64
    email: str
    age: nat64
    city: str | None = None


@dataclass
class Retyped:
    id: nat64
    email: nat64
    age: nat32


OPTIONS = table(key="id", index=["age"])


@canister(name="shop")
class Shop:
    users: Table[User] = OPTIONS

    @update
    def add(self, number: nat64, age: nat32) -> None:
        self.users.put(User(number, f"u{number}", age))

    @query
    def age(self, number: nat64) -> nat32:
        return self.users[number].age


def becoming(owner: type, options: object = OPTIONS, methods: type = Shop) -> type:
    body = {"__annotations__": {"users": Table[owner]}, "users": options, "__module__": __name__}  # type: ignore[valid-type]
    if methods is Shop:
        body |= {name: vars(Shop)[name] for name in ("add", "age")}
    return canister(name="shop")(type("Next", (), body))


@pytest.fixture
def shop():
    with Subnet() as subnet:
        made = subnet.install(Shop)
        for number in (1, 2):
            made.actor().add(number, 36)
        yield made


@pytest.mark.parametrize(
    ("new", "codes", "said"),
    [
        (becoming(User), [], ""),
        (becoming(Wider), ["model-changed", "model-changed"], "column 'age' held u32 and holds u64"),
        (becoming(Renamed), ["model-changed", "model-changed"], "'mail' of the same type is new"),
        (becoming(User, table(key="id")), ["model-changed"], "index 'users_by_age' is gone"),
    ],
)
def test_python_code_that_may_follow(shop, new, codes, said):
    report = check_canister(shop, new)
    assert (report.verdict, [one.code for one in report.findings]) == ("safe", codes)
    assert said in report.to_text()
    assert shop.actor().age(1) == 36


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (becoming(Retyped), "column 'email' of 'users' held String and is declared as u64"),
        (becoming(User, table(key="email")), "the key of 'users' is declared as (email) and was another"),
        (becoming(User, table(key="id", unique=["age"])), "another row has age=36 already"),
        (becoming(User, OPTIONS, type), 'method "add" is gone'),
    ],
)
def test_python_code_that_may_not(shop, new, said):
    report = check_canister(shop, new, title="shop")
    assert report.verdict == "breaking"
    assert said in report.to_text()
    assert shop.actor().age(1) == 36


def test_python_against_wasm(shop):
    with pytest.raises(UnsupportedError, match="takes its next class"):
        check_canister(shop, CANISTERS / "universal32.wasm")
    with pytest.raises(TypeError, match="'volatile' is for modules"):
        check_canister(shop, Shop, volatile=["age"])
    with pytest.raises(UnsupportedError, match="is in Wasm, and Shop in Python"):
        check_canister(shop._subnet.install(CANISTERS / "universal32.wasm", b""), Shop)


# -- a module that changes the catalogue itself


@pytest.fixture
def rows():
    """Stable memory with two rows in a table."""
    memory = BytesMemory()
    users = Table.declare(Store(MemoryManager.create(memory, bucket_wasm_pages=1).get), "users", User, OPTIONS)
    users.update([User(1, "a", 36), User(2, "b", 41)])
    return memory


def rewritten(memory: BytesMemory, change) -> tuple[bytes, bytes]:
    """Stable memory as it is, and as an upgrade leaves it whose code has changed it so."""
    before, other = bytes(memory.data), BytesMemory(memory.data)
    change(Store(MemoryManager.load(other).get))
    return before, bytes(other.data)


def checked(before: bytes, after: bytes):
    """An upgrade that writes what differs."""
    program = Program()
    for at in range(0, len(after), 512):
        if before[at : at + 512] != after[at : at + 512]:
            program = program.stable_write(at, after[at : at + 512])
    with Subnet() as subnet:
        made = subnet.install(CANISTERS / "universal32.wasm", b"")
        made.stable.grow(len(after) // 65_536)  # what was built new has room
        made.stable.write(0, before)
        return check_canister(made, CANISTERS / "universal32.wasm", bytes(program))


def retyped(store: Store) -> None:
    (model,) = store.catalogue.models
    columns = tuple(replace(one, type="String") if one.name == "age" else one for one in model.columns)
    store._save(Catalogue((replace(model, columns=columns),)))


def swapped(store: Store) -> None:
    (model,) = store.catalogue.models
    first, *rest = model.trees
    store._save(Catalogue((replace(model, trees=(replace(first, value=first.value[::-1]), *rest)),)))


def emptied(store: Store) -> None:
    store._save(Catalogue())


def unfilled(store: Store) -> None:
    (model,) = store.catalogue.models
    users = Table(store, model)
    for key in [key for key, _ in users._indexes[0].tree.range()]:
        users._indexes[0].tree.put(key, None, had=True)


def never_filled(store: Store) -> None:
    Table.declare(store, "users", User, table(key="id", index=["age", "email"]))
    (model,) = store.catalogue.models
    users = Table(store, model)
    index = users._indexes[-1]
    for key in [key for key, _ in index.tree.range()]:
        index.tree.put(key, None, had=True)


def added_to(store: Store) -> None:
    Table.declare(store, "users", Wider, table(key="id", unique=["email"]))


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (retyped, "model-changed", "column 'age' held u32 and holds String"),
        (swapped, "model-changed", "values of 'users' are in another order"),
        (emptied, "model-changed", "table 'users' is not in the catalogue any more"),
        (unfilled, "index-differs", "are not what the catalogue and the rows say"),
        (never_filled, "index-differs", "are not what the catalogue and the rows say"),
    ],
)
def test_a_module_that_breaks_what_is_there(rows, change, code, said):
    report = checked(*rewritten(rows, change))
    assert report.verdict == "breaking"
    (found,) = [one for one in report.of("breaking") if one.code == code][:1]
    assert said in found.what
    assert found.why
    assert found.remedy


def test_a_module_that_breaks_the_catalogue_itself(rows):
    before = bytes(rows.data)
    at = before.index(b"PDCT")
    report = checked(before, before[: at + 4] + b"\x01\xff\xff" + before[at + 7 :])
    assert "catalogue-damaged" in report.causes


def test_a_module_that_goes_on_with_it(rows):
    before = bytes(rows.data)
    same = checked(before, before)
    assert [one for one in same.findings if one.code in ("model-changed", "index-differs")] == []
    report = checked(*rewritten(rows, added_to))
    assert {one.severity for one in report.findings if one.code == "model-changed"} == {"warning"}
    assert not {"model-changed", "index-differs", "catalogue-damaged"} & set(report.causes)


def kept_in_json(*labels: str) -> type:
    owner = dataclass(type("Kept", (), {"__annotations__": dict.fromkeys(labels, str), "__module__": __name__}))
    body = {
        "__annotations__": {"notes": StableBTreeMap[nat64, Annotated[owner, kept_as("json")]]},  # type: ignore[valid-type]
        "__module__": __name__,
    }
    return canister(name="notes")(type("Notes", (), body))


def test_what_stable_variables_lose_is_told():
    with Subnet() as subnet:
        notes = subnet.install(kept_in_json("title", "text"))
        assert check_canister(notes, kept_in_json("title", "text")).findings == ()
        (found,) = check_canister(notes, kept_in_json("title", "body")).findings
        assert (found.code, found.severity) == ("schema", "warning")
        assert "part text is gone, and lost when a value is written" in found.what
