"""What a page is about: a canister that runs, or a memory alone; and the structures in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple, final

from perdure.errors import MalformedError, PerdureError
from perdure.inspection.find import Inventory, find, name_structures
from perdure.inspection.labels import ModuleLabels
from perdure.inspection.source import Source
from perdure.inspection.variables import Variables
from perdure.reading_sql import bound_heap
from perdure.subnet.subnet import Canister
from perdure.values.schema import Schema

__all__ = ["Contents", "contents_of"]

_GATHERING_INSTRUCTIONS: Final = 1_000_000_000
"""For a hook that gathers Motoko's variables, whoever wrote it: seconds."""
_SQL_HEAP_BYTES: Final = 512 << 20
"""What SQLite may take of this process: a view of a canister's database may ask for rows of many gigabytes."""


@final
class Contents(NamedTuple):
    """The structures of a stable memory, and what is declared of them."""

    inventory: Inventory
    schema: Schema | None


def _source_of(canister: Canister) -> Source:
    """A canister's stable memory as it stands.

    Each read is of one state; a message that comes between two of them may be in one and not in the other.
    """
    from perdure.inspection.motoko import reader

    module = canister.module
    labels = ModuleLabels(
        lambda: module.wasm if module is not None else None, lambda: canister._subnet._interfaces.of(canister._raw_id)
    )
    variables = Variables(labels.stable_types, lambda _: reader(canister, _GATHERING_INSTRUCTIONS)())
    return Source(str(canister.id), canister.stable, labels=labels, variables=variables)


@contextmanager
def contents_of(subject: Canister | Source) -> Iterator[Contents]:
    """What is in the stable memory of a subject.

    Raises:
        MalformedError: the memory is damaged, or changes while it is looked at.
    """
    bound_heap(_SQL_HEAP_BYTES)
    if isinstance(subject, Source):
        yield _contents(subject)
        return
    with _source_of(subject) as source:
        yield _contents(source)


def _contents(source: Source) -> Contents:
    schema = source.declared()
    return Contents(name_structures(find(source), schema), schema)


def trouble(error: Exception) -> str:
    """What to say of what could not be read."""
    if isinstance(error, MalformedError):
        return f"damaged, or changing at the moment: {error}"
    return str(error) if isinstance(error, PerdureError | ValueError | KeyError) else f"{type(error).__name__}: {error}"
