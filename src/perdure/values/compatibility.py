"""Whether what was written by one schema can be read by another: by the rules of each format, then by the values.

| verdict | means |
|---|---|
| ``compatible`` | both versions read what either has written |
| ``one way`` | the new one reads what the old one has written, and not the other way round |
| ``breaking`` | the new one cannot read it |
| ``silently wrong`` | it reads it as something else, and nothing fails |
| ``unknown`` | the formats do not say; the values may |

To have a format judged by rules of its own: a line in `_RULES`. Others are compared by width, order and kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, final

from perdure.candid import explain
from perdure.candid.types import Type
from perdure.errors import PerdureError
from perdure.values.candid import CandidValue, SelfDescribing
from perdure.values.cbor import CborArray
from perdure.values.composed import Length, Struct
from perdure.values.declared import Declared
from perdure.values.format import Format
from perdure.values.named import JsonObject, Named, Slot
from perdure.values.plain import Raw
from perdure.values.schema import MemorySchema, Schema

__all__ = ["Compatibility", "Proof", "SchemaDifference", "Verdict", "compare_formats", "compare_schemas", "prove"]

Verdict = Literal["compatible", "one way", "breaking", "silently wrong", "unknown"]

_WORST: Final[tuple[Verdict, ...]] = ("compatible", "unknown", "one way", "breaking", "silently wrong")


@final
@dataclass(frozen=True)
class Compatibility:
    """What the rules say of two formats.

    Attributes:
        verdict: see the module.
        what: what differs, empty if nothing does.
    """

    verdict: Verdict
    what: str = ""


COMPATIBLE: Final = Compatibility("compatible")


def compare_formats(old: Format | None, new: Format | None) -> Compatibility:
    """What becomes of values in `old` that are read as `new`; `None`: nobody has said what they are."""
    if old is None or new is None:
        return COMPATIBLE if old is new else Compatibility("unknown", "one of the versions does not say the format")
    is_candid = isinstance(old, CandidValue) and isinstance(new, CandidValue)
    if not is_candid and (old == new or old.name == new.name):  # a name of Candid stands for a definition
        return COMPATIBLE
    old, new = _bare(old), _bare(new)
    for kinds, rule in _RULES:
        if isinstance(old, kinds[0]) and isinstance(new, kinds[1]):
            return rule(old, new)
    return _by_width(old, new)


def _worst(found: Iterable[Compatibility]) -> Compatibility:
    return max(found, key=lambda one: _WORST.index(one.verdict), default=COMPATIBLE)


def _to_raw(old: Format, new: Format) -> Compatibility:
    return Compatibility("one way", f"{old.name} is read as bytes")


def _from_raw(old: Format, new: Format) -> Compatibility:
    return Compatibility("unknown", f"bytes are read as {new.name}")


def _candid(old: Format, new: Format) -> Compatibility:
    """By subtyping, in both directions. Where an option hides a changed type, values are read as null."""
    before, after = _type_of(old), _type_of(new)
    forward, back = explain(before, after), explain(after, before)
    failed = next((one for one in forward if one.severity == "error"), None)
    if failed is not None:
        return Compatibility("breaking", _place(failed.path, _as_data(before, after, failed.path, failed.message)))
    if forward:
        return Compatibility("silently wrong", _place(forward[0].path, "a value of another type is read as null"))
    if back:
        return Compatibility("one way", _place(back[0].path, back[0].message))
    return COMPATIBLE


def _type_of(one: Format) -> Type:
    assert isinstance(one, CandidValue)
    return one.type


def _place(path: tuple[str, ...], message: str) -> str:
    return f"{' > '.join(path)}: {message}" if path else message


def _as_data(before: Type, after: Type, path: tuple[str, ...], message: str) -> str:
    """The reason in words of data rather than of callers."""
    for old, new in (
        (", and old callers need it", " in the data, and the new type wants it"),
        (" is gone", " is not there"),
    ):
        message = message.replace(old, new)
    return message.replace(
        " is new, and old callers do not know it", " may be in the data, and the new type does not have it"
    )


def _candid_of_itself(old: Format, new: Format) -> Compatibility:
    if isinstance(old, SelfDescribing):
        return Compatibility("unknown", f"each message has its own type, read as {new.name}")
    return Compatibility("compatible", "")


def _struct(old: Format, new: Format) -> Compatibility:
    """Field by field, by place: names do not count."""
    assert isinstance(old, Struct)
    assert isinstance(new, Struct)
    found = []
    for index, (before, after) in enumerate(zip(old.parts, new.parts, strict=False)):
        one = compare_formats(before, after)
        if one.verdict != "compatible":
            found.append(replace(one, what=f"field {old.fields[index]}: {one.what}"))
            if before.fixed_bytes != after.fixed_bytes:
                return Compatibility("breaking", f"field {old.fields[index]}: {one.what}; what follows has moved")
    if len(old.parts) != len(new.parts):
        return Compatibility("breaking", f"{len(old.parts)} fields became {len(new.parts)}")
    if old.fields != new.fields and not found and sorted(old.fields) == sorted(new.fields):
        return Compatibility(
            "silently wrong", f"fields {', '.join(old.fields)} are in the order {', '.join(new.fields)}"
        )
    return _worst(found)


def _length(old: Format, new: Format) -> Compatibility:
    assert isinstance(old, Length)
    assert isinstance(new, Length)
    return compare_formats(old._inner, new._inner)


def _protobuf(old: Format, new: Format) -> Compatibility:
    from perdure.values.protobuf import compare_messages  # an extra

    verdict, what = compare_messages(old, new)
    return Compatibility(verdict, what)


def _named(old: Format, new: Format) -> Compatibility:
    """Part by part: by name in JSON, by place in the others, where new ones come last."""
    assert isinstance(old, Named | CborArray)
    assert isinstance(new, Named | CborArray)
    if type(old) is not type(new):
        return Compatibility("breaking", f"{_family(old)} became {_family(new)}")
    before, after = (list(one.inner.items()) for one in (old, new))
    if isinstance(old, JsonObject):
        pairs = [((name, one), (name, new.inner[name])) for name, one in before if name in new.inner]
        gone = [name for name, _ in before if name not in new.inner]
    else:
        pairs = list(zip(before, after, strict=False))
        gone = [name for name, _ in before[len(after) :]]
    found = [_part(*pair, old) for pair in pairs]
    if gone and isinstance(old, CborArray):
        found.append(Compatibility("breaking", f"part {gone[0]} is gone, and arrays that have it are too long"))
    elif gone:
        found.append(Compatibility("one way", f"part {gone[0]} is gone, and lost when a value is written"))
    if len(after) > len(before) and isinstance(old, CborArray):
        found.append(Compatibility("one way", f"part {after[len(before)][0]} is new: arrays are too long for the old"))
    return _worst(found)


_Labelled = tuple[str, Format]
_UNCHECKED: Final = ("flatbuffers", "cbor")
"""Families whose bytes do not say enough of a part to notice another type: it is read as what it is not."""


def _part(before: _Labelled, after: _Labelled, family: Named | CborArray) -> Compatibility:
    (name, old), (name_now, new) = before, after
    if name != name_now:
        return Compatibility("silently wrong", f"part {name} is in the place where {name_now} is now")
    one, other = Slot(name, old), Slot(name, new)
    what = f"part {name}: {old.name} became {new.name}"
    if one.is_optional != other.is_optional:  # which an array keeps as bytes: any of its parts may be null without it
        is_read = other.is_optional and not isinstance(family, CborArray)
        return Compatibility("one way" if is_read else "breaking", what)
    if not one.format.is_part and not other.format.is_part:
        found = compare_formats(one.format, other.format)
        return replace(found, what=f"part {name}: {found.what}") if found.what else found
    verdict = _of_plain(one, other, family)
    return COMPATIBLE if verdict == "compatible" else Compatibility(verdict, what)


def _of_plain(one: Slot, other: Slot, family: Named | CborArray) -> Verdict:
    """Of parts that the format has itself."""
    old, new, name = one.format, other.format, _family(family)
    if old == new:
        return "compatible"
    if one.kind == other.kind:
        return "one way" if _grows(old, new) else "unknown"
    if name == "flatbuffers":  # where another width is other bytes
        return "silently wrong"
    is_number = {old.kind.name, new.kind.name} == {"integer"} and old.kind.is_signed == new.kind.is_signed
    if is_number and 0 < old.kind.bits <= new.kind.bits <= 64:
        return "one way"
    # Protobuf leaves out a field of another kind, and refuses a number that is too large.
    return "silently wrong" if name in _UNCHECKED or (name == "protobuf" and not is_number) else "breaking"


def _bare(one: Format) -> Format:
    return one.inner if isinstance(one, Declared) else one


def _by_width(old: Format, new: Format) -> Compatibility:
    """Of types of the crate, and others that say no more than their width and what they are."""
    what = f"{old.name} became {new.name}"
    if old.kind.name == new.kind.name == "text" or {old.kind.name, new.kind.name} <= {"bytes", "text"}:
        if new.kind.name == old.kind.name:
            return Compatibility("one way" if _grows(old, new) else "unknown", what)
        return Compatibility("one way" if new.kind.name == "bytes" else "unknown", what)
    if old.fixed_bytes is not None and new.fixed_bytes is not None:
        if old.fixed_bytes != new.fixed_bytes:
            return Compatibility("breaking", f"{what}: {old.fixed_bytes} bytes are read as {new.fixed_bytes}")
        return Compatibility("silently wrong", f"{what}: the same bytes are another value")
    if old.kind == new.kind and old.collation == new.collation and _family(old) == _family(new):
        return Compatibility("one way" if _grows(old, new) else "unknown", what)
    return Compatibility("breaking", what)


def _grows(old: Format, new: Format) -> bool:
    """Whether whatever fits the old bound fits the new one."""
    return new.max_size is None or (old.max_size is not None and old.max_size <= new.max_size)


def _family(one: Format) -> str:
    return one.name.partition("(")[0].partition("<")[0]


def _is_protobuf(one: type[Any]) -> bool:
    return one.__module__.endswith(".protobuf") and not issubclass(one, Named)


class _ProtobufMeta(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return _is_protobuf(type(instance))


class _AnyProtobuf(metaclass=_ProtobufMeta):
    """Stands for the format, whose module needs an extra."""


_RULES: Final[tuple[tuple[tuple[type[Any], type[Any]], Callable[[Format, Format], Compatibility]], ...]] = (
    ((Format, Raw), _to_raw),
    ((Raw, Format), _from_raw),
    ((CandidValue, CandidValue), _candid),
    ((SelfDescribing, CandidValue), _candid_of_itself),
    ((CandidValue, SelfDescribing), _candid_of_itself),
    ((Struct, Struct), _struct),
    ((Length, Length), _length),
    ((Named, Named), _named),
    ((CborArray, CborArray), _named),
    ((_AnyProtobuf, _AnyProtobuf), _protobuf),
)


# -- by values


@final
@dataclass(frozen=True)
class Proof:
    """What values say of two formats.

    Attributes:
        checked: how many were looked at.
        undecodable: that the new format does not read, although the old one does.
        different: that it reads as something else.
        example: the bytes, the old value and the new one or the error, of the first of them.
    """

    checked: int
    undecodable: int
    different: int
    example: tuple[bytes, Any, Any] | None = None

    @property
    def verdict(self) -> Verdict:
        """What they come to; ``unknown`` where there were none."""
        if self.undecodable:
            return "breaking"
        return "silently wrong" if self.different else "compatible" if self.checked else "unknown"


def prove(old: Format, new: Format, values: Iterable[bytes]) -> Proof:
    """Read encoded values in both formats. What the old one does not read either is left out."""
    checked = undecodable = different = 0
    example: tuple[bytes, Any, Any] | None = None
    for data in values:
        try:
            before = old.decode(data)
        except (PerdureError, ValueError):
            continue
        checked += 1
        try:
            after = new.decode(data)
        except (PerdureError, ValueError) as error:
            undecodable += 1
            example = example or (data, before, error)
            continue
        if not _means(before, after):
            different += 1
            example = example or (data, before, after)
    return Proof(checked, undecodable, different, example)


def _means(before: object, after: object) -> bool:
    """Whether a value is the same, but for fields that one side does not know."""
    if isinstance(before, dict) and isinstance(after, dict):
        common = before.keys() & after.keys()
        if not common and before and after:
            return False
        new_ones = (after[name] for name in after.keys() - common)
        return all(_means(before[name], after[name]) for name in common) and not any(one for one in new_ones if one)
    if isinstance(before, list | tuple) and isinstance(after, list | tuple):
        return len(before) == len(after) and all(map(_means, before, after))
    if isinstance(before, bool) != isinstance(after, bool):
        return False
    return bool(before == after) or repr(before) == repr(after)


# -- whole schemas


@final
@dataclass(frozen=True)
class SchemaDifference:
    """One thing that differs between two schemas.

    Attributes:
        memory: its label.
        verdict: see the module.
        what: in a sentence.
        old: what was declared.
        new: what is.
        why: why it matters.
        remedy: what to do.
    """

    memory: str
    verdict: Verdict
    what: str
    old: str = ""
    new: str = ""
    why: str = ""
    remedy: str = ""


_LIVING: Final = ("active", "deprecated")


def compare_schemas(old: Schema, new: Schema) -> Iterator[SchemaDifference]:
    """How the declarations of two versions go together, memory by memory."""
    homes = {one.name: label for label, one in new.memories.items() if one.name}
    for label, before in old.memories.items():
        after = new.memories.get(label)
        home = homes.get(before.name or "", label)
        if home != label and before.life in _LIVING:
            yield SchemaDifference(
                label,
                "breaking",
                f"{before.name} is in memory {home} now, its data is in memory {label}",
                _text(before),
                "nothing" if after is None else _text(after),
                "the new version opens another memory than the data is in",
                "give each memory the id that it had",
            )
        elif after is None:
            if before.life in _LIVING:
                yield SchemaDifference(
                    label,
                    "one way",
                    f"memory {label} is not declared any more",
                    _text(before),
                    "nothing",
                    "nobody says what becomes of it",
                    "keep it, as `state: unused`",
                )
        else:
            yield from _compare(label, before, after, old, new)


def _compare(
    label: str, before: MemorySchema, after: MemorySchema, old: Schema, new: Schema
) -> Iterator[SchemaDifference]:
    both = _text(before), _text(after)
    if before.life in ("unused", "removed") and after.life in _LIVING:
        if (before.name, before.kind) != (after.name, after.kind):
            yield SchemaDifference(
                label,
                "breaking",
                f"memory {label} is {before.state} and is given to something else",
                *both,
                "what was in it may still be there",
                "take an id that was never used",
            )
        return
    if after.life not in _LIVING or before.life not in _LIVING:
        return
    if before.kind is not None and after.kind is not None and before.kind != after.kind:
        yield SchemaDifference(
            label,
            "breaking",
            f"memory {label}: a {before.kind} became a {after.kind}",
            *both,
            "the structure refuses what is there, or writes over it",
            "use another memory id, and migrate",
        )
        return
    for part in ("key", "value"):
        one, other = old.format(getattr(before, part)), new.format(getattr(after, part))
        found = compare_formats(one, other)
        is_reordered = one is not None and other is not None and one.collation != other.collation
        if part == "key" and found.verdict == "one way" and is_reordered:
            found = Compatibility("breaking", f"{found.what}: keys are in another order")
        if found.verdict in ("breaking", "silently wrong", "one way"):
            yield SchemaDifference(
                label,
                found.verdict,
                f"memory {label}, {part}: {found.what}",
                *both,
                _WHY[found.verdict],
                "keep the format, or migrate the entries to another memory",
            )


_WHY: Final = {
    "breaking": "what is there cannot be read any more",
    "silently wrong": "what is there is read as something else, and nothing fails",
    "one way": "once the new version has written, the old one cannot read it",
}


def _text(one: MemorySchema) -> str:
    parts = [one.kind or "anything"]
    parts += [
        f"{what} {getattr(value, 'name', value)}" for what, value in (("key", one.key), ("value", one.value)) if value
    ]
    parts += [one.state] if one.state != "active" else []
    return ", ".join(parts)
