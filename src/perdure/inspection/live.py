"""The tables in the memory of a live canister, as they stand."""

from __future__ import annotations

from typing import Any

from perdure.errors import UnsupportedError
from perdure.inspection.find import find, name_structures
from perdure.inspection.labels import ModuleLabels
from perdure.inspection.looking import Looked, Tables
from perdure.inspection.motoko import stable_variables
from perdure.inspection.source import Source
from perdure.inspection.sql import open_tables
from perdure.inspection.sqlite import databases, open_database
from perdure.inspection.variables import NO_VARIABLES, Variables
from perdure.subnet.memories import LiveMemory

__all__ = ["tables_of"]


def tables_of(memory: LiveMemory) -> Tables:
    """Structures, tables of SQLite databases and Motoko's stable variables in a memory.

    Names are those that a catalogue of data models or a class in Python gives, else ``memory_`` and the label. Rows are
    read when they are asked for: whoever goes on calling the canister asks for its tables anew.

    Raises:
        RejectError: Motoko's pre-upgrade hook traps.
    """
    canister: Any = memory._owner
    module = canister.module
    labels = ModuleLabels(
        lambda: None if module is None else module.wasm, lambda: canister._subnet._interfaces.of(canister._raw_id)
    )
    variables = NO_VARIABLES
    if memory.kind.name == "stable":
        variables = Variables(labels.stable_types, lambda _: stable_variables(canister))
    source = Source(f"{memory.kind.name} memory of {canister.id}", memory, labels=labels, variables=variables)
    schema = source.declared()
    inventory = name_structures(find(source), schema)
    found, reasons = open_tables(inventory, schema)
    tables: list[Looked] = [*found, *variables.tables()]
    for structure in databases(inventory):
        try:
            tables += open_database(structure).tables(("table", "virtual"))
        except UnsupportedError as error:  # apsw is not here
            reasons.append(str(error))
    return Tables(source.label, tables, reasons)
