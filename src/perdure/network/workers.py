"""The worker processes of a network, as the network has them: who is where, calls that go there, rounds of all.

```
 network ──► gate ──► call ──► worker's pipe            others' workers are called meanwhile
                └───► round ─► all pipes, in their order: slices, run; then all reports
```

A round is a barrier: what a subnet takes in is what others had when it began, so that the number of processes, and how
fast each is, makes no difference to what comes out. What is known of each worker's subnets is the report that it gave
at the end of its last round; whoever calls one makes that report old.
"""

from __future__ import annotations

import os
import signal
import subprocess
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, final

import cbor2

from perdure.canister import HasModule
from perdure.errors import HostError, UnsupportedError
from perdure.execution.config import SubnetConfig
from perdure.network.frames import EndedError, Held, Kind, encode_error
from perdure.network.process import IS_WORKER, Begins, Place, StreamNumbers, WorkerProcess, answer_of
from perdure.subnet.gate import Gate, Outside
from perdure.subnet.routes import Routes

__all__ = ["Workers"]

_END_SECONDS: Final = 10.0
_SOON_SECONDS: Final = 1.0
_MAX_PROCESSES: Final = 1024


def _kill_all(workers: list[WorkerProcess], owner: int) -> None:
    if os.getpid() == owner:  # and not a child that was forked
        for worker in workers:
            worker.kill()


@final
class Workers:
    """The processes of one network, and whose turn it is.

    Args:
        processes: how many, or where they are; each has every so manieth subnet.
        gate: of the network.
        running: the numbers of the subnets that take part in rounds.
        is_kept: whether subnets are in directories, from which they go on where a process ends.
        compiler: none: it cannot cross.

    Raises:
        ValueError: there is no such number.
        UnsupportedError: something is given that cannot cross, or this is a worker itself.
    """

    def __init__(
        self, processes: int | Begins, gate: Gate, running: Callable[[], list[int]], *, is_kept: bool, compiler: object
    ) -> None:
        begins = processes if isinstance(processes, Begins) else None
        count = processes if begins is None else begins.count
        if type(count) is not int or not 0 < count <= _MAX_PROCESSES:
            raise ValueError(f"processes are 1 to {_MAX_PROCESSES}, found {count!r:.40}")
        if compiler is not None:
            raise UnsupportedError("a compiler does not cross to worker processes: leave it out, or processes")
        if os.environ.get(IS_WORKER):
            raise UnsupportedError(
                "a worker process of a network imports this to find a class, and would begin workers of its own: put "
                "what makes the network under `if __name__ == '__main__':`"
            )
        self._gate = gate
        self._running = running
        self._is_kept = is_kept
        self._workers = [WorkerProcess(number, begins) for number in range(count)]
        self._places: list[Place] = []
        self._round_number = 0
        self._strays_told: set[int] = set()
        self.routes = Routes()
        self._is_closed = False
        self._root = 0
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _kill_all, self._workers, self._owner)

    # --- subnets

    def prepare(self, count: int) -> None:
        """Begin the processes of so many subnets, which takes a while, all at once."""
        with Held():
            for worker in self._workers[:count]:
                worker.start()

    def add(
        self,
        path: Path | None,
        *,
        seed: bytes,
        config: SubnetConfig,
        is_free: bool,
        first_canister_index: int,
        time_ns: int | None,
        options: Mapping[str, Any],
    ) -> Place:
        """Have one more subnet, in the process whose turn it is; `options` as for `Subnet`."""
        code = options["code"]
        crossing = {
            "path": None if path is None else str(path.absolute()),
            "seed": seed,
            "config": asdict(config),
            "is_free": is_free,
            "first_canister_index": first_canister_index,
            "time_ns": time_ns,
            "code": [_class_bytes(one) for one in (code if isinstance(code, Iterable) else (code,))],
            "archive": None if options["archive"] is None else asdict(options["archive"]),
            **{name: options[name] for name in ("extensions", "history", "trust_owner")},
        }
        place = Place(len(self._places), crossing)
        worker = self._of(place.number)
        with Held():
            self._ready(worker)
            self._open(worker, place)
            worker.places.append(place)
            self._places.append(place)
            self.routes.add(place.subnet_id, place.first_canister_index)
        return place

    def introduce(self, root: int) -> None:
        """Have all subnets know each other, and which of them is the root."""
        self._root = root
        with Held():
            for worker in self._workers:
                if worker.is_alive:
                    self._tell_subnets(worker)
                    worker.is_known = False

    def _open(self, worker: WorkerProcess, place: Place) -> None:
        opened = self._do(worker, Kind.ADD, place.number, place.options)
        place.subnet_id, place.seed, place.root_key, place.first_canister_index = opened
        place.xnet_streams = {}

    def _tell_subnets(self, worker: WorkerProcess) -> None:
        there, root = [[one.subnet_id, one.first_canister_index] for one in self._places], self._places[self._root]
        self._do(worker, Kind.KNOW, there, [root.subnet_id, root.seed, root.root_key, root.time_ns])
        self._strays_told.discard(worker.number)

    def _of(self, number: int) -> WorkerProcess:
        return self._workers[number % len(self._workers)]

    def processes(self) -> list[int | None]:
        """The ids of the processes, in their order; `None`: there is none at present."""
        return [one.process.pid if one.process is not None and one.is_alive else None for one in self._workers]

    # --- whoever has ended

    def _settled(self, worker: WorkerProcess) -> None:
        """Have a worker that owes nothing, whatever exceptions have come twice."""
        if worker.owed and worker.is_alive:
            try:
                worker.interrupt(KeyboardInterrupt())
            except EndedError:
                self._bury(worker)

    def _ready(self, worker: WorkerProcess) -> None:
        """Have a worker that answers.

        Raises:
            HostError: it has ended, and its subnets with it.
        """
        if self._is_closed:
            raise ValueError("the network is closed")
        if worker.lost:
            raise _lost(worker.lost)
        if worker.is_left:
            self._settled(worker)
        if worker.is_alive:
            return
        if worker.lost:
            raise _lost(worker.lost)
        if worker.process is not None:  # it has ended by itself
            self._bury(worker)
            if worker.lost:
                raise _lost(worker.lost)
        worker.start()
        try:
            for place in worker.places:
                self._open(worker, place)
            if worker.places:
                self._tell_subnets(worker)
        except BaseException:
            worker.kill()
            raise

    def _bury(self, worker: WorkerProcess) -> str:
        """A worker has ended, or is out of step: have it gone. What that means for its subnets, in words."""
        code = None
        if worker.process is not None:
            with suppress(subprocess.TimeoutExpired):
                code = worker.process.wait(_SOON_SECONDS)
        worker.kill()
        how = "" if code is None else f" (exit code {code})" if code >= 0 else f" ({_signal_name(-code)})"
        return self._ended(worker, how)

    def _ended(self, worker: WorkerProcess, how: str) -> str:
        """That a worker has ended, and what that means for its subnets, in words."""
        numbers = ", ".join(str(one.number) for one in worker.places)
        words = f"the worker process of subnets {numbers or 'of none'} has ended{how}"
        if self._is_kept or not worker.places:
            return f"{words}: they go on from their last commit with the next call, which may have this message or not"
        worker.lost = f"{words}, and what they were with it, as this network is in memory: Network(path=...) keeps it"
        return worker.lost

    def _do(self, worker: WorkerProcess, kind: Kind, *parts: object) -> Any:
        """Ask a worker, which is ready."""
        before = worker.owed
        try:
            return worker.ask(kind, *parts)
        except EndedError:
            raise _lost(self._bury(worker)) from None
        except (KeyboardInterrupt, Exception) as error:
            self._interrupted([worker], error, before)
            raise

    def _interrupted(self, workers: Iterable[WorkerProcess], error: BaseException, before: int = 0) -> None:
        """Have workers end what they are at, as something came while they were waited for."""
        for worker in workers:
            if worker.owed > before:
                try:
                    failed = worker.interrupt(error, before)
                except EndedError:
                    self._bury(worker)
                else:
                    is_kept = getattr(failed, "committed", None) if failed is not None else True
                    error.committed = is_kept  # type: ignore[attr-defined]

    def _check_rest(self, turn: bool | None) -> None:
        """Refuse what a signal handler asks for while its thread is at a round.

        Args:
            turn: that the entry has begun with; `None`: it is not within another one.

        Raises:
            RuntimeError: it is.
        """
        if turn is not None and any(one.is_waited_for or (one.owed and not one.is_left) for one in self._workers):
            raise _within_a_round()

    def recover(self) -> None:
        """Have nobody owe anything. For whoever has the network to itself."""
        with Held():
            for worker in self._workers:
                self._settled(worker)

    # --- calls

    def call(self, number: int, *parts: object) -> Any:
        """Make a call of a subnet, canister or memory: see `Kind.CALL`; what it gives, as CBOR has it.

        While its worker is at it, others can be called. A round of the network waits for all calls.
        """
        worker, gate = self._of(number), self._gate
        turn, is_done = gate.turn, False
        with gate.lock:
            try:
                gate.beside(turn, worker.key)
                self._check_rest(turn)
                with Held():
                    if turn is None:
                        self._settled(worker)
                    self._ready(worker)
                    worker.is_known = False
                    found = self._call(worker, turn, number, parts)
                    is_done = True
                return found
            except BaseException as error:
                if is_done:  # a signal handler's, which has waited for this
                    error.committed = True  # type: ignore[attr-defined]
                raise
            finally:
                gate.end(turn)

    def _call(self, worker: WorkerProcess, turn: bool | None, number: int, parts: Sequence[object]) -> Any:
        gate, before, process = self._gate, worker.owed, worker.process
        went_wrong: BaseException | None = None
        try:
            if gate.is_shared:
                with Outside(gate, worker.key):
                    worker.begin(Kind.CALL, number, *parts)
                    frame = worker.receive()
            else:
                worker.begin(Kind.CALL, number, *parts)
                frame = worker.receive()
            while frame[0] == Kind.GO_ON:
                worker.take_report(frame[2])
                others = self._round_number
                gate.become_alone(turn)
                try:
                    # Rounds of others meanwhile may have brought what this one is waiting for.
                    did, failed = self.round(always=frame[1]) or self._round_number != others, None
                except BaseException as error:
                    did, failed, went_wrong = False, encode_error(error), error
                    if worker.owed > before + 1:  # it was interrupted itself, and somebody has not waited for that
                        worker.interrupt(error, before + 1)
                    if not worker.owed:
                        raise
                if worker.process is not process:  # it has ended since it asked, and the round has begun another one
                    raise _lost(self._ended(worker, ""))
                worker.is_known = False
                worker.went_on(did, failed)
                frame = worker.receive()
            return answer_of(frame)
        except EndedError:
            raise _lost(self._bury(worker)) from went_wrong
        except BaseException as error:
            if worker.owed > before:
                self._interrupted([worker], error, before)
            elif went_wrong is not None and type(error) is type(went_wrong):
                went_wrong.committed = getattr(error, "committed", None)  # type: ignore[attr-defined]
                raise went_wrong from None
            raise

    def hashes(self) -> list[bytes]:
        """The SHA-256 of the state of each subnet."""
        return [self.call(place.number, None, None, "_hash", True, [], {}) for place in self._places]

    # --- rounds

    def _look(self) -> None:
        """Know how all subnets are."""
        halted = self._halted()
        # What is lost is in nobody's way once it is halted.
        there = [one for one in self._workers if not one.lost or any(it.subnet_id not in halted for it in one.places)]
        for worker in there:
            if worker.places:
                self._ready(worker)
        old = [worker for worker in there if worker.places and not worker.is_known]
        for worker, report in zip(old, self._all(old, Kind.LOOK, [(halted, one.anew) for one in old]), strict=True):
            worker.take_report(report)

    def _halted(self) -> list[bytes]:
        running = set(self._running())
        return [one.subnet_id for one in self._places if one.number not in running]

    def _all(self, workers: Sequence[WorkerProcess], kind: Kind, parts: Iterable[Sequence[object]]) -> list[Any]:
        """Ask several at once; the answers, in their order. Where one fails, the others are waited for."""
        before = [one.owed for one in workers]
        answers: list[Any] = []
        failed: BaseException | None = None
        at = 0
        try:
            for worker, each in zip(workers, parts, strict=True):
                try:
                    worker.begin(kind, *each)
                except EndedError:
                    failed = failed or _lost(self._bury(worker))
            for at, worker in enumerate(workers):
                if worker.owed == before[at]:
                    continue
                try:
                    answers.append(worker.end())
                except EndedError:
                    failed = failed or _lost(self._bury(worker))
                except BaseException as error:
                    if worker.owed > before[at]:  # not its own
                        raise
                    failed, worker.anew, worker.is_known = failed or error, True, False
        except BaseException as error:
            for worker, owed in zip(workers, before, strict=True):
                worker.is_left = worker.owed > owed
            for worker, owed in zip(workers, before, strict=True):
                self._interrupted([worker], error, owed)
            raise
        if failed is not None:
            raise failed
        return answers

    def round(self, *, always: bool) -> bool:
        """Run a round of all subnets that are running, if there is work or `always`; whether it did."""
        if any(worker.is_waited_for for worker in self._workers):
            raise _within_a_round()
        with Held():
            self._look()
            running = [self._places[number] for number in self._running()]
            slices = self._wanted(running)
            if not (any(one.has_work for one in running) or any(is_new for *_, is_new in slices)):
                asked = sum(self._do(worker, Kind.ASK, numbers) for worker, numbers in self._by_worker(running, True))
                if not asked and not always:
                    return False
            self._run(running, slices)
            return True

    def _by_worker(self, running: list[Place], with_outcalls: bool = False) -> list[tuple[WorkerProcess, list[int]]]:
        found = []
        for worker in self._workers:
            numbers = [
                one.number
                for one in running
                if self._of(one.number) is worker and (one.has_outcalls or not with_outcalls)
            ]
            if numbers:
                found.append((worker, numbers))
        return found

    def _wanted(self, running: list[Place]) -> list[tuple[Place, Place, int, bool]]:
        """Slices to be taken in: receiver, sender, number of the first message, whether there are any.

        Only the streams that there are is looked at.
        """
        by_id = {one.subnet_id: one for one in running}
        found = []
        for sender in running:
            for receiver_id, sent in sender.xnet_streams.items():
                receiver = by_id.get(receiver_id)
                if receiver is None:
                    continue
                back = receiver.xnet_streams.get(sender.subnet_id, StreamNumbers())
                is_new = sent.end > max(back.inducted, sent.begin)
                if is_new or sent.inducted > back.begin:
                    found.append((receiver, sender, back.inducted, is_new))
        found.sort(key=lambda one: (one[0].number, one[1].number))
        return found

    def _run(self, running: list[Place], slices: list[tuple[Place, Place, int, bool]]) -> None:
        self._round_number += 1
        local: dict[WorkerProcess, list[list[int]]] = {}
        nexts: dict[WorkerProcess, list[list[Any]]] = {}
        for receiver, sender, first, is_new in slices:
            here, there = self._of(receiver.number), self._of(sender.number)
            if here is there:
                local.setdefault(here, []).append([receiver.number, sender.number, first])
                continue
            ready = there.slices.pop((sender.number, receiver.subnet_id), None)
            if not is_new:  # it only says how far the sender has got
                sent = sender.xnet_streams[receiver.subnet_id]
                count, data = 0, cbor2.dumps([max(first, sent.begin), [], sent.inducted])
            elif ready is None or ready[0] != first:
                ((count, data),) = self._do(there, Kind.SLICES, [[sender.number, receiver.subnet_id, first]])
            else:
                _, count, data = ready
            nexts.setdefault(there, []).append([sender.number, receiver.subnet_id, first + count])
            try:
                here.tell(Kind.TAKE, self._round_number, receiver.number, sender.subnet_id, data)
            except EndedError:
                raise _lost(self._bury(here)) from None
        others = self.routes.look_around((one.subnet_id, one.strays) for one in self._places)
        if others:
            self._strays_told.clear()
        strays = [[one.subnet_id, sorted(one.strays)] for one in self._places]
        last = self._halted(), self._places[self._root].time_ns
        parts, working = [], self._by_worker(running)
        for worker, numbers in working:
            told = None if worker.number in self._strays_told else strays
            parts.append((self._round_number, numbers, local.get(worker, []), nexts.get(worker, []), told, *last))
            worker.is_known = False
        reports = self._all([worker for worker, _ in working], Kind.RUN, parts)
        for (worker, _), report in zip(working, reports, strict=True):
            worker.take_report(report)
            self._strays_told.add(worker.number)

    def settle(self) -> None:
        """Return when everything is as durable as was asked."""
        if self._is_kept:
            with Held():
                there = [worker for worker in self._workers if worker.is_alive]
                self._all(there, Kind.WAIT, [()] * len(there))

    # --- what is known of all

    def know(self) -> None:
        """Have `Place`s say how their subnets are."""
        gate = self._gate
        turn = gate.turn
        with gate.lock:
            try:
                gate.alone(turn)
                self._check_rest(turn)
                if turn is None:
                    self.recover()
                with Held():
                    self._look()
            finally:
                gate.end(turn)

    def close(self) -> None:
        """End all processes, each after a last checkpoint where there is a directory."""
        if self._is_closed:
            return
        if os.getpid() != self._owner:  # a child that was forked, whose parent goes on
            self._is_closed = True
            return
        self._check_rest(self._gate.turn)
        failed: BaseException | None = None
        try:
            with Held():
                self.recover()
                there = [worker for worker in self._workers if worker.is_alive]
                self._all(there, Kind.CLOSE, [()] * len(there))
                for worker in there:
                    if worker.process is not None:
                        with suppress(subprocess.TimeoutExpired):  # all is kept: one that ends slowly is killed
                            worker.process.wait(_END_SECONDS)
        except BaseException as error:
            failed = error
        self.abandon()
        if failed is not None:
            raise failed

    def abandon(self) -> None:
        """End all processes at once, as a crash would."""
        self._is_closed = True
        self._finalizer()


def _within_a_round() -> RuntimeError:
    return RuntimeError("called while a round of the network is under way: what is wanted is not free before")


def _signal_name(number: int) -> str:
    known = {int(one): one.name for one in signal.Signals}  # those for real-time use have no names
    return known.get(number, f"signal {number}")


def _lost(words: str) -> HostError:
    error = HostError(words)
    error.committed = None  # type: ignore[attr-defined]
    return error.coded("worker-ended")


def _class_bytes(owner: object) -> bytes:
    if not isinstance(owner, HasModule):
        raise TypeError(f"{owner!r:.200} is no class made a canister by perdure.kit.canister")
    return owner.__canister_module__().wasm
