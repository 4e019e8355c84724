"""The same as `perdure.values`, where formats are now."""

from perdure.values import RAW, codec, to_json, to_sql
from perdure.values import Format as Codec

__all__ = ["RAW", "Codec", "codec", "to_json", "to_sql"]
