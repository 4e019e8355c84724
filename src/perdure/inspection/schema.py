"""The same as `perdure.values.schema`, where ``stable.yaml`` is now, and the names that it gives to structures."""

from perdure.inspection.find import name_structures
from perdure.values.schema import STATES, MemorySchema, Schema, dump_schema, load_schema, parse_schema

__all__ = ["STATES", "MemorySchema", "Schema", "dump_schema", "load_schema", "name_structures", "parse_schema"]
