"""`perdure bindgen`: a canister's interface as a Python module with types."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli.argument import MODULE, InputFile
from perdure.cli.paths import LocalPath

if TYPE_CHECKING:
    from perdure.candid.service import ServiceType

__all__ = ["bindgen"]


@click.command()
@click.argument("source", type=InputFile(may_be_built=True), metavar="MODULE|DID")
@click.option(
    "-o",
    "--output",
    type=LocalPath(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE.py",
    help="The module.",
)
@click.option("--name", default="", metavar="NAME", help="Of the class; by default that of the source.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def bindgen(source: Path, output: Path, name: str, as_json: bool, quiet: bool) -> None:
    """Write a Python module that has a canister's methods with types, which mypy and pyright check.

    The interface is that of a .did file, or what a module says of itself.

    \b
    Example:
        perdure bindgen ledger.wasm -o ledger.py
    """  # noqa: D301 - click wants the backspace itself
    from perdure.kit.bindgen import bindings

    if name and not name.isidentifier():
        raise click.UsageError(f"--name is the name of a class, found {name!r:.60}")
    name = name or _class_name(source)
    service = _service(source)
    output.write_text(bindings(service, f"{source.name}, typed", name), encoding="utf-8")
    if as_json:
        click.echo(json.dumps({"file": str(output), "class": name, "methods": len(service.methods)}))
    elif not quiet:
        click.echo(f"{output}: class {name} with {len(service.methods)} methods")


def _class_name(source: Path) -> str:
    words = re.findall(r"[A-Za-z0-9]+", source.name.partition(".")[0])
    name = "".join(word[:1].upper() + word[1:] for word in words) or "Service"
    return f"Canister{name}" if name[0].isdigit() else name


def _service(source: Path) -> ServiceType:
    from perdure.subnet.interface import service_of
    from perdure.subnet.interfaces import found_interface

    if source.suffix == ".did":
        return service_of(str(source), None, source)
    from perdure.embedder import shared_compiler

    module = MODULE.convert(source, None, None)  # which says what else it may be
    compiled = shared_compiler().compile(module.read_bytes())
    return service_of(str(source), compiled, found_interface(module))
