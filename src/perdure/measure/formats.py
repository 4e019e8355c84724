"""Profiles as others read them: folded stacks, speedscope, pprof; and as text.

Sources: speedscope's `file-format-schema.json` 1.25; pprof's `profile.proto`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple, final

from perdure.errors import MalformedError
from perdure.measure.paths import Cost, Paths

__all__ = ["Change", "changes_table", "differences", "folded", "parse_folded", "pprof", "speedscope", "table"]

_SCHEMA: Final = "https://www.speedscope.app/file-format-schema.json"


# --- text


def table(paths: Paths, rows: int) -> str:
    """The dearest functions, and what the kinds of cost come to."""
    total = paths.total_instructions
    lines = [f"{total:,} instructions", ""]
    costs = (cost._replace(name=paths.described(cost.name)) for cost in paths.functions()[:rows])
    lines += _costs("function", costs, total)
    hidden = len(paths.frames) - 1 - rows
    if hidden > 0:
        lines.append(f"... and {hidden} more")
    lines += ["", *_costs("kind of cost", paths.centres(), total)]
    if paths.lost_calls:
        lines += ["", f"{paths.lost_calls:,} calls had no room of their own: what they used counts for their callers"]
    lines += ["", *paths.warnings] if paths.warnings else []
    return "\n".join(lines) + "\n"


def _costs(what: str, costs: Iterable[Cost], total: int) -> Iterator[str]:
    yield f"{'self':>16} {'%':>6} {'with callees':>16} {'%':>6} {'calls':>12} {'bytes':>14}  {what}"
    for cost in costs:
        own, whole = (100 * value / total if total else 0.0 for value in (cost.self_instructions, cost.instructions))
        moved = f"{cost.size_bytes:,}" if cost.size_bytes else ""
        yield (
            f"{cost.self_instructions:>16,} {own:>6.2f} {cost.instructions:>16,} {whole:>6.2f} "
            f"{cost.calls:>12,} {moved:>14}  {cost.name}"
        )


# --- folded stacks


def folded(paths: Paths) -> str:
    """One line for each call path, as flame graph programs read it."""
    shown = paths.shown()
    names = [name.replace(";", ":") for name in shown.frames]
    lines = (
        ";".join(names[shown.frame_of[node]] for node in path) + f" {instructions}"
        for path, instructions in shown.stacks()
    )
    return "".join(f"{line}\n" for line in sorted(lines))


def parse_folded(text: str) -> Paths:
    """Read folded stacks, of any program that writes them.

    Raises:
        MalformedError: a line has no count.
    """
    paths = Paths()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        stack, _, count = line.removesuffix("\r").rpartition(" ")
        if not stack or not count.lstrip("-").isascii() or not count.lstrip("-").isdigit() or len(count) > 19:
            raise MalformedError(f"line {number} of a profile is {line!r:.60}, expected frames;frames and a number")
        place = 0
        for frame in stack.split(";"):
            place = paths.child(place, frame)
        paths.count(place, 0, int(count))
    return paths


# --- speedscope


def speedscope(paths: Paths, name: str) -> str:
    """A profile of events, whose time is instructions."""
    shown = paths.shown()
    events: list[dict[str, Any]] = []
    children, at = shown.children(), 0
    stack = [~node for node in reversed(children[0])]
    while stack:
        node = stack.pop()
        if node >= 0:
            events.append({"type": "C", "frame": shown.frame_of[node] - 1, "at": at})
            continue
        node = ~node
        events.append({"type": "O", "frame": shown.frame_of[node] - 1, "at": at})
        at += max(0, shown.self_instructions[node])
        stack.append(node)
        stack.extend(~child for child in reversed(children[node]))
    profile = {"type": "evented", "name": name, "unit": "none", "startValue": 0, "endValue": at, "events": events}
    return json.dumps(
        {
            "$schema": _SCHEMA,
            "shared": {"frames": [_speedscope_frame(shown, frame) for frame in shown.frames[1:]]},
            "profiles": [profile],
            "name": name,
            "activeProfileIndex": 0,
            "exporter": "perdure",
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )


def _speedscope_frame(paths: Paths, name: str) -> dict[str, str | int]:
    if name not in paths.places:
        return {"name": name}
    file, line = paths.places[name]
    return {"name": name, "file": file, "line": line}


# --- pprof


def pprof(paths: Paths) -> bytes:
    """A `profile.proto` with calls, instructions and bytes, compressed."""
    shown = paths.shown()
    strings: dict[str, int] = {"": 0}

    def text(value: str) -> int:
        return strings.setdefault(value, len(strings))

    out = [
        _message(1, _number(1, text(kind)) + _number(2, text(unit)))
        for kind, unit in (("calls", "count"), ("instructions", "count"), ("stable", "bytes"))
    ]
    for node in range(1, len(shown.frame_of)):
        values = (shown.calls[node], shown.self_instructions[node], shown.bytes[node])
        if any(values):
            path, place = [], node
            while place:
                path.append(shown.frame_of[place])
                place = shown.parent_of[place]
            out.append(_message(2, _packed(1, path) + _packed(2, values)))
    for frame, name in enumerate(shown.frames[1:], 1):
        file, line = shown.places.get(name, ("", 0))
        out.append(_message(4, _number(1, frame) + _message(4, _number(1, frame) + _number(2, line))))
        # No system name: what equals that, pprof takes for a symbol, and cuts what is in angle brackets out of it.
        function = _number(1, frame) + _number(2, text(name))
        out.append(_message(5, function + _number(4, text(file)) + _number(5, line)))
    chosen = text("instructions")
    out += [_message(6, value.encode(errors="replace")) for value in strings]
    out.append(_number(14, chosen))
    return gzip.compress(b"".join(out), 6, mtime=0)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, body: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(body)) + body


def _packed(field: int, values: Iterable[int]) -> bytes:
    return _message(field, b"".join(map(_varint, values)))


# --- two of them


@final
class Change(NamedTuple):
    """One function in two profiles."""

    name: str
    before: int
    """Instructions of its own code."""
    now: int


def differences(before: Paths, now: Paths) -> list[Change]:
    """How the code of each function has changed in what it costs, the largest change first."""
    costs = [{cost.name: cost.self_instructions for cost in paths.functions()} for paths in (before, now)]
    found = [Change(name, *(one.get(name, 0) for one in costs)) for name in costs[0].keys() | costs[1].keys()]
    changed = [one for one in found if one.before != one.now]
    return sorted(changed, key=lambda one: (-abs(one.now - one.before), one.name))


def changes_table(before: Paths, now: Paths, rows: int = 30) -> str:
    """The largest changes, as text."""
    totals = Change("total", before.total_instructions, now.total_instructions)
    changed = differences(before, now)
    lines = [f"{'before':>16} {'now':>16} {'change':>16} {'%':>8}  function"]
    for one in (totals, *changed[:rows]):
        change = one.now - one.before
        percent = f"{100 * change / one.before:+.2f}" if one.before else "new"
        lines.append(f"{one.before:>16,} {one.now:>16,} {change:>+16,} {percent:>8}  {one.name}")
    if len(changed) > rows:
        lines.append(f"... and {len(changed) - rows} more")
    return "\n".join(lines) + "\n"
