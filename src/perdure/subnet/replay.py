"""Doing a state directory's history again, to see whether it gives the same states.

What came from outside is in the commits (`perdure.execution.inputs`); everything else has to follow. It is done in a
directory of its own, one input after another, and each commit there must have the state hash of the one before it. So
threads that raced have given what some serial order gives: that of the commits.

Where more was begun than was committed (a message was cut off by an exception, a process killed), the message is undone
and the state goes on from the last commit, as it did then.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, final

from perdure.canister import PageDelta
from perdure.errors import RejectError, StorageError
from perdure.execution.config import SubnetConfig
from perdure.execution.cycles import CostSchedule
from perdure.execution.ingress import drawn_id
from perdure.execution.inputs import Input, decode_inputs, message_of
from perdure.execution.lifecycle import InstallMode, InstallOptions
from perdure.execution.outcalls import answer_outcall, answers_of
from perdure.execution.records import decode_record, decode_subnet
from perdure.execution.scheduler import execute_alone, reject_management_call, run_hook, submit_request
from perdure.execution.streams import decode_slice, take_in
from perdure.ic.principal import MAX_PRINCIPAL_BYTES, Principal
from perdure.memory import WASM_PAGE_BYTES
from perdure.storage import CanisterChange, Message, PastState, StateDirectory, Version, changes_of
from perdure.subnet.routes import Routes
from perdure.subnet.subnet import Subnet

__all__ = ["Difference", "Replayed", "replay"]

_STEP_BYTES: Final = 32 << 20


class Difference(NamedTuple):
    """The first commit that was another one when it was made again."""

    version: int
    message: Message
    expected: bytes
    found: bytes | None
    """The state hash; `None`: no such commit was made."""


class Replayed(NamedTuple):
    """What a replay came to: the versions after `start` up to `end` are the same, and the next one is `difference`."""

    start: int
    end: int
    difference: Difference | None


class _Differs(Exception):  # noqa: N818 -- a result on its way, no error
    def __init__(self, version: Version, found: bytes | None) -> None:
        super().__init__(version.version)
        self.difference = Difference(version.version, version.message, version.state_hash, found)


class _CutOff(Exception):  # noqa: N818 -- it ends what was cut off when it was done first
    pass


def replay(
    path: str | os.PathLike[str],
    *,
    start: int | None = None,
    config: SubnetConfig | None = None,
    code: Iterable[type[Any]] = (),
) -> Replayed:
    """Do the kept history of a state directory again, and compare the state after each commit.

    The directory is only read, and may be in use. The replay needs as much room for temporary files as the state has.

    Args:
        path: the directory.
        start: the version to begin with, or the next one at which something came from outside; by default the oldest.
        config: limits that the state was opened with, should that be so long ago that the history does not say it.
        code: the classes of canisters in Python that the state has had, every version of them.

    Raises:
        StorageError: it is no state directory, or keeps no history that can be replayed.
    """
    with StateDirectory.open(path, read_only=True) as origin, tempfile.TemporaryDirectory() as scratch:
        opened = _Opened(config or SubnetConfig(), b"")
        opened, given, steps = _steps(origin, start, opened)
        first = steps[0].versions[0].version - 1
        past = origin.at(first)
        try:
            target = _lay_out(past, origin, Path(scratch) / "state")
        finally:
            past.close()
        with _Replay(origin, target, list(code), *opened) as again:
            end = first
            again.know(given)
            for step in steps:
                try:
                    again.do(step)
                except _Differs as differs:
                    return Replayed(first, differs.difference.version - 1, differs.difference)
                end = step.versions[-1].version
        return Replayed(first, end, None)


@final
class _Step(NamedTuple):
    """Inputs, and the commits that the last one of them led to."""

    inputs: list[Input]
    versions: list[Version]


@final
class _Opened(NamedTuple):
    """How a state was opened."""

    config: SubnetConfig
    seed: bytes
    first_canister_index: int = 0
    keeps_origins: bool = False
    keeps_consumption: bool = False
    keeps_refunds: bool = False


def _opened(one: Input) -> _Opened:
    config, *others = one.fields
    return _Opened(SubnetConfig(**config), *others)


_KNOWN: Final = frozenset(["costs", "routes"])
"""What is said of a state that was opened, and holds until it is opened again."""


def _steps(origin: StateDirectory, start: int | None, opened: _Opened) -> tuple[_Opened, list[Input], list[_Step]]:
    """What is to be done, how the state was opened before that, and what is known of it since."""
    steps: list[_Step] = []
    for version in _kept(origin):
        inputs = decode_inputs(version.message.inputs)
        if inputs:
            steps.append(_Step(inputs, [version]))
        elif steps:
            steps[-1].versions.append(version)
    wanted = [step for step in steps if start is None or step.versions[0].version > start]
    given: list[Input] = []
    for one in (one for step in steps[: len(steps) - len(wanted)] for one in step.inputs):
        if one.kind == "open":
            opened, given = _opened(one), []
        elif one.kind in _KNOWN:
            given.append(one)
    if not wanted:
        words = "keeps no history that can be replayed" if not steps else f"nothing came from outside after {start}"
        raise StorageError(f"{words}: open it with Subnet(path, history=None) before there is something", origin.path)
    return opened, given, wanted


def _kept(origin: StateDirectory) -> list[Version]:
    """Commits of which it is known what they replaced, oldest first."""
    kept: deque[Version] = deque()
    for version in origin.history():
        if not version.undoable:
            break
        kept.appendleft(version)
    return list(kept)


def _lay_out(past: PastState, origin: StateDirectory, path: Path) -> Path:
    """A state directory with a past state, in which canisters have the same slots."""
    by_slot = {canister.slot: (key, canister) for key, canister in past.canisters.items()}
    with StateDirectory.open(path, durability="never", extensions=origin.extensions) as target:
        for slot in range(past.next_slot):
            key, canister = by_slot.get(slot, (b"gone", None))
            if canister is None:  # a hole in the row, as deleted ones leave it
                target.commit(Message(), {key: CanisterChange(record=b"")}, apply=True)
                target.commit(Message(), {key: CanisterChange(deleted=True)})
                continue
            change = CanisterChange(
                global_values=canister.global_values,
                module_hash=canister.module_hash,
                record=canister.record,
                code=canister.code,
            )
            _copy_blobs(origin, target, key, change)
            target.commit(Message(), {key: change})
            for name, image in canister.images.items():
                for delta in _pieces(image):
                    target.commit(Message(), {key: CanisterChange({name: delta})}, apply=True)
        target.commit(Message(), {}, subnet_record=past.subnet_record, answers=list(past.answers.values()))
    return path


def _pieces(image: Any) -> Iterator[PageDelta]:
    """An image in deltas of some size."""
    size_bytes = image.wasm_pages * WASM_PAGE_BYTES
    yield PageDelta(image.wasm_pages, ())
    for start, end in image.data_ranges():
        for at in range(start, min(end, size_bytes), _STEP_BYTES):
            step_bytes = min(_STEP_BYTES, min(end, size_bytes) - at)
            yield PageDelta(image.wasm_pages, [(at, image.read(at, step_bytes))])


def _copy_blobs(origin: StateDirectory, target: StateDirectory, key: bytes, change: CanisterChange) -> None:
    """Have the blobs that a change names."""
    if change.module_hash:
        target.put_blob(origin.blob(change.module_hash))
    if change.record and len(key) <= MAX_PRINCIPAL_BYTES:
        for chunk_hash in decode_record(change.record).chunk_hashes:
            target.put_blob(origin.blob(chunk_hash))


@final
@dataclass
class _Replay:
    """The second time.

    Args:
        origin: the directory of the first time.
        path: of the second one.
        code: classes of Python canisters.
        config: limits, until an input says others.
        seed: of the randomness, until an input says another one.
        first_canister_index: of a state that is still empty, until an input says another one.
        keeps_origins: of such a state, too.
        keeps_consumption: of such a state, too.
        keeps_refunds: of such a state, too.
    """

    origin: StateDirectory
    path: Path
    code: Sequence[type[Any]]
    config: SubnetConfig
    seed: bytes
    first_canister_index: int
    keeps_origins: bool
    keeps_consumption: bool
    keeps_refunds: bool
    subnet: Subnet = field(init=False)
    _wanted: deque[Version] = field(default_factory=deque)
    """Commits that the input under way has still to make."""
    _made: Version | None = None
    """The commit that was made last, and is still to be compared."""

    def __enter__(self) -> _Replay:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self._abandon()

    def _open(self) -> None:
        self.subnet = Subnet(
            self.path,
            durability="checkpoint",
            config=self.config,
            seed=self.seed,
            code=self.code,
            changed_code="keep",
        )
        durable = self.subnet._durable
        durable.watch = self._watch
        if durable.directory.subnet_record:
            self._be(durable.directory.subnet_record)
        else:
            self.subnet._state.first_canister_index = self.first_canister_index
            self.subnet._state.keeps_origins = self.keeps_origins
            self.subnet._state.keeps_consumption = self.keeps_consumption
            self.subnet._state.keeps_refunds = self.keeps_refunds

    def _abandon(self) -> None:
        self.subnet._durable.directory.abandon()

    def _reopen(self) -> None:
        self._abandon()
        self._open()

    # --- commits

    def _watch(self, message: Message) -> None:
        """A commit is about to be made."""
        self._compare()
        if not self._wanted:
            raise _CutOff
        self._made = self._wanted.popleft()

    def _compare(self) -> None:
        made, self._made = self._made, None
        if made is not None and self._hash() != made.state_hash:
            raise _Differs(made, self._hash())

    def _hash(self) -> bytes:
        return self.subnet._durable.directory.state_hash()

    def do(self, step: _Step) -> None:
        """Do inputs again, of which only the last one leads to commits.

        Raises:
            _Differs: they are other ones.
        """
        for index, one in enumerate(step.inputs):
            if index == len(step.inputs) - 1:
                self._wanted.extend(step.versions)
            self._know(step.versions)
            self._put_clock(one)
            try:
                _DO[one.kind](self, one, step)
            except _CutOff:
                self.subnet._world.recover()
            self._compare()
        if self._wanted:
            raise _Differs(self._wanted[0], None)

    def _put_clock(self, one: Input, rounds_before: int = 0) -> None:
        state, clock = self.subnet._state, one.clock
        state.time_ns = clock.time_ns - rounds_before * self.config.round_ns
        state.round_number = clock.round_number - rounds_before
        state.next_request_number = clock.next_request_number

    def _know(self, versions: list[Version]) -> None:
        """Have what is not done again, of the records that follow.

        Queries are not, and leave statistics; and who the subnet is depends on whether ``certification`` was installed.
        """
        canisters = self.subnet._state.canisters
        for record in [version.facts.subnet for version in versions if version.facts.subnet is not None][:1]:
            self._be(record)
        for version in versions:
            for canister_id, entry in version.facts.canisters.items():
                if canister_id in canisters and entry.record is not None:
                    statistics = decode_record(entry.record).state.query_statistics
                    canisters[canister_id].query_statistics = statistics

    def _be(self, record: bytes) -> None:
        """Have the identity that a record says: the subnet's own, and its root's."""
        state, kept = self.subnet._state, decode_subnet(record)
        state.subnet_id, state.root_key = kept.subnet_id, kept.root_key
        for canister in state.canisters.values():
            canister.facts.subnet_id, canister.facts.root_key = kept.subnet_id, kept.root_key

    def know(self, given: list[Input]) -> None:
        """Know what was said before the first step."""
        for one in given:
            _DO[one.kind](self, one, _Step([], []))

    # --- inputs, by their kinds

    def open(self, one: Input, _: _Step) -> None:
        for name, value in _opened(one)._asdict().items():
            setattr(self, name, value)
        self._reopen()

    def costs(self, one: Input, _: _Step) -> None:
        self.subnet._world.costs = CostSchedule(*one.fields[0])

    def routes(self, one: Input, _: _Step) -> None:
        self.subnet._world.route = Routes.told(one.fields).find

    def slices(self, one: Input, _: _Step) -> None:
        (pairs,) = one.fields
        take_in(self.subnet._world, [(sender, decode_slice(found, "slice")) for sender, found in pairs])

    def call(self, one: Input, _: _Step) -> None:
        fields, time_ns = one.fields
        message = message_of(fields)
        world = self.subnet._world
        fee = world.costs.ingress(len(message.arg) + len(message.method_name))
        execute_alone(world, world.state.canisters[message.callee], message, fee, time_ns)

    def submit(self, one: Input, _: _Step) -> None:
        fields, effective_canister_id, expiry_ns = one.fields
        message = message_of(fields)
        if message.origin[0] == self._next_id():
            message = message_of([b"", *fields[1:]])  # to be drawn again
        submit_request(self.subnet._world, message, effective_canister_id, expiry_ns)

    def _next_id(self) -> bytes:
        return drawn_id(self.subnet._state.next_request_number)

    def rounds(self, one: Input, _: _Step) -> None:
        wanted, self._wanted = self._wanted, deque()
        (count,) = one.fields
        for left in reversed(range(count)):
            if not left:
                self._wanted = wanted
            self._put_clock(one, left)
            try:
                self.subnet.tick()
            except _CutOff:
                self.subnet._world.recover()

    def hook(self, one: Input, _: _Step) -> None:
        run_hook(self.subnet._world, *one.fields)

    def advance(self, one: Input, _: _Step) -> None:
        self.subnet.advance_time(*one.fields)

    def reject(self, one: Input, _: _Step) -> None:
        reject_management_call(self.subnet._world, *one.fields)

    def outcall(self, one: Input, step: _Step) -> None:
        outcall_id, answers, vary, _ = one.fields
        if outcall_id not in self.subnet._state.outcalls:  # what asked for it has become something else
            raise _Differs(step.versions[0], None)
        answer_outcall(self.subnet._world, outcall_id, answers_of(answers), vary=vary)

    def create(self, one: Input, _: _Step) -> None:
        raw_id, controllers, cycles = one.fields
        canister_id = None if raw_id is None else Principal(raw_id)
        self.subnet.create_canister(canister_id=canister_id, controllers=map(Principal, controllers), cycles=cycles)

    def install(self, one: Input, _: _Step) -> None:
        raw_id, controllers, cycles, module_hash, arg = one.fields
        self.subnet.install(
            self._module(module_hash),
            arg,
            canister_id=None if raw_id is None else Principal(raw_id),
            controllers=map(Principal, controllers),
            cycles=cycles,
        )

    def replace_code(self, one: Input, _: _Step) -> None:
        raw_id, mode, skip_pre_upgrade, persistence, module_hash, arg = one.fields
        options = InstallOptions(InstallMode(mode), skip_pre_upgrade, persistence)
        with suppress(RejectError):
            self.subnet.canister(Principal(raw_id))._install(options, self._module(module_hash), arg)

    def _module(self, module_hash: bytes) -> bytes:
        """A module that was installed.

        Raises:
            StorageError: it is a class that is not here.
        """
        wasm = self.origin.blob(module_hash)
        module = self.subnet._catalogue.find(wasm, look=True)
        if module is not None and module.absent:
            words = f"it cannot be done again: {module.absent}; replay(code=[...]) takes every version of a class"
            raise StorageError(words, self.origin.path)
        return wasm

    def record(self, _: Input, step: _Step) -> None:
        """Take a commit as it was; the subnet goes on from there."""
        self._abandon()
        (version,) = step.versions
        changes = changes_of(self.origin.disk, version)
        with StateDirectory.open(self.path, durability="checkpoint") as target:
            for key, change in changes.items():
                _copy_blobs(self.origin, target, key, change)
            facts = version.facts
            target.commit(
                version.message,
                changes,
                subnet_record=facts.subnet,
                answers=facts.answers,
                forgotten=facts.forgotten,
                apply=True,
            )
        self._open()
        self._made = self._wanted.popleft()


_DO: Final[dict[str, Callable[[_Replay, Input, _Step], None]]] = {
    "open": _Replay.open,
    "costs": _Replay.costs,
    "routes": _Replay.routes,
    "slices": _Replay.slices,
    "call": _Replay.call,
    "submit": _Replay.submit,
    "rounds": _Replay.rounds,
    "hook": _Replay.hook,
    "advance": _Replay.advance,
    "reject": _Replay.reject,
    "outcall": _Replay.outcall,
    "create": _Replay.create,
    "install": _Replay.install,
    "code": _Replay.replace_code,
    "record": _Replay.record,
}
