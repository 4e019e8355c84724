"""What a Wasm instance may do when, as a table: what is not in it is a bug of whoever asked.

```
           enter    return   trap     write    prepare  commit  roll back  hand over
 clean     running  -        -        changed  clean    clean   clean      changed
 running   -        changed  trapped  -        -        -       clean      -
 changed   running  -        -        changed  ready    -       clean      changed
 trapped   -        -        -        -        -        -       clean      -
 ready     -        -        -        changed  ready    clean   clean      -
```

*Running* is stored before the engine is called, *changed* or *trapped* when it has told the outcome and the list of
written pages, which the next entry clears, was taken over from the kernel. An exception leaves it running, and only a
rollback leads out of that. *Ready*: what a commit is to commit has been put together, and has room.

One event is one table from state to state: a look-up takes 35 ns, and a message has four.
"""

from __future__ import annotations

from typing import Final, final

from perdure.errors import InternalError

__all__ = [
    "CHANGED",
    "CLEAN",
    "COMMIT",
    "ENTER",
    "EVENTS",
    "HAND_OVER",
    "PREPARE",
    "READY",
    "RETURN",
    "ROLL_BACK",
    "RUNNING",
    "STATES",
    "TRAP",
    "TRAPPED",
    "WRITE",
    "Event",
    "State",
]


@final
class State:
    """What an instance has done since its last commit or rollback."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


CLEAN, RUNNING, CHANGED, TRAPPED, READY = STATES = tuple(
    map(State, ("clean", "running", "changed", "trapped", "ready"))
)


@final
class Event(dict[State, State]):
    """What happens to an instance: the state after it, by the state before. Where there is none, `InternalError`."""

    def __init__(self, name: str, states: dict[State, State]) -> None:
        super().__init__(states)
        self.name = name

    def __missing__(self, state: State) -> State:
        raise InternalError(f"{self.name}: not what an instance does that is {state.name}")


ENTER: Final = Event("enter", {CLEAN: RUNNING, CHANGED: RUNNING})
RETURN: Final = Event("return", {RUNNING: CHANGED})
TRAP: Final = Event("trap", {RUNNING: TRAPPED})
WRITE: Final = Event("write", {CLEAN: CHANGED, CHANGED: CHANGED, READY: CHANGED})
PREPARE: Final = Event("prepare", {CLEAN: CLEAN, CHANGED: READY, READY: READY})
COMMIT: Final = Event("commit", {CLEAN: CLEAN, READY: CLEAN})
ROLL_BACK: Final = Event("roll back", dict.fromkeys(STATES, CLEAN))
HAND_OVER: Final = Event("hand over", {CLEAN: CHANGED, CHANGED: CHANGED})
EVENTS: Final = (ENTER, RETURN, TRAP, WRITE, PREPARE, COMMIT, ROLL_BACK, HAND_OVER)
