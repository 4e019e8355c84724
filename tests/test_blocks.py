"""Every block of the documentation is run by a test, or says why it is not; of those there are few.

A block is a fence in a language that runs, one without a language that has lines behind ``$``, or lines of commands.
What a page shows of data, texts and drawings is none.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
MOST_NOT_RUN = 12
MARK = re.compile(r"^ *<!-- not run here: (\S.*) -->$")
LANGUAGES = ("python", "pycon", "py", "sh", "console", "js", "mjs", "ts", "c", "rust", "motoko", "wat")
COMMANDS = "commands"
_COMMAND = re.compile(r"^(?: {4})+(\$ .*|(?:perdure|pip|pipx|uvx|python|make) .*)$")

RUN_BY = {
    "README.md": {"python": "test_docs.py", COMMANDS: "test_pages.py"},
    "canister.md": {COMMANDS: "test_pages.py"},
    "coming-from.md": {"python": "test_blocks.py", COMMANDS: "test_pages.py"},
    "commands.md": {COMMANDS: "test_blocks.py"},  # as far as the command line reads them
    "data.md": {"python": "data/test_docs.py"},
    "errors.md": {"python": "cli/test_explanations.py"},
    "explorer.md": {"python": "test_docs.py", "sh": "test_pages.py"},
    "fleet.md": {"python": "test_docs.py"},
    "index.md": {"python": "test_pages.py", "sh": "test_pages.py", COMMANDS: "test_pages.py"},
    "measuring.md": {"python": "measure/test_docs.py", COMMANDS: "test_pages.py"},
    "memories.md": {"python": "subnet/test_memories_page.py"},
    "network.md": {"python": "test_docs.py", COMMANDS: "test_pages.py"},
    "networks.md": {
        "python": "gateway/test_networks_page.py", "js": "gateway/test_clients.py", "mjs": "gateway/test_clients.py",
        "sh": "gateway/test_clients.py",
    },
    "object-storage.md": {"python": "test_docs.py", COMMANDS: "test_pages.py"},
    "outcalls.md": {"python": "test_docs.py"},
    "platforms.md": {"sh": "test_pages.py"},
    "python-canisters.md": {"python": "kit/test_tutorial.py"},
    "serving.md": {
        "python": "gateway/test_clients.py", "js": "gateway/test_clients.py", "py": "gateway/test_clients.py",
        "sh": "test_pages.py",
    },
    "signatures.md": {"python": "test_docs.py"},
    "sqlite.md": {"python": "cli/test_sqlite.py", "console": "cli/test_sqlite.py", "sh": "canisters/build.py"},
    "stable.md": {"python": "cli/test_stable.py", "console": "cli/test_stable.py"},
    "toolchains.md": {"sh": "test_toolchains.py", COMMANDS: "test_pages.py"},
    "tutorial.md": {"python": "kit/test_tutorial.py", COMMANDS: "kit/test_tutorial.py"},
    "upgrades.md": {
        "python": "upgrade/test_docs.py", "console": "upgrade/test_docs.py", "rust": "upgrade/test_docs.py",
        "motoko": "upgrade/test_docs.py", "sh": "test_pages.py",
    },
}  # fmt: skip
"""What runs the blocks of a page, by their language."""


class Block(NamedTuple):
    """A block, where it begins, and why it is not run; an empty text: it is."""

    page: str
    number: int
    language: str
    reason: str


def blocks(page: Path) -> Iterator[Block]:
    reason, fence, number, lines = "", "", 0, []
    was_command = False
    for place, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        head = re.match(r"^ *```(\w*)", line)
        if fence:
            lines.append(line)
            if head and not head[1]:
                language = fence.removeprefix("```")
                if not language and any(one.startswith("$ ") for one in lines):
                    language = COMMANDS
                if language in (*LANGUAGES, COMMANDS):
                    yield Block(page.name, number, language, reason)
                fence, reason = "", ""
        elif head:
            fence, number, lines = f"```{head[1]}", place, []
        elif marked := MARK.match(line):
            reason = marked[1]
        elif _COMMAND.match(line):
            if not was_command:
                yield Block(page.name, place, COMMANDS, reason)
                reason = ""
            was_command = True
            continue
        was_command = was_command and not line.strip().endswith((".", ":"))


NAMES_NO_PAGE = ("canisters/build.py",)
"""What builds the module of docs/sqlite.md, by the same flags, see below."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [block for page in PAGES for block in blocks(page)]


def test_every_block_is_run_or_says_why_not() -> None:
    missing = [block for block in BLOCKS if not block.reason and block.language not in RUN_BY.get(block.page, {})]
    assert missing == [], "name the test that runs them in RUN_BY, or write <!-- not run here: REASON --> before them"
    assert len(BLOCKS) > 200


def test_few_are_not_run() -> None:
    assert len([block for block in BLOCKS if block.reason]) <= MOST_NOT_RUN


def test_the_tests_that_run_them_are_about_these_pages() -> None:
    for page, languages in RUN_BY.items():
        for test in languages.values():
            if test in NAMES_NO_PAGE:
                continue
            text = (ROOT / "tests" / test).read_text(encoding="utf-8")
            assert page in text or page.removesuffix(".md") in text, f"{test} does not name {page}"
        assert {block.language for block in BLOCKS if block.page == page} >= set(languages), page


def test_the_block_of_a_page_for_those_who_come_from_elsewhere() -> None:
    text = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(block, {})


def test_the_flags_of_the_page_on_sqlite_are_those_that_its_module_is_built_with() -> None:
    text = (ROOT / "docs" / "sqlite.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    recipe = (ROOT / "tests" / "canisters" / "build.py").read_text(encoding="utf-8")
    shown = set(re.findall(r"-DSQLITE_(\S+)", block))
    assert len(shown) > 10
    assert [flag for flag in shown if f'"{flag}"' not in recipe] == []


def test_the_examples_of_commands_are_read_by_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options and arguments of each; what files hold is for those who run them."""
    import click

    from perdure.cli import perdure

    monkeypatch.chdir(tmp_path)
    lines = re.findall(
        r"^    \$ perdure (.*)$", (ROOT / "docs" / "commands.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(lines) > 100
    for line in lines:
        words = shlex.split(line.partition(" > ")[0].partition(" | ")[0].partition(" && ")[0], comments=True)
        command: click.Command = perdure
        context = click.Context(command)
        while isinstance(command, click.Group):
            while words[0].startswith("-"):  # of the group
                words = words[2:]
            found = command.get_command(context, words.pop(0))
            assert found is not None, line
            command = found
        options = {option: one for one in command.params for option in [*one.opts, *one.secondary_opts]}
        for word in words:
            if re.fullmatch(r"--?[a-z][\w-]*(=.*)?", word):
                assert word.partition("=")[0] in {*options, "--help"} or word[:2] in options, f"{word} in: {line}"


NEEDING = {
    "columns": r"\bstable fsck\b|\bfind_changes\(|\.arrow\(",
    "serve": r"\bperdure (serve|explore)\b|\.serve\(",
    "sql": r"\b(stable|state) query\b|\.sql\(|\.sqlite\(",
    "storage": r"\b(s3|gs|az)://",
    "signatures": r"\bsign_with_\w+\(",
    "fleet": r"\bfleet\.on_ray\b|--on ray\b",
}
"""What shows that a block needs an extra."""
SAY_IT_THEMSELVES = ("commands.md", "errors.md")
"""Pages whose commands or errors name their extras, each its own."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_the_extras_that_its_blocks_need(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    shown = "\n".join(
        [*re.findall(r"^ *```.*?^ *```", text, re.MULTILINE | re.DOTALL)]
        + [line for line in text.splitlines() if _COMMAND.match(line)]
    )
    names = re.findall(r"perdure\[([\w,-]+)\]|extras? [\"`](\w+)[\"`]", text)
    named = {one for several, single in names for one in (several or single).split(",")}
    needed = {extra for extra, sign in NEEDING.items() if re.search(sign, shown)}
    assert page.name in SAY_IT_THEMSELVES or needed <= named, needed - named
