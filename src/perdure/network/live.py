"""Subnets that go on by themselves: their clock follows the machine's, rounds follow what is due, requests come in.

`Canister.update` runs rounds until its call is answered, which is what a test wants. Who serves others lets a request
in, and hears of the answer when there is one: a canister that never answers then holds up nobody.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal, NamedTuple, final

from perdure.canister import CanisterModule, Reject
from perdure.embedder.guard import threads
from perdure.errors import HostError, MalformedError, StorageError, UnsupportedError
from perdure.execution.clock import advance_time, move_clock, next_charge_ns
from perdure.execution.journal import Ticket
from perdure.execution.management.interface import codecs
from perdure.execution.messages import CallMessage, FromUser, Response
from perdure.execution.query import execute_query
from perdure.execution.scheduler import (
    execute_at_once,
    has_work,
    reject_management_call,
    round_,
    submit_request,
)
from perdure.execution.state import HookStatus, SubnetState
from perdure.execution.world import World
from perdure.ic.principal import Principal
from perdure.network.network import Network
from perdure.subnet.canister import Canister
from perdure.subnet.outcalls import PendingOutcall
from perdure.subnet.subnet import Subnet

__all__ = ["Clock", "Live", "Refused", "Request", "Rounds", "auto_progress"]

_LOG: Final = logging.getLogger("perdure")

Clock = Literal["real", "virtual"]
"""``real``: time goes on as the machine's does. ``virtual``: it stands still but for rounds, and for `advance_time`."""

_LOOK_EVERY_SECONDS: Final = 1.0
"""Work may also come from whoever holds the subnet, who tells nobody. Heartbeats are as far apart."""
_TURN_SECONDS: Final = 0.02
"""For how long rounds keep others out, one round at least."""
_REST_SECONDS: Final = 0.005
"""For how long they then let others in."""
_SECOND_NS: Final = 1_000_000_000
_ERROR_PAUSE_SECONDS: Final = 1.0
_MAX_ASKING: Final = 32
"""Outcalls that are asked for at a time; others wait for these."""


@final
class Request(NamedTuple):
    """A user's request, whoever has checked that it is the user's.

    Attributes:
        request_id: what it is known by.
        effective_id: for calls of the management canister, whom they concern.
        caller_info: what the canister that signed for the sender attests, and its id.
    """

    request_id: bytes
    sender: bytes
    canister_id: bytes
    method_name: str
    arg: bytes
    effective_id: bytes
    caller_info: tuple[bytes, bytes] = (b"", b"")


@final
class Refused(NamedTuple):
    """Why a request was not let in: nothing of it was executed, and it is not known afterwards."""

    reject: Reject


@final
class Live:
    """A running subnet.

    Args:
        subnet: goes on in a thread until `stop`; whoever holds it may use it as before.
        clock: what its clock does.
        rounds: of its network; by default it is alone.

    Raises:
        UnsupportedError: the subnet is one of a network, and goes on with the others: see `Rounds`.
    """

    def __init__(self, subnet: Subnet, *, clock: Clock = "real", rounds: Rounds | None = None) -> None:
        if rounds is None and subnet._world.network is not None:
            raise UnsupportedError("one subnet of a network goes on with the others: see `Network`")
        self.subnet = subnet
        self.clock = clock
        self.preparing: set[bytes] = set()
        """Requests that have come and are not let in yet, because something takes long before that."""
        self._charge: tuple[World, int] | None = None
        self._planned_ns = 0
        self._answered: dict[bytes, list[Callable[[], object]]] = {}
        self._asking: set[int] = set()
        """Outcalls for which a thread is asking."""
        self._lock = threading.Lock()
        self.rounds = Rounds(None, clock=clock, alone=self) if rounds is None else rounds

    def start(self) -> None:
        """Begin; a real clock is set before anything else comes."""
        self.rounds.start()

    def end_waiting(self) -> None:
        """Let nobody wait for an answer any more, because all ends soon; who waits is told."""
        self.rounds.end_waiting()

    def stop(self) -> None:
        """End after the round that is under way; the subnet stays open."""
        self.rounds.stop()

    @property
    def time_ns(self) -> int:
        """What the clock says, or would say if anybody came now."""
        time_ns = self.subnet._state.time_ns
        return max(time_ns, time.time_ns()) if self.clock == "real" else time_ns

    @property
    def is_halted(self) -> bool:
        """Whether it takes part in nothing for now, and answers nothing: see `Network.halt`."""
        network = self.rounds.network
        return network is not None and self.subnet.id.raw_bytes in network._halted

    # --- what comes from outside

    def submit(self, request: Request) -> Response | Refused | None:
        """Let a request in; its answer where that takes no rounds, `None` where it is to come (see `when_answered`).

        One that is known already is answered as before and not executed again.
        """
        module = self._compiled_before(request)
        subnet, ticket = self.subnet, Ticket()
        gate = subnet._gate
        turn = gate.turn
        with gate.lock:
            try:
                gate.beside(turn, request.canister_id or request.effective_id)
                outcome = self._submit(turn, ticket, request)
                host = subnet._host
                version = host.settle()
            except BaseException as error:
                subnet._say(error, ticket)
                raise
            finally:
                gate.end(turn)
        del module  # until here, so that it is not compiled again
        if outcome.__class__ is not Refused:
            host.wait(version)
        return outcome

    def _submit(self, turn: bool | None, ticket: Ticket, request: Request) -> Response | Refused | None:
        subnet, (request_id, sender, callee, method, arg, effective_id, caller_info) = self.subnet, request
        if turn is None:
            subnet._recover()
        self._reach(turn, callee, method)
        world = subnet._world
        self._follow_clock(turn, world)
        signals = threads.here.state
        signals.enter()
        try:
            outcome = execute_at_once(world, callee, method, arg, sender, 0, request_id, ticket, caller_info)
            if outcome is None:
                message = CallMessage(FromUser(request_id), sender, callee, method, arg, 0, *caller_info)
                outcome = submit_request(world, message, effective_id, None, ticket)
        finally:
            signals.leave()
        state = world.state
        self._look(state, callee)
        if outcome.__class__ is Reject and state.ingress.find(request_id, state.time_ns) is None:
            return Refused(outcome)
        return None if isinstance(outcome, bytes) else outcome

    def _reach(self, turn: bool | None, canister_id: bytes, method: str) -> None:
        """Be alone where a message may reach more than its canister."""
        if canister_id:
            handle = Canister(self.subnet, Principal(canister_id))
            if handle._reaches_further(method):
                self.subnet._gate.become_alone(turn)
                handle._check_code()

    def query(
        self, canister_id: bytes, method: str, arg: bytes, sender: bytes, caller_info: tuple[bytes, bytes] = (b"", b"")
    ) -> Response:
        """The answer to a query; what it tells of is on the platter by then."""
        subnet = self.subnet
        gate, signals = subnet._gate, threads.here.state
        turn = gate.turn
        with gate.lock:
            try:
                gate.beside(turn, canister_id)
                if turn is None:
                    subnet._recover()
                self._reach(turn, canister_id, method)
                world = subnet._world
                self._follow_clock(turn, world)
                signals.enter()
                try:
                    response = execute_query(world, canister_id, method, arg, sender, *caller_info)
                finally:
                    signals.leave()
                host = subnet._host
                version = host.settle(canister_id if gate.is_shared and canister_id else None)
            finally:
                gate.end(turn)
        host.wait(version)
        return response

    def is_answered(self, request_id: bytes) -> bool:
        """Whether a request that was let in is not in progress any more."""
        with self.subnet._gate.lock:
            ingress = self.subnet._state.ingress
            return request_id not in ingress.callees and request_id not in ingress.begun

    def when_answered(self, request_id: bytes, tell: Callable[[], object]) -> Callable[[], None]:
        """Have somebody told once when a request in progress is answered, soon if it is; also when all ends.

        The rounds' thread tells: whoever asks may be one that must not wait for the subnet, such as an event loop.

        Returns:
            What ends the waiting, for who does not want to be told any more. Others who wait for the same are.
        """
        with self._lock:
            self._answered.setdefault(request_id, []).append(tell)
        self.rounds.wake()

        def forget() -> None:
            with self._lock:
                listeners = self._answered.get(request_id, [])
                if tell in listeners:
                    listeners.remove(tell)
                if not listeners:
                    self._answered.pop(request_id, None)

        return forget

    def _tell(self) -> None:
        if not self._answered:
            return
        with self.subnet._gate.lock:
            state = self.subnet._state
            asked = list(self._answered)
            done = [one for one in asked if self.rounds.is_ending or one not in state.ingress.callees]
        with self._lock:
            listeners = [tell for request_id in done for tell in self._answered.pop(request_id, ())]
        for tell in listeners:
            tell()

    # --- the clock

    def _follow_clock(self, turn: bool | None, world: World) -> None:
        """Move the clock within the commit of whatever comes next, alone where somebody has to pay."""
        if self._may_follow(world):
            move_clock(world, time.time_ns())
        elif self.clock == "real":
            self.subnet._gate.become_alone(turn)
            world.begin()
            advance_time(world, max(0, time.time_ns() - world.state.time_ns))
            world.finish()
            self._charge = world, next_charge_ns(world)

    def _may_follow(self, world: World) -> bool:
        """Whether the clock can be set without anybody having to pay."""
        if self._charge is None or self._charge[0] is not world:
            self._charge = world, next_charge_ns(world)
        return self.clock == "real" and time.time_ns() < self._charge[1] - _SECOND_NS

    # --- rounds

    def _look(self, state: SubnetState, canister_id: bytes) -> None:
        """Wake the rounds where a message has left something to do before they would look."""
        canister = state.canisters.get(canister_id)
        is_due = canister is not None and (
            0 < canister.global_timer_ns < self._planned_ns or canister.hook_status is HookStatus.READY
        )
        if is_due or state.outbox or state.ready or state.management_calls:
            self.rounds.wake()

    def _plan(self, world: World) -> bool:
        """Note when there is something to do, if nothing comes before; whether there are heartbeats, too."""
        state = world.state
        due = [0.0 + deadline_ns for deadline_ns in state.deadlines.values()]
        beats = False
        for canister_id in state.task_canisters:
            canister = state.canisters[canister_id]
            if canister.global_timer_ns > state.time_ns:
                due.append(canister.global_timer_ns)
            module = canister.module
            beats = beats or (module is not None and "canister_heartbeat" in module.exported_methods)
        due += [outcall.deadline_ns for outcall in state.outcalls.values()]
        for canister_id in state.stopping:
            due += [request.deadline_ns for request in state.canisters[canister_id].stop_requests]
        self._planned_ns = int(min(due, default=1 << 62))
        return beats

    # --- what is outside

    def _ask_outside(self) -> None:
        """Have outcalls answered, each in a thread of its own: others go on while a server thinks."""
        if not self.subnet._state.outcalls:
            return
        for one in self.subnet.outcalls.pending:
            if one.id not in self._asking and len(self._asking) < _MAX_ASKING:
                self._asking.add(one.id)
                threading.Thread(target=self._ask, args=(one,), name="perdure outcall", daemon=True).start()

    def _ask(self, one: PendingOutcall) -> None:
        outcalls, answer = self.subnet.outcalls, None
        try:
            answer = outcalls._ask(one)
            # What waits when this stops is asked for when it starts again.
            if answer is not None and not self.rounds.is_stopped:
                outcalls.answer(one, answer)
        except KeyError:
            pass  # its time was over, or somebody else has answered
        except BaseException:  # whatever somebody's function raises: nobody else is here to hear of it
            _LOG.exception("an outcall to %.300s could not be answered", one.url)
            time.sleep(_ERROR_PAUSE_SECONDS)
        finally:
            self._asking.discard(one.id)
            if answer is not None:
                self.rounds.wake()

    # --- compiling

    def _compiled_before(self, request: Request) -> CanisterModule | None:
        """The module that a request is about to install, compiled while others go on: that may take long.

        Only for a controller, whose call will be executed; what is wrong with it, the rules will say.
        """
        if request.canister_id or request.method_name not in _INSTALLING:
            return None
        try:
            (arg,) = codecs()[request.method_name][0].decode(request.arg)
        except (MalformedError, ValueError):
            return None
        with self.subnet._gate.lock:
            wasm = _INSTALLING[request.method_name](self.subnet._state, request.sender, arg)
        if wasm is None:
            return None
        self.preparing.add(request.request_id)
        try:
            return self.subnet._compiled(wasm)
        finally:
            self.preparing.discard(request.request_id)


@final
class Rounds:
    """The thread in which subnets go on: all of a network, those added later included, or one that is alone.

    Args:
        network: the network.
        clock: what its clocks do.
        alone: the subnet that has none.
    """

    def __init__(self, network: Network | None, *, clock: Clock = "real", alone: Live | None = None) -> None:
        self.network = network
        self.clock = clock
        self.is_stopped = False
        self.is_ending = False
        self._lives: dict[Subnet, Live] = {} if alone is None else {alone.subnet: alone}
        self._wake = threading.Event()
        self._beat_at = 0.0
        self._thread = threading.Thread(target=self._run, name="perdure rounds", daemon=True)

    @classmethod
    def of(cls, what: Subnet | Network, *, clock: Clock = "real") -> Rounds:
        """Those of a network, or of a subnet that is alone."""
        if isinstance(what, Network):
            return cls(what, clock=clock)
        return Live(what, clock=clock).rounds

    @property
    def lives(self) -> list[Live]:
        """The subnets, in their order."""
        return list(self._lives.values()) if self.network is None else list(map(self.live_of, self.network.subnets))

    def live_of(self, subnet: Subnet) -> Live:
        """One of the subnets, running."""
        found = self._lives.get(subnet)
        if found is None:
            found = self._lives.setdefault(subnet, Live(subnet, clock=self.clock, rounds=self))
        return found

    def find(self, wanted: bytes) -> Live | None:
        """The subnet of an id, its own or that of a canister that it has or would have."""
        if self.network is None:
            return next(iter(self._lives.values()))
        subnet = self.network.subnet_of(Principal(wanted))
        return None if subnet is None else self.live_of(subnet)

    @property
    def root_key(self) -> bytes:
        """What all certificates are checked with."""
        return next(iter(self._lives.values())).subnet.root_key if self.network is None else self.network.root.root_key

    def start(self) -> None:
        """Begin; real clocks are set before anything else comes."""
        lives = self.lives
        with lives[0].subnet._gate.lock:
            behind_ns = max(live.subnet._state.time_ns for live in lives) - time.time_ns()
        if self.clock == "real" and behind_ns > _SECOND_NS:
            _LOG.warning("the subnet's clock is %.0f s ahead of the machine's, and waits for it", behind_ns / 1e9)
        self._run_alone(lambda _: None)
        self._thread.start()

    def wake(self) -> None:
        """Have the thread look for something to do at once."""
        self._wake.set()

    def end_waiting(self) -> None:
        """See `Live.end_waiting`."""
        self.is_ending = True
        self._wake.set()

    def stop(self) -> None:
        """See `Live.stop`."""
        self.is_stopped = True
        self.end_waiting()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause = 0.0
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            if self.is_stopped:
                break
            try:
                pause = self._go_on()
                for live in self.lives:
                    if not live.is_halted:
                        live._ask_outside()
                    live._tell()
            except BaseException as error:  # without this thread all that is served would stand still
                is_bug = not isinstance(error, StorageError)  # a full disk, say: tried again until there is room
                _LOG.error("a round of the served subnet failed: %s", error, exc_info=is_bug)
                pause = _ERROR_PAUSE_SECONDS
        for live in self.lives:
            live._tell()

    def _go_on(self) -> float:
        """Do what is due, for a turn; in how many seconds there is more to do."""
        lives = self.lives
        with lives[0].subnet._gate.lock:
            for live in lives:
                if not live.is_halted and live._may_follow(live.subnet._world):
                    move_clock(live.subnet._world, time.time_ns())
            pause = self._pause(lives)
        return pause if pause > 0 else self._run_alone(self._turn)

    def _run_alone(self, act: Callable[[list[Live]], object]) -> float:
        lives = self.lives
        gate = lives[0].subnet._gate
        turn = gate.turn
        with gate.lock:
            try:
                gate.alone(turn)
                for live in lives:
                    live.subnet._recover()
                with lives[0].subnet._undisturbed(None):
                    for live in lives:
                        if not live.is_halted:
                            live._follow_clock(False, live.subnet._world)
                    act(lives)
                kept = [(live.subnet._host, live.subnet._host.settle()) for live in lives]
                pause = self._pause(lives)
            finally:
                gate.end(turn)
        for host, version in kept:
            host.wait(version)
        if pause <= 0:
            time.sleep(_REST_SECONDS)  # the lock is nobody's in particular: without this it is mostly taken here again
        return pause

    def _turn(self, lives: list[Live]) -> None:
        until = time.monotonic() + _TURN_SECONDS
        self._beat_at = time.monotonic() + _LOOK_EVERY_SECONDS
        worlds = [live.subnet._world for live in lives]
        while True:
            try:
                if self.network is None:
                    round_(worlds[0])
                else:
                    self.network._go_on()
            except HostError as error:
                # Whoever holds a subnet tries again with more; here others wait.
                _LOG.warning("a call of the management canister cannot be executed here and is rejected: %s", error)
                world = next((one for one in worlds if one.journal is not None), worlds[0])
                world.recover()
                reject_management_call(world, f"This machine cannot execute the call: {error}")
            if not self._has_work(lives) or time.monotonic() > until:
                return

    def _has_work(self, lives: list[Live]) -> bool:
        return has_work(lives[0].subnet._world) if self.network is None else self.network._has_work()

    def _pause(self, lives: list[Live]) -> float:
        """How many seconds may pass before the next round."""
        if self._has_work(lives):
            return 0.0
        lives = [live for live in lives if not live.is_halted]
        beats = [live._plan(live.subnet._world) for live in lives]
        if any(beats) and time.monotonic() >= self._beat_at:
            return 0.0
        pause = min(((live._planned_ns - live.time_ns) / 1e9 for live in lives), default=_LOOK_EVERY_SECONDS)
        return max(0.0, min(_LOOK_EVERY_SECONDS, pause))


@contextmanager
def auto_progress(what: Subnet | Network) -> Iterator[None]:
    """See `Subnet.auto_progress`."""
    rounds = Rounds.of(what)
    rounds.start()
    try:
        yield
    finally:
        rounds.stop()


def _wasm_in(state: SubnetState, sender: bytes, arg: dict[str, object]) -> bytes | None:
    canister = state.canisters.get(bytes(arg["canister_id"]))  # type: ignore[call-overload]
    return arg["wasm_module"] if canister is not None and sender in canister.facts.controllers else None  # type: ignore[return-value]


def _wasm_of_chunks(state: SubnetState, sender: bytes, arg: dict[str, object]) -> bytes | None:
    target = state.canisters.get(bytes(arg["target_canister"]))  # type: ignore[call-overload]
    store = state.canisters.get(bytes(arg["store_canister"] or arg["target_canister"]))  # type: ignore[call-overload]
    if target is None or store is None or sender not in target.facts.controllers:
        return None
    chunks = [store.chunk_store.get(one["hash"]) for one in arg["chunk_hashes_list"]]  # type: ignore[attr-defined]
    return b"".join(chunks) if None not in chunks else None  # type: ignore[arg-type]


_INSTALLING: Final = {"install_code": _wasm_in, "install_chunked_code": _wasm_of_chunks}
