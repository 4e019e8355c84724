"""Guesses what the bytes of keys and values mean, and says how sure it is.

Each codec is tried on a sample. Its score is the chance, roughly, that bytes which mean something else would not fit as
well: that 200 bytes are valid text by accident is out of the question, that 8 bytes are an integer says nothing.
Integers are told from other fixed bytes by where their zeros are, and their endianness by that or, for keys, by the
order in which the map holds them. What scores below `SURE` is drafted as ``raw``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Final, final

from perdure.errors import MalformedError, PerdureError, UnsupportedError
from perdure.inspection.find import KINDS, Inventory, Structure
from perdure.inspection.rows import KEYED, open_table
from perdure.values.codec import codec
from perdure.values.schema import Declared, MemorySchema, Schema

__all__ = ["SURE", "Draft", "Guess", "draft", "guess"]

SURE: Final = 0.6
SAMPLE_ENTRIES: Final = 256
_INTEGER_BYTES: Final = (2, 4, 8, 16)
_MAX_SAMPLE_BYTES: Final = 1 << 16


@final
@dataclass(frozen=True)
class Guess:
    """A codec that fits, and how sure that is: 0 to 1."""

    name: str
    score: float


@final
@dataclass(frozen=True)
class Draft:
    """What one memory seems to hold.

    Attributes:
        memory: its entry for `stable.yaml`.
        key: guesses for the keys, best first.
        value: guesses for the values, best first.
        sampled: entries looked at.
    """

    memory: MemorySchema
    key: tuple[Guess, ...]
    value: tuple[Guess, ...]
    sampled: int

    @property
    def comment(self) -> str:
        """How sure it is, in a few words."""
        parts = []
        for what, guesses in (("key", self.key), ("value", self.value)):
            if guesses:
                best = guesses[0]
                sure = (
                    f"{best.score:.0%} sure" if best.score >= SURE else f"not sure (best: {best.name} {best.score:.0%})"
                )
                parts.append(f"{what} {sure}")
        return f"{'; '.join(parts)}; {self.sampled} entries looked at" if parts else ""


def draft(inventory: Inventory) -> Iterator[Draft]:
    """A draft for each structure that can be read; what a catalogue of data models says needs no guess."""
    from perdure.data.store import read_catalogue  # most memories have none

    try:
        catalogue = read_catalogue(inventory.memory)
        known = Schema({}) if catalogue is None else catalogue.spelled_out().schema()
    except PerdureError:  # `fsck` says so
        known = Schema({})
    for structure in inventory.structures:
        if structure.kind in KINDS:
            yield _draft(structure, known)


def _draft(structure: Structure, known: Schema) -> Draft:
    keys, values = _sample(structure, known)
    is_keyed = structure.kind in KEYED
    declared = known.of(structure.label)
    key = _told(declared.key) or (guess(keys, are_keys=True) if is_keyed else ())
    value = _told(declared.value) or (guess(values) if structure.kind != "btreeset" else ())
    memory = MemorySchema(
        structure.label,
        structure.name or f"{structure.kind}_{structure.label.replace(':', '_')}",
        structure.kind,
        _best(key) if is_keyed else None,
        _best(value) if structure.kind != "btreeset" else None,
        structure.data_memory_id,
    )
    return Draft(memory, key, value, len(values))


def _told(declared: Declared) -> tuple[Guess, ...]:
    """What somebody has said, as a guess that is sure."""
    if declared is None:
        return ()
    return (Guess(declared if isinstance(declared, str) else declared.name, 1.0),)


def _best(guesses: Sequence[Guess]) -> str:
    return guesses[0].name if guesses and guesses[0].score >= SURE else "raw"


def _sample(structure: Structure, known: Schema) -> tuple[list[bytes], list[bytes]]:
    """Keys and values from the start of a structure; fewer, or none, where it is damaged."""
    keys: list[bytes] = []
    values: list[bytes] = []
    try:
        for key, value in islice(open_table(structure, known).entries(), SAMPLE_ENTRIES):
            keys.append(key)
            values.append(value)
    except (MalformedError, UnsupportedError, ValueError):
        pass
    return keys, values


def guess(samples: Sequence[bytes], *, are_keys: bool = False) -> tuple[Guess, ...]:
    """The codecs that fit all samples, best first.

    Args:
        samples: encoded keys or values.
        are_keys: whether they are in the order of a map.
    """
    short = [sample for sample in samples if len(sample) <= _MAX_SAMPLE_BYTES]
    if not short:
        return ()
    if not any(short):
        return (Guess("()", 0.9),)
    tests: tuple[Callable[[Sequence[bytes], bool], Iterator[Guess]], ...] = (
        _json,  # before text, which it is as well
        _text,
        _principal,
        _candid,
        _cbor,
        _integers,
        _boolean,
    )
    guesses = [found for test in tests for found in test(short, are_keys)]
    return tuple(sorted(guesses, key=lambda found: -found.score))


def _all_decode(name: str, samples: Sequence[bytes]) -> bool:
    try:
        found = codec(name)
        return all(found.is_valid(sample) for sample in samples)
    except (PerdureError, ValueError, ImportError):
        return False


def _text(samples: Sequence[bytes], _: bool) -> Iterator[Guess]:
    if not _all_decode("text", samples):
        return
    texts = [sample.decode() for sample in samples]
    letters = sum(map(len, texts))
    printable = sum(letter.isprintable() or letter in "\n\r\t" for text in texts for letter in text)
    if printable == letters:
        yield Guess("text", _surely(0.6, letters))
    elif printable >= 0.95 * letters and letters > 200:
        yield Guess("text", 0.7)


def _surely(per_byte: float, size: int) -> float:
    """1 less the chance that `size` bytes fit by accident when one does with `per_byte`; never quite certain."""
    return round(min(0.99, float(1 - per_byte ** min(size, 1000))), 2)


def _principal(samples: Sequence[bytes], _: bool) -> Iterator[Guess]:
    """The forms that principals have: opaque ids (10 bytes, 01 last), self-authenticating (29, 02), anonymous (04)."""

    def score(data: bytes) -> float:
        if len(data) == 29 and data[28] == 2:
            return 1.0
        if len(data) == 10 and data[8:] == b"\x01\x01":
            return 1.0
        return 0.7 if data in (b"", b"\x04") else 0.0

    scores = [score(sample) for sample in samples]
    if min(scores) > 0:
        yield Guess("principal", _surely(0.2, int(2 * sum(scores))))


def _json(samples: Sequence[bytes], _: bool) -> Iterator[Guess]:
    composed = sum(sample[:1] in (b"{", b"[") for sample in samples)
    if composed >= 0.9 * len(samples) and _all_decode("json", samples):
        yield Guess("json", _surely(0.5, sum(map(len, samples))))


def _candid(samples: Sequence[bytes], _: bool) -> Iterator[Guess]:
    if all(sample.startswith(b"DIDL") for sample in samples):
        yield Guess("candid", 0.99 if _all_decode("candid", samples) else 0.7)


def _cbor(samples: Sequence[bytes], _: bool) -> Iterator[Guess]:
    """CBOR; of integers alone one cannot be sure, as any byte below 24 is one. A long run without a mistake counts."""
    for name, starts in (("cbor", samples), ("length(cbor)", [sample[4:] for sample in samples])):
        composed = sum(sample[:1] != b"" and (sample[0] >> 5) in (4, 5, 6) for sample in starts)
        if composed >= 0.9 * len(samples) and _all_decode(name, samples):
            yield Guess(name, _surely(0.8, sum(map(len, starts))))


def _integers(samples: Sequence[bytes], are_keys: bool) -> Iterator[Guess]:
    sizes = set(map(len, samples))
    width = next(iter(sizes))
    if len(sizes) != 1 or width not in _INTEGER_BYTES:
        return
    big = sum(_leading_zeros(sample) for sample in samples)
    little = sum(_leading_zeros(sample[::-1]) for sample in samples)
    total = len(samples) * width
    if are_keys and len(samples) > 2 and not all(left < right for left, right in pairwise(samples)):
        ascending = all(left[::-1] < right[::-1] for left, right in pairwise(samples))
        if ascending:
            yield Guess(f"u{8 * width}le", 0.97)
        return
    spread = (big - little) / total
    if spread > 0:
        yield Guess(f"u{8 * width}", round(min(0.95, 0.55 + spread), 2))
    elif spread < 0:
        yield Guess(f"u{8 * width}le", round(min(0.95, 0.55 - spread), 2))
    else:
        yield Guess(f"u{8 * width}", 0.5 if are_keys else 0.4)


def _leading_zeros(data: bytes) -> int:
    return len(data) - len(data.lstrip(b"\x00"))


def _boolean(samples: Sequence[bytes], _: bool) -> Iterator[Guess]:
    found = set(samples)
    if found <= {b"\x00", b"\x01"}:
        yield Guess("bool", 0.7 if len(found) == 2 and len(samples) > 3 else 0.5)
        yield Guess("u8", 0.4)
    elif all(len(sample) == 1 for sample in samples):
        yield Guess("u8", 0.65)
