"""What the pages show and do, asked without a browser."""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pytest
import wasmtime

from perdure import Network, RejectError, Subnet
from perdure.explorer import Explorer, changes
from perdure.gateway.http import Request
from perdure.inspection import open_source
from perdure.kit import canister, ic, nat64, query, update
from perdure.stable import StableBTreeMap

MODULES = Path(__file__).parents[1] / "canisters" / "modules"
HOSTILE = "<script>alert('x')</script>\x1b[31m"


@dataclass
class Row:
    name: str
    age: nat64


@canister(name="tests:explored")
class Shop:
    """A canister of rows."""

    rows: StableBTreeMap[nat64, Row]

    @update
    def add(self, name: str, age: nat64) -> nat64:
        """Adds a row."""
        self.rows[len(self.rows)] = Row(name, age)
        ic.print(f"added {name}")
        return len(self.rows)

    @update
    def fail(self, why: str) -> None:
        """Traps."""
        raise ValueError(why)

    @query
    def count(self) -> nat64:
        """How many rows there are."""
        return len(self.rows)


@pytest.fixture
def shop(subnet):
    made = subnet.install(Shop)
    for number in range(60):
        made.actor().add(f"row {number}", number)
    return made


def words(page):
    """What a person reads."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", page)))


def test_canisters_are_listed_and_found(visitor, ledger, shop):
    page = visitor.text("/_/")
    assert str(ledger.id) in page
    assert "2 canisters" in page
    assert str(shop.id) not in visitor.text(f"/_/?q={str(ledger.id)[:8]}")
    assert "No canister has zzz" in words(visitor.text("/_/?q=zzz"))


def test_pages_of_many_canisters(subnet, visitor):
    for _ in range(120):
        bare = subnet.create_canister()
    assert "Module none" in words(visitor.text(f"/_/c/{bare.id}"))
    assert "120 canisters, 1 to 50" in words(visitor.text("/_/"))
    assert "120 canisters, 101 to 120" in words(visitor.text("/_/?skip=100"))


def test_a_canister(visitor, shop):
    page = visitor.text(f"/_/c/{shop.id}")
    assert "rows" in page
    assert "24.06 MiB" in page or "8 MiB" in page
    assert "added row 59" in visitor.text(f"/_/c/{shop.id}/logs")
    assert visitor.get(f"/_/c/{shop.id}/map.svg").content_type == "image/svg+xml"


@pytest.mark.parametrize("path", ["c/aaaaa-aa", "c/no", "c/%00", "nothing", "c/../x", "pictures/9.svg", "history"])
def test_what_is_not_there(visitor, shop, path):
    response = visitor.get(f"/_/{path}")
    assert response.status == 404
    assert b"cannot be shown" in response.body


def test_rows_by_pages(visitor, shop):
    page = visitor.text(f"/_/c/{shop.id}/data")
    assert '"name": "row 0"' in unescape(page)
    assert "row 25" not in page
    (after,) = re.findall(r"after=(\w+)", page)
    page = visitor.text(f"/_/c/{shop.id}/data?s=0&after={after}")
    assert "row 25" in page
    assert "row 24" not in page
    assert "row 40" in visitor.text(f"/_/c/{shop.id}/data?from=40")
    found = words(visitor.text(f"/_/c/{shop.id}/data?find=row+59"))
    assert "row 59" in found
    assert "row 58" not in found
    assert "is no key" in words(visitor.text(f"/_/c/{shop.id}/data?from=forty"))
    assert visitor.get(f"/_/c/{shop.id}/data?s=nope").status == 404
    assert "hexadecimal" in words(visitor.text(f"/_/c/{shop.id}/data?after=zz"))


def test_sql_reads_within_limits(visitor, shop):
    path = f"/_/c/{shop.id}/sql"
    assert "60" in words(visitor.done(path, sql="select count(*) from rows"))
    assert "the first 500 rows" in words(visitor.done(path, sql="select * from rows a, rows b"))
    for bad in ("delete from rows", "attach 'x' as y", "select readfile('/etc/passwd')", "nonsense", ""):
        assert 'class="bad"' in visitor.done(path, sql=bad), bad
    endless = "with recursive n(x) as (select 1 union all select x + 1 from n) select max(x) from n"
    assert 'class="bad"' in visitor.done(path, sql=endless)


def test_a_call(visitor, shop):
    page = visitor.text(f"/_/c/{shop.id}/methods")
    assert "Adds a row." in page
    answer = words(visitor.done(f"/_/c/{shop.id}/call", method="add", a0='Ann "x"', a1="33"))
    assert "Replied (61 : nat64)" in answer
    assert "added Ann" in answer
    assert "(61 : nat64)" in words(visitor.done(f"/_/c/{shop.id}/call", method="count"))
    assert shop.actor().count() == 61
    by_text = visitor.done(f"/_/c/{shop.id}/call", method="add", candid='("Bob", 1)', sender="aaaaa-aa")
    assert "(62 : nat64)" in words(by_text)


def test_what_a_call_may_not_be(visitor, shop, ledger):
    path = f"/_/c/{shop.id}/call"
    assert "no luck" in words(visitor.done(path, method="fail", a0="no luck"))
    assert "age is empty, expected nat64" in words(visitor.done(path, method="add", a0="x"))
    for form in ({"method": "add", "a0": "x", "a1": "many"}, {"method": "add", "candid": "(("}, {"method": "nope"}):
        assert 'class="bad"' in visitor.done(path, **form), form
    assert "is no principal" in words(visitor.done(path, method="count", sender="me"))


def test_instructions_by_function(visitor, ledger):
    form = {"method": "balance_of", "a0": "2vxsx-fae", "profile": "1"}
    answer = visitor.done(f"/_/c/{ledger.id}/call", **form)
    (number,) = re.findall(r"/_/pictures/(\d+)\.svg", answer)
    graph = visitor.get(f"/_/pictures/{number}.svg")
    assert b"balance_of" in graph.body
    assert "sandbox allow-scripts" in dict(graph.headers)["content-security-policy"]


def test_what_ran(visitor, ledger):
    visitor.text("/_/calls")
    ledger.query("symbol", b"DIDL\0\0")
    assert "non replicated query" in visitor.text("/_/calls?part=1")


def test_snapshots(visitor, shop):
    base = f"/_/c/{shop.id}/snapshots"
    assert "was taken" in visitor.done(f"{base}/take")
    ((snapshot_id),) = [one["id"].hex() for one in shop.snapshots()]
    shop.actor().add("later", 1)
    page = words(visitor.text(f"{base}/{snapshot_id}"))
    assert "1 added" in page
    assert "later" in page
    assert "was loaded" in visitor.done(f"{base}/{snapshot_id}/load")
    assert shop.actor().count() == 60
    assert visitor.post(f"{base}/{snapshot_id}/burn").status == 404
    assert visitor.post(f"{base}/00/load").status == 404
    assert "was deleted" in visitor.done(f"{base}/{snapshot_id}/delete")


def test_what_takes_too_long_to_compare_is_told_as_far_as_it_is(visitor, shop, monkeypatch):
    snapshot_id = shop.take_snapshot().hex()
    shop.actor().add("later", 1)
    monkeypatch.setattr(changes, "_SECONDS", 0.0)
    page = words(visitor.text(f"/_/c/{shop.id}/snapshots/{snapshot_id}"))
    assert "not compared to the end, it took longer than 0 s: whether anything differs is not known" in page
    assert "Nothing differs" not in page


def test_a_snapshot_is_taken_home(visitor, ledger, tmp_path):
    snapshot_id = ledger.take_snapshot().hex()
    response = visitor.get(f"/_/c/{ledger.id}/snapshots/{snapshot_id}.tar")
    with tarfile.open(fileobj=response.streamed, mode="r|") as archive:
        archive.extractall(tmp_path, filter="data")
    response.streamed.close()
    with Subnet.open(tmp_path / f"snapshot-{snapshot_id}") as again:
        assert again.canisters[0].actor().symbol() == "TOK"


def test_what_if(visitor, ledger):
    base = f"/_/c/{ledger.id}/what-if"
    wasm = (MODULES / "ledger.wasm.gz").read_bytes()
    assert "A fork is a second subnet" in visitor.text(base)
    assert visitor.post(f"{base}/call", method="symbol").status == 404
    assert "Forked at" in visitor.done(f"{base}/begin")
    form = {"method": "transfer", "candid": '(record { to = principal "aaaaa-aa"; amount = 10 })'}
    answer = visitor.done(f"{base}/call", **form)
    assert "The fork now" in words(answer)
    before = ledger.status().version
    report = words(visitor.send(f"{base}/check", wasm))
    assert "methods were tried" in report
    assert 'class="bad"' in visitor.send(f"{base}/upgrade", b"\0asm no module")
    assert ledger.status().version == before
    argument = "candid=record%20%7B%20fee%20%3D%201%3B%20holders%20%3D%20vec%20%7B%7D%3B%20symbol%20%3D%20%22X%22%20%7D"
    page = words(visitor.send(f"{base}/upgrade?{argument}", wasm))
    assert "upgrade to a module" in page
    assert ledger.actor().upgrades() == 0
    assert "upgraded as its fork was" in words(visitor.done(f"{base}/keep"))
    assert ledger.actor().upgrades() == 1
    visitor.done(f"{base}/begin")
    before = ledger.status().version
    assert "nothing has changed" in visitor.done(f"{base}/drop")
    assert ledger.status().version == before


def test_a_hostile_canister_is_shown_as_text(visitor, subnet, shop):
    wat = """(module (import "ic0" "debug_print" (func $print (param i32 i32)))
      (import "ic0" "trap" (func $trap (param i32 i32))) (memory 1)
      (data (i32.const 0) "<script>alert(1)</script>")
      (func (export "canister_update log") (call $print (i32.const 0) (i32.const 25)))
      (func (export "canister_query <img src=x onerror=alert(1)>") (call $trap (i32.const 0) (i32.const 25))))"""
    made = subnet.install(bytes(wasmtime.wat2wasm(wat)))
    with pytest.raises(RejectError):
        made.update("log")
    shop.actor().add(HOSTILE, 1)
    base = f"/_/c/{made.id}"
    texts = [visitor.text(path) for path in (base, f"{base}/methods", f"{base}/logs", "/_/calls")]
    texts.append(visitor.done(f"{base}/call", method="<img src=x onerror=alert(1)>"))
    texts.append(visitor.text(f"/_/c/{shop.id}/data?from=60"))
    texts.append(visitor.done(f"/_/c/{shop.id}/sql", sql="select '<script>x</script>' as '<b>'"))
    texts.append(visitor.get("/_/<script>alert(1)</script>").body.decode())
    texts.append(visitor.text("/_/?q=%22%3E%3Cscript%3E"))
    for text in texts:
        for script in re.findall(r"<script[^>]*>", text):
            assert script.startswith('<script src="/_/static/'), text
        assert "<img src=x" not in text
        assert "\x1b" not in text


def test_a_memory_alone(tmp_path, shop):
    path = tmp_path / "dump.bin"
    size = shop.stable.size() * 65_536
    path.write_bytes(shop.stable.read(0, size))
    with open_source(str(path)) as memory:
        explorer = Explorer(None, memory=memory, title="dump.bin")

        def get(name):
            return explorer.begin(Request("GET", name, {"host": "localhost"}, b""), "127.0.0.1")

        assert b"The memory of dump.bin" in get("/_/").body
        assert b"btreemap" in get("/_/c/memory").body
        assert get("/_/c/memory/data").status == 200
        assert get("/_/c/memory/map.svg").status == 200
        for missing in ("/_/c/memory/methods", "/_/calls", "/_/history", "/_/c/aaaaa-aa"):
            assert get(missing).status == 404, missing
        explorer.close()


def test_the_past_of_a_directory(tmp_path):
    path = tmp_path / "state"
    with Subnet(path, history=None) as subnet:
        shop = subnet.install(Shop)
        for number in range(5):
            shop.actor().add(f"row {number}", number)
        explorer = Explorer(subnet)

        def get(name):
            found = explorer.begin(Request("GET", name, {"host": "localhost"}, b""), "127.0.0.1")
            assert found.status == 200, found.body
            return words(found.body.decode())

        last = subnet.version
        assert f"{last} " in get("/_/history")
        page = get(f"/_/history/{last}")
        assert "1 added" in page
        assert "row 4" in page
        address = next(at for at in range(shop.stable.size()) if shop.stable.read(at * 65_536, 3) == b"BTR") * 65_536
        assert f"version {last}" in get(f"/_/c/{shop.id}/blame?at={address + 20:#x}")
        found = explorer.begin(Request("GET", f"/_/c/{shop.id}/blame?at=x", {"host": "localhost"}, b""), "127.0.0.1")
        assert b"is no offset" in found.body
        explorer.close()
    with Subnet.read(path, code=Shop) as again:
        explorer = Explorer(again)
        assert "row 3" in get(f"/_/history/{last - 1}")
        explorer.close()


def test_all_subnets_of_a_network(tmp_path):
    with Network(["nns", "application"], path=tmp_path / "net", history=None) as network:
        near, far = (subnet.install(Shop) for subnet in network.subnets)
        explorer = Explorer(network)

        def get(name, status=200):
            found = explorer.begin(Request("GET", name, {"host": "localhost"}, b""), "127.0.0.1")
            assert found.status == status, found.body
            return found.body.decode()

        listed = get("/_/")
        for made, kind in ((near, "nns"), (far, "application")):
            assert str(made.id) in listed
            assert f">{kind}</td>" in listed
            assert str(made.id) in get(f"/_/c/{made.id}")
        far.actor().add("a row", 1)
        assert str(far.id) in get("/_/calls")
        one, other = network.subnets
        link = f"/_/history/{other.version}?subnet={other.id}"
        for place in (f"/_/history?subnet={other.id}", f"/_/history?c={far.id}"):
            assert link in get(place)
        assert link not in get("/_/history")
        assert f"?subnet={one.id}" in get("/_/history")
        assert "1 added" in words(get(link))
        assert "no subnet" in get("/_/history?subnet=aaaaa-aa", 404)
        explorer.close()
