"""What a module says of the bytes that its canister keeps.

Names of Candid fields, out of its interface: messages have only their numbers, hashes of the names. And its stable
variables, if it is a class in Python.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Final, final

from perdure.errors import PerdureError

if TYPE_CHECKING:
    from perdure.candid.did import Program
    from perdure.subnet.interfaces import Known
    from perdure.values.schema import Schema
    from perdure.wasm import Module

__all__ = ["ModuleLabels", "labels_of"]

_STABLE_TYPES: Final = "motoko:stable-types"
_MAX_MODULE_BYTES: Final = 128 << 20
_METHODS: Final = ("canister_update ", "canister_query ", "canister_composite_query ")
_SECTIONS: Final = ("icp:public candid:service", "icp:private candid:service")


@final
class ModuleLabels(Mapping[int, str]):
    """The names in the interface of a module, which is read when one is first asked for.

    It is in a section of the module, or what somebody gave for it; else the module exports it as a function, which runs
    apart (`perdure.subnet.exported_interface`).

    Args:
        read: gives the module, gzipped or not; ``None`` where there is none. Whatever is wrong with it, there are no
            names then: they are a help for reading, not a part of the data.
        given: gives the interface that is known beside the module; ``None`` where there is none.
    """

    def __init__(self, read: Callable[[], bytes | None], given: Callable[[], Known | None] = lambda: None) -> None:
        self._read = read
        self._given = given

    @cached_property
    def _module(self) -> Module | None:
        from perdure.wasm import decode  # only when a name is asked for: every source has labels

        try:
            data = self._read()
            return decode(data) if data else None
        except (PerdureError, OSError):
            return None

    @cached_property
    def _interfaces(self) -> tuple[Program, ...]:
        """All that can be read: a name has its number whoever says it."""
        module = self._module
        sections = () if module is None else filter(None, map(module.custom, _SECTIONS))
        said = [_parsed(text) for text in sections]
        try:
            given = self._given()
            said += [] if given is None else [_parsed(given.text, given)]
        except (PerdureError, OSError):
            pass  # as with a damaged module
        return tuple(filter(None, said if any(said) else [self._exported()]))

    def _exported(self) -> Program | None:
        module = self._module
        if module is None or "get_candid_pointer" not in module.exported_functions:
            return None
        from perdure.subnet.exported_interface import interface_in  # it runs code, of few modules

        try:
            return _parsed(interface_in(self._read() or b""))
        except (PerdureError, OSError):
            return None

    @cached_property
    def _labels(self) -> dict[int, str]:
        return {number: name for one in self._interfaces for number, name in _labels_in(one).items()}

    def methods(self) -> frozenset[str]:
        """The methods by name: those that are exported, of a canister in Python those of its interface."""
        exports = () if self._module is None else self._module.exports
        found = frozenset(one.name.partition(" ")[2] for one in exports if one.name.startswith(_METHODS))
        if found:
            return found
        services = (one.service for one in self._interfaces)
        return frozenset(method.name for service in services if service is not None for method in service.methods)

    def stable_types(self) -> str | None:
        """Motoko's stable types, in the text of ``.most`` files; ``None``: all but Motoko's modules say none."""
        data = self._read() or b""
        if data.startswith(b"\x1f\x8b"):
            data = zlib.decompressobj(31).decompress(data, _MAX_MODULE_BYTES)
        if _STABLE_TYPES.encode() not in data:
            return None
        from perdure.wasm import decode  # the text is there: this is one of the few modules to take apart

        found = (one.data for one in decode(data).custom_sections if one.name.endswith(_STABLE_TYPES))
        return next((text.decode("utf-8", "replace") for text in found), None)

    def declared(self) -> Schema | None:
        """What the module itself declares of stable memory; ``None``: nothing, as all but canisters in Python."""
        from perdure.python import blank  # most sources are looked at by people who have no such canister

        try:
            found = blank.read(self._read() or b"")
            if found is None or not found.schema:
                return None
            from perdure.python.variables import Schema as Declarations

            return Declarations.decode(found.schema).memories()
        except (PerdureError, OSError):
            return None

    def __getitem__(self, number: int) -> str:
        return self._labels[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._labels)

    def __len__(self) -> int:
        return len(self._labels)


def labels_of(interface: str) -> dict[int, str]:
    """The name of every field of every type in a ``.did`` file, by number.

    Raises:
        MalformedError: it is no Candid.
    """
    from perdure.candid import parse

    return _labels_in(parse(interface))


def _parsed(interface: str | bytes, given: Known | None = None) -> Program | None:
    from perdure.candid import parse

    try:
        text = interface if isinstance(interface, str) else interface.decode()
        return parse(text) if given is None or not given.file else parse(text, given.load, given.file)
    except (PerdureError, UnicodeDecodeError):
        return None


def _labels_in(program: Program) -> dict[int, str]:
    from perdure.candid.types import Record, Type, Variant, children

    pending: list[Type] = [*program.types.values(), *(program.init or ())]
    pending += [] if program.service is None else [program.service]
    seen: set[int] = set()
    found: dict[int, str] = {}
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        definition = getattr(one, "type", None)  # of a name
        if definition is not None:
            pending.append(definition)
            continue
        if isinstance(one, Record | Variant):
            found.update({part.id: part.name for part in one.fields if part.name is not None})
        pending.extend(children(one))
    return found
