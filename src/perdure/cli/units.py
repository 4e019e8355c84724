"""Sizes, cycles and durations as types of options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, final

import click

from perdure import units

if TYPE_CHECKING:
    _IntegerType = click.ParamType[int]
else:
    _IntegerType = click.ParamType  # not generic before click 8.2

__all__ = ["CYCLES", "DURATION", "SIZE"]


@final
class _Amount(_IntegerType):
    """A number with a unit.

    Args:
        name: of the type, in help.
        known: units by name, see `units.parse_amount`.
        bits: that an amount has at most.
    """

    def __init__(self, name: str, known: Mapping[str, int], bits: int = 64) -> None:
        self.name = name
        self._known = known
        self._bits = bits

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The amount as an integer."""
        if isinstance(value, int):
            return value
        try:
            amount = units.parse_amount(str(value), self._known)
        except ValueError as error:
            self.fail(f"{error}", param, ctx)
        if amount >> self._bits:
            self.fail(f"{value!r:.60} is more than 2^{self._bits}-1, the most that there can be", param, ctx)
        return amount


SIZE: Final = _Amount("size", units.SIZES)
CYCLES: Final = _Amount("cycles", units.CYCLES, bits=128)
DURATION: Final = _Amount("duration", units.DURATIONS)
