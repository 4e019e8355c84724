"""What a module says of itself: exports, Candid, Motoko's stable types, the schema of its stable memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, final

from perdure.candid.service import ServiceMethod, ServiceType
from perdure.candid.types import Opt, Record, Type, Variant, Vec, resolve
from perdure.canister import CanisterModule
from perdure.errors import PerdureError
from perdure.inspection.motoko import PERSISTENCE_SECTION, STABLE_TYPES_SECTION, section
from perdure.subnet.interface import has_interface, service_of
from perdure.values.schema import Schema, embedded_schema

__all__ = ["PERSISTENCE_SECTION", "Version", "field_names", "is_private", "section"]

_PRIVATE: Final = ("__motoko_", "@motoko_", "<ic-cdk internal>", "__get_candid_interface_tmp_hack")
_CALLED: Final = ("canister_query ", "canister_composite_query ", "canister_update ")


def is_private(method: str) -> bool:
    """Whether a toolchain has put in a method for purposes of its own."""
    return method.startswith(_PRIVATE)


def field_names(service: ServiceType) -> frozenset[str]:
    """Names of all record fields in what a service replies."""
    found: set[str] = set()
    seen: set[int] = set()
    left: list[Type] = [one for method in service.methods.values() for one in method.func.results]
    while left:
        type_ = resolve(left.pop())
        if id(type_) in seen:
            continue
        seen.add(id(type_))
        if isinstance(type_, Record | Variant):
            found.update(str(one.label) for one in type_.fields if isinstance(type_, Record))
            left.extend(one.type for one in type_.fields)
        elif isinstance(type_, Opt):
            left.append(type_.content)
        elif isinstance(type_, Vec):
            left.append(type_.element)
    return frozenset(found)


@final
@dataclass(frozen=True)
class Version:
    """A module, the old one or the new one.

    Attributes:
        module: the code.
        declared: the schema that a person has given for it; before what its section says.
        candid: the interface that a person has given for it.
    """

    module: CanisterModule
    declared: Schema | None = None
    candid: str | None = field(default=None, repr=False)

    def check_given(self) -> None:
        """Read the interface that a person has given.

        Raises:
            MalformedError: it is none.
            OSError: its file cannot be read.
        """
        if self.candid is not None:
            service_of("the interface that was given", self.module, self.candid)

    @cached_property
    def service(self) -> ServiceType | None:
        """Its Candid interface, where it says one that can be read."""
        if self.candid is None and not has_interface(self.module):
            return None
        try:
            return service_of("the module", self.module, self.candid)
        except PerdureError:
            return None

    @cached_property
    def stable_types(self) -> str | None:
        """Motoko's stable types, in the text of ``.most`` files."""
        data = section(self.module, STABLE_TYPES_SECTION)
        return None if data is None else data.decode("utf-8", "replace")

    @cached_property
    def schema(self) -> Schema | None:
        """What its stable memory holds, where somebody says it.

        Raises:
            MalformedError: its section is no schema.
        """
        return self.declared if self.declared is not None else embedded_schema(self.module.custom_sections)

    @cached_property
    def methods(self) -> dict[str, str]:
        """The kind of each public method, by name: ``query``, ``composite_query`` or ``update``."""
        found = {}
        for export in sorted(self.module.exported_methods):
            for kind in _CALLED:
                if export.startswith(kind):
                    found[export.removeprefix(kind)] = kind.strip().removeprefix("canister_")
        return found

    def signature(self, method: str) -> ServiceMethod | None:
        """The Candid type of a method, where it is known."""
        return None if self.service is None else self.service.methods.get(method)

    @property
    def keeps_heap(self) -> bool:
        """Whether its heap passes through upgrades (Motoko's enhanced orthogonal persistence)."""
        return PERSISTENCE_SECTION in self.module.custom_sections

    def exports(self, name: str) -> bool:
        """Whether it has an entry point, a hook or a task."""
        return name in self.module.exported_methods
