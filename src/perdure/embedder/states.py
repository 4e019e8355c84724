"""What a Wasm instance may do when, as a table: what is not in it is a bug of whoever asked.

```
             enter    return  trap     harvest    write      prepare  commit  roll back  hand over
 clean       running  -       -        -          harvested  clean    clean   clean      harvested
 running     -        ran     trapped  -          -          -        -       clean      -
 ran         running  -       -        harvested  -          -        -       clean      -
 harvested   running  -       -        -          harvested  ready    -       clean      harvested
 trapped     -        -       -        -          -          -        -       clean      -
 ready       -        -       -        -          harvested  ready    clean   clean      -
```

*Running* is stored before the engine is called, *ran* or *trapped* when it has told the outcome. An exception leaves it
running, and only a rollback leads out of that. *Harvested*: the list of written pages, which the next entry clears, was
taken over from the kernel. *Ready*: what a commit is to commit has been put together, and has room.

One event is one table from state to state: a look-up takes 35 ns, and a message has five.
"""

from __future__ import annotations

from typing import Final, final

from perdure.errors import InternalError

__all__ = [
    "CLEAN",
    "COMMIT",
    "ENTER",
    "EVENTS",
    "HAND_OVER",
    "HARVEST",
    "HARVESTED",
    "PREPARE",
    "RAN",
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


CLEAN, RUNNING, RAN, HARVESTED, TRAPPED, READY = STATES = tuple(
    map(State, ("clean", "running", "ran", "harvested", "trapped", "ready"))
)


@final
class Event(dict[State, State]):
    """What happens to an instance: the state after it, by the state before. Where there is none, `InternalError`."""

    def __init__(self, name: str, states: dict[State, State]) -> None:
        super().__init__(states)
        self.name = name

    def __missing__(self, state: State) -> State:
        raise InternalError(f"{self.name}: not what an instance does that is {state.name}")


ENTER: Final = Event("enter", {CLEAN: RUNNING, RAN: RUNNING, HARVESTED: RUNNING})
RETURN: Final = Event("return", {RUNNING: RAN})
TRAP: Final = Event("trap", {RUNNING: TRAPPED})
HARVEST: Final = Event("harvest", {RAN: HARVESTED})
WRITE: Final = Event("write", {CLEAN: HARVESTED, HARVESTED: HARVESTED, READY: HARVESTED})
PREPARE: Final = Event("prepare", {CLEAN: CLEAN, HARVESTED: READY, READY: READY})
COMMIT: Final = Event("commit", {CLEAN: CLEAN, READY: CLEAN})
ROLL_BACK: Final = Event("roll back", dict.fromkeys(STATES, CLEAN))
HAND_OVER: Final = Event("hand over", {CLEAN: HARVESTED, HARVESTED: HARVESTED})
EVENTS: Final = (ENTER, RETURN, TRAP, HARVEST, WRITE, PREPARE, COMMIT, ROLL_BACK, HAND_OVER)
