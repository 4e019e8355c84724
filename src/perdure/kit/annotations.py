"""The same as `perdure.values.annotations`, where it is now."""

from perdure.values.annotations import (
    Annotations,
    Shape,
    float32,
    int8,
    int16,
    int32,
    int64,
    nat,
    nat8,
    nat16,
    nat32,
    nat64,
    nat128,
)

__all__ = [
    "Annotations",
    "Shape",
    "float32",
    "int8",
    "int16",
    "int32",
    "int64",
    "nat",
    "nat8",
    "nat16",
    "nat32",
    "nat64",
    "nat128",
]
