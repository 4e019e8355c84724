"""Backtraces as people read them: names demangled, and the lines that debug sections have for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

from perdure.embedder.code import NOWHERE, Site
from perdure.embedder.rust_names import demangled

if TYPE_CHECKING:
    from perdure.instrument import Options

__all__ = ["Lines", "readable"]


def readable(symbol: str) -> str:
    """A function's name as its author wrote it, in Rust or C++; else unchanged.

    Linkers number symbols of one name: ``_ZN3foo3barE.12``.
    """
    found = demangled(symbol)
    if found == symbol and symbol.startswith("_"):
        found = demangled(_NUMBER.sub("", symbol))
    if not found.startswith("_Z"):
        return found
    from perdure.embedder.cpp_names import demangled_cpp

    return demangled_cpp(symbol)


_NUMBER: Final = re.compile(r"\.\d+$")


@final
class Lines:
    """The lines of one module. Making it instruments the module again, which nothing that runs has to wait for.

    Args:
        wasm: as uploaded.
        options: which passes it has gone through.
    """

    def __init__(self, wasm: bytes, options: Options) -> None:
        from perdure.instrument import instrument
        from perdure.instrument.origins import Origins
        from perdure.wasm import decode
        from perdure.wasm.dwarf import module_lines

        module = decode(wasm)
        self._imported = module.imported_function_count
        self._table, self._addresses = module_lines(module)
        self._origins = Origins(module, instrument(module, options)) if len(self._table) else None
        self.warning = self._table.warning
        """What the debug sections have wrong; told once behind each backtrace."""

    def at(self, site: Site) -> tuple[str, int] | None:
        """File and line; `None`: not known."""
        if self._origins is None or site.offset == NOWHERE:
            return None
        offset = self._origins.offset(site.function, site.offset)
        return None if offset is None else self._table.at(self._addresses[site.function - self._imported] + offset)

    def located(self, sites: Sequence[Site]) -> tuple[str, ...]:
        """Names with ``(file:line)``, where that is known."""
        found = []
        for site in sites:
            name, place = readable(site.symbol) or f"wasm-function[{site.function}]", self.at(site)
            found.append(name if place is None else f"{name} ({place[0]}:{place[1]})")
        return tuple(found) if not self.warning else (*found, f"note: {self.warning}")
