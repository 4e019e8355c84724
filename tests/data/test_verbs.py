"""Verbs against networkx, in memory and as canisters: both ways, over upgrades, traps and forks, across canisters."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from perdure import Principal, RejectError, Subnet
from perdure.data import Store, Uri, Verb, neighbourhood, open_tables, verb
from perdure.errors import UnsupportedError
from perdure.kit import call, canister, composite_query, ic, query, update
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager
from perdure.values.annotations import Annotations

nx = pytest.importorskip("networkx")


def store_over(memory: BytesMemory) -> Store:
    return Store(MemoryManager.init(memory).get)


def test_a_pair_is_there_once_and_found_both_ways():
    likes = Verb.declare(store_over(BytesMemory()), "likes", str, str)
    assert likes.add("a", "b")
    assert not likes.add("a", "b")
    assert likes.add("c", "b")
    assert (list(likes), len(likes)) == ([("a", "b"), ("c", "b")], 2)
    assert (list(likes.objects("a")), list(likes.subjects("b"))) == (["b"], ["a", "c"])
    assert likes.remove("a", "b")
    assert not likes.remove("a", "b")
    assert (list(likes.subjects("b")), likes.check()) == (["c"], [])
    assert ("c", "b") in likes
    assert (1, "b") not in likes
    assert "c" not in likes


def test_a_pair_has_a_value():
    rates = Verb.declare(store_over(BytesMemory()), "rates", str, str, int)
    rates.add("a", "b", 5)
    rates.add("a", "b", 7)
    assert (rates.data("a", "b"), rates.view()["a"]["b"]) == (7, {"data": 7})
    with pytest.raises(KeyError):
        rates.data("b", "a")
    likes = Verb.declare(rates.table.store, "likes", str, str)
    with pytest.raises(ValueError, match="keeps pairs without a value"):
        likes.add("a", "b", 5)


def test_one_way_only():
    likes = Verb.declare(store_over(BytesMemory()), "likes", str, str, both=False)
    likes.add("a", "b")
    with pytest.raises(UnsupportedError, match="navigable one way only"):
        list(likes.subjects("b"))


def test_uris_are_keys():
    likes = Verb.declare(store_over(BytesMemory()), "likes", Uri, Uri)
    one, other = Uri(Principal.from_text("aaaaa-aa"), 7), Uri(Principal(b"\x00\xff"), "x")
    likes.add(one, other)
    assert (list(likes.objects(one)), list(likes.subjects(other))) == ([other], [one])
    assert [Uri.from_text(str(uri)) for uri in (one, other)] == [one, other]
    with pytest.raises(ValueError, match="is no URI"):
        likes.add(7, other)


@pytest.mark.parametrize("arguments", [(str,), (str, object), (str, str, str, str)])
def test_types_that_are_none(arguments):
    with pytest.raises(TypeError):
        Verb.declaration("likes", arguments, verb(), Annotations({}))


class VerbMachine(RuleBasedStateMachine):
    """A verb and a graph of networkx."""

    nodes = st.integers(0, 6)

    def __init__(self) -> None:
        super().__init__()
        self.memory = BytesMemory()
        self.verb = Verb.declare(store_over(self.memory), "likes", int, int)
        self.graph = nx.DiGraph()

    @rule(a=nodes, b=nodes)
    def add(self, a, b):
        assert self.verb.add(a, b) != self.graph.has_edge(a, b)
        self.graph.add_edge(a, b)

    @rule(a=nodes, b=nodes)
    def remove(self, a, b):
        assert self.verb.remove(a, b) == self.graph.has_edge(a, b)
        if self.graph.has_edge(a, b):
            self.graph.remove_edge(a, b)
        self.graph.remove_nodes_from(list(nx.isolates(self.graph)))

    @rule(a=nodes, b=nodes, traps=st.booleans())
    def message(self, a, b, traps):
        store = self.verb.table.store
        store.begin()
        self.verb.add(a, b)
        self.verb.remove(b, a)
        if traps:
            store.discard()
        else:
            store.flush()
            self.graph.add_edge(a, b)
            if self.graph.has_edge(b, a):
                self.graph.remove_edge(b, a)
            self.graph.remove_nodes_from(list(nx.isolates(self.graph)))
        self.reopen()

    @rule()
    def reopen(self):
        self.verb = Verb.declare(store_over(self.memory), "likes", int, int)

    @invariant()
    def the_graph_is_the_same(self):
        view = self.verb.view()
        assert sorted(view.edges) == sorted(self.graph.edges)
        assert set(view.nodes) == set(self.graph.nodes)

    @rule(a=nodes, b=nodes)
    def ask(self, a, b):
        view = self.verb.view()
        assert (a in view) == (a in self.graph)
        if a in view and b in view:
            assert nx.has_path(view, a, b) == nx.has_path(self.graph, a, b)
            assert nx.ancestors(view, a) == nx.ancestors(self.graph, a)
            assert dict(view.degree) == dict(self.graph.degree)

    def teardown(self):
        assert self.verb.check() == []


VerbMachine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
test_against_networkx = VerbMachine.TestCase


@canister(name="place")
class Place:
    likes: Verb[Uri, Uri] = verb()

    @update
    def like(self, own: str, other: str) -> bool:
        return self.likes.add(Uri.from_text(own), Uri.from_text(other))

    @update
    def fail(self, own: str, other: str) -> None:
        self.likes.add(Uri.from_text(own), Uri.from_text(other))
        raise ValueError("no")

    @query
    def of(self, own: list[str]) -> list[tuple[str, str]]:
        return [(one, str(other)) for one in own for other in self.likes.objects(Uri.from_text(one))]

    @composite_query
    async def around(self, start: str, hops: int) -> list[tuple[str, str]]:
        async def ask(other, subjects):
            signature = "(vec text) -> (vec record { text; text })"
            answer = await call(other, "of", [str(one) for one in subjects], signature=signature)
            return [(Uri.from_text(one), Uri.from_text(two)) for one, two in answer]

        found = await neighbourhood(self.likes, Uri.from_text(start), hops, ic.id, ask)
        return sorted((str(one), str(two)) for one, two in found)


def test_a_neighbourhood_goes_across_canisters_and_survives_an_upgrade():
    with Subnet() as subnet:
        one, two = subnet.install(Place), subnet.install(Place)
        a, b, c = f"{one.id}/1", f"{two.id}/1", f"{one.id}/2"
        one.actor().like(a, b)
        two.actor().like(b, c)
        one.actor().like(c, a)  # a circle
        with pytest.raises(RejectError):
            one.actor().fail(a, c)
        one.upgrade(Place)
        assert [list(pair) for pair in one.actor().around(a, 1)] == [[a, b]]
        assert [tuple(pair) for pair in one.actor().around(a, 9)] == sorted([(a, b), (b, c), (c, a)])
        fork = subnet.fork()
        fork.canister(one.id).actor().like(a, a)
        assert len(one.actor().around(a, 1)) == 1
        assert open_tables(Store.open(one.stable)) == []
