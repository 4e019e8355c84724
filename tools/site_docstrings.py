"""Sessions in docstrings are code for the site, wherever in the docstring they stand."""

from __future__ import annotations

from typing import Any, final

import griffe


def fenced(text: str) -> str:
    """A docstring with fences around what begins with ``>>>``, to the next empty line."""
    lines: list[str] = []
    indent: str | None = None
    for line in text.splitlines():
        if indent is None and line.lstrip().startswith(">>> "):
            indent = line[: len(line) - len(line.lstrip())]
            lines += ["", f"{indent}```pycon"]
        elif indent is not None and not line.strip():
            lines.append(f"{indent}```")
            indent = None
        lines.append(line)
    return "\n".join([*lines, *([] if indent is None else [f"{indent}```"])])


@final
class Sessions(griffe.Extension):
    """What mkdocstrings is told of."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence the sessions of one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
