"""What both versions answered: traps, data that is not there any more, structures that are made anew, the way back.

A reply that changed says little by itself: versions differ. So controls decide what a difference means: what each
version says when it is installed anew, without data; what the old one says a day later, and after an upgrade to itself.

| the old reply | the new reply | it is |
|---|---|---|
| what the old version says without data too | any | code that changed |
| changes by itself, or with any upgrade | any | not to be compared |
| follows from data | what the new version says without data | data lost |
| follows from data | smaller, empty, null | data lost |
| follows from data | otherwise | not certain |
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, final
from weakref import WeakKeyDictionary

from perdure.upgrade.attribution import Attribution, Readers
from perdure.upgrade.check_motoko import keeps_variables
from perdure.upgrade.finding import Finding, Severity
from perdure.upgrade.rehearsal import Rehearsal, Try
from perdure.upgrade.replies import Reply, is_less, is_reversed
from perdure.upgrade.stage import Stage
from perdure.upgrade.version import is_private

__all__ = [
    "CALL_CHECKS",
    "calls_held",
    "coverage",
    "exercised",
    "ids",
    "made_anew",
    "nothing_tried",
    "replies",
    "traps",
]

SHOWN = 1
"""Findings of one code and method that are shown: the others are alike."""


@final
class _Few:
    """Lets the first findings of a method through."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], int] = {}

    def __call__(self, finding: Finding) -> bool:
        key = finding.code, finding.where
        self._seen[key] = self._seen.get(key, 0) + 1
        return self._seen[key] <= SHOWN


_attributions: WeakKeyDictionary[Rehearsal, Attribution] = WeakKeyDictionary()


def _readers(found: Rehearsal, one: Try) -> Readers:
    if found not in _attributions:
        _attributions[found] = Attribution(found)
    return _attributions[found].readers(one)


class _Move(NamedTuple):
    """A method that looks for its data in another place."""

    one: Try
    readers: Readers


def _moves(found: Rehearsal) -> dict[str, _Move]:
    """By method, where the new version does not answer as the old one, because it reads other structures."""
    moves: dict[str, _Move] = {}
    for one in found.tries:
        if one.call.method in moves or one.call.kind == "task" or not one.old.is_fine or not _is_worse(found, one):
            continue
        readers = _readers(found, one)
        if readers.has_moved and not _is_taken_over(found, readers):
            moves[one.call.method] = _Move(one, readers)
    return moves


def _is_worse(found: Rehearsal, one: Try) -> bool:
    if one.new.reject is not None:
        return one.new.has_trapped
    if one.old.reply is None or one.new.reply is None:
        return False
    old = found.reply(one.call, one.old.reply)
    # What the old version says without data too comes from no place.
    return old != found.reply(one.call, one.new.reply) and old != _fresh(found, one, found.fresh_old)


def _is_taken_over(found: Rehearsal, readers: Readers) -> bool:
    """Whether hooks have emptied the old place: then the data is elsewhere now, for better or worse."""
    return all(not _entries(found, label) for label in readers.old)


def ids(found: Rehearsal) -> Iterator[Finding]:
    """Structures that are opened under another id."""
    moves = _moves(found)
    reverse = {(move.readers.old, move.readers.new) for move in moves.values()}
    for name, move in moves.items():
        old, new = move.readers
        places = [", ".join(f"memory {label}" for label in sorted(labels)) or "no structure" for labels in (old, new)]
        is_swap = bool(new) and ((new, old) in reverse or all(label in found.before.structures for label in new))
        text = move.one.new.words
        yield Finding(
            "ids-swapped" if is_swap else "structure-abandoned",
            "breaking",
            f"{name} reads {places[1]} now, and its data is in {places[0]}",
            name,
            places[0],
            places[1],
            f"it {'traps: ' + text if text else 'answers with something else'}",
            "open each memory under the id that it had"
            if is_swap
            else "read the old memory, or migrate it in post_upgrade",
            memory=min(old),
            values=(text,),
            backtrace=move.one.new.reject.backtrace if move.one.new.reject else (),
        )


def traps(found: Rehearsal) -> Iterator[Finding]:
    """Calls that the old version answered, and the new one does not."""
    few, moved = _Few(), _moves(found)
    for one in found.tries:
        if one.new.reject is None or not one.old.is_fine or one.call.method in moved:
            continue
        finding = _trap(found, one)
        if few(finding):
            yield finding


def _trap(found: Rehearsal, one: Try) -> Finding:
    reject = one.new.reject
    assert reject is not None
    shown = _argument(found, one)
    text = one.new.words
    with_data = "" if not one.new.has_trapped else _without_data(found, one)
    severity: Severity = "breaking"
    if not one.new.has_trapped:
        severity = "breaking" if one.call.origin in ("plain", "task") else "not certain"
        what, why = f"{one.call.method} is refused now: {text}", "callers that were answered are refused"
        remedy = "make sure that this is meant"
    elif with_data == "works":
        return _unreadable(found, one, text)
    elif with_data == "the same" and one.call.origin in ("seeded", "data") and one.call.kind == "update":
        severity = "warning"
        what = f"{one.call.method} traps on an argument that the old version took, with or without data: {text}"
        why, remedy = "the new version refuses it", "make sure that this is meant"
    else:
        what, why = f"{one.call.method} traps: {text}", "callers that were answered are not any more"
        remedy = "mend the method"
    if "nstruction" in text and "limit" in text and one.call.origin != "replay":
        severity = "not certain" if severity == "breaking" and one.call.kind == "update" else severity
    return Finding(
        "call-traps",
        severity,
        what,
        one.call.method,
        shown,
        "a trap" if one.new.has_trapped else one.new.words,
        why,
        remedy,
        shows_values=True,
        values=(text,),
        backtrace=reject.backtrace,
    )


def _unreadable(found: Rehearsal, one: Try, text: str) -> Finding:
    """A trap that comes from the data: of which structure, and of its keys or its values."""
    assert one.new.reject is not None
    labels = _readers(found, one).new
    label = min(labels) if len(labels) == 1 else ""
    place = f"memory {label}" if label else "the data that there is"
    structure = found.before.structures.get(label)
    others = [other.new for other in found.tries if other.call.method == one.call.method]
    suspects = "id, types and bounds"
    code = "data-unreadable"
    if structure is not None and structure.kind in ("btreemap", "btreeset"):
        is_value = any(other.is_fine for other in others)
        code = "value-encoding" if is_value else "key-type"
        suspects = "the values' encoding" if is_value else "the keys' type, or the bounds"
    return Finding(
        code,
        "breaking",
        f"{one.call.method} traps on {place}: {text}",
        one.call.method,
        _argument(found, one),
        "a trap",
        f"the new version cannot read what the old one has left: look at {suspects}",
        "open the memory as what it holds; else migrate it in post_upgrade",
        label,
        shows_values=True,
        values=(text,),
        backtrace=one.new.reject.backtrace,
    )


def _without_data(found: Rehearsal, one: Try) -> str:
    """What the new version does with the same call when it is installed anew: ``works``, ``the same``; or not known."""
    if found.fresh_new is None:
        return ""
    fresh = found.fresh_new.run(one.call)
    if not fresh.has_trapped:
        return "works"
    assert one.new.reject is not None
    assert fresh.reject is not None
    return "the same" if fresh.reject.message == one.new.reject.message else "works"


def _argument(found: Rehearsal, one: Try) -> str:
    old = "" if one.old.reply is None else f" -> {found.reply(one.call, one.old.reply)}"
    return f"{one.call.method}({_shown(found, one)}){old}"


def _shown(found: Rehearsal, one: Try) -> str:
    from perdure.candid import decode, values_to_text
    from perdure.errors import MalformedError

    method = found.old.signature(one.call.method)
    try:
        if method is None:
            return one.call.arg[:64].hex()
        text = values_to_text(method.func.args, decode(one.call.arg, method.func.args))
    except MalformedError:
        return one.call.arg[:64].hex()
    return text[1:-1][:200]


# -- replies


def replies(found: Rehearsal) -> Iterator[Finding]:
    """Replies that are not what they were."""
    few = _Few()
    swapped: set[str] = set(_moves(found))
    for first, second in _exchanged(found):
        if {first, second} & swapped:
            continue
        swapped |= {first, second}
        yield Finding(
            "replies-exchanged",
            "breaking",
            f"{first} answers what {second} answered, and the other way round",
            f"{first}, {second}",
            why="two structures, or two fields, are read in each other's place",
            remedy="open each memory under the id that it had, and read fields in the order in which they are written",
        )
    for one in found.tries:
        if one.old.reply is None or one.new.reply is None or one.call.method in swapped:
            continue
        finding = _reply(found, one, one.old.reply, one.new.reply)
        if finding is not None and few(finding):
            yield finding


def _exchanged(found: Rehearsal) -> Iterator[tuple[str, str]]:
    """Pairs of methods that have exchanged their answers to the same arguments."""
    answers: dict[bytes, dict[str, tuple[bytes, bytes]]] = {}
    for one in found.tries:
        if one.call.kind == "query" and one.old.reply is not None and one.new.reply is not None:
            answers.setdefault(one.call.arg, {})[one.call.method] = one.old.reply, one.new.reply
    pairs = set()
    for methods in answers.values():
        for name, (old, new) in methods.items():
            for other, (other_old, other_new) in methods.items():
                if name < other and old != new and old == other_new and new == other_old:
                    pairs.add((name, other))
    yield from sorted(pairs)


def _reply(found: Rehearsal, one: Try, old_data: bytes, new_data: bytes) -> Finding | None:
    old, new = found.reply(one.call, old_data), found.reply(one.call, new_data)
    if new.trouble and not old.trouble:
        return Finding(
            "reply-type",
            "breaking",
            f"the reply of {one.call.method} is not of the old type: {new.trouble}",
            one.call.method,
            _argument(found, one),
            new_data[:64].hex(),
            "callers cannot read it",
            "keep the type",
            shows_values=True,
        )
    if old == new or found.is_volatile(one.call):
        return None
    fresh_old = _fresh(found, one, found.fresh_old)
    if fresh_old is not None and fresh_old == old:
        severity: Severity = "note"
        what, code = f"{one.call.method} answers otherwise, with or without data", "reply-changed"
        why, remedy = "the code changed", ""
    elif found.is_lost_anyway(one.call) and _fresh(found, one, found.fresh_new) != new:
        return None
    elif found.is_lost_anyway(one.call) and _fresh(found, one, found.again) == fresh_old:
        is_all = not any(structure.entries != 0 for structure in found.before.structures.values())
        code, severity = "data-lost", "breaking" if is_all else "warning"
        what = f"{one.call.method} answers as if there were no data, as after any upgrade of the old version"
        why, remedy = (
            "what it shows is on the heap, and no hook saves it",
            "save it in pre_upgrade, or keep it in stable memory",
        )
    else:
        code, severity, what, why, remedy = _differs(found, one, old, new)
    label = "" if severity == "note" else min(_readers(found, one).old, default="")
    return Finding(
        code, severity, what, one.call.method, _argument(found, one), str(new), why, remedy, label, shows_values=True
    )


def _differs(found: Rehearsal, one: Try, old: Reply, new: Reply) -> tuple[str, Severity, str, str, str]:
    method = one.call.method
    fresh = _fresh(found, one, found.fresh_new)
    lost = "the new version does not find what the old one has kept"
    remedy = "open the old memories; read in post_upgrade what pre_upgrade saves; keep stable types compatible"
    if fresh is not None and fresh == new:
        return "data-lost", "breaking", f"{method} answers as if there were no data", lost, remedy
    if is_reversed(old.values, new.values):
        what = f"{method} reads numbers in the other byte order"
        return (
            "value-encoding",
            "breaking",
            what,
            "the value encoding changed, and nothing traps",
            "keep the encoding, or migrate",
        )
    if is_less(old.values, new.values):
        return "data-lost", "breaking", f"{method} answers with less than before", lost, remedy
    why = "the same data gives another answer: either that is meant, or it is read as something else"
    return (
        "reply-differs",
        "not certain",
        f"{method} answers otherwise",
        why,
        f"if it is meant, say --volatile {method}",
    )


def _fresh(found: Rehearsal, one: Try, stage: Stage | None) -> Reply | None:
    if stage is None:
        return None
    outcome = stage.run(one.call)
    return found.reply(one.call, outcome.reply) if outcome.reply is not None else None


# -- structures that are made anew when first used


def made_anew(found: Rehearsal) -> Iterator[Finding]:
    """Structures that are written over when the new version first uses them."""
    if found.after is None:
        return
    seen: set[str] = set()
    for one in found.tries:
        if not one.new.is_fine:
            continue
        if one.call.kind == "query":
            labels = found.after.labels(one.new.pages(written=True)) - found.before.labels(one.old.pages(written=True))
            labels = frozenset(label for label in labels if _had_entries(found, label))
            how = f"the query {one.call.method} writes to it, as it did not before: it is created instead of opened"
        else:
            labels = frozenset(
                label
                for label, count in one.old_entries.items()
                if one.new_entries
                and one.new_entries.get(label, 0) < min(count, _entries(found, label))
                and _had_entries(found, label)
            )
            how = f"{one.call.method} leaves it with fewer entries than the old version does"
        for label in sorted(labels - seen):
            seen.add(label)
            yield Finding(
                "structure-recreated",
                "breaking",
                f"memory {label} is made anew: {how}",
                f"memory {label}",
                f"{_entries(found, label):,} entries",
                f"{one.new_entries.get(label, 0):,} entries",
                "the first message that uses it destroys what is there",
                "open it with `init` (Rust), not with `new`",
                label,
            )


def _entries(found: Rehearsal, label: str) -> int:
    one = None if found.after is None else found.after.structures.get(label)
    return 0 if one is None else one.entries or 0


def _had_entries(found: Rehearsal, label: str) -> bool:
    before = found.before.structures.get(label)
    return before is not None and bool(before.entries) and before.kind not in ("unknown", "cell")


# -- what was reached


def exercised(found: Rehearsal) -> dict[str, str]:
    """How each structure was exercised, by label; an empty text: it was not."""
    after = found.after
    if after is None:
        return {}
    hooks = after.labels(found.hook_pages)
    touched, read, old_read = set(hooks), set(hooks), set[str]()
    for one in found.tries:
        if one.new.is_fine:
            touched |= after.labels(one.new.pages())
            read |= after.read_labels(one.new)
        old_read |= found.before.read_labels(one.old)
    declared = _declared_alike(found)
    result = {}
    for label, structure in after.structures.items():
        if label in read or (label in touched and label not in old_read and _is_small(structure.used_bytes)):
            result[label] = "a hook" if label in hooks else "a call"
        elif label in declared and found.is_unchanged(label):
            result[label] = "the same schema, and bytes that did not change"
        elif not structure.entries and structure.kind != "unknown":
            result[label] = "nothing is in it"
        else:
            result[label] = ""
    return result


def _is_small(used_bytes: int | None) -> bool:
    """Whether a structure fits the page that has its header, so that whoever opens it may have read all of it."""
    return used_bytes is not None and used_bytes <= 4096


def _declared_alike(found: Rehearsal) -> frozenset[str]:
    old, new = found.old.schema, None if found.new is None else found.new.schema
    if old is None or new is None:
        return frozenset()
    same = (label for label, one in old.memories.items() if new.memories.get(label) == one)
    full = (
        label
        for label in same
        if _is_full(old.memories[label].kind, old.memories[label].key, old.memories[label].value)
    )
    return frozenset(full)


def _is_full(kind: str | None, key: object, value: object) -> bool:
    """Whether a declaration says what the bytes are."""
    return (
        kind is not None
        and (value is not None or kind == "btreeset")
        and (key is not None or kind not in ("btreemap", "btreeset"))
    )


def coverage(found: Rehearsal) -> Iterator[Finding]:
    """Structures that nothing reached."""
    if found.after is None:
        return
    retired = found.new.schema if found.new is not None else None
    for label, how in exercised(found).items():
        if how or (retired is not None and retired.of(label).state in ("retired", "reserved", "unused", "removed")):
            continue
        structure = found.after.structures[label]
        reached = any(label in found.before.read_labels(one.old) for one in found.tries)
        yield Finding(
            "not-exercised",
            "not certain",
            f"nothing of the new version has read memory {label} ({structure.kind})"
            + (", which the old version reads in the same calls" if reached else ""),
            f"memory {label}",
            why="it may be opened as something else, or not at all",
            remedy="replay recorded calls (--replay), or declare it in a stable.yaml of both versions",
            memory=label,
        )


def nothing_tried(found: Rehearsal) -> Iterator[Finding]:
    """A check that has compared no answer at all says nothing of the code, whatever it says of the data."""
    if found.after is None or any(one.old.is_fine and not one.new.is_open for one in found.tries):
        return
    public = [name for name in found.old.methods if not is_private(name)]
    if not public and keeps_variables(found):
        yield Finding(
            "nothing-tried",
            "note",
            "the old version has no method that could be called; each stable variable has the value that it had",
            "calls",
        )
        return
    left_out = [name for name in public if name in found.options.volatile]
    reasons = [f"{name}: {why}" for name, why in list(found.untried.items())[:3]]
    if left_out:
        reasons.append(f"{', '.join(left_out[:3])}: volatile")
    if not public:
        reasons.append("the old version has no method that could be called")
    yield Finding(
        "nothing-tried",
        "not certain",
        "no call could be compared" + (f" ({'; '.join(reasons)})" if reasons else ""),
        "calls",
        why="whether the new version answers, and reads what is there, is not known",
        remedy="give calls that the old version answers (--replay FILE), or its interface (--old-candid)",
    )


def calls_held(found: Rehearsal) -> Iterator[Finding]:
    """Calls that left the canister, and that nobody answered."""
    seen = set()
    for one in found.tries:
        for message in one.new.held:
            key = one.call.method, message.method_name
            if key not in seen and not one.new.reject:
                seen.add(key)
                yield Finding(
                    "call-unanswered",
                    "not certain" if one.new.is_open else "note",
                    f"{one.call.method} calls {message.method_name} of another canister, which is not here",
                    one.call.method,
                    why="what it does with the answer was not tried",
                    remedy="check a state directory that has the other canister, or give answers (--replay FILE)",
                )
        if one.new.is_open and not one.new.held and one.old.is_fine and one.call.kind != "task":
            yield Finding(
                "call-unanswered",
                "not certain",
                f"{one.call.method} is not answered any more within the rehearsal",
                one.call.method,
                why="it waits for something that the old version did not wait for",
            )


CALL_CHECKS = (made_anew, ids, traps, replies, coverage, nothing_tried, calls_held)
