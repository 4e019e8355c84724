"""An opened stable memory, and what is known of the files behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, final

from perdure.errors import PerdureError
from perdure.inspection.labels import ModuleLabels
from perdure.inspection.variables import NO_VARIABLES, Variables
from perdure.memory import WASM_PAGE_BYTES, Memory

if TYPE_CHECKING:
    from perdure.values.schema import Schema

__all__ = ["Extent", "Layer", "Source"]

Extent = tuple[int, int]
"""First address and end of bytes that are perhaps not zero."""


class Layer(NamedTuple):
    """A run of a memory that is a piece of a file. Equal pieces of one file hold equal bytes.

    Attributes:
        address: in the memory.
        size_bytes: of the run.
        file: whatever names the file and its content.
        offset: where the run begins in the file.
    """

    address: int
    size_bytes: int
    file: tuple[int, ...]
    offset: int


@final
class Source(AbstractContextManager["Source"]):
    """An opened stable memory.

    Args:
        label: what a person called it.
        memory: the bytes.
        extents: where bytes are that may differ from zero; ascending, not overlapping.
        layers: the files behind the memory, ascending; none where that is not known.
        labels: names of Candid fields by number, out of the module that the memory belongs to.
        on_close: releases what was opened.
        variables: Motoko's stable variables.
    """

    def __init__(
        self,
        label: str,
        memory: Memory,
        extents: list[Extent] | None = None,
        layers: Sequence[Layer] = (),
        on_close: Callable[[], None] | None = None,
        labels: Mapping[int, str] | None = None,
        variables: Variables = NO_VARIABLES,
    ) -> None:
        self.label = label
        self.memory = memory
        self.extents = extents if extents is not None else [(0, memory.size() * WASM_PAGE_BYTES)]
        self.layers = tuple(layers)
        self.labels: Mapping[int, str] = {} if labels is None else labels
        self.variables = variables
        self._on_close = on_close

    def close(self) -> None:
        """Release the file."""
        if self._on_close is not None:
            self._on_close()
            self._on_close = None

    def __exit__(self, *error: object) -> None:
        self.close()

    def declared(self) -> Schema | None:
        """What is declared of this memory: by a class in Python, and by the catalogue of data models in it.

        A ``stable.yaml`` comes first.
        """
        from perdure.data.store import read_catalogue  # most sources have a schema, or no catalogue

        by_code = self.labels.declared() if isinstance(self.labels, ModuleLabels) else None
        try:
            catalogue = read_catalogue(self.memory)
        except PerdureError:  # `fsck` says so; what is there is listed all the same
            catalogue = None
        if catalogue is None:
            return by_code
        by_catalogue = catalogue.schema()
        return replace(by_catalogue, memories=(by_code.memories if by_code else {}) | by_catalogue.memories)

    def methods(self) -> frozenset[str]:
        """The methods of the canister, where its module is known."""
        return self.labels.methods() if isinstance(self.labels, ModuleLabels) else frozenset()

    def data_bytes(self) -> int:
        """Bytes that are not in a hole."""
        return sum(end - start for start, end in self.extents)
