"""What a message has changed so far: what each record was before, and what is left to do once it is kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import Final, final

from perdure.canister import CanisterInstance, CanisterStatus
from perdure.execution.messages import CallContext
from perdure.execution.state import CHANGED_IN_PLACE, CanisterState, HookStatus, SnapshotContent, SubnetState

__all__ = ["Journal", "Ticket"]

_COMPUTED: Final = frozenset(["limits"])
_FIELDS: Final = tuple(
    name
    for name in CanisterState.__slots__
    if name not in CHANGED_IN_PLACE and name not in _COMPUTED and name != "facts"
)
_FACTS: Final = ("controllers", "status", "version", "environment_variables")
_CONTEXT: Final = tuple(CallContext.__slots__)
_SUBNET: Final = (
    "minted_cycles",
    "consumed_cycles",
    "lost_cycles",
    "next_canister_index",
    "next_outcall_id",
    "random_counter",
    "outbox",
    "handed",
    "xnet_streams",
    "strays",
    "sent_cycles",
    "received_cycles",
)
"""Clock, round and request number are not among them: they may go on without the message that moved them."""

_fields_of = attrgetter(*_FIELDS)
_copied_of = attrgetter(*CHANGED_IN_PLACE)
_facts_of = attrgetter(*_FACTS)
_context_of = attrgetter(*_CONTEXT)
_subnet_of = attrgetter(*_SUBNET)


def _set(target: object, names: tuple[str, ...], values: tuple[object, ...]) -> None:
    for name, value in zip(names, values, strict=True):
        setattr(target, name, value)


@final
class _Before:
    """What a canister's record was; `existed`: whether the subnet had it.

    What fields hold that are changed in place is replaced and never changed, contexts apart.
    """

    __slots__ = ("canister", "contexts", "copies", "existed", "facts", "fields", "origins")

    def __init__(self, canister: CanisterState, existed: bool) -> None:
        self.canister = canister
        self.existed = existed
        self.fields = _fields_of(canister)
        self.origins = origins = _copied_of(canister)
        # What is empty needs no copy to be empty again.
        self.copies = [value and value.copy() for value in origins] if any(origins) else origins
        contexts = canister.contexts
        self.contexts = [(context, _context_of(context)) for context in contexts.values()] if contexts else ()
        self.facts = _facts_of(canister.facts)

    def put_back(self, state: SubnetState) -> None:
        canister = self.canister
        _set(canister, _FIELDS, self.fields)
        for name, origin, copy in zip(CHANGED_IN_PLACE, self.origins, self.copies, strict=True):
            if copy is origin:
                origin.clear()  # it was empty
            else:
                copy = copy.copy()  # again: this may have to be done again
            setattr(canister, name, copy)
        for context, values in self.contexts:
            _set(context, _CONTEXT, values)
        _set(canister.facts, _FACTS, self.facts)
        canister.limits.clear()
        if self.existed:
            state.canisters[canister.canister_id] = canister
        else:
            state.canisters.pop(canister.canister_id, None)
        _index(state, canister, exists=self.existed)


def _index(state: SubnetState, canister: CanisterState, *, exists: bool) -> None:
    """Have the subnet's indices say of a canister what its record says. `task_canisters` may have one too many."""
    canister_id, module = canister.canister_id, canister.module
    if exists and canister.inputs:
        state.ready[canister_id] = None
    else:
        state.ready.pop(canister_id, None)
    if exists and canister.facts.status is CanisterStatus.STOPPING:
        state.stopping.add(canister_id)
    else:
        state.stopping.discard(canister_id)
    has_heartbeat = module is not None and "canister_heartbeat" in module.exported_methods
    if exists and (canister.global_timer_ns or canister.hook_status is HookStatus.READY or has_heartbeat):
        state.task_canisters.add(canister_id)
    elif not exists:
        state.task_canisters.discard(canister_id)
    calls = canister.open_calls if exists else {}
    for key in [key for key in state.deadlines if key[0] == canister_id and key[1] not in calls]:
        del state.deadlines[key]
    state.deadlines.update({(canister_id, key): call.deadline_ns for key, call in calls.items() if call.deadline_ns})


@final
class Ticket:
    """Follows one message: afterwards, whatever came out, tells whether it was kept."""

    __slots__ = ("journal",)

    def __init__(self) -> None:
        self.journal: Journal | None = None

    @property
    def is_kept(self) -> bool:
        """Whether it was, once `World.recover` has returned."""
        return self.journal is not None and self.journal.is_kept


@final
class Journal:
    """See `World`. One for each transaction; nested where a canister in Python calls another while it runs."""

    __slots__ = (
        "_before",
        "_ingress",
        "_inputs",
        "_management_calls",
        "_outbox_length",
        "_outcalls",
        "_subnet",
        "after",
        "commits",
        "given",
        "goes_with",
        "is_kept",
        "made",
        "outer",
        "version",
    )

    def __init__(self, state: SubnetState, outer: Journal | None) -> None:
        self.outer = outer
        self.is_kept = False
        """Stored once: before, everything is undone; after, the rest is done."""
        self.version = 0
        """Of the state directory, once it has the transaction; 0: there is none, or it goes with the next one."""
        self.goes_with = 0
        """The version of the state directory that is going to have it, if it has no commit of its own."""
        self.commits: dict[bytes, CanisterInstance] = {}
        """Instances whose uncommitted state becomes the committed one."""
        self.given: dict[bytes, SnapshotContent] = {}
        """Memories that canisters of `commits` get with it, in the place of empty ones."""
        self.after: list[Callable[[], object]] = []
        """What else is to be done once it is kept; each may be done again."""
        self.made: list[Callable[[], object]] = []
        """What gives back what was made meanwhile, if it is undone; each may be done again."""
        self._before: dict[bytes, _Before] = {}
        self._subnet = _subnet_of(state)
        self._ingress = state.ingress.mark()
        self._inputs = len(state.inputs) if state.inputs else 0
        self._outbox_length = len(state.outbox)
        self._management_calls = state.management_calls.copy() if state.management_calls else None
        self._outcalls = state.outcalls.copy() if state.outcalls else None

    @property
    def canister_ids(self) -> tuple[bytes, ...]:
        """Whose records have been touched."""
        return tuple(sorted(self._before))

    def note(self, state: SubnetState, canister_id: bytes, canister: CanisterState) -> None:
        """Note what a canister's record is, unless that was done."""
        if canister_id not in self._before:
            self._before[canister_id] = _Before(canister, canister_id in state.canisters)

    def put_back(self, state: SubnetState) -> None:
        """Have everything be what it was when the journal began."""
        for before in self._before.values():
            before.put_back(state)
        state.ingress.back_to(self._ingress)
        if state.inputs is not None:
            del state.inputs[self._inputs :]
        _set(state, _SUBNET, self._subnet)
        del state.outbox[self._outbox_length :]
        state.management_calls = deque() if self._management_calls is None else self._management_calls.copy()
        state.outcalls = {} if self._outcalls is None else self._outcalls.copy()
        for instance in self.commits.values():
            instance.roll_back()
        for undo in self.made:
            undo()
