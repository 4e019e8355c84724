"""What a module says of its own stable memory: embed, guard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli.argument import InputFile
from perdure.cli.paths import LocalPath

if TYPE_CHECKING:
    from perdure.values.guard import Declared
    from perdure.wasm import Module

__all__ = ["embed", "guard"]

_FILE = InputFile()
_OUT = LocalPath(dir_okay=False, path_type=Path)


@click.command()
@click.argument("schema", type=_FILE, metavar="SCHEMA")
@click.argument("module", type=_FILE, metavar="IN.wasm")
@click.option("-o", "--output", required=True, type=_OUT, help="Write the module here.")
@click.option("--private", is_flag=True, help="Only controllers can read it, on the network.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def embed(schema: Path, module: Path, output: Path, private: bool, quiet: bool) -> None:
    """Put a stable.yaml into a module, as the custom section perdure:schema; nothing else of it changes.

    Upgrade checks read it there, and so do subnets with the extension schema.

    \b
    Example:
        perdure stable embed stable.yaml ledger.wasm -o ledger.wasm
    """  # noqa: D301
    from dataclasses import replace

    from perdure.values.schema import SCHEMA_SECTION, load_schema
    from perdure.wasm import CustomSection, encode

    load_schema(schema)
    found, text = _module(module), schema.read_bytes()
    kept = [one for one in found.custom_sections if one.name.split(" ")[-1] != SCHEMA_SECTION]
    section = CustomSection(f"icp:{'private' if private else 'public'} {SCHEMA_SECTION}", text)
    data = encode(replace(found, custom_sections=(*kept, section)))
    output.write_bytes(data)
    if not quiet:
        click.echo(f"{output}: {len(data)} bytes, {len(text)} of them {section.name}")


@click.command()
@click.argument("new", type=_FILE)
@click.option("--after", type=_FILE, multiple=True, metavar="OLD", help="A version that it may be upgraded from.")
@click.option("-o", "--output", type=_OUT, help="Write the text here, not to standard output.")
def guard(new: Path, after: Sequence[Path], output: Path | None) -> None:
    """Write the text with which a canister refuses an upgrade by itself, on any network.

    NEW and OLD are each a stable.yaml, a module that has one in it, or Motoko's stable types: a module, or what moc
    writes as .most. Where NEW cannot read what OLD has kept, that is said and nothing is written. The canister compares
    the text with the one that it has kept: docs/upgrades.md has the lines for Rust and Motoko.

    \b
    Example:
        perdure stable guard stable.yaml --after stable-1.yaml -o stable.guard
    """  # noqa: D301
    from perdure.values.guard import guard_text

    text = guard_text(_declared(new), [_declared(one) for one in after])
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


def _module(path: Path) -> Module:
    from perdure.cli.instrument import decoded

    return decoded(path)


def _declared(path: Path) -> Declared:
    """What a file declares, whatever kind of file it is."""
    from perdure.errors import MalformedError
    from perdure.values.motoko_types import parse_stable_types
    from perdure.values.schema import embedded_schema, load_schema

    data = path.read_bytes()
    if data.startswith((b"\0asm", b"\x1f\x8b")):
        sections = {one.name: one.data for one in _module(path).custom_sections}
        schema = embedded_schema(sections)
        if schema is not None:
            return schema
        for prefix in ("icp:public", "icp:private"):
            if f"{prefix} motoko:stable-types" in sections:
                return parse_stable_types(sections[f"{prefix} motoko:stable-types"].decode("utf-8", "replace"))
        raise MalformedError(f"{path}: the module has neither a section perdure:schema nor motoko:stable-types")
    if path.suffix == ".most":
        return parse_stable_types(data.decode("utf-8", "replace"))
    return load_schema(path)
