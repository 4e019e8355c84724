"""Candid: types, `.did` files, messages, text form, subtyping. How values look in Python: see ``types``."""

from perdure.candid.codec import Codec, codec, decode, decode_with_types, encode
from perdure.candid.did import Loader, Program, parse, parse_type, parse_types
from perdure.candid.errors import CoercionError
from perdure.candid.printing import value_to_text, values_to_text
from perdure.candid.subtyping import Incompatibility, equal_types, explain, service_subtype, subtype
from perdure.candid.text import parse_values
from perdure.candid.types import MethodRef, Some, Type, field_hash

__all__ = [
    "Codec",
    "CoercionError",
    "Incompatibility",
    "Loader",
    "MethodRef",
    "Program",
    "Some",
    "Type",
    "codec",
    "decode",
    "decode_with_types",
    "encode",
    "equal_types",
    "explain",
    "field_hash",
    "parse",
    "parse_type",
    "parse_types",
    "parse_values",
    "service_subtype",
    "subtype",
    "value_to_text",
    "values_to_text",
]
