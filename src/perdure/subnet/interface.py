"""What a module says of its Candid interface, and init arguments for it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, final

from perdure.candid import decode, encode, parse_values
from perdure.candid.service import OWN, ServiceType
from perdure.candid.service import load as load_service
from perdure.candid.types import Text, Type, brief, is_nullable, resolve
from perdure.canister import CanisterModule
from perdure.errors import MalformedError, UnsupportedError
from perdure.subnet.exported_interface import EXPORT, exported_interface
from perdure.subnet.interfaces import Known, load_file

__all__ = [
    "NO_VALUES",
    "Argument",
    "ArgumentMissingError",
    "args_of",
    "has_interface",
    "init_argument",
    "known_interface",
    "must_be_asked",
    "service_of",
]

SERVICE_SECTIONS: Final = ("icp:public candid:service", "icp:private candid:service")
ARGS_SECTIONS: Final = ("icp:public candid:args", "icp:private candid:args")
_CANDID_METHOD: Final = "__get_candid_interface_tmp_hack"
_LOG: Final = logging.getLogger(__name__)
NO_VALUES: Final = b"DIDL\0\0"
"""The Candid message without values."""

Argument = bytes | str | tuple[Any, ...]
"""Of init and post-upgrade hooks: the bytes, Candid text, or values for the types that the module names."""


@final
class ArgumentMissingError(ValueError):
    """A module takes arguments, and none was given.

    Args:
        message: that says so.
        wanted: their types, in Candid.
    """

    def __init__(self, message: str, wanted: str) -> None:
        super().__init__(message)
        self.wanted = wanted


def has_interface(module: CanisterModule | None) -> bool:
    """Whether a module says which methods it has."""
    return next(said_interfaces(module, None), None) is not None


def must_be_asked(module: CanisterModule | None) -> bool:
    """Whether a module's interface is known to its code alone."""
    methods = module.exported_methods if module is not None else frozenset()
    return f"canister_query {_CANDID_METHOD}" in methods and not has_interface(module)


def said_interfaces(
    module: CanisterModule | None, known: Known | None, query: Callable[[str, bytes], bytes] | None = None
) -> Iterator[tuple[str | bytes, Known]]:
    """Every interface that a canister has, the one that goes first first: unread, and as what is known of it.

    What somebody gave for this very module, then what that says: in sections, by a function; what is known otherwise
    is for modules that say nothing. Last comes the answer to a `query`, which the Rust CDK gave modules a method for
    before they had the section.
    """
    sections: Mapping[str, bytes] = module.custom_sections if module is not None else {}
    if known is not None and module is not None and known.module_hash == module.module_hash.hex():
        yield known.text, known
        known = None
    for name in SERVICE_SECTIONS:
        if name in sections:
            yield sections[name], Known("", source=f"{OWN}section {name}")
    if module is not None and (text := exported_interface(module)):
        yield text, Known(text, source=f"{OWN}function {EXPORT}")
    if known is not None:
        yield known.text, known
    elif query is not None and must_be_asked(module):
        (answer,) = decode(query(_CANDID_METHOD, NO_VALUES), (Text,))
        yield str(answer), Known(str(answer), source="the text that was given")


def known_interface(
    what: str,
    module: CanisterModule | None,
    known: Known | None,
    *,
    args: str | bytes | None = None,
    query: Callable[[str, bytes], bytes] | None = None,
) -> tuple[Known, ServiceType] | None:
    """The first of a canister's interfaces that can be read; `None`: it has none. Others before it are warned of.

    Raises:
        MalformedError: what it has is no Candid, all of it. `what` says whose it is.
    """
    damaged: list[tuple[str, MalformedError]] = []
    for text, one in said_interfaces(module, known, query):
        try:
            loader = one.load if one.file else None
            service = replace(load_service(text, args=args, loader=loader, file=one.file), source=one.source)
        except MalformedError as error:
            damaged.append((one.source, error))
            continue
        for source, fault in damaged:
            _warn(f"{what}: {source} cannot be read, {one.source} is taken in its place: {fault}")
        return replace(one, text=text if isinstance(text, str) else text.decode()), service
    for _, fault in damaged:
        raise MalformedError(f"the interface of {what}: {fault.message}", fault.offset) from fault
    return None


@lru_cache(maxsize=64)
def _warn(text: str) -> None:
    """Warn of it once, though each look at the canister finds it."""
    _LOG.warning("%s", text)


def service_of(
    what: str,
    module: CanisterModule | None,
    candid: str | os.PathLike[str] | Known | None = None,
    args: str | bytes | None = None,
    query: Callable[[str, bytes], bytes] | None = None,
) -> ServiceType:
    """The interface of a module, or of a ``.did`` file, given by its path (so that it may import others) or its text.

    Args:
        what: whose it is, for errors.
        module: as far as there is one here.
        candid: a file or text that somebody names now, which goes before all; or what is known of the canister.
        args: the types of init arguments, of a module that is elsewhere.
        query: calls the canister, where nobody else says the interface.

    Raises:
        UnsupportedError: there is none.
        MalformedError: it is no Candid. `what` says whose it is.
        OSError: the file cannot be read.
    """
    own = args_of(module)
    args = args if own is None else own
    if candid is None or isinstance(candid, Known):
        found = known_interface(what, module, candid, args=args, query=query)
        if found is None:
            raise UnsupportedError(
                f"{what} does not say its interface: it has no section candid:service and exports no {EXPORT}; pass "
                "candid='service.did'"
            ).coded("no-interface")
        return found[1]
    loader, file, interface, source = None, "", str(candid), "the text that was given"
    try:
        if not _is_did(candid):
            loader, (file, interface) = load_file, load_file(os.fspath(candid), "")
            source = f"{file}, which was given"
        return replace(load_service(interface, args=args, loader=loader, file=file), source=source)
    except MalformedError as error:
        raise MalformedError(f"the interface of {what}: {error.message}", error.offset) from error


def _init_types(what: str, module: CanisterModule, known: Known | None) -> tuple[Type, ...] | None:
    """Of the init arguments, as far as anybody says; one whose interface is damaged runs all the same."""
    try:
        found = known_interface(what, module, known, args=args_of(module))
        return None if found is None else found[1].init
    except MalformedError:
        return None


def args_of(module: CanisterModule | None) -> bytes | None:
    """The types of init arguments that a module names."""
    sections: Mapping[str, bytes] = module.custom_sections if module is not None else {}
    return next((sections[name] for name in ARGS_SECTIONS if name in sections), None)


def _is_did(candid: str | os.PathLike[str]) -> bool:
    """Whether it is an interface's text rather than a path."""
    return isinstance(candid, str) and ":" in candid


def init_argument(
    what: str,
    module: CanisterModule | None,
    arg: Argument | None,
    *,
    is_upgrade: bool = False,
    known: Known | None = None,
) -> bytes:
    """The bytes of an init argument, of the types that the module names; a text suggests types where it names none.

    An interface that is `known` beside the module says them where that does not.

    Without one it is ``()``, as it is without a module, which the rules are to refuse in their words. At an upgrade
    also where the module names types: they are those of its init function, and not every upgrade takes them.

    Raises:
        UnsupportedError: values for a module that names no types.
        MalformedError: a text that is no Candid, or not of these types.
        ValueError: values that are not of these types, or none where the module takes some.
        TypeError: none of all that.
    """
    if isinstance(arg, bytes):
        return arg
    given: object = arg  # whatever its annotation says
    if not isinstance(given, str | tuple | None):
        wanted = "a tuple of values, their text in Candid, or their bytes"
        raise TypeError(f"an init argument is {wanted}, found {arg!r:.60}: one value is written ({arg!r:.60},)")
    if module is None:
        return NO_VALUES
    if arg is None:
        needed = () if is_upgrade else _init_types(what, module, known) or ()
        if not all(map(is_nullable, needed)):
            listed = ", ".join(brief(resolve(one)) for one in needed)
            error = ArgumentMissingError(f"{what} takes ({listed}), and no argument was given", f"({listed})")
            error.add_note(
                "in Python a tuple of values, or their text: install(module, (5,)), canister(name, args=(5,))"
            )
            raise error
        return NO_VALUES
    if isinstance(arg, tuple):
        return service_of(what, module, known).encode_init(arg)
    found = known_interface(what, module, known, args=args_of(module))
    return encode(*parse_values(arg, None if found is None else found[1].init))
