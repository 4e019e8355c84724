"""`stable.yaml`: which memory holds what, and what its bytes mean.

```yaml
memories:
  0: {name: users, kind: btreemap, key: principal, value: cbor}
  1: {name: events, kind: log, data: 2, value: "struct(at: u64, text: text)"}
  7: {name: sessions, kind: btreemap, key: text, value: raw, state: retired}
  "page:0": {name: settings, kind: cell, value: json}        # without a memory manager
```

`state` is the place of a memory in the life of the canister:

| state | means |
|---|---|
| ``new`` | a version has begun to use it, or will; ``reserved``: not yet |
| ``active`` | in use; the default |
| ``deprecated`` | still read, not written any more |
| ``unused`` | not used any more, its bytes are still there; ``retired`` is another word for it |
| ``removed`` | taken out by hand (`perdure stable drop`); the id is not given to something else |

``variables: {people: {state: deprecated}}`` says the same of Motoko's stable variables.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias, final

from perdure.errors import MalformedError, StorageError
from perdure.stable.types import StorableType
from perdure.values.codec import codec
from perdure.values.format import Format, as_format

__all__ = [
    "KINDS",
    "LIVES",
    "SCHEMA_SECTION",
    "STATES",
    "Declared",
    "MemorySchema",
    "Schema",
    "dump_schema",
    "embedded_schema",
    "load_schema",
    "parse_schema",
]

KINDS: Final = ("btreemap", "btreeset", "vec", "minheap", "log", "cell")
"""Kinds of structures whose entries can be read."""

SCHEMA_SECTION: Final = "perdure:schema"
"""A custom section of a module with a `stable.yaml` in it; ``icp:public`` or ``icp:private`` may stand before it."""

LIVES: Final = ("new", "active", "deprecated", "unused", "removed")
"""The life of a variable, in its order."""

_SYNONYMS: Final = {"reserved": "new", "retired": "unused"}
STATES: Final = (*LIVES, *_SYNONYMS)
_FIELDS: Final = ("name", "kind", "key", "value", "data", "state")


Declared: TypeAlias = str | Format | StorableType[Any] | None


@final
@dataclass(frozen=True)
class MemorySchema:
    """What one memory is declared to be.

    Attributes:
        label: memory id, or ``page:N``.
        name: how people call it.
        kind: one of the kinds that can be read, or ``None`` for whatever is there.
        key: format of the keys: its name, or any format or type of a stable structure.
        value: format of the values.
        data: memory id of a log's data.
        state: one of `STATES`.
        about: what there is to say of it, where a program says it; no ``stable.yaml`` has this.
    """

    label: str
    name: str | None = None
    kind: str | None = None
    key: Declared = None
    value: Declared = None
    data: int | None = None
    state: str = "active"
    about: str = ""

    @property
    def life(self) -> str:
        """Its state, one of `LIVES`."""
        return _SYNONYMS.get(self.state, self.state)


@final
@dataclass(frozen=True)
class Schema:
    """A whole `stable.yaml`: its memories by label, and formats that it may name beside those of `codec`.

    `variables` are the lives of Motoko's stable variables, by name.
    """

    memories: dict[str, MemorySchema]
    formats: Mapping[str, Format] = field(default_factory=dict, repr=False)
    variables: Mapping[str, str] = field(default_factory=dict)

    def of(self, label: str) -> MemorySchema:
        """What is declared for a memory; nothing if it is not mentioned."""
        return self.memories.get(label, MemorySchema(label))

    def format(self, declared: Declared) -> Format | None:
        """What is declared as an object; ``None`` where nothing is."""
        if declared is None or declared == "":
            return None
        return codec(declared, self.formats) if isinstance(declared, str) else as_format(declared)


_MAX_NAME: Final = 64
_MAX_BYTES: Final = 16 << 20


def load_schema(path: Path | str, *, formats: Iterable[Format] = ()) -> Schema:
    """The schema in a file; it may name `formats` of your own.

    Raises:
        StorageError: it cannot be read.
        MalformedError: it says something that is no schema.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise StorageError(f"a schema is a file of at most {_MAX_BYTES} bytes", path)
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(str(error), path) from error
    return parse_schema(text, formats=formats)


def parse_schema(text: str, *, formats: Iterable[Format] = ()) -> Schema:
    """The schema written as `text`; it may name `formats` of your own.

    Raises:
        MalformedError: no YAML, or something unknown in it.
    """
    from perdure import yaml_core  # PyYAML is half of what a listing imports, and most sources have no schema

    try:
        document = yaml_core.load(text)
    except (RecursionError, ValueError) as error:
        raise MalformedError(f"no YAML: {error}") from error
    variables = _variables(document.get("variables", {})) if isinstance(document, dict) else {}
    memories = document.get("memories", {} if variables else None) if isinstance(document, dict) else None
    if not isinstance(memories, dict):
        raise MalformedError("a schema has a mapping `memories`")
    by_name = {one.name: one for one in formats}
    parsed = {str(label): _memory(str(label), entry, by_name) for label, entry in memories.items()}
    names = [memory.name for memory in parsed.values() if memory.name]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise MalformedError(f"two memories of the name {min(twice)}")
    return Schema(parsed, by_name, variables)


def _variables(document: object) -> dict[str, str]:
    """The lives of Motoko's stable variables."""
    if not isinstance(document, dict):
        raise MalformedError(f"variables: expected a mapping, found {type(document).__name__}")
    found = {}
    for name, entry in document.items():
        is_life = isinstance(entry, dict) and entry.keys() <= {"state"}
        state = str(entry.get("state", "active")) if is_life else ""
        if state not in STATES:
            raise MalformedError(
                f"variable {name}: expected {{state: one of {', '.join(STATES)}}}, found {entry!r:.60}"
            )
        found[str(name)] = _SYNONYMS.get(state, state)
    return found


def embedded_schema(sections: Mapping[str, bytes]) -> Schema | None:
    """The schema in a module's custom sections, where one has it.

    Raises:
        MalformedError: it is none.
    """
    for prefix in ("icp:public ", "icp:private ", ""):
        data = sections.get(prefix + SCHEMA_SECTION)
        if data is not None:
            try:
                return parse_schema(data.decode())
            except (UnicodeDecodeError, MalformedError) as error:
                raise MalformedError(f"the section {SCHEMA_SECTION} is no stable.yaml: {error}") from error
    return None


def _memory(label: str, entry: object, formats: Mapping[str, Format]) -> MemorySchema:
    page = label.removeprefix("page:")
    if not page.isdecimal() or (page == label and int(page) > 254):
        raise MalformedError(f"memory {label!r}: expected an id from 0 to 254, or page:N")
    if not isinstance(entry, dict):
        raise MalformedError(f"memory {label}: expected a mapping, found {type(entry).__name__}")
    unknown = [name for name in entry if name not in _FIELDS]
    if unknown:
        raise MalformedError(f"memory {label}: unknown field {unknown[0]!r}, expected one of {', '.join(_FIELDS)}")
    memory = MemorySchema(label, **entry)
    if memory.kind is not None and memory.kind not in KINDS:
        raise MalformedError(f"memory {label}: unknown kind {memory.kind!r}, expected one of {', '.join(KINDS)}")
    if memory.state not in STATES:
        raise MalformedError(f"memory {label}: unknown state {memory.state!r}, expected one of {', '.join(STATES)}")
    if memory.name is not None and not _is_name(memory.name):
        raise MalformedError(
            f"memory {label}: {memory.name!r:.60} is no name, expected letters, digits and _, at most {_MAX_NAME}"
        )
    if not isinstance(memory.data, int | None):
        raise MalformedError(f"memory {label}: data is the id of a memory, found {memory.data!r}")
    for what in (memory.key, memory.value):
        _check_codec(label, what, formats)
    return memory


def _is_name(name: object) -> bool:
    """Whether a structure can be called so, in commands, tables and names of files."""
    return isinstance(name, str) and name.isidentifier() and len(name) <= _MAX_NAME


def _check_codec(label: str, name: object, formats: Mapping[str, Format]) -> None:
    if name is None:
        return
    try:
        codec(str(name), formats)
    except ValueError as error:
        raise MalformedError(f"memory {label}: {error}") from error


def dump_schema(memories: Iterable[tuple[MemorySchema, str]]) -> str:
    """A schema as text, each memory with a comment."""
    import yaml

    lines = ["memories:"]
    for memory, comment in memories:
        declared = {name: getattr(memory, name) for name in _FIELDS}
        entry = {
            name: value if isinstance(value, str | int) else value.name
            for name, value in declared.items()
            if value not in (None, "active")
        }
        flow = yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=1 << 20, allow_unicode=True)
        label = memory.label if memory.label.isdecimal() else f'"{memory.label}"'
        lines.append(f"  {label}: {flow.strip()}" + (f"  # {comment}" if comment else ""))
    return "\n".join(lines) + "\n" if len(lines) > 1 else "memories: {}\n"
