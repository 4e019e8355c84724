"""What a value is, whatever bytes it is written in: enough to choose a column, an order, a way to type it in.

| name | Python has | parts |
|---|---|---|
| ``bytes`` ``text`` ``bool`` ``float`` ``principal`` | the same | |
| ``integer`` | int | `bits`, 0 where there is no bound; `is_signed` |
| ``unit`` | ``()`` or None | |
| ``option`` | the value or None | `parts`: the value |
| ``list`` | list | `parts`: an element |
| ``tuple`` | tuple | `parts` |
| ``record`` | dict of all | `parts` by `labels` |
| ``variant`` | dict of one | `parts` by `labels` |
| ``document`` | anything that JSON can show | |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

__all__ = ["BOOL", "BYTES", "DOCUMENT", "PRINCIPAL", "TEXT", "UNIT", "Kind", "integer", "kind_of", "option"]


@final
@dataclass(frozen=True, slots=True)
class Kind:
    """What a value is; the table above has the names."""

    name: str
    bits: int = 0
    is_signed: bool = False
    labels: tuple[str, ...] = ()
    parts: tuple[Kind, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the parts of a record; none of anything else."""
        return self.labels if self.name == "record" else ()

    def __str__(self) -> str:
        if self.name in ("integer", "float"):
            return f"{'' if self.is_signed or self.name == 'float' else 'unsigned '}{self.name} of {self.bits} bits"
        return self.name


BYTES: Final = Kind("bytes")
TEXT: Final = Kind("text")
BOOL: Final = Kind("bool")
PRINCIPAL: Final = Kind("principal")
UNIT: Final = Kind("unit")
DOCUMENT: Final = Kind("document")


def integer(bits: int, *, is_signed: bool = False) -> Kind:
    """An integer of so many bits, 0 for any number of them."""
    return Kind("integer", bits, is_signed)


def option(inner: Kind) -> Kind:
    """A value that may be missing."""
    return Kind("option", parts=(inner,))


def kind_of(storable: object) -> Kind:
    """The kind of a type; a document where it does not say one."""
    found = getattr(storable, "kind", None)
    return found if isinstance(found, Kind) else DOCUMENT
