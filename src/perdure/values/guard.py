"""What a canister carries to refuse an upgrade by itself: a line for each thing that it keeps, or reads besides.

A canister cannot compare formats; it can compare lines. So the comparison is made where the canister is built, and its
result is carried along as a text, which `docs/formats.md` draws:

```
perdure:schema 1
= 0 users: btreemap, key text, value cbor
~ 0 users: btreemap, key text, value json
```

A line with ``=`` says what this version keeps, one with ``~`` what an earlier one has kept and this one reads. The
canister keeps its own lines in stable memory. At an upgrade each line that was kept has to be among those of the new
version, with either mark; else it traps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Final

from perdure.errors import MalformedError
from perdure.values.compatibility import compare_schemas
from perdure.values.motoko_types import Applied, StableTypes, compare_stable_types
from perdure.values.schema import MemorySchema, Schema

__all__ = ["Declared", "declared_lines", "guard_text", "refused"]

Declared = Schema | StableTypes
"""What a version keeps: memories, or Motoko's stable variables."""

HEAD: Final = "perdure:schema 1"
_LIVING: Final = ("active", "deprecated")
_REFUSED: Final = ("breaking", "silently wrong")


def declared_lines(declared: Declared) -> dict[str, str]:
    """The line of each memory in use, or of each stable variable, by its label; the label is the line's first word."""
    if isinstance(declared, Schema):
        return {label: _memory_line(one) for label, one in declared.memories.items() if one.state in _LIVING}
    return {
        name: f"{name} {'var' if one.is_mutable else 'let'}: {one.type}{_definitions(declared, one.type)}"
        for name, one in declared.variables.items()
    }


def _memory_line(one: MemorySchema) -> str:
    said = [one.kind or "anything"]
    for what, value in (("key", one.key), ("value", one.value)):
        if value:
            said.append(f"{what} {value if isinstance(value, str) else getattr(value, 'name', value)}")
    if one.data is not None:
        said.append(f"data {one.data}")
    return f"{one.label} {one.name or '-'}: {', '.join(' '.join(part.split()) for part in said)}"


def _definitions(types: StableTypes, type_: object) -> str:
    """The named types that a type is made of, by name."""
    found: dict[str, str] = {}
    left = [type_]
    while left:
        one = left.pop()
        if isinstance(one, Applied) and one.name in types.definitions and one.name not in found:
            parameters, body = types.definitions[one.name]
            found[one.name] = f"{one.name}{'<' + ', '.join(parameters) + '>' if parameters else ''} = {body}"
            left.append(body)
        if isinstance(one, tuple):
            left.extend(one)
        elif is_dataclass(one):
            left.extend(getattr(one, field.name) for field in fields(one))
    return f" where {'; '.join(found[name] for name in sorted(found))}" if found else ""


def refused(old: Declared, new: Declared) -> Iterator[tuple[str, str]]:
    """Label and reason of what a version keeps and another one cannot read, or reads as something else.

    Raises:
        MalformedError: one has memories, the other Motoko's variables.
    """
    if isinstance(old, Schema) and isinstance(new, Schema):
        for one in compare_schemas(old, new):
            if one.verdict in _REFUSED:
                yield one.memory, f"{one.what}; it was {one.old}, it is {one.new}"
    elif isinstance(old, StableTypes) and isinstance(new, StableTypes):
        for other in compare_stable_types(old, new):
            yield other.variable, f"{other.message}; it was {other.old}, it is {other.new or 'nothing'}"
    else:
        raise MalformedError("a stable.yaml and Motoko's stable types cannot be compared")


def guard_text(new: Declared, earlier: Iterable[Declared] = ()) -> str:
    """The text that a canister carries.

    Args:
        new: what it keeps.
        earlier: what versions before it have kept, that it may be upgraded from.

    Raises:
        MalformedError: it cannot read what one of them has kept.
    """
    own = list(declared_lines(new).values())
    read: dict[str, None] = {}
    for old in earlier:
        for label, why in refused(old, new):
            raise MalformedError(f"cannot be upgraded to: {label}: {why}")
        read.update(dict.fromkeys(line for line in declared_lines(old).values() if line not in own))
    return "\n".join([HEAD, *(f"= {line}" for line in own), *(f"~ {line}" for line in read), ""])
