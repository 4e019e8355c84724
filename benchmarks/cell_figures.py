"""What to keep in cells, in Rust: one user of six fields in each format; and what becomes of it when its type changes.

Instructions are the replica's, so the same on every machine. What a change does is tried: values of the old type are
read as the new one and the other way round, by perdure's own readers of the same formats.
Usage: cell_figures.py [--quick] [--json]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from engine import module
from figures import Table, main
from perdure import Subnet
from perdure.errors import PerdureError
from perdure.values import Format, codec
from perdure.values.compatibility import compare_formats

FORMATS: Final = ("Candid", "Protobuf", "JSON", "CBOR", "flatbuffers", "fixed struct")
MEASURED: Final = (
    "encode",
    "decode",
    "one number",
    "from stable memory, all",
    "one number, the value copied",
    "one number, small copies",
    "one number, direct loads",
)
IN_PLACE: Final = 5
"""From here on only formats whose fields have places."""

TYPES: Final[Mapping[str, Mapping[str, str]]] = {
    "Candid": {"u8": "nat8", "u32": "nat32", "u64": "nat64", "?u32": "opt nat32", "f32": "float32", "text": "text"},
    "fixed struct": {"u32": "u32le", "u64": "u64le", "?u32": "Option<u32>", "f32": "f32le", "text": "[u8; 4]"},
}
"""How each type of `CHANGES` is written, where it is not as it stands."""

OLD: Final = {"id": "u64", "age": "u32", "score": "u32"}
CHANGES: Final[Mapping[str, Mapping[str, str]]] = {
    "an optional field added last": {**OLD, "level": "?u32"},
    "a required field added last": {**OLD, "level": "u32"},
    "a field added first": {"level": "?u32", **OLD},
    "the last field taken out": {"id": "u64", "age": "u32"},
    "a field in the midst taken out": {"id": "u64", "score": "u32"},
    "a field renamed": {"id": "u64", "years": "u32", "score": "u32"},
    "two fields swapped": {"id": "u64", "score": "u32", "age": "u32"},
    "u32 widened to u64": {"id": "u64", "age": "u64", "score": "u32"},
    "u32 narrowed to u8": {"id": "u64", "age": "u8", "score": "u32"},
    "a number made a float": {"id": "u64", "age": "f32", "score": "u32"},
    "a number made a text": {"id": "u64", "age": "text", "score": "u32"},
    "a field made optional": {"id": "u64", "age": "?u32", "score": "u32"},
}
VALUES: Final = {"id": 123_456_789_012, "age": 300, "years": 300, "score": 7, "level": 5}
OUTCOMES: Final = ("wrong", "lost", "error", "reads")


def declared(family: str, fields: Mapping[str, str]) -> Format:
    """The format of these fields."""
    own = TYPES.get(family, {})
    written = {label: own.get(one, f"Option<{one[1:]}>" if one[0] == "?" else one) for label, one in fields.items()}
    if family == "Candid":
        return codec("candid(record { " + "; ".join(f"{label} : {one}" for label, one in written.items()) + " })")
    name = {"fixed struct": "struct"}.get(family, family.lower())
    return codec(f"{name}({', '.join(f'{label}: {one}' for label, one in written.items())})")


def user(family: str, fields: Mapping[str, str]) -> dict[str, object]:
    """A user with these fields."""
    made: dict[str, object] = {label: VALUES[label] for label in fields}
    ages = {"text": b"x300" if family == "fixed struct" else "x300", "u8": 44, "f32": 0.5}
    if fields.get("age") in ages:
        made["age"] = ages[fields["age"]]
    return made


def tried(family: str, old: Format, new: Format, written: Mapping[str, str], read: Mapping[str, str]) -> str:
    """What becomes of what the one has written where the other reads it.

    ``reads``: all that both have is there; ``lost``: a field is null or zero; ``wrong``: it is another value, or
    one that its type does not have, and nothing fails; ``error``: nothing is read.
    """
    value = user(family, written)
    try:
        found = new.decode(old.encode(value))
    except (PerdureError, ValueError):
        return "error"
    sample = user(family, read)
    try:
        new.encode({label: sample[label] if one is None else one for label, one in found.items()})
    except (PerdureError, ValueError):
        return "wrong"
    renamed = {"years": "age"} if "years" in read else {"age": "years"} if "years" in written else {}
    for label, one in found.items():
        before = value.get(renamed.get(label, label))
        if one not in (before, None, 0, "", False):
            return "wrong"
        if before is not None and one != before:
            return "lost"
    return "reads"


def evolution(table: Table) -> None:
    """Each change in each format, both ways; what the check before an upgrade says beside it."""
    for what, fields in CHANGES.items():
        for family in FORMATS:
            old, new = declared(family, OLD), declared(family, fields)
            forward, back = tried(family, old, new, OLD, fields), tried(family, new, old, fields, OLD)
            verdict = compare_formats(old, new).verdict
            table.add(f"{family}; {what}: {forward}, {back}, judged {verdict}", OUTCOMES.index(forward), "of 3")


def measure(quick: bool) -> Table:
    """Sizes and instructions of a value; what changes do."""
    table, count = Table("cell_figures"), 100 if quick else 1_000
    with Subnet(extensions=("direct",)) as subnet:
        actor = subnet.install(module("ways")).actor()
        for number, name in enumerate(FORMATS):
            sums = set()
            for what, measured in enumerate(MEASURED):
                if what >= IN_PLACE and name not in ("flatbuffers", "fixed struct"):
                    continue
                instructions, size, total = actor.format(number, what, count)
                if what == 0:
                    table.add(f"{name}: size", size / count, "bytes")
                else:
                    sums.add(total)
                table.add(f"{name}: {measured}", instructions / count, "instructions")
            assert len(sums) == 1, f"{name}: not the same number by all ways"
    evolution(table)
    return table


if __name__ == "__main__":
    main(measure)
