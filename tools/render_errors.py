"""Render docs/errors.md: the page that `perdure explain` reads, with a table of its sections."""

from __future__ import annotations

from pathlib import Path

from perdure.cli.explanations import PAGE as SOURCE
from perdure.cli.explanations import explanations

PAGE = Path(__file__).parent.parent / "docs/errors.md"


def render() -> str:
    """The page."""
    head, first, rest = SOURCE.read_text(encoding="utf-8").partition("\n## ")
    rows = [f"| [`{code}`](#{code.lower()}) | {one.title} |" for code, one in explanations().items()]
    table = "\n".join(["| code | what is wrong |", "|---|---|", *rows])
    return f"{head.rstrip()}\n\nRendered by `tools/render_errors.py`.\n\n{table}\n{first}{rest}"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"{PAGE} written")
