"""Figures of data models: rows put, read and inserted, by Python, SQL and messages; bulk loads; graphs beside theirs.

Usage: data_figures.py [--quick] [--json]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import networkx as nx
import pyarrow as pa
import pyarrow.parquet as pq
import rdflib

from figures import Table as Figures
from figures import main
from perdure import Subnet
from perdure.data import Store, Table, Triples, Verb, table
from perdure.kit import canister, nat64, query, update
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager

CITIES = ("Zug", "Bern", "Basel", "Uri")


@dataclass
class User:
    """A row of six fields."""

    id: nat64
    email: str
    city: str
    age: int
    score: float
    is_new: bool


OPTIONS = table(key="id", index=["city", "age"])


@canister(name="shop")
class Shop:
    """A table in a canister."""

    users: Table[User] = OPTIONS

    @update
    def fill(self, first: int, count: int) -> None:
        """Put rows."""
        self.users.update(user(number) for number in range(first, first + count))

    @query
    def email(self, number: int) -> str:
        """Read one."""
        return str(self.users.sql("select email from users where id = ?", (number,))[0][0])

    @update
    def insert(self, number: int) -> None:
        """Insert one."""
        self.users.sql("insert into users values (?, ?, ?, ?, ?, ?)", tuple(vars(user(number)).values()))


def user(number: int) -> User:
    return User(
        number * 7_919 % 1_000_003, f"u{number}@example.org", CITIES[number % 4], number % 90, number / 8, False
    )


def store() -> Store:
    return Store(MemoryManager.create(BytesMemory()).get)


def each_us(run: Callable[[int], object], numbers: range) -> float:
    """Processor time of one, over all."""
    start = time.process_time_ns()
    for number in numbers:
        run(number)
    return (time.process_time_ns() - start) / len(numbers) / 1_000


def least_ratio(ours: Callable[[], object], theirs: Callable[[], object], repeat: int) -> float:
    """Least processor times of both, taken in turns."""
    times: tuple[list[int], list[int]] = ([], [])
    for _ in range(repeat):
        for kept, run in zip(times, (ours, theirs), strict=True):
            start = time.process_time_ns()
            run()
            kept.append(time.process_time_ns() - start)
    return min(times[0]) / min(times[1])


def rows(figures: Figures, quick: bool) -> None:
    """A table over memory alone, and a canister's."""
    count = 500 if quick else 3_000
    users = Table.declare(store(), "users", User, OPTIONS)
    figures.add("put with two indexes, alone", each_us(lambda one: users.put(user(one)), range(count)), "us", 180)

    def batch(number: int) -> None:
        users.store.begin()
        for one in range(number * 100, number * 100 + 100):
            users.put(user(one))
        users.store.flush()

    batches = range(count // 100, 2 * count // 100)
    figures.add("put with two indexes, in a batch of 100", each_us(batch, batches) / 100, "us", 100)
    connection = users.connection()
    keys = [one.id for one in users][:: max(1, len(users) // 500)]
    point = each_us(
        lambda one: connection.execute("select email from users where id = ?", (keys[one],)).fetchall(),
        range(len(keys)),
    )
    figures.add("a point read by SQL", point / 1_000, "ms", 0.1)
    with Subnet() as subnet:
        shop = subnet.install(Shop).actor()
        shop.fill(0, count)
        reads = range(min(count, 300))
        figures.add(
            "a message that reads a row by SQL",
            each_us(lambda one: shop.email(user(one).id), reads) / 1_000,
            "ms",
            0.4,
        )
        writes = range(count, count + len(reads))
        figures.add("a message that inserts a row by SQL", each_us(shop.insert, writes) / 1_000, "ms", 0.8)


def loads(figures: Figures, quick: bool) -> None:
    """Parquet into an empty table, six fields."""
    count = 20_000 if quick else 200_000
    columns = {name: [getattr(user(one), name) for one in range(count)] for name in vars(user(0))}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "users.parquet"
        pq.write_table(pa.table(columns), path)
        for options, what in ((table(key="id"), "key alone"), (OPTIONS, "two indexes")):
            users = Table.declare(store(), "users", User, options)
            start = time.process_time()
            users.load(path)
            took = (time.process_time() - start) * 1_000_000 / count
            target = 60 if what == "key alone" else None
            figures.add(f"1,000,000 rows of 6 fields from Parquet, {what} (from {count:,})", took, "s", target)


def graphs(figures: Figures, quick: bool) -> None:
    """A verb and triples, beside networkx and rdflib in their own memory."""
    random = Random(7)
    nodes, repeat = (200, 3) if quick else (1_000, 7)
    pairs = {(random.randrange(nodes), random.randrange(nodes)) for _ in range(4 * nodes)}
    likes, graph = Verb.declare(store(), "likes", int, int), nx.DiGraph(pairs)
    for one, other in pairs:
        likes.add(one, other)
    view, (first, last) = likes.view(), (min(graph), max(graph))
    figures.add(
        "shortest path: a verb / networkx in memory",
        least_ratio(lambda: nx.shortest_path(view, first, last), lambda: nx.shortest_path(graph, first, last), repeat),
        "ratio",
        4,
    )
    figures.add(
        "the same by a view that has not read anything yet",
        least_ratio(
            lambda: nx.shortest_path(likes.view(), first, last), lambda: nx.shortest_path(graph, first, last), repeat
        ),
        "ratio",
        4,
    )
    triples, own = Triples.declare(store(), "facts").graph, rdflib.Graph()
    for one, other in pairs:
        for kept in (triples, own):
            kept.add((rdflib.URIRef(f"urn:{one}"), rdflib.URIRef("urn:knows"), rdflib.URIRef(f"urn:{other}")))
    text = f"select ?c where {{ <urn:{first}> <urn:knows> ?b . ?b <urn:knows> ?c }}"
    figures.add(
        "SPARQL over two hops: triples / rdflib in memory",
        least_ratio(lambda: list(triples.query(text)), lambda: list(own.query(text)), repeat),
        "ratio",
        1.5,
    )


def measure(quick: bool) -> Figures:
    """Tables, loads and graphs; processor time."""
    figures = Figures("data_figures")
    for part in (rows, loads, graphs):
        part(figures, quick)
    return figures


if __name__ == "__main__":
    main(measure)
