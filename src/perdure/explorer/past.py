"""The history of a state directory: a timeline, what a message changed, who wrote a byte."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Final, NamedTuple, final

from perdure.errors import HostError
from perdure.explorer.asked import Asked, Page
from perdure.explorer.changes import Differences, patience, structures_between
from perdure.explorer.site import NotFoundError
from perdure.explorer.words import shown_id
from perdure.ic.principal import MAX_PRINCIPAL_BYTES, Principal
from perdure.inspection.deadline import Deadline
from perdure.inspection.labels import ModuleLabels
from perdure.inspection.source import Source
from perdure.inspection.state import source_of_image
from perdure.memory import PAGE_BYTES, BytesMemory
from perdure.storage import StateDirectory, Version
from perdure.storage.past import PastCanister

__all__ = ["blame", "history", "version"]

_ROWS: Final = 50
_STEP: Final = 100


@final
class Moment(NamedTuple):
    """A commit, as the timeline shows it."""

    version: int
    kind: str
    method: str
    canister: str
    caller: str
    time_ns: int
    instructions: int
    pages: int
    width: float
    """Of its bar, in percent of the widest."""


def _directory(asked: Asked) -> StateDirectory:
    found = asked.subnet._history_directory()
    if found is None:
        raise NotFoundError("a subnet in memory keeps no history: serve a state directory")
    return found


def history(asked: Asked) -> Page:
    """The kept commits, newest first, maybe of one canister."""
    wanted, before = asked.values.get("c", ""), asked.number("before")
    directory = _directory(asked)
    if wanted:
        rows = list(islice(_about(directory, Principal.from_text(wanted).raw_bytes, before or None), _ROWS + 1))
    else:
        rows = directory.history(_ROWS + 1, below=before or None)
    most = max((sum(one.changed_pages().values()) for one in rows), default=0) or 1
    moments = [_moment(one, most) for one in rows[:_ROWS]]
    more = moments[-1].version if len(rows) > _ROWS else 0
    facts = {"moments": moments, "more": more, "wanted": wanted, "keeps": directory.history_kept}
    return Page("history.html", {**facts, "at": _at(asked), "subnet": str(asked.subnet.id)})


def _at(asked: Asked) -> str:
    """What a link to a version says beside its number: whose it is, where there are several subnets."""
    return f"?subnet={asked.subnet.id}" if len(asked.site.subnets) > 1 else ""


def _about(directory: StateDirectory, canister_id: bytes, below: int | None) -> Iterator[Version]:
    """Commits that are about a canister, newest first; read some at a time, as most may be about others."""
    while found := directory.history(_STEP, below=below, naming=canister_id):
        yield from (one for one in found if canister_id == one.message.canister or canister_id in one.facts.canisters)
        below = found[-1].version


def _moment(one: Version, most: int) -> Moment:
    message, pages = one.message, sum(one.changed_pages().values())
    return Moment(
        one.version,
        message.kind,
        message.method,
        shown_id(message.canister),
        shown_id(message.caller),
        message.time_ns,
        message.instructions,
        pages,
        round(100 * pages / most, 1),
    )


def version(asked: Asked) -> Page:
    """What one commit changed, by canister."""
    text = asked.parts["version"]
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else -1
    directory = _directory(asked)
    found = next(iter(directory.history(1, below=number + 1)), None)
    if found is None or found.version != number:
        raise NotFoundError(f"version {text[:20]} is not kept")
    pages = [(shown_id(key), name, count) for (key, name), count in found.changed_pages().items()]
    facts: dict[str, object] = {
        "moment": _moment(found, 1),
        "pages": pages,
        "differences_of": [],
        "words": "",
        "at": _at(asked),
    }
    if not found.undoable:
        facts["words"] = "what it replaced is not kept: have the directory keep its history to see that"
        return Page("version.html", facts)
    deadline = patience()  # of all canisters together
    try:
        before, after = directory.around(found, deadline.look)
    except HostError as error:
        facts["words"] = f"too many messages came after it to show what it changed: {error}"
        return Page("version.html", facts)
    with closing(before), closing(after):
        facts["differences_of"] = [
            (shown_id(key), _differences(directory, before.canisters[key], after.canisters[key], deadline))
            for key in found.facts.canisters
            if key in before.canisters and key in after.canisters and len(key) <= MAX_PRINCIPAL_BYTES
        ]
    return Page("version.html", facts)


def _differences(
    directory: StateDirectory, before: PastCanister, after: PastCanister, deadline: Deadline
) -> Differences:
    """How a canister differs; read from its pages alone, no canister runs."""
    changed = [(name, before.sizes.get(name, 0), size) for name, size in after.sizes.items()]
    facts: list[tuple[str, object, object]] = [
        (f"{name} in Wasm pages", f"{old:,}", f"{new:,}") for name, old, new in changed if old != new
    ]
    if before.module_hash != after.module_hash:
        facts.insert(0, ("module", before.module_hash.hex() or "none", after.module_hash.hex() or "none"))
    return Differences(facts, *structures_between(_source(directory, before), _source(directory, after), deadline))


def _source(directory: StateDirectory, canister: PastCanister) -> Source:
    hash_, image = canister.module_hash, canister.images.get("stable")
    labels = ModuleLabels(lambda: directory.blob(hash_) if hash_ else None)
    return Source("nothing", BytesMemory()) if image is None else source_of_image("stable memory", image, labels)


def blame(asked: Asked) -> Page:
    """Who last wrote a byte of a memory."""
    memory, text = asked.values.get("memory", "stable"), asked.values.get("at", "0")
    try:
        address = int(text, 0)
    except ValueError as error:
        raise ValueError(f"{text[:40]!r} is no offset, expected a number such as 4096 or 0x1000") from error
    directory, canister = _directory(asked), asked.canister
    try:
        found = directory.blame(canister.id.raw_bytes, memory, address)
    except (KeyError, IndexError) as error:
        raise ValueError(str(error.args[0])) from error
    moment = None if found is None else _moment(found, 1)
    page = address // PAGE_BYTES
    return Page("_blame.html", {"at": _at(asked), "moment": moment, "address": address, "page": page, "memory": memory})
