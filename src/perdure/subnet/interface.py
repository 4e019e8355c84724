"""What a module says of its Candid interface, and init arguments for it."""

from __future__ import annotations

from typing import Any, Final

from perdure.candid import encode, parse_values
from perdure.candid.service import ServiceType
from perdure.candid.service import load as load_service
from perdure.canister import CanisterModule
from perdure.errors import MalformedError, UnsupportedError

__all__ = ["NO_VALUES", "Argument", "has_interface", "init_argument", "service_of"]

SERVICE_SECTIONS: Final = ("icp:public candid:service", "icp:private candid:service")
ARGS_SECTIONS: Final = ("icp:public candid:args", "icp:private candid:args")
NO_VALUES: Final = b"DIDL\0\0"
"""The Candid message without values."""

Argument = bytes | str | tuple[Any, ...]
"""Of init and post-upgrade hooks: the bytes, Candid text, or values for the types that the module names."""


def has_interface(module: CanisterModule | None) -> bool:
    """Whether a module says which methods it has."""
    return module is not None and any(name in module.custom_sections for name in SERVICE_SECTIONS)


def service_of(what: str, module: CanisterModule | None, text: str | None = None) -> ServiceType:
    """The interface of a module, or of a ``.did`` file's `text`.

    Raises:
        UnsupportedError: there is none.
        MalformedError: it is no Candid. `what` says whose it is.
    """
    sections = module.custom_sections if module is not None else {}
    args = next((sections[name] for name in ARGS_SECTIONS if name in sections), None)
    interface = text or next((sections[name] for name in SERVICE_SECTIONS if name in sections), None)
    if interface is None:
        raise UnsupportedError(f"{what} has no section candid:service: pass candid='service.did'")
    try:
        return load_service(interface, args=args)
    except MalformedError as error:
        raise MalformedError(f"the interface of {what}: {error.message}", error.offset) from error


def init_argument(what: str, module: CanisterModule, arg: Argument) -> bytes:
    """The bytes of an init argument, of the types that the module names; a text suggests types where it names none.

    Raises:
        UnsupportedError: values for a module that names no types.
        MalformedError: a text that is no Candid, or not of these types.
        ValueError: values that are not of these types.
    """
    if isinstance(arg, tuple):
        return service_of(what, module).encode_init(arg)
    if isinstance(arg, str):
        types = service_of(what, module).init if has_interface(module) else None
        return encode(*parse_values(arg, types))
    return arg
