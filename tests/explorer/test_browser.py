"""Six stories in a browser, with the keyboard and a screen reader's rules; each leaves a picture for docs/explorer.md.

``EXPLORER_PICTURES=1`` writes the pictures to docs/pictures.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perdure import Subnet
from perdure.explorer import Explorer
from perdure.gateway import Server
from perdure.kit import canister, ic, nat64, query, update
from perdure.stable import StableBTreeMap, StableLog

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MODULES = ROOT / "tests" / "canisters" / "modules"
AXE = "axe-core@4.14.1"
MAX_PAGE_BYTES = 120_000
HOLDERS = "; ".join(
    f'record {{ principal "{one}"; {amount} }}' for one, amount in (("2vxsx-fae", 1000), ("aaaaa-aa", 50))
)
LEDGER = f'(record {{ fee = 1; holders = vec {{ {HOLDERS} }}; symbol = "TOK" }})'


@dataclass
class Guest:
    name: str
    nights: nat64


@canister(name="tests:hotel")
class Hotel:
    guests: StableBTreeMap[nat64, Guest]
    book: StableLog[str]

    @update
    def check_in(self, name: str, nights: nat64) -> nat64:
        """Takes a guest in; returns the number of the room."""
        room = len(self.guests) + 1
        self.guests[room] = Guest(name, nights)
        self.book.append(f"{name} came for {nights} nights")
        ic.print(f"room {room} is {name}'s")
        return room

    @query
    def guest_of(self, room: nat64) -> Guest | None:
        """Who has a room."""
        return self.guests.get(room)


def missing(what: str) -> None:
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = (
        pytest.importorskip("playwright.sync_api")
        if not os.environ.get("CI")
        else __import__("playwright.sync_api").sync_api
    )
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        missing("needs Chromium, which Debian has as the package chromium")
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        yield playwright.chromium.launch(executable_path=path, args=flags)


@dataclass
class Visit:
    page: Any
    url: str
    token: str
    canisters: dict[str, Any]
    axe: str
    complaints: list[str]

    def open(self, path: str) -> None:
        self.page.goto(f"{self.url}{path}")

    def of(self, name: str, path: str = "") -> None:
        self.open(f"/_/c/{self.canisters[name].id}{path}")

    def look(self, name: str) -> None:
        """Nothing for a screen reader to trip over in either scheme, nothing complained; maybe a picture."""
        self.page.wait_for_load_state("networkidle")
        for scheme in ("dark", "light"):
            self.page.emulate_media(color_scheme=scheme)
            found = self.page.evaluate(f"() => {{ {self.axe}; return axe.run() }}")
            told = [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found["violations"]]
            assert told == [], (name, scheme)
        assert self.complaints == []
        if os.environ.get("EXPLORER_PICTURES"):
            self.page.screenshot(path=ROOT / "docs" / "pictures" / f"explorer-{name}.png")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, dict[str, Any]]]:
    with Subnet(tmp_path_factory.mktemp("explorer") / "hotel", history=None) as subnet:
        hotel = subnet.install(Hotel)
        ledger = subnet.install((MODULES / "ledger.wasm.gz").read_bytes(), LEDGER)
        for number in range(70):
            hotel.actor().check_in(f"Guest {number}", number % 9 + 1)
        names = {str(hotel.id): "hotel", str(ledger.id): "ledger"}
        explorer = Explorer(subnet, title="hotel", names=lambda: names)
        with Server(subnet, pages=explorer) as server:
            yield f"http://localhost:{server.port}", explorer.token, {"hotel": hotel, "ledger": ledger}
        explorer.close()


@pytest.fixture
def visit(browser: Any, served: Any, npm_folder: Any) -> Iterator[Visit]:
    url, token, canisters = served
    axe = (npm_folder("axe", AXE) / "node_modules" / "axe-core" / "axe.min.js").read_text()
    page = browser.new_page(viewport={"width": 1180, "height": 940})
    page.set_default_timeout(120_000)
    complaints: list[str] = []
    outside: list[str] = []
    page.on("console", lambda one: complaints.append(one.text) if one.type in ("error", "warning") else None)
    page.on("pageerror", lambda one: complaints.append(str(one)))
    page.on("request", lambda one: outside.append(one.url) if not one.url.startswith(url) else None)
    made = Visit(page, url, token, canisters, axe, complaints)
    made.open(f"/_/?token={token}")
    yield made
    assert outside == []
    page.close()


def test_inspect(visit: Visit) -> None:
    assert "token" not in visit.page.url
    visit.page.get_by_role("searchbox").fill("hot")
    visit.page.keyboard.press("Enter")
    visit.page.get_by_role("link", name="hotel").click()
    visit.page.get_by_text("guests", exact=True).wait_for()
    visit.page.get_by_text("room 70 is Guest 69's").wait_for()
    visit.look("inspect")
    visit.page.get_by_role("link", name="guests").click()
    visit.page.get_by_role("link", name="Next").click()
    visit.page.get_by_text("Guest 25").wait_for()
    visit.look("data")


def test_call(visit: Visit) -> None:
    visit.of("hotel", "/methods")
    visit.page.get_by_text("check_in :").click()
    visit.page.get_by_label("name text").fill('Ann "A" O\'Hara')
    visit.page.get_by_label("nights nat64").fill("3")
    visit.page.get_by_role("button", name="Call check_in").click()
    visit.page.get_by_text("(71 : nat64)").wait_for()
    visit.look("call")
    visit.of("ledger", "/methods")
    visit.page.locator("summary", has_text="balance_of").click()
    visit.page.locator("form", has_text="balance_of").locator("input[name=a0]").fill("aaaaa-aa")
    visit.page.locator("form", has_text="balance_of").locator("summary").click()
    visit.page.locator("form", has_text="balance_of").get_by_label("count instructions").check()
    visit.page.get_by_role("button", name="Call balance_of").click()
    with visit.page.expect_popup() as opened:
        visit.page.get_by_role("link", name="flame graph").click()
    opened.value.locator("g.f").first.wait_for(state="attached")
    opened.value.close()


def test_blame(visit: Visit) -> None:
    visit.of("hotel")
    stable = visit.canisters["hotel"].stable
    place = next(page * 65_536 for page in range(stable.size()) if stable.read(page * 65_536, 3) == b"BTR")
    visit.page.get_by_label("Offset").fill(hex(place + 20))
    visit.page.get_by_role("button", name="Ask").click()
    visit.page.get_by_role("link", name="version").click()
    visit.page.get_by_text("1 added").first.wait_for()
    visit.look("blame")
    visit.open("/_/history")
    visit.look("history")


def test_compare_snapshots(visit: Visit) -> None:
    visit.of("hotel", "/snapshots")
    visit.page.get_by_role("button", name="Take a snapshot").click()
    visit.page.get_by_text("was taken").wait_for()
    visit.canisters["hotel"].actor().check_in("Late Guest", 1)
    visit.page.get_by_role("link", name="Compare").click()
    visit.page.get_by_text("Late Guest").first.wait_for()
    visit.look("snapshots")


def test_what_if_upgrade(visit: Visit, tmp_path: Path) -> None:
    visit.of("ledger", "/what-if")
    visit.page.get_by_label("New module").set_input_files(MODULES / "upgraded.wasm.gz")
    visit.page.get_by_role("button", name="Rehearse").click()
    visit.page.locator("#report").get_by_text("tried").wait_for()
    visit.look("what-if")
    visit.page.get_by_role("button", name="Fork").click()
    visit.page.get_by_text("Forked at").wait_for()
    visit.page.get_by_role("button", name="Drop the fork").click()
    visit.page.get_by_text("nothing has changed").wait_for()


def test_sql(visit: Visit) -> None:
    visit.of("hotel", "/data")
    visit.page.get_by_label("A query").fill(
        "select json_extract(value, '$.nights') as nights, count(*) as guests from guests group by 1 order by 2 desc"
    )
    visit.page.get_by_role("button", name="Run").click()
    visit.page.get_by_text("9 rows").wait_for()
    visit.look("sql")


def test_without_the_token_pages_only_show(browser: Any, served: Any) -> None:
    url, _, canisters = served
    page = browser.new_page()
    page.goto(f"{url}/_/c/{canisters['ledger'].id}/snapshots")
    page.get_by_label("Token").wait_for()
    page.get_by_role("button", name="Take a snapshot").click()
    page.wait_for_timeout(300)
    assert canisters["ledger"].snapshots() == []
    page.close()


def test_with_the_keyboard_on_a_telephone(browser: Any, served: Any) -> None:
    url, token, canisters = served
    page = browser.new_page(viewport={"width": 360, "height": 700})
    page.goto(f"{url}/_/c/{canisters['hotel'].id}/methods?token={token}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    seen = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.tagName"))
    assert "SUMMARY" in seen
    page.close()


def test_no_page_is_heavy(browser: Any, served: Any) -> None:
    url, _, canisters = served
    for path in ("/_/", f"/_/c/{canisters['hotel'].id}", f"/_/c/{canisters['hotel'].id}/data", "/_/history"):
        context = browser.new_context()
        page = context.new_page()
        weights: list[int] = []
        lock = threading.Lock()

        def weigh(response: Any, weights: list[int] = weights, lock: threading.Lock = lock) -> None:
            with lock:
                weights.append(int(response.headers.get("content-length", "0")))

        page.on("response", weigh)
        page.goto(f"{url}{path}")
        page.wait_for_load_state("load")
        assert 10_000 < sum(weights) <= MAX_PAGE_BYTES, path
        context.close()
