"""Arguments of calls as people write them, and replies as they read them; what `run` and `canister` share."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar, final

import click

from perdure.cli.paths import LocalPath
from perdure.cli.terminal import json_text

if TYPE_CHECKING:
    from perdure.candid.service import ServiceMethod

__all__ = [
    "KEPT_EXTENSION",
    "MODULE",
    "PICTURE",
    "InputFile",
    "argument_options",
    "asked",
    "built",
    "encoded",
    "extension_option",
    "given",
    "grouped",
    "hosts_with_ports",
    "methods_of",
    "named_file",
    "production_key_names",
    "shown",
    "shown_json",
]

P = ParamSpec("P")
R = TypeVar("R")


def hosts_with_ports(_: click.Context, __: click.Parameter, hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Hosts with their ports, looked at before anything is opened."""
    if hosts:
        from perdure.subnet.fetching import parse_host

        try:
            list(map(parse_host, hosts))
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
    return hosts


def production_key_names(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command `--production-key-names`."""
    words = "Offer threshold keys as key_1, too. They are as public as all keys here."
    return click.option("--production-key-names", is_flag=True, help=words)(command)


def extension_option(
    words: str = "Allow what the network does not have.",
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Give a command `--extension`, whose names come as `extensions`, looked at before anything is opened."""

    def checked(_: click.Context, __: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            return names
        from perdure.errors import ExtensionError
        from perdure.ic.ic0_ext import checked_extensions

        try:
            return checked_extensions(names)
        except ExtensionError as error:
            raise click.BadParameter(str(error)) from error

    return click.option("--extension", "extensions", multiple=True, metavar="NAME", callback=checked, help=words)


KEPT_EXTENSION: Final = "Allow what the network does not have, in this state directory from now on."
"""Of commands that write what they open."""

_MAGICS: Final = (b"\0asm", b"\x1f\x8b")


def built(value: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The module that was built of a canister of the project or of a crate here, by its name; else the same."""
    name = os.fspath(value)
    if os.path.lexists(name) or not name.isprintable() or {".", "/"} & set(name):
        return value
    from perdure.errors import PerdureError
    from perdure.project import Project

    here = Path.cwd()
    try:
        return (Project.find(here) or Project.without_manifest(here)).canister(name).wasm()
    except (PerdureError, KeyError, ValueError):
        return value


class InputFile(LocalPath):
    """A file that is read to its end: not a device, which may have none."""

    def __init__(self, *, allow_dash: bool = False, may_be_built: bool = False) -> None:
        super().__init__(exists=True, dir_okay=False, allow_dash=allow_dash, path_type=Path)
        self._may_be_built = may_be_built

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        path = Path(os.fsdecode(super().convert(built(value) if self._may_be_built else value, param, ctx)))
        if str(path) != "-" and stat.S_IFMT(path.stat().st_mode) in (stat.S_IFCHR, stat.S_IFBLK):
            self.fail(f"{path} is a device, and no file that has an end", param, ctx)
        return path


@final
class _PictureFile(LocalPath):
    """Where a picture is written, as the name ends; said before anything is done."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        from perdure.picture import PICTURES

        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.suffix not in PICTURES:
            names = " or ".join(path.with_suffix(suffix).name for suffix in PICTURES)
            self.fail(f"a picture is an SVG or a PNG: name it {names}", param, ctx)
        return path


PICTURE: Final = _PictureFile()


@final
class _ModuleFile(LocalPath):
    """A file with a module, plain or gzip, or the name of one that was built; what is none is told at once."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        snapshot = Path(value)
        if (snapshot / "wasm_module.bin").is_file():
            self.fail(f"{snapshot} is a snapshot: its module is {snapshot / 'wasm_module.bin'}", param, ctx)
        path = Path(os.fsdecode(super().convert(built(value), param, ctx)))
        mode = path.stat().st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            self.fail(f"{path} is a device, a module is a file", param, ctx)
        if not stat.S_ISREG(mode):
            return path  # a pipe, which can be read once
        with path.open("rb") as file:
            head = file.read(max(map(len, _MAGICS)))
        if not head.startswith(_MAGICS) and path.suffix != ".wat":  # which the decoder knows
            from perdure.project import instead_of_module

            what = instead_of_module(path)
            found = f"it is {what}" if what is not None else f"it begins with {head!r}, a module with {_MAGICS[0]!r}"
            self.fail(f"{path} is no Wasm module: {found}", param, ctx)
        return path


MODULE: Final = _ModuleFile()


def argument_options(command: Callable[P, R]) -> Callable[P, R]:
    """`--args` and what goes with it."""
    options = [
        click.option("--args", "--argument", "args", metavar="TEXT", help="The argument."),
        click.option(
            "--args-file",
            "--argument-file",
            "args_file",
            type=InputFile(allow_dash=True),
            help="A file with the argument; - is standard input.",
        ),
        click.option(
            "--args-format",
            "--argument-type",
            "--type",
            "args_format",
            type=click.Choice(["candid", "hex", "bin", "idl", "raw"]),
            default="candid",
            help="How the argument is written; idl and raw are dfx's words for candid and hex.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def given(args: str | None, args_file: Path | None, args_format: str) -> str | bytes | None:
    """The argument as Candid text or bytes; `None`: none was given.

    Raises:
        click.UsageError: it was given twice, or is not what its format says.
    """
    if args is not None and args_file is not None:
        raise click.UsageError("an argument was given twice: as text and as a file")
    if args_format == "bin":
        if args_file is None:
            raise click.UsageError("--args-format bin wants --args-file")
        return _content(args_file)
    text = args
    if args_file is not None:
        try:
            text = _content(args_file).decode()
        except UnicodeDecodeError as error:
            raise click.UsageError(f"{args_file} is not text: say --args-format bin") from error
    if text is None or args_format in ("candid", "idl"):
        return text
    try:
        return bytes.fromhex(text.strip().removeprefix("0x"))
    except ValueError as error:
        raise click.UsageError(f"argument {text[:40]!r} is not hexadecimal") from error


def _content(file: Path) -> bytes:
    if str(file) != "-":
        return file.read_bytes()
    if sys.stdin is None:
        raise click.UsageError("standard input is closed, - reads from there")
    return sys.stdin.buffer.read()


def named_file(name: str) -> bytes:
    """What is in a file that an argument names, as ``@FILE``.

    Raises:
        click.BadParameter: there is none, or it may have no end.
    """
    return Path(InputFile().convert(name, None, None)).read_bytes()


def encoded(method: ServiceMethod | None, argument: str | bytes | None) -> bytes:
    """The message for a call.

    Args:
        method: whose types it has; `None`: nothing is known of it.
        argument: the bytes, Candid text with or without its parentheses, or `None`: ``()`` where that will do.

    Raises:
        click.UsageError: the method takes arguments, and none was given.
        MalformedError: the text is no Candid, or not of these types.
    """
    if isinstance(argument, bytes):
        return argument
    from perdure.candid import encode, parse_values
    from perdure.candid.types import brief, is_nullable, resolve

    types = method.func.args if method is not None else ()
    if argument is None:
        if method is not None and not all(map(is_nullable, types)):
            listed = ", ".join(brief(resolve(one)) for one in types)
            said = asked(f"{method.name} takes ({listed})", lambda text: encode(*parse_values(grouped(text), types)))
            if said is None:
                raise click.UsageError(f"{method.name} takes ({listed}): pass it, in Candid's text form")
            return said
        return encode(types, (None,) * len(types))
    return encode(*parse_values(grouped(argument), types if method is not None else None))


def grouped(text: str) -> str:
    """Candid text with its parentheses."""
    return text if text.lstrip().startswith("(") else f"({text})"


def asked(question: str, read: Callable[[str], R]) -> R | None:
    """What somebody at a terminal answers, as often as it takes; `None`: nobody is there."""
    if sys.stdin is None or sys.stderr is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    from perdure.errors import PerdureError

    def value(text: str) -> R:
        try:
            return read(text)
        except (PerdureError, ValueError) as error:
            raise click.UsageError(str(error)) from error

    answer: R = click.prompt(question, value_proc=value, err=True)
    return answer


def methods_of(exports: Iterable[str]) -> frozenset[str]:
    """The methods among a module's exports."""
    return frozenset(method for _, is_method, method in (name.partition(" ") for name in exports) if is_method)


def shown(method: ServiceMethod | None, reply: bytes, output: str) -> str:
    """A reply as text: ``auto``, ``candid``, ``text`` or ``hex``, or dfx's words ``idl``, ``pp`` and ``raw`` for them.

    Raises:
        MalformedError: it is not of the method's types, or no Candid, where ``candid`` is asked for.
    """
    if output in ("hex", "raw"):
        return reply.hex()
    from perdure.candid import decode_with_types, values_to_text
    from perdure.errors import MalformedError

    try:
        types, values = decode_with_types(reply) if method is None else (method.func.results, method.decode(reply))
    except MalformedError:
        if output not in ("auto", "text"):
            raise
        return _printable(reply) or reply.hex()
    if output == "text" and len(values) == 1 and isinstance(values[0], str):
        return values[0]
    return values_to_text(types, values)


def shown_json(method: ServiceMethod | None, reply: bytes) -> str:
    """A reply in JSON as icp prints it, and beside its ``response_candid`` the values as JSON, see `candid.json_form`.

    ``response_bytes`` is hexadecimal; of the others those are null that the reply is not.
    """
    from perdure.candid import decode_with_types, values_to_text
    from perdure.candid.json_form import values_to_json
    from perdure.errors import MalformedError

    record: dict[str, object] = {
        "response_bytes": reply.hex(), "response_text": None, "response_candid": None, "response_json": None,
    }  # fmt: skip
    try:
        types, values = decode_with_types(reply) if method is None else (method.func.results, method.decode(reply))
        record["response_candid"] = values_to_text(types, values)
        record["response_json"] = values_to_json(types, values)
    except MalformedError:
        record["response_text"] = _printable(reply)
    return json_text(record)


def _printable(reply: bytes) -> str | None:
    try:
        text = reply.decode()
    except UnicodeDecodeError:
        return None
    return text if text and text.isprintable() else None
