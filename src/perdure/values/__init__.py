"""How bytes become values: one protocol, `Format`, for structures, ``stable.yaml``, SQL, exports and Python canisters.

```
name in stable.yaml ─codec─▶ Format ─decode▶ value ─to_json, to_sql▶ what is shown
annotation ─Annotations─▶ StorableType    your own object ─as_format─▶ Format
```

A format is a type of a stable structure (`perdure.stable.types.StorableType`) that also says what *kind* its values are
(`Kind`), so that nobody tells formats apart by their names. To add one: a class in a file of its own, and its name in
the table of `codec`. One of your own needs neither: pass the object, see `Format`.
"""

from perdure.stable.kind import Kind
from perdure.values.codec import RAW, codec
from perdure.values.declared import kept_as
from perdure.values.format import Format, as_format
from perdure.values.schema import MemorySchema, Schema, dump_schema, load_schema, parse_schema
from perdure.values.show import to_json, to_sql, to_text

__all__ = [
    "RAW",
    "Format",
    "Kind",
    "MemorySchema",
    "Schema",
    "as_format",
    "codec",
    "dump_schema",
    "kept_as",
    "load_schema",
    "parse_schema",
    "to_json",
    "to_sql",
    "to_text",
]
