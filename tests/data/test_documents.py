"""Documents against a dictionary and filters asked of every document; indexes, changes, bad shapes."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from perdure import RejectError, Subnet
from perdure.data import Documents, Store, documents
from perdure.data.filters import MAX_NESTING, MISSING, at_path, compiled, values_at
from perdure.data.finding import _ranked, in_order
from perdure.data.patterns import Pattern, Work
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


# -- order, parts, patterns, names

SHOP = {
    1: {"name": "pen", "price": 2, "tags": ["red", "ink"], "parts": [{"kind": "cap", "size": 1}, {"kind": "nib"}]},
    2: {"name": "Paper", "price": 5.5, "tags": [], "maker": {"city": "Zug", "zip": 6300}},
    3: {"name": "ink", "price": None, "parts": [{"kind": "cap", "size": 7}]},
    4: {"name": "glue", "price": "free", "maker": {"city": "Bern"}},
    5: {"name": "pen", "price": [9, 1]},
}


@pytest.fixture
def shop():
    made = Documents.declare(store_over(BytesMemory()), "shop", int, documents(index=["price"]))
    for key, document in SHOP.items():
        made[key] = document
    return made


def keys(found):
    return [key for key, _ in found]


@pytest.mark.parametrize(
    ("sort", "found"),
    [
        ("price", [3, 5, 1, 2, 4]),  # nothing, numbers, text; of a list its smallest
        ("-price", [4, 5, 2, 1, 3]),  # and from the largest its largest
        ([("name", 1), ("price", -1)], [2, 4, 3, 5, 1]),
        ({"maker.city": -1, "name": 1}, [2, 4, 3, 1, 5]),
        (("parts.size", -1), [3, 1, 2, 4, 5]),
    ],
)
def test_order(shop, sort, found):
    assert keys(shop.find(sort=sort)) == found
    assert keys(shop.find(sort=sort, skip=1, limit=2)) == found[1:3]
    assert shop.find_one(sort=sort) == (found[0], SHOP[found[0]])


def test_some_of_them(shop):
    assert keys(shop.find({"name": "pen"}, skip=1)) == [5]
    assert keys(shop.find(limit=0)) == keys(shop.find(skip=9)) == []
    for bad in (
        {"limit": -1},
        {"skip": True},
        {"skip": 1 << 70},
        {"sort": 5},
        {"sort": ("a", 2)},
        {"sort": [()]},
        {"sort": "-"},
    ):
        with pytest.raises(ValueError, match=r"skip|limit|an order is"):
            shop.find(**bad)


KINDS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=2) | st.binary(max_size=2),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=1), one, max_size=2),
    max_leaves=5,
)


@settings(max_examples=25, deadline=None)
@given(values=st.lists(KINDS, max_size=8), way=st.sampled_from([1, -1]))
def test_whatever_has_an_order_and_one_alone(values, way):
    found = [(key, {"a": one}) for key, one in enumerate(values)]
    ordered = keys(in_order(found, ("a", way), 0, None))
    assert sorted(ordered) == list(range(len(values)))
    for end in range(len(values)):
        assert keys(in_order(found, ("a", way), 0, end)) == ordered[:end]
    backwards = keys(in_order(reversed(found), ("a", way), 0, None))
    ranks = {key: repr(_ranked([one], way)) for key, one in enumerate(values)}
    assert [ranks[one] for one in backwards] == [ranks[one] for one in ordered]


@pytest.mark.parametrize(
    ("projection", "document"),
    [
        (["name", "maker.city"], {"name": "Paper", "maker": {"city": "Zug"}}),
        ({"name": 1}, {"name": "Paper"}),
        ({"maker.zip": 0, "tags": False}, {"name": "Paper", "price": 5.5, "maker": {"city": "Zug"}}),
        ({"nothing": 1, "price.x": 1}, {}),
    ],
)
def test_parts_of_them(shop, projection, document):
    assert shop.find_one({"name": "Paper"}, projection) == (2, document)


def test_parts_within_lists(shop):
    assert shop.find_one({"name": "pen"}, {"parts.kind": 1}) == (1, {"parts": [{"kind": "cap"}, {"kind": "nib"}]})
    assert shop.find_one({"name": "pen"}, {"parts.size": 0, "tags": 0, "price": 0}) == (
        1,
        {"name": "pen", "parts": [{"kind": "cap"}, {"kind": "nib"}]},
    )
    assert shop[1] == SHOP[1]


@pytest.mark.parametrize(
    "projection", ["name", {"a": 1, "b": 0}, {"a": 2}, {1: 1}, [""], {"a": 1, "a.b": 1}, {"a.b": 1, "a": 1}, 5]
)
def test_projections_that_are_none(shop, projection):
    with pytest.raises(ValueError, match=r"projection|within|twice"):
        shop.find({}, projection)


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ({"name": {"$regex": "^p"}}, [1, 5]),
        ({"name": {"$regex": "^p", "$options": "i"}}, [1, 2, 5]),
        ({"name": re.compile("^P", re.IGNORECASE)}, [1, 2, 5]),
        ({"name": {"$not": {"$regex": "^p"}}}, [2, 3, 4]),
        ({"name": {"$not": re.compile("p")}}, [3, 4]),
        ({"tags": {"$regex": "ed$"}}, [1]),
        ({"price": {"$regex": "r"}}, [4]),
        ({"parts.kind": "cap"}, [1, 3]),
        ({"parts.size": {"$gt": 3}}, [3]),
        ({"parts": {"$elemMatch": {"kind": "cap", "size": {"$lt": 5}}}}, [1]),
        ({"price": {"$elemMatch": {"$gt": 0, "$lt": 5}}}, [5]),
        ({"price": {"$gt": 8}}, [5]),
        ({"parts.kind": {"$ne": "cap"}}, [2, 4, 5]),
        ({"parts.size": {"$exists": True}}, [1, 3]),
        ({"name": {"$eq": {"$gt": ""}}}, []),
    ],
)
def test_filters_of_texts_and_lists(shop, condition, found):
    assert sorted(keys(shop.find(condition))) == found


@pytest.mark.parametrize(
    "condition",
    [
        {"a": {"$regex": "("}},
        {"a": {"$regex": 5}},
        {"a": {"$regex": "a", "$options": "x"}},
        {"a": {"$options": "i"}},
        {"a": re.compile("a b", re.VERBOSE)},
        {"a": re.compile(b"a")},
        {"a": {"$in": [re.compile("a")]}},
        {"a": {"$regex": r"(a)\1"}},
        {"a": {"$regex": "(?=a)"}},
        {"a": {"$regex": "a{9999}"}},
        {"a": {"$regex": "a" * 5_000}},
        {"a": {"$elemMatch": 5}},
        {"a": {"$size": True}},
        {"a": {"$not": 5}},
        {"$or": []},
        {5: 1},
    ],
)
def test_filters_that_are_refused(shop, condition):
    with pytest.raises(ValueError, match=r"."):
        shop.find(condition)


def test_a_pattern_that_would_not_end_with_others(shop):
    shop[6] = {"name": "a" * 20_000 + "b"}
    assert keys(shop.find({"name": {"$regex": "^(a+)+$"}})) == []
    many = Random(7)  # sets that differ nearly every time, so that nothing is met again
    text = "".join(many.choice("ab") for _ in range(2_000))
    with pytest.raises(ValueError, match="narrow what is searched"):
        Pattern("(a|b)*a(a|b){40}c").search(text, Work(100_000))


ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "^", "$", r"\b", r"\w", r"\d", "1", " "])
PATTERNS = st.recursive(
    ATOMS,
    lambda one: (
        st.builds("{}{}".format, one, one)
        | st.builds("(?:{}|{})".format, one, one)
        | st.builds("({}){}".format, one, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}", "*?"]))
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(pattern=PATTERNS, text=st.text("abC1 \n", max_size=6), options=st.sampled_from(["", "i", "m", "s"]))
def test_patterns_against_pythons(pattern, text, options):
    own = pattern if options == "m" else pattern.replace("$", r"\Z")
    flags = {"": 0, "i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL}[options]
    assert Pattern(pattern, options).search(text) == (re.search(own, text, flags) is not None)


# A repetition of what may be empty is left out: there engines differ in which of the empty ways counts.
EATING = st.recursive(
    st.sampled_from(["a", "b", ".", "[ab]", r"\w", "(a)", "(?:a|ab)", "(b|ba)"]),
    lambda one: (
        st.builds("({}{})".format, one, one)
        | st.builds("({}|{})".format, one, one)
        | st.builds("(?:{}){}".format, one, st.sampled_from(["+", "{2}", "{1,3}", "{2,}", "+?", "{1,2}?"]))
    ),
    max_leaves=4,
)
PLACED = st.recursive(
    EATING
    | st.sampled_from(["^", "$", r"\b"])
    | st.builds("({}){}".format, EATING, st.sampled_from(["*", "?", "*?", "??"])),
    lambda one: st.builds("{}{}".format, one, one) | st.builds("({}|{})".format, one, one),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(pattern=PLACED, text=st.text("abC1 \n", max_size=7))
def test_places_against_pythons(pattern, text):
    expected = [found.regs for found in re.finditer(pattern.replace("$", r"\Z"), text)]
    assert list(Pattern(pattern).places(text)) == [tuple(at for span in spans for at in span) for spans in expected]


def test_nothing_comes_in_through_names(shop):
    for name in ("$gt", "$set", "$where"):
        for document in ({name: ""}, {"a": {name: ""}}, {"a": [{"b": [{name: ""}]}]}):
            with pytest.raises(ValueError, match=r"does not begin with"):
                shop[9] = document
        for change in (
            {"$set": {"a": {name: 1}}},
            {"$set": {name: 1}},
            {"$set": {f"a.{name}": 1}},
            {"$push": {name: 1}},
        ):
            with pytest.raises(ValueError, match=r"\$"):
                shop.update(1, change)
    for path in ("", "a..b", ".a", 5):
        with pytest.raises(ValueError, match="a path is names"):
            shop.update(1, {"$set": {path: 1}})
    # Names that mean something elsewhere are names here.
    odd = {"": 1, "id": 2, "document": 3, "__class__": {"x": 4}, "a.b": 5, "'; drop table shop; --": 6, "0": 7, "\0": 8}
    shop[9] = odd
    assert shop[9] == odd
    assert keys(shop.find({"__class__.x": 4})) == keys(shop.find({"0": 7})) == [9]
    assert keys(shop.find({"a.b": 5})) == []
    assert (shop[1], len(shop), shop.check()) == (SHOP[1], 6, [])


def test_what_nests_too_deep(shop):
    deep: dict = {"a": 1}
    for _ in range(10_000):
        deep = {"a": deep}
    joined: dict = {"a": 1}
    for _ in range(10_000):
        joined = {"$and": [joined]}
    for condition in (deep, joined, {"a": {"$eq": deep}}):
        with pytest.raises(ValueError, match="lists and mappings in one another"):
            shop.find(condition)
    for change in ({"$set": {"a": deep}}, {"$set": {".".join("a" * 10_000): 1}}):
        with pytest.raises(ValueError, match="in one another"):
            shop.update(1, change)
    assert keys(shop.find({".".join("a" * 10_000): 1})) == []
    assert shop[1] == SHOP[1]


def test_of_a_long_path_no_more_is_looked_at_than_documents_can_have():
    looked_at = []

    class Path(str):
        def split(self, *arguments, **options):  # type: ignore[no-untyped-def]
            looked_at.append(super().split(*arguments, **options))
            return looked_at[-1]

    assert values_at({"a": 1}, Path(".".join("a" * 100_000))) == [MISSING]
    assert len(looked_at[0]) == MAX_NESTING + 2
    deep: object = 1
    for _ in range(MAX_NESTING):
        deep = {"a": deep}
    assert values_at(deep, ".".join("a" * MAX_NESTING)) == [1]


def test_a_place_that_many_ways_lead_to_counts_once(shop):
    """By position, or through the element: without that, as many ways as there are subsets of 30 lists."""
    deep: list = [{"0": 1}]
    for _ in range(29):
        deep = [{"0": deep}]
    shop[9] = {"a": deep}
    for length in (30, 45, 60):
        assert keys(shop.find({".".join(["a", *"0" * length]): 1})) == [9]


def test_what_removes_makes_nothing(shop):
    shop.update(1, {"$unset": {"x.y": 1}, "$pull": {"z.w": 1}})
    assert shop[1] == SHOP[1]
