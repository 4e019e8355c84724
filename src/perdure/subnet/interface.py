"""What a module says of its Candid interface, and init arguments for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
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
    "asked_interface",
    "chosen",
    "has_interface",
    "init_argument",
    "interface_of",
    "must_be_asked",
    "service_of",
]

SERVICE_SECTIONS: Final = ("icp:public candid:service", "icp:private candid:service")
ARGS_SECTIONS: Final = ("icp:public candid:args", "icp:private candid:args")
_CANDID_METHOD: Final = "__get_candid_interface_tmp_hack"
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
    return interface_of(module)[0] is not None


def interface_of(module: CanisterModule | None) -> tuple[str | bytes | None, str]:
    """The interface that a module says, unread, and where it says it; `None` where it says none."""
    if module is None:
        return None, ""
    for name in SERVICE_SECTIONS:
        if name in module.custom_sections:
            return module.custom_sections[name], f"{OWN}section {name}"
    return exported_interface(module) or None, f"{OWN}function {EXPORT}"


def must_be_asked(module: CanisterModule | None) -> bool:
    """Whether a module's interface is known to its code alone."""
    methods = module.exported_methods if module is not None else frozenset()
    return f"canister_query {_CANDID_METHOD}" in methods and not has_interface(module)


def asked_interface(module: CanisterModule | None, query: Callable[[str, bytes], bytes]) -> str | None:
    """What a canister answers that is asked for its interface; `None`: its module says it, or nobody knows.

    Before modules had the section, the Rust CDK gave them this method.
    """
    if not must_be_asked(module):
        return None
    (text,) = decode(query(_CANDID_METHOD, NO_VALUES), (Text,))
    return str(text)


def service_of(
    what: str,
    module: CanisterModule | None,
    candid: str | os.PathLike[str] | Known | None = None,
    args: str | bytes | None = None,
) -> ServiceType:
    """The interface of a module, or of a ``.did`` file, given by its path (so that it may import others) or its text.

    `args`: the types of init arguments, of a module that is elsewhere.

    Raises:
        UnsupportedError: there is none.
        MalformedError: it is no Candid. `what` says whose it is.
        OSError: the file cannot be read.
    """
    sections = module.custom_sections if module is not None else {}
    args = next((sections[name] for name in ARGS_SECTIONS if name in sections), args)
    interface: str | bytes | None
    loader, file, source = None, "", "the text that was given"
    if isinstance(candid, Known):
        loader, file, interface, source = candid.load if candid.file else None, candid.file, candid.text, candid.source
    elif candid is not None and not _is_did(candid):
        loader, (file, interface) = load_file, load_file(os.fspath(candid), "")
        source = f"{file}, which was given"
    elif candid is not None:
        interface = str(candid)
    else:
        interface, source = interface_of(module)
    if interface is None:
        raise UnsupportedError(
            f"{what} does not say its interface: it has no section candid:service and exports no {EXPORT}; pass "
            "candid='service.did'"
        ).coded("no-interface")
    try:
        return replace(load_service(interface, args=args, loader=loader, file=file), source=source)
    except MalformedError as error:
        raise MalformedError(f"the interface of {what}: {error.message}", error.offset) from error


def chosen(known: Known | None, module: CanisterModule | None) -> Known | None:
    """What is remembered of a canister, where that goes before what its module says, or that says nothing."""
    if known is None or module is None:
        return known
    return known if known.module_hash == module.module_hash.hex() or not has_interface(module) else None


def _init_types(what: str, module: CanisterModule, known: Known | None) -> tuple[Type, ...] | None:
    """Of the init arguments, as far as anybody says; one whose interface is damaged runs all the same."""
    try:
        return service_of(what, module, known).init if known is not None or has_interface(module) else None
    except MalformedError:
        return None


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
        needed = () if is_upgrade else _init_types(what, module, chosen(known, module)) or ()
        if not all(map(is_nullable, needed)):
            listed = ", ".join(brief(resolve(one)) for one in needed)
            raise ArgumentMissingError(f"{what} takes ({listed}), and no argument was given", f"({listed})")
        return NO_VALUES
    if isinstance(arg, tuple):
        return service_of(what, module, chosen(known, module)).encode_init(arg)
    known = chosen(known, module)
    types = service_of(what, module, known).init if known is not None or has_interface(module) else None
    return encode(*parse_values(arg, types))
