"""Triples against rdflib's own memory, terms of all kinds, SPARQL that reads and writes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from perdure import RejectError, Subnet
from perdure.data import Store, Triples
from perdure.errors import HostError, UnsupportedError
from perdure.kit import canister, query, update
from perdure.memory import BytesMemory
from perdure.reading_sql import Limits
from perdure.stable import MemoryManager

rdflib = pytest.importorskip("rdflib")
rdf = pytest.importorskip("perdure.data.rdf")

EX = "https://example.org/"
IRIS = [rdflib.URIRef(EX + one) for one in "abc"]
TERMS = [
    *IRIS,
    rdflib.BNode("x"),
    rdflib.Literal("plain"),
    rdflib.Literal("grüezi", lang="de"),
    rdflib.Literal(7),
    rdflib.Literal('a "quoted" \\ line\nand another\r\t\0'),
    rdflib.Literal("7.0", datatype=rdflib.XSD.decimal),
    rdflib.Literal("<a>"),
    rdflib.Literal(""),
]


def store_over(memory: BytesMemory) -> Store:
    return Store(MemoryManager.init(memory).get)


@pytest.mark.parametrize("term", TERMS, ids=range(len(TERMS)))
def test_a_term_comes_back(term):
    graph = Triples.declare(store_over(BytesMemory()), "facts").graph
    graph.add((IRIS[0], IRIS[1], term))
    ((found,),) = [(o,) for _, _, o in graph]
    assert found == term
    assert (type(found), getattr(found, "datatype", None)) == (type(term), getattr(term, "datatype", None))
    assert list(graph.subjects(IRIS[1], term)) == [IRIS[0]]


def test_without_rdflib():
    facts = Triples.declare(store_over(BytesMemory()), "facts")
    facts.add(("<a>", "<p>", '"x"'))
    facts.add(("<a>", "<p>", '"x"'))
    facts.add(("<b>", "<p>", '"y"'))
    assert (len(facts), list(facts.match((None, "<p>", '"y"')))) == (2, [("<b>", "<p>", '"y"')])
    assert ("<a>", "<p>", '"x"') in facts
    assert facts.remove((None, "<p>", None)) == 2
    assert (len(facts), facts.check()) == (0, [])


@pytest.mark.parametrize(
    "query",
    [
        "select * where { service <http://127.0.0.1:9/> { ?s ?p ?o } }",
        "select * where { ?s ?p ?o filter exists { service silent <http://127.0.0.1:9/> { ?s ?p ?o } } }",
        "select * where { { select ?s where { optional { service <http://127.0.0.1:9/> { ?s ?p ?o } } } } }",
        "construct { ?s ?p ?o } where { ?s ?p ?o minus { service <http://127.0.0.1:9/> { ?s ?p ?o } } }",
    ],
)
def test_a_query_asks_nobody_else(query):
    from rdflib.plugins.sparql import prepareQuery

    graph = Triples.declare(store_over(BytesMemory()), "facts").graph
    for one in (query, prepareQuery(query)):
        with pytest.raises(UnsupportedError, match="found SERVICE"):
            graph.query(one)


def test_an_update_takes_in_nothing_from_elsewhere(tmp_path):
    graph = Triples.declare(store_over(BytesMemory()), "facts").graph
    (tmp_path / "secret.ttl").write_text("<urn:a> <urn:b> <urn:c> .")
    load = f"load <{(tmp_path / 'secret.ttl').as_uri()}>"
    for update_, found in (
        (load, "LOAD"),
        (f"insert data {{ <urn:x> <urn:y> 1 }} ; {load}", "LOAD"),
        ("insert { ?s ?p ?o } where { service <http://127.0.0.1:9/> { ?s ?p ?o } }", "SERVICE"),
    ):
        with pytest.raises(UnsupportedError, match=f"found {found}"):
            graph.update(update_)
    assert len(graph) == 0


def test_what_is_nested_too_deep_is_refused():
    graph = Triples.declare(store_over(BytesMemory()), "facts").graph
    many = 5_000
    for ask, text in (
        (graph.query, f"select * where {'{' * many} ?s ?p ?o {'}' * many}"),
        (graph.query, f"select * where {{ filter {'(' * many}1{')' * many} }}"),
        (graph.update, f"insert {{ ?s ?p ?o }} where {'{' * many} ?s ?p ?o {'}' * many}"),
    ):
        with pytest.raises(UnsupportedError, match="more brackets within brackets"):
            ask(text)


@pytest.fixture
def hurried():
    """A graph of 60 triples whose statements may work for 50 ms."""
    graph = Triples.declare(store_over(BytesMemory()), "facts").graph
    for number in range(60):
        graph.add(
            (rdflib.URIRef(f"urn:{number}"), rdflib.URIRef("urn:next"), rdflib.URIRef(f"urn:{(number + 1) % 60}"))
        )
    graph.limits = Limits(seconds=0.05)
    return graph


VALUES = " ".join(f"values ?v{place} {{ {' '.join(map(str, range(100)))} }}" for place in range(6))
ENDLESS = {
    "products": "?a ?b ?c . ?d ?e ?f . ?g ?h ?i . ?j ?k ?l",
    "values alone": f"{VALUES} filter(?v0 + ?v5 > 1000)",
    "paths": "?a <urn:next>+ ?b . ?c <urn:next>+ ?d . ?e <urn:next>+ ?f",
    "within exists": "?x ?y ?z filter exists { ?a ?b ?c . ?d ?e ?f . ?g ?h ?i filter(?a = 1) }",
    "left joins": "?a ?b ?c optional { ?d ?e ?f optional { ?g ?h ?i optional { ?j ?k ?l } } }",
    "a search": f"?a ?b ?c bind('{'ab' * 40_000}' as ?d) filter regex(?d, '(a|b)*a(a|b){{60}}c')",
    "a search again and again": f"?a ?b ?c . ?d ?e ?f . ?g ?h ?i filter regex('{'a' * 30}', '(a+)+b')",
    "a search within exists": f"filter exists {{ ?x ?y ?z . ?d ?e ?f . ?g ?h ?i filter regex('{'a' * 30}', '(a+)+b')}}",
    "what is replaced": f"?a ?b ?c bind(replace('{'a' * 40_000}b', '((a|b)(a|b))+$', '$1') as ?d)",
    "in order": "{ select * { ?a ?b ?c . ?d ?e ?f . ?g ?h ?i . ?j ?k ?l } order by ?a }",
}


@pytest.mark.parametrize("pattern", ENDLESS.values(), ids=ENDLESS)
def test_a_query_works_within_its_time(hurried, pattern):
    with pytest.raises(HostError, match=r"SPARQL has worked for 0.05 s, the limit of one statement"):
        list(hurried.query(f"select (count(*) as ?count) where {{ {pattern} }}"))


def test_the_time_of_the_caller_is_not_the_queries(hurried, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(rdf, "time", SimpleNamespace(monotonic=lambda: now[0]))
    hurried.limits = Limits(seconds=100)
    for number, _ in enumerate(hurried.query("select * where { ?a ?b ?c }")):
        now[0] += 1_000.0  # of which a second counts each time
        assert number < 99
    assert number == 59


def test_an_update_that_is_cut_off_leaves_nothing(hurried):
    before = set(hurried)
    for statement in (
        f"insert data {{ <urn:first> <urn:b> 1 }} ; insert {{ ?a <urn:new> ?l }} where {{ {ENDLESS['products']} }}",
        f"delete data {{ <urn:0> <urn:next> <urn:1> }} ; delete {{ ?a ?b ?c }} where {{ {ENDLESS['products']} }}",
    ):
        with pytest.raises(HostError, match="SPARQL has worked"):
            hurried.update(statement)
        assert set(hurried) == before


def test_what_an_update_finds_it_changes(hurried):
    graphs = [hurried, rdflib.Graph()]
    for triple in hurried:
        graphs[1].add(triple)
    for graph in graphs:
        graph.update("delete { ?a ?b ?c } insert { ?a <urn:after> ?c } where { ?a ?b ?c filter regex(str(?c), '1$') }")
        graph.update("insert { ?a <urn:twice> ?c } where { ?a <urn:next>/<urn:next> ?c }")
    assert set(graphs[0]) == set(graphs[1])
    assert len(hurried) > 100


def test_a_text_is_bounded(hurried):
    with pytest.raises(UnsupportedError, match=r"SPARQL of 256 KiB, at most 256 KiB are read: many triples go in by"):
        hurried.query("select * where { ?a ?b ?c }".ljust((256 << 10) + 1))
    with pytest.raises(UnsupportedError, match="many triples go in by"):
        hurried.update("insert data { <urn:a> <urn:b> 'é' }".ljust(256 << 10))


TEXTS = ["abcabc", "Grüezi mitenand", "", "a\nb"]
CALLS = [
    "regex(?o, '^a.c')",
    "regex(?o, 'G.*D', 'i')",
    "regex(?o, 'a.b', 's')",
    "regex(?o, '^b$', 'm')",
    "replace(?o, 'b', 'Z')",
    "replace(?o, '(a)(b)?', '<$2$1>')",
    "replace(?o, '[^a-z]+', '-')",
    "replace(?o, 'x*', '-')",
]


@pytest.mark.parametrize("call", CALLS)
def test_regular_expressions_are_rdflibs(call):
    graphs = [Triples.declare(store_over(BytesMemory()), "facts").graph, rdflib.Graph()]
    for graph in graphs:
        for number, text in enumerate(TEXTS):
            for term in (rdflib.Literal(text, lang="de"), rdflib.Literal(text)):
                graph.add((rdflib.URIRef(f"urn:{number}"), rdflib.URIRef("urn:is"), term))
    ours, theirs = (set(graph.query(f"select ?s ?o ({call} as ?d) where {{ ?s ?p ?o }}")) for graph in graphs)
    assert ours == theirs
    assert len(ours) == 2 * len(TEXTS)


def test_what_rdflibs_replace_gets_wrong(hurried):
    # It takes $0 for a character of code 0, and flags for how many places are to be replaced.
    query = (
        "select * where { bind(replace('Go', 'g', '<$0>', 'i') as ?a) bind(replace('a', '(a)', '$2$1\\\\$') as ?b) }"
    )
    assert [(str(row.a), str(row.b)) for row in hurried.query(query)] == [("<G>o", "a$")]


def test_regular_expressions_that_are_refused(hurried):
    for call, why in (
        ("regex('aa', '(a)\\\\1')", "nothing refers back, at character 5"),
        ("regex('a', '(?=a)')", "groups that look around"),
        ("replace('a', 'a', 'b', 'x')", "options 'x' of a pattern"),
        ("regex('a', 'a{5000}')", "more than 2000 states"),
    ):
        with pytest.raises(UnsupportedError, match=why):
            list(hurried.query(f"select * where {{ ?a ?b ?c filter({call}) }}"))


def test_a_prepared_query_searches_other_graphs_as_before(hurried):
    query = rdflib.plugins.sparql.prepareQuery("select * where { ?a ?b ?c filter regex(str(?c), '(?<=urn):1$') }")
    with pytest.raises(UnsupportedError, match="look around"):
        list(hurried.query(query))
    other = rdflib.Graph()
    for triple in hurried:
        other.add(triple)
    assert len(list(other.query(query))) == 1


def test_other_graphs_are_as_rdflib_has_them():
    graph = rdflib.Graph()
    graph.update("insert data { <urn:a> <urn:b> 1 }")
    assert len(graph.query("select * where { ?a ?b ?c }")) == 1


def test_names_of_namespaces_are_the_graphs_or_the_callers():
    graph = Triples.declare(store_over(BytesMemory()), "facts").graph
    graph.bind("ex", EX)
    graph.update("insert data { ex:a ex:b ex:c }")
    graph.update("insert data { other:a other:b other:a }", "sparql", {"other": EX})
    assert len(graph.query("select ?o where { ex:a ex:b ?o }")) == 2
    for arguments, options in (((), {"initNs": {"n": EX}}), (("sparql", "sparql", {"n": EX}), {})):
        assert len(graph.query("select ?o where { n:a n:b ?o }", *arguments, **options)) == 2
    assert len(graph.query("select ?o where { <a> ?p ?o }", base=EX)) == 2
    assert len(graph.query("select ?o where { ?s ?p ?o }", initBindings={"s": IRIS[0]})) == 2


class TriplesMachine(RuleBasedStateMachine):
    """The same graph over stable trees and in rdflib's own memory."""

    subjects = st.sampled_from([*IRIS, rdflib.BNode("x")])
    predicates = st.sampled_from(IRIS)
    objects = st.sampled_from(TERMS)

    def __init__(self) -> None:
        super().__init__()
        self.memory = BytesMemory()
        self.triples = Triples.declare(store_over(self.memory), "facts")
        self.oracle = rdflib.Graph()

    @rule(s=subjects, p=predicates, o=objects)
    def add(self, s, p, o):
        self.triples.graph.add((s, p, o))
        self.oracle.add((s, p, o))

    @rule(s=st.none() | subjects, p=st.none() | predicates, o=st.none() | objects)
    def remove(self, s, p, o):
        self.triples.graph.remove((s, p, o))
        self.oracle.remove((s, p, o))

    @rule(s=subjects, p=predicates, o=objects, traps=st.booleans())
    def message(self, s, p, o, traps):
        store = self.triples.table.store
        store.begin()
        self.triples.graph.add((s, p, o))
        if traps:
            store.discard()
        else:
            store.flush()
            self.oracle.add((s, p, o))
        self.triples = Triples.declare(store_over(self.memory), "facts")

    @rule(s=st.none() | subjects, p=st.none() | predicates, o=st.none() | objects)
    def match(self, s, p, o):
        assert set(self.triples.graph.triples((s, p, o))) == set(self.oracle.triples((s, p, o)))

    @rule()
    def sparql(self):
        text = f"select ?a ?c where {{ ?a <{EX}a> ?b . ?b <{EX}b> ?c }}"
        assert set(self.triples.graph.query(text)) == set(self.oracle.query(text))

    @invariant()
    def they_are_the_same(self):
        assert set(self.triples.graph) == set(self.oracle)
        assert len(self.triples) == len(self.oracle)

    def teardown(self):
        assert self.triples.check() == []


TriplesMachine.TestCase.settings = settings(
    max_examples=8, stateful_step_count=20, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
test_against_rdflib = TriplesMachine.TestCase


@canister(name="facts")
class Facts:
    facts: Triples

    @update
    def tell(self, text: str) -> int:
        self.facts.graph.update(text)
        return len(self.facts)

    @update
    def fail(self, text: str) -> None:
        self.facts.graph.update(text)
        raise ValueError("no")

    @query
    def ask(self, text: str) -> list[str]:
        return [" ".join(map(str, row)) for row in self.facts.graph.query(text)]


def test_sparql_in_a_canister():
    with Subnet() as subnet:
        facts = subnet.install(Facts)
        actor = facts.actor()
        assert actor.tell(f"insert data {{ <{EX}ada> <{EX}knows> <{EX}bob> . <{EX}bob> <{EX}age> 41 }}") == 2
        with pytest.raises(RejectError):
            actor.fail("delete where { ?s ?p ?o }")
        text = f"select ?age where {{ <{EX}ada> <{EX}knows> ?who . ?who <{EX}age> ?age }}"
        assert actor.ask(text) == ["41"]
        facts.upgrade(Facts)
        assert actor.ask(text) == ["41"]
        assert actor.tell(f"delete where {{ ?s <{EX}age> ?o }}") == 1
