"""Find, decode, list, query, compare and check the structures in any stable memory.

```
open_source ──Source──▶ find ──Inventory──▶ open_table ──Rows──▶ rows, connect (SQL), export_*
                          │                                  stable.yaml: load_schema, draft
                          ├──▶ fsck (findings)   ├──▶ diff (changes by key)   └──▶ occupancy, to_svg
```

`find_in_memory` looks at any `Memory`, a running canister's too. What needs NumPy, pyarrow or apsw is in modules of its
own (`fsck`, `diff`, `export`, `sql`), imported when it is used.
"""

from perdure.inspection.find import Inventory, Structure, find, find_in_memory, name_structures
from perdure.inspection.open import open_source
from perdure.inspection.rows import Bound, Rows, open_table
from perdure.inspection.rows import Rows as Table
from perdure.inspection.source import Source
from perdure.inspection.sqlite import open_sqlite
from perdure.inspection.sqlite_pages import explain_pages
from perdure.reading_sql import Limits
from perdure.values import Format, MemorySchema, Schema, codec, load_schema, parse_schema
from perdure.values import Format as Codec

__all__ = [
    "Bound",
    "Codec",
    "Format",
    "Inventory",
    "Limits",
    "MemorySchema",
    "Rows",
    "Schema",
    "Source",
    "Structure",
    "Table",
    "codec",
    "explain_pages",
    "find",
    "find_in_memory",
    "load_schema",
    "name_structures",
    "open_source",
    "open_sqlite",
    "open_table",
    "parse_schema",
]
