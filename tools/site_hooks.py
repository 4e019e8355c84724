"""What mkdocs is told beside `mkdocs.yml`: pages from elsewhere, links where files are named, pages that it lacks.

| page | from |
|---|---|
| architecture, rationale, contributing, security | the file of that name at the root |
| changelog | CHANGELOG.md, with what `changes/` has |
| api/* | the docstrings of each public module, by mkdocstrings |

In the repository a page names another one as `docs/stable.md`, in code; here that becomes a link.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(Path(__file__).parent))

from gather_changes import gathered  # noqa: E402 - mkdocs loads hooks by their paths

ROOT_PAGES = {
    "ARCHITECTURE.md": "architecture.md",
    "RATIONALE.md": "rationale.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
    "rust/README.md": "rust.md",
}
"""Files at the root, and the pages that they are here."""

API = {
    "perdure": "Subnets, canisters, principals, errors.",
    "perdure.kit": "Canisters in Python, fixtures of pytest, strategies of Hypothesis.",
    "perdure.inspection": "Structures, rows and databases in any memory.",
    "perdure.stable": "The structures of `ic-stable-structures`.",
    "perdure.upgrade": "Rehearsals of upgrades.",
    "perdure.subnet": "What subnets give beside canisters: outcalls, streams, snapshots.",
    "perdure.candid": "Candid: values, types, interfaces, text.",
    "perdure.values": "How bytes become values; `stable.yaml`.",
    "perdure.data": "Tables, graphs and documents in stable memory.",
    "perdure.pocket_ic": "What the package pocket-ic offers, by its names.",
}
"""Public modules, as `tests/public_names.txt` has them."""

_FENCE = re.compile(r"^ *```")
_HEAD = re.compile(r"^( *```\w+) (.*)$")
_FILE = re.compile(r"file=(\S+)")
_NAMED = re.compile(r"(?<!\[)`((?:docs/)?[\w/-]+\.md)`(?!\])")
_LINKED = re.compile(r"\]\((\.\./)?(docs/)?([A-Z]+\.md|rust/README\.md|[\w-]+\.md)(#[\w-]+)?\)")


def api_pages() -> dict[str, str]:
    """Pages of the reference, by their path."""
    rows = "\n".join(f"| [`{name}`]({name}.md) | {what} |" for name, what in API.items())
    index = (
        "# Python API\n\nRendered from the docstrings. What is not here may change without a word.\n\n"
        f"| module | has |\n|---|---|\n{rows}\n"
    )
    pages = {
        f"api/{name}.md": f"# `{name}`\n\n::: {name}\n    options:\n      show_root_heading: false\n" for name in API
    }
    return {"api/index.md": index, **pages}


def root_pages() -> dict[str, str]:
    """Pages of files at the root, by their path."""
    pages = {
        page: (ROOT / name).read_text(encoding="utf-8") for name, page in ROOT_PAGES.items() if name != "README.md"
    }
    unreleased = f"\n## Not released yet\n\n{gathered(ROOT / 'changes')}"
    pages["changelog.md"] += unreleased
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put pages that the navigation does not name behind those that it does."""
    nav: list[Any] = list(config.nav or [])
    named = set(re.findall(r"'([\w/.-]+\.md)'", str(nav)))
    rest = sorted(path.name for path in Path(config.docs_dir).glob("*.md") if path.name not in named)
    config.nav = [*nav, *([{"More": rest}] if rest else [])]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from elsewhere."""
    for path, content in {**root_pages(), **api_pages()}.items():
        files.append(File.generated(config, path, content=content))
    return files


def linked(text: str, pages: set[str], here: str) -> str:
    """A page whose code `docs/x.md` and links to other files of the repository lead to pages of the site."""
    up = "../" * here.count("/")

    def target(name: str) -> str | None:
        page = ROOT_PAGES.get(name, name.removeprefix("docs/"))
        return page if page in pages and page != here else None

    def named(match: re.Match[str]) -> str:
        page = target(match[1])
        return match[0] if page is None else f"[`{match[1]}`]({up}{page})"

    def moved(match: re.Match[str]) -> str:
        page = target(match[3])
        return match[0] if page is None else f"]({up}{page}{match[4] or ''})"

    parts, is_code = [], False
    for line in text.splitlines():
        if _FENCE.match(line):
            is_code = not is_code
            parts.append(_HEAD.sub(_titled, line))
        else:
            is_text = not is_code and not line.startswith("    ")
            parts.append(_LINKED.sub(moved, _NAMED.sub(named, line)) if is_text else line)
    return "\n".join(parts)


def _titled(match: re.Match[str]) -> str:
    """The head of a block without what the tests are told there; a file's name is its title."""
    file = _FILE.search(match[2])
    return match[1] if file is None else f'{match[1]} title="{file[1]}"'


def on_page_markdown(markdown: str, *, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Make links of the names of pages."""
    return linked(markdown, {file.src_uri for file in files.documentation_pages()}, page.file.src_uri)
