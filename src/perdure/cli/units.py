"""Sizes, cycles and durations as people write and read them: ``1.5 MiB``, ``2t``, ``30d``, ``2_000_000``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Final, final

import click

if TYPE_CHECKING:
    _IntegerType = click.ParamType[int]
else:
    _IntegerType = click.ParamType  # not generic before click 8.2

__all__ = ["CYCLES", "DURATION", "SIZE", "show_bytes", "show_cycles"]

_NUMBER: Final = re.compile(r"([0-9][0-9_]*(?:\.[0-9_]+)?)\s*([a-z]*)", re.IGNORECASE)


@final
class _Amount(_IntegerType):
    """A number with a unit.

    Args:
        name: of the type, in help.
        units: by name, in lower case; the empty name is what a bare number means.
    """

    def __init__(self, name: str, units: Mapping[str, int]) -> None:
        self.name = name
        self._units = units

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The amount as an integer."""
        if isinstance(value, int):
            return value
        text = str(value).strip()
        found = _NUMBER.fullmatch(text)
        unit = found.group(2).lower() if found else ""
        if found is None or unit not in self._units:
            known = ", ".join(filter(None, self._units))
            self.fail(f"{text!r} is no {self.name}: a number, and one of {known}", param, ctx)
        amount = Decimal(found.group(1).replace("_", "")) * self._units[unit]
        if amount != amount.to_integral_value():
            self.fail(f"{text!r} is not a whole number of the smallest unit", param, ctx)
        return int(amount)


SIZE: Final = _Amount(
    "size",
    {
        "": 1,
        "b": 1,
        **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
        **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
    },
)
CYCLES: Final = _Amount("cycles", {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12})
DURATION: Final = _Amount("duration", {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800})
"""In seconds."""


def show_bytes(size_bytes: int) -> str:
    """A size in the largest binary unit that it has one of."""
    value = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{size_bytes} byte{'s' * (size_bytes != 1)}" if unit == "bytes" else f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"


def show_cycles(cycles: int) -> str:
    """Cycles in trillions, billions or millions, where there are so many."""
    for letter, unit in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if cycles >= unit:
            return f"{cycles / unit:.4f}".rstrip("0").rstrip(".") + f" {letter}"
    return str(cycles)
