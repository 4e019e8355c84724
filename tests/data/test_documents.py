"""Documents against a dictionary and filters asked of every document; indexes, changes, bad shapes."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from perdure import RejectError, Subnet
from perdure.data import Documents, Store, documents
from perdure.data.filters import at_path, compiled
from perdure.kit import canister, query, update
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager

OPTIONS = documents(index=["address.city", "age"])


def store_over(memory: BytesMemory) -> Store:
    return Store(MemoryManager.init(memory).get)


@pytest.fixture
def people():
    made = Documents.declare(store_over(BytesMemory()), "people", str, OPTIONS)
    made["ada"] = {"age": 36, "address": {"city": "Zug"}, "tags": ["x", "y"]}
    made["bob"] = {"age": 41.5, "address": {"city": ["Bern", "Zug"]}}
    made["eve"] = {"age": None, "name": "Eve"}
    made["dan"] = {"age": True, "address": "Zug"}
    return made


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ({}, ["ada", "bob", "dan", "eve"]),
        ({"address.city": "Zug"}, ["ada", "bob"]),
        ({"age": 36}, ["ada"]),
        ({"age": 36.0}, ["ada"]),
        ({"age": {"$gte": 36, "$lt": 42}}, ["ada", "bob"]),
        ({"age": {"$gt": 36}}, ["bob"]),
        ({"age": None}, ["eve"]),
        ({"name": None}, ["ada", "bob", "dan"]),
        ({"age": {"$ne": 36}}, ["bob", "dan", "eve"]),
        ({"age": {"$in": [36, True]}}, ["ada", "dan"]),
        ({"age": {"$nin": [36, None]}}, ["bob", "dan"]),
        ({"address.city": {"$exists": False}}, ["dan", "eve"]),
        ({"tags": "x"}, ["ada"]),
        ({"tags": {"$all": ["x", "y"]}}, ["ada"]),
        ({"tags": {"$size": 2}}, ["ada"]),
        ({"tags.1": "y"}, ["ada"]),
        ({"age": {"$not": {"$gt": 40}}}, ["ada", "dan", "eve"]),
        ({"$or": [{"age": 36}, {"name": "Eve"}]}, ["ada", "eve"]),
        ({"$and": [{"age": 36}, {"tags": "z"}]}, []),
        ({"$nor": [{"age": 36}, {"name": "Eve"}]}, ["bob", "dan"]),
        ({"address": {"city": "Zug"}}, ["ada"]),
    ],
)
def test_filters(people, condition, found):
    assert sorted(key for key, _ in people.find(condition)) == found
    assert people.count(condition) == len(found)


@pytest.mark.parametrize(
    "condition",
    [{"a": {"$near": 1}}, {"$where": "x"}, {"a": {"$in": 5}}, {"$or": {"a": 1}}, {"a": {"$gt": [1]}}, [1]],
)
def test_filters_that_are_none(people, condition):
    with pytest.raises(ValueError, match=r"."):
        people.find_one(condition)


def test_changes(people):
    people.update("ada", {"$set": {"address.zip": 6300, "name": "Ada"}, "$unset": {"tags": 1}, "$inc": {"age": 1}})
    assert people["ada"] == {"age": 37, "address": {"city": "Zug", "zip": 6300}, "name": "Ada"}
    people.update("ada", {"$push": {"tags": 1}})
    people.update("ada", {"$push": {"tags": 2}})
    people.update("ada", {"$pull": {"tags": 1}})
    assert people["ada"]["tags"] == [2]
    assert [key for key, _ in people.find({"age": 37})] == ["ada"]
    for change in ({"$inc": {"name": 1}}, {"$push": {"name": 1}}, {"$set": {"name.x": 1}}, {"$rename": {"a": "b"}}):
        before = people["ada"]
        with pytest.raises(ValueError, match=r"."):
            people.update("ada", change)
        assert people["ada"] == before
    with pytest.raises(KeyError):
        people.update("nobody", {"$set": {"a": 1}})
    assert people.check() == []


def test_shapes_that_are_refused(people):
    deep: dict = {}
    for _ in range(10_000):
        deep = {"a": deep}
    for document in (deep, {"a": {1: 2}}, {"a": object()}, [1], "x"):
        with pytest.raises(ValueError, match=r"."):
            people["bad"] = document
    assert (len(people), people.check()) == (4, [])


def test_an_index_comes_and_goes(people):
    store = people.table.store
    again = Documents.declare(store, "people", str, documents(index=["name"]))
    assert [key for key, _ in again.find({"name": "Eve"})] == ["eve"]
    assert again.check() == []
    again = Documents.declare(store, "people", str, OPTIONS)
    assert ([key for key, _ in again.find({"age": 36})], again.check()) == (["ada"], [])


VALUES = st.sampled_from([0, 1, 1.0, 2, -1, 0.5, True, False, None, "a", "b", "", [1, "a"], [], {"x": 1}])
SHAPES = st.dictionaries(st.sampled_from(["age", "address", "z"]), VALUES | st.fixed_dictionaries({"city": VALUES}))
CONDITIONS = st.dictionaries(
    st.sampled_from(["age", "address.city", "z"]),
    VALUES
    | st.fixed_dictionaries({"$gte": st.sampled_from([0, 0.5, "a"]), "$lte": st.sampled_from([1, 2, "b"])})
    | st.fixed_dictionaries({"$in": st.lists(st.sampled_from([0, 1, True, "a", 0.5]))}),
    min_size=1,
)


class DocumentsMachine(RuleBasedStateMachine):
    keys = st.integers(0, 8)

    def __init__(self) -> None:
        super().__init__()
        self.memory = BytesMemory()
        self.documents = Documents.declare(store_over(self.memory), "people", int, OPTIONS)
        self.oracle: dict = {}

    @rule(key=keys, document=SHAPES)
    def put(self, key, document):
        self.documents[key] = document
        self.oracle[key] = document

    @rule(key=keys)
    def remove(self, key):
        assert self.documents.remove(key) == (self.oracle.pop(key, None) is not None)

    @rule(key=keys, document=SHAPES, traps=st.booleans())
    def message(self, key, document, traps):
        store = self.documents.table.store
        store.begin()
        self.documents[key] = document
        if traps:
            store.discard()
        else:
            store.flush()
            self.oracle[key] = document
        self.documents = Documents.declare(store_over(self.memory), "people", int, OPTIONS)

    @rule(condition=CONDITIONS)
    def find(self, condition):
        wanted = compiled(condition)
        expected = sorted(key for key, one in self.oracle.items() if wanted.matches(one))
        assert sorted(key for key, _ in self.documents.find(condition)) == expected

    @invariant()
    def they_are_the_same(self):
        assert dict(self.documents.items()) == self.oracle

    def teardown(self):
        assert self.documents.check() == []


DocumentsMachine.TestCase.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
test_against_a_dictionary = DocumentsMachine.TestCase


def test_paths():
    document = {"a": [{"b": 1}], "c": None}
    assert at_path(document, "a.0.b") == 1
    assert at_path(document, "c") is None
    assert repr(at_path(document, "a.1")) == "missing"


@canister(name="people")
class People:
    people: Documents[str] = documents(index=["age"])

    @update
    def put(self, key: str, age: int) -> None:
        self.people[key] = {"age": age}

    @update
    def fail(self, key: str) -> None:
        self.people.remove(key)
        raise ValueError("no")

    @query
    def aged(self, low: int, high: int) -> list[str]:
        return [key for key, _ in self.people.find({"age": {"$gte": low, "$lt": high}})]


def test_in_a_canister():
    with Subnet() as subnet:
        people = subnet.install(People)
        actor = people.actor()
        actor.put("ada", 36)
        actor.put("bob", 41)
        with pytest.raises(RejectError):
            actor.fail("ada")
        people.upgrade(People)
        assert actor.aged(30, 40) == ["ada"]
