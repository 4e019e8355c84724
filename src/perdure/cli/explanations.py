"""What each error's code means, and what to do: `perdure explain CODE`.

The page is `errors.md` beside this file, and in the documentation: a section for every code, of a sentence that says
what is wrong, a paragraph on why, one that begins with ``To do:``, and an example that makes the error.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import click

from perdure.units import meant

__all__ = ["PAGE", "Explanation", "explain", "explanations"]

PAGE: Final = Path(__file__).with_name("errors.md")
_TO_DO: Final = "To do: "
_FENCE: Final = "```"


class Explanation(NamedTuple):
    """Of one code.

    Args:
        title: what is wrong, in a sentence.
        means: what has happened, and why.
        remedy: what helps.
        example: Python that makes the error in an empty directory; nothing for what nobody can make.
    """

    title: str
    means: str
    remedy: str
    example: str


@cache
def explanations() -> dict[str, Explanation]:
    """All that have a section, by their codes."""
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    return dict(map(_section, sections))


def _section(text: str) -> tuple[str, Explanation]:
    words, _, example = text.partition(f"{_FENCE}python\n")
    code, title, means, remedy = (part.strip() for part in words.strip().split("\n\n"))
    return code, Explanation(title, means, remedy.removeprefix(_TO_DO), example.partition(f"\n{_FENCE}")[0])


def _of_the_replica(code: str) -> Explanation | None:
    """What is known of a rejection that has no section."""
    from perdure.ic.reject import ErrorCode

    found = next((one for one in ErrorCode if one.text == code), None)
    if found is None:
        return None
    title = found.name.capitalize().replace("_", " ")
    return Explanation(
        f"{title}.", f"Reject code {found.reject_code.name}.", "Read the message: it is the replica's.", ""
    )


@click.command()
@click.argument("code", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print what to do, and nothing else.")
def explain(code: str | None, as_json: bool, quiet: bool) -> None:
    """Say what the code of an error means, and what to do; without CODE, list all that have a page.

    An error has its code as `error.error_code` in Python; a command names it under its message.

    \b
    Example:
        perdure explain no-interface
    """  # noqa: D301 - click wants the backspace itself
    known = explanations()
    if code is None:
        titles = {one: found.title for one, found in known.items()}
        width = max(map(len, titles)) + 2
        lines = (f"{one:<{width}}{title}" for one, title in titles.items())
        click.echo(json.dumps(titles, indent=2) if as_json else "\n".join(lines))
        return
    code = code.upper() if code[:2].upper() == "IC" else code.lower()
    found = known.get(code) or _of_the_replica(code)
    if found is None:
        raise click.UsageError(f"no code {code!r:.60}, {meant(code, known)}")
    if as_json:
        click.echo(json.dumps({"code": code, **found._asdict()}, indent=2))
    elif quiet:
        click.echo(found.remedy)
    else:
        click.echo(f"{code}: {found.title}\n\n{found.means}\n\n{_TO_DO}{found.remedy}")
        if found.example:
            click.echo("\n".join(("\nThis makes it:\n", *(f"    {line}" for line in found.example.splitlines()))))
