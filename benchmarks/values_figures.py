"""Figures of values in stable memory: 250,000 Candid records of a map, as a Rust program writes them, exported.

Usage: values_figures.py [--quick] [--json]
"""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

from figures import Table, best_ns, main
from perdure.candid import Codec, parse_type
from perdure.ic.principal import Principal
from perdure.inspection.export import export_parquet, export_sqlite
from perdure.inspection.find import find, name_structures
from perdure.inspection.open import open_source
from perdure.inspection.rows import open_table
from perdure.memory import BytesMemory
from perdure.stable import StableBTreeMap, types
from perdure.values.schema import parse_schema

ENTRIES = 250_000
SCHEMA = 'memories: {"page:0": {name: users, kind: btreemap, key: u64, value: candid}}'
USER = """record {
    id : nat64; name : text; owner : principal; balance : nat; tags : vec text; active : bool; note : opt text
}"""


def write_users(path: Path) -> None:
    """A map of u64 to ``Encode!``-ed records of seven fields."""
    codec = Codec([parse_type(USER)])

    def user(number: int) -> bytes:
        return codec.encode(
            [
                {
                    "id": number,
                    "name": f"user {number}",
                    "owner": Principal(number.to_bytes(28, "big") + b"\x02"),
                    "balance": number * 1_000_003,
                    "tags": ["a", "b"][: number % 3],
                    "active": number % 2 == 0,
                    "note": None if number % 5 else "a note",
                }
            ]
        )

    memory = BytesMemory()
    StableBTreeMap.create(memory, types.u64, types.raw).bulk_load((number, user(number)) for number in range(ENTRIES))
    path.write_bytes(memory.data)


def measure(quick: bool) -> Table:
    """Measure both exports of one structure."""
    rounds = 1 if quick else 3
    table = Table("values_figures")
    schema = parse_schema(SCHEMA)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_users(directory / "users.bin")
        gc.collect()
        with open_source(str(directory / "users.bin")) as source:
            (structure,) = name_structures(find(source), schema).structures

            def to_parquet() -> None:
                (directory / "users.parquet").unlink(missing_ok=True)
                assert export_parquet(open_table(structure, schema), directory / "users.parquet") == ENTRIES

            def to_sqlite() -> None:
                (directory / "users.db").unlink(missing_ok=True)
                rows = export_sqlite([open_table(structure, schema)], directory / "users.db")
                assert rows == {"users": ENTRIES}

            what = f"{ENTRIES:,} Candid records of a Rust map"
            table.add(f"{what}: to Parquet", best_ns(to_parquet, rounds) / 1e9, "s", 3)
            table.add(f"{what}: to SQLite", best_ns(to_sqlite, rounds) / 1e9, "s", 5)
            table.add("the same, Parquet file", (directory / "users.parquet").stat().st_size / 1e6, "MB")
    return table


if __name__ == "__main__":
    main(measure)
