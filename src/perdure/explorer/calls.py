"""Methods with forms, what calling one comes to, and what has happened on the subnet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, final

from perdure.candid import encode, parse_values, values_to_text
from perdure.candid.service import ServiceMethod, ServiceType
from perdure.errors import MalformedError, PerdureError, RejectError, UnsupportedError
from perdure.execution.events import Ended, Sent, Trapped
from perdure.explorer.asked import Asked, Page
from perdure.explorer.forms import MAX_FIELDS, compose, count_of, example, fields_of
from perdure.explorer.guard import HEADERS
from perdure.explorer.site import Entry, NotFoundError, entry_of
from perdure.explorer.words import cell
from perdure.gateway.http import Response
from perdure.ic.principal import ANONYMOUS, Principal
from perdure.measure.heat import STABLE, Heat, Use
from perdure.measure.profile import Profile
from perdure.subnet.interface import must_be_asked
from perdure.subnet.subnet import Canister, Subnet

__all__ = ["Methods", "Outcome", "ask", "call", "methods", "methods_of", "outcome_of", "picture", "recent"]

_MAX_REPLY_CHARACTERS: Final = 20_000
_METHODS: Final = 40
_MAX_FIELDS: Final = 300
"""Of all forms of a page: those of further methods have one for Candid."""
_MAX_WORDS: Final = 1_000
_PICTURE_HEADERS: Final = (
    (
        "content-security-policy",
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; sandbox allow-scripts",
    ),
    *HEADERS[1:],
)
"""A flame graph is one file with a script of its own: alone in its window, of no origin."""


@final
class Outcome(NamedTuple):
    """What a call came to."""

    method: str
    kind: str
    reply: str
    error: str
    instructions: int
    cycles: int
    entries: Sequence[Entry]
    sent: Sequence[str]
    structures: Sequence[Use]
    heat: int | None
    """Number of a picture of the pages, as `profile`."""
    logs: Sequence[bytes]
    profile: int | None


# --- methods


@final
class Methods(NamedTuple):
    """Some of a canister's methods, as forms are made of them."""

    rows: Sequence[Mapping[str, object]]
    skip: int
    total: int
    note: str
    """What is to be said of its interface."""
    is_unasked: bool
    """Whether it has code that tells it, which has not run yet."""
    step: int = _METHODS


def methods(asked: Asked) -> Page:
    """A canister's methods, with a form for each."""
    canister = asked.canister
    return Page("methods.html", {"found": methods_of(asked, canister), "canister": canister, "act": "call"})


def ask(asked: Asked) -> Page:
    """Ask a canister for its interface, which runs its code."""
    canister = asked.canister
    found = methods_of(asked, canister, may_ask=True)
    return Page("_methods.html", {"found": found, "canister": canister, "act": "call"})


def methods_of(asked: Asked, canister: Canister, *, may_ask: bool = False) -> Methods:
    """Some methods of a canister, from the one on that was asked for."""
    service, note = _service_of(asked, canister, may_ask=may_ask)
    is_unasked = service is None and not may_ask and must_be_asked(canister.module)
    rows = _exported(canister) if service is None else list(service.methods.values())
    skip = asked.number("skip")
    shown, room = [], _MAX_FIELDS
    for one in rows[skip : skip + _METHODS]:
        row, used = _described(one, room) if isinstance(one, ServiceMethod) else (one, 0)
        room -= used
        shown.append(row)
    return Methods(shown, skip, len(rows), note, is_unasked)


def _exported(canister: Canister) -> list[dict[str, object]]:
    """Of a canister without an interface, methods by name."""
    names = sorted(canister.module.exported_methods) if canister.module is not None else []
    kinds = {"canister_update": "update", "canister_query": "query", "canister_composite_query": "composite_query"}
    split = [name.partition(" ") for name in names]
    return [
        {"name": name, "mode": kinds[kind], "signature": name, "docs": "", "fields": (), "example": "()"}
        for kind, _, name in split
        if kind in kinds
    ]


def _service_of(asked: Asked, canister: Canister, *, may_ask: bool) -> tuple[ServiceType | None, str]:
    """The interface of a canister; `None`: it does not say, and why."""
    module, site = canister.module, asked.site
    told_by_code = must_be_asked(module) and canister._subnet._interfaces.of(canister._raw_id) is None
    if module is not None and told_by_code:
        kept = site.interfaces.get(module.module_hash)
        if kept is not None or not may_ask:
            return kept, "" if kept is not None else "It tells its interface to who asks, which runs its code."
    try:
        service = canister.service()
    except (PerdureError, OSError, ValueError) as error:
        return None, str(error)
    if module is not None and told_by_code:
        site.keep_interface(module.module_hash, service)
    return service, ""


def _described(method: ServiceMethod, room: int) -> tuple[dict[str, object], int]:
    """What a form is made of, and how many fields it has."""
    args = method.func.args
    fields = fields_of(args, method.func.arg_names)
    used = count_of(fields)
    text = ", ".join(map(example, args)) if len(args) <= MAX_FIELDS else "null"
    row: dict[str, object] = {
        "name": method.name,
        "mode": method.mode,
        "signature": _cut(method.signature),
        "docs": _cut(method.docs),
        "fields": fields if used <= room else (),
        "example": f"({text})" if len(text) <= _MAX_WORDS else "(null)",
    }
    return row, used if used <= room else 0


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_WORDS else f"{text[:_MAX_WORDS]}…"


def call(asked: Asked) -> Page:
    """Call a method, and show what came of it."""
    return Page(
        "_outcome.html", {"outcome": outcome_of(asked, asked.subnet, asked.canister), "canister": asked.canister}
    )


def outcome_of(asked: Asked, subnet: Subnet, canister: Canister) -> Outcome:
    """Call the method that a form says on a canister of a subnet.

    Raises:
        ValueError: arguments that are not of their types.
        MalformedError: no Candid.
    """
    values = asked.values
    name = values.get("method", "")
    service, _ = _service_of(asked, canister, may_ask=True)
    method = service.methods.get(name) if service is not None else None
    argument, sender = _argument(method, values), _sender(values.get("sender", ""))
    kind = "query" if _is_query(canister, method, name) else "update"
    found: Profile | None = None
    with subnet.events() as stream, subnet.heat() as heat, _profiled(subnet, bool(values.get("profile"))) as profiles:
        reply, error = _call(canister, kind, name, argument, sender)
    found = profiles[0] if profiles else None
    events = list(stream)
    entries = [
        entry_of(at, one) for at, one in enumerate((one for one in events if isinstance(one, Ended | Trapped)), 1)
    ]
    last = canister.last
    return Outcome(
        name,
        kind,
        "" if reply is None else _shown(method, reply),
        error,
        sum(one.instructions for one in entries),
        sum(one.cycles for one in entries),
        entries,
        [_told(one) for one in events if isinstance(one, Sent) and one.kind == "call"],
        [one for one in heat.structures() if one.memory == STABLE],
        asked.site.calls.keep(heat.svg(str(canister.id), STABLE)) if _drawable(heat, canister) else None,
        last.logs if last is not None else (),
        None if found is None else asked.site.calls.keep(found.svg("Instructions")),
    )


def _call(canister: Canister, kind: str, name: str, argument: bytes, sender: Principal) -> tuple[bytes | None, str]:
    try:
        act = canister.query if kind == "query" else canister.update
        return act(name, argument, sender=sender), ""
    except RejectError as error:
        return None, str(error)


@contextmanager
def _profiled(subnet: Subnet, wanted: bool) -> Iterator[list[Profile]]:
    if not wanted:
        yield []
        return
    with subnet.profile() as found:
        yield [found]


def _drawable(heat: Heat, canister: Canister) -> bool:
    return (str(canister.id), STABLE) in heat.memories


def _told(event: Sent) -> str:
    return f"{event.method_name} of {Principal(event.receiver)}, {event.payload_bytes:,} bytes, {event.cycles:,} cycles"


def _argument(method: ServiceMethod | None, values: Mapping[str, str]) -> bytes:
    text = values.get("candid", "").strip()
    if method is None:
        return encode(*parse_values(text or "()"))
    if not text:
        text = compose(fields_of(method.func.args, method.func.arg_names), values)
    if not text.startswith("("):
        text = f"({text})"
    return method.encode(parse_values(text, method.func.args)[1])


def _sender(text: str) -> Principal:
    if not text.strip():
        return ANONYMOUS
    try:
        return Principal.from_text(text.strip())
    except MalformedError as error:
        raise ValueError(f"the caller {text.strip()[:80]!r} is no principal: {error}") from error


def _is_query(canister: Canister, method: ServiceMethod | None, name: str) -> bool:
    if method is not None:
        return method.is_query
    exported = canister.module.exported_methods if canister.module is not None else frozenset()
    return f"canister_query {name}" in exported or f"canister_composite_query {name}" in exported


def _shown(method: ServiceMethod | None, reply: bytes) -> str:
    try:
        if method is None:
            from perdure.candid import decode_with_types

            text = values_to_text(*decode_with_types(reply))
        else:
            text = values_to_text(method.func.results, method.decode(reply))
    except (PerdureError, UnsupportedError, ValueError, ImportError) as error:
        text = f"{len(reply):,} bytes that are no reply of this type ({error}): {cell(reply[:200])}"
    return text if len(text) <= _MAX_REPLY_CHARACTERS else f"{text[:_MAX_REPLY_CHARACTERS]}…"


# --- what has happened


def recent(asked: Asked) -> Page:
    """The newest entries that ran, whoever asked for them."""
    streams = asked.site.streams()
    if not streams:
        raise NotFoundError("a memory alone has no calls")
    template = "_calls.html" if asked.values.get("part") else "calls.html"
    return Page(template, {"entries": asked.site.calls.read(streams), "lost": sum(one.lost for one in streams)})


def picture(asked: Asked) -> Response:
    """A flame graph, or a map of pages that a call read and wrote."""
    number = asked.parts["number"]
    if not number.isdecimal() or len(number) > 9:
        raise NotFoundError(f"no picture {number[:20]!r}")
    text = asked.site.calls.picture(int(number))
    return Response(200, text.encode("utf-8", "replace"), "image/svg+xml", _PICTURE_HEADERS)
