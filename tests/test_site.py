"""The site is built strictly, and every link within it leads somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
PUBLIC = [
    re.split(r"[( ]", line)[0]
    for line in (ROOT / "tests" / "public_names.txt").read_text(encoding="utf-8").splitlines()
]


class Page(HTMLParser):
    """The anchors of a page, and where it leads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.title = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        elif "src" in given:
            self.loads.add(given["src"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon"):
            self.loads.add(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages, by their path."""
    if importlib.util.find_spec("mkdocs") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("mkdocs is not here: `make site` installs it")
    place = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", place],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return {path: Page(path) for path in sorted(place.rglob("*.html"))}


@pytest.mark.slow
def test_links_lead_somewhere(site: dict[Path, Page]) -> None:
    broken = []
    for path, page in site.items():
        if path.name == "404.html":
            continue
        for link in page.links | page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (
                parts.fragment
                and target in site
                and unquote(parts.fragment) not in site[target].anchors | {"__codelineno"}
            ):
                broken.append(f"{path.name}: {link}")
    assert broken == []


@pytest.mark.slow
def test_nothing_is_loaded_from_other_hosts(site: dict[Path, Page]) -> None:
    assert [link for page in site.values() for link in page.loads if urlsplit(link).netloc] == []


@pytest.mark.slow
def test_every_page_and_every_public_module_is_there(site: dict[Path, Page]) -> None:
    names = {path.stem for path in site}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= names
    modules = {name for name in (one.rpartition(".")[0] for one in PUBLIC) if name.rpartition(".")[2].islower()}
    assert modules - {""} <= {path.stem for path in site if path.parent.name == "api"}


@pytest.mark.slow
def test_the_reference_has_every_public_class(site: dict[Path, Page]) -> None:
    anchors = set().union(*(page.anchors for path, page in site.items() if path.parent.name == "api"))
    classes = {name for name in PUBLIC if re.fullmatch(r"[a-z_.]+\.[A-Z]\w*[a-z]\w*", name)}
    assert len(classes) > 50
    assert sorted(classes - anchors) == []
