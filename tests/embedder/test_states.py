"""The table of states is the one that the documentation draws, and nothing else is allowed."""

from __future__ import annotations

import pytest

from perdure.embedder import states
from perdure.embedder.states import EVENTS, STATES
from perdure.errors import InternalError


def test_the_drawn_table_is_the_table():
    assert states.__doc__ is not None
    head, *rows = states.__doc__.split("```")[1].strip("\n").split("\n")
    assert head.split("  ")[-1].strip() == EVENTS[-1].name
    starts = [head.index(f" {event.name}") + 1 for event in EVENTS]
    drawn = {}
    for row in rows:
        name = row[: starts[0]].strip()
        cells = [row[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        drawn[name] = dict(zip((event.name for event in EVENTS), cells, strict=True))
    real = {
        state.name: {event.name: event[state].name if state in event else "-" for event in EVENTS} for state in STATES
    }
    assert drawn == real


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.name)
def test_what_is_not_in_the_table_raises(event):
    for state in STATES:
        if state not in event:
            with pytest.raises(InternalError, match=f"{event.name}: .*{state.name}"):
                event[state]
