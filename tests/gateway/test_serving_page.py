"""docs/serving.md: its examples run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_clients import npm_directory, run

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.mark.slow
def test_the_page() -> None:
    names: dict[str, object] = {}
    exec(compile(block("python"), "docs/serving.md", "exec"), names)
    subnet, counter = names["subnet"], names["counter"]
    directory = npm_directory("@icp-sdk/core")
    (directory / "page.mjs").write_text(block("js"), encoding="utf-8")
    with subnet.serve() as url:
        assert run("node", "page.mjs", url, counter.id, directory=directory) == "2n 2n\n"
