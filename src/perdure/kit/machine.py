"""A canister under generated calls: a stateful Hypothesis test that writes what it finds as a test (extra ``fuzz``).

    class LedgerMachine(CanisterMachine):
        @classmethod
        def install(cls, subnet):
            return subnet.install("build/ledger.wasm", {"supply": 1_000})

        @invariant()
        def nothing_is_made(self):
            assert self.actor.total() == 1_000

    TestLedger = LedgerMachine.TestCase

Each example begins from a fork of the same subnet. What is sent comes from the canister's own Candid interface.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from hypothesis.stateful import RuleBasedStateMachine, rule

from perdure.candid.printing import values_to_text
from perdure.candid.types import Value
from perdure.errors import RejectError
from perdure.ic.principal import ANONYMOUS, Principal
from perdure.inspection.motoko import default_persistence
from perdure.kit.generate import arguments
from perdure.kit.guide import Call, Guide
from perdure.subnet import Canister, Subnet
from perdure.subnet.actor import Actor

__all__ = ["CanisterMachine", "Step"]

_NANOSECONDS: Final = 10**9
_LONGEST_WAIT_SECONDS: Final = 30 * 24 * 3_600
_TOLD_CHARACTERS: Final = 110


class Step(NamedTuple):
    """One thing that was done to the canister.

    Attributes:
        action: a method's name, ``(wait)`` or ``(upgrade)``.
        line: the Python that does it again, to a ``canister`` on a ``subnet``.
        again: the same, by a ``machine``.
        outcome: ``replied``, or the error code of the rejection.
        run: does it again, with a machine.
    """

    action: str
    line: str
    again: str
    outcome: str
    run: Callable[[CanisterMachine], None]


_WAIT: Final = "(wait)"
_UPGRADE: Final = "(upgrade)"


class CanisterMachine(RuleBasedStateMachine):
    """Calls the methods of a canister with generated arguments, and lets time pass; see the module.

    Rules, invariants and initialisations of one's own go with it, as in any Hypothesis state machine. A rejection that
    is not `allowed`, a reply that is not of its type, and what an invariant raises are failures.

    Attributes:
        subnet: a fork, of this example alone.
        canister: the one that `install` made.
        actor: its methods, for invariants.
        steps: what was done so far.
        senders: who calls.
        methods: a regular expression that whole names of methods match; by default all are called.
        allowed: error codes of rejections that are no fault: ``msg_reject`` and ``trap``, by which canisters refuse.
        candid: the interface, as `Canister.actor` takes it; by default what the module says of itself.
        upgrade_to: a module, or its path; if given, upgrades happen between calls.
        upgrade_arg: what they are given.
        extensions: what canisters may use beyond the network's rules, as for `Subnet`.
        guided: whether calls that ran new code are tried again, in part and in order; see `perdure.kit.guide`.
        found_in: the directory in which a failing story is written as a test; `None`: nowhere.
    """

    senders: ClassVar[Sequence[Principal]] = (
        Principal.self_authenticating(b"alice"),
        Principal.self_authenticating(b"bob"),
        ANONYMOUS,
    )
    methods: ClassVar[str] = ".*"
    allowed: ClassVar[frozenset[str]] = frozenset({"IC0406", "IC0503"})
    candid: ClassVar[str | Path | None] = None
    upgrade_to: ClassVar[Any] = None
    upgrade_arg: ClassVar[Any] = None
    extensions: ClassVar[Sequence[str]] = ()
    guided: ClassVar[bool] = False
    found_in: ClassVar[Path | None] = Path(".hypothesis") / "perdure"

    _prepared: ClassVar[dict[type, tuple[Subnet, Principal]]] = {}
    _guides: ClassVar[dict[type, Guide]] = {}

    @classmethod
    def install(cls, subnet: Subnet) -> Canister:
        """Prepare a subnet, and return the canister that is tested. To be overridden; called once."""
        raise NotImplementedError(f"{cls.__name__} does not say what is tested: override install(cls, subnet)")

    @classmethod
    def head(cls) -> Sequence[str] | None:
        """Lines that make a ``canister`` of a ``subnet``; `None`: a found test makes a machine, and checks it."""
        return None

    @classmethod
    def prepared(cls) -> tuple[Subnet, Principal]:
        """What every example begins from, and the canister in it: made once."""
        if cls not in cls._prepared:
            subnet = Subnet(extensions=cls.extensions)
            cls._prepared[cls] = subnet, cls.install(subnet).id
        return cls._prepared[cls]

    def __init__(self) -> None:
        super().__init__()
        prepared, canister_id = self.prepared()
        self.subnet: Subnet = prepared.fork()
        self.canister: Canister = self.subnet.canister(canister_id)
        self.actor: Actor = self.canister.actor(candid=self.candid)
        self.steps: list[Step] = []
        known = self.canister.service(self.candid).methods
        self._methods = {name: method for name, method in known.items() if re.fullmatch(self.methods, name)}
        if not self._methods:
            raise ValueError(f"nothing to call: {self.methods!r} is none of {', '.join(known) or '(no methods)'}")
        self._calls: list[Call] = []
        self._begun_with = 0  # so many steps are the guide's
        self._guide = self._guides.setdefault(type(self), Guide()) if self.guided else None
        if self._guide is not None:
            self._guide.begin(self.subnet)
        self._actions = [*self._methods, _WAIT, *([] if self.upgrade_to is None else [_UPGRADE])]

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """Do one thing."""
        if self._guide is not None and not self.steps:
            story = self._guide.story(data)
            for self._begun_with, call in enumerate(story, 1):
                self._call(*call)
        action = data.draw(st.sampled_from(self._actions), "what")
        if action == _WAIT:
            self.let_pass(data.draw(st.integers(0, _LONGEST_WAIT_SECONDS), "seconds"))
        elif action == _UPGRADE:
            self.upgrade()
        else:
            method = self._methods[action]
            sender = data.draw(st.sampled_from(self.senders), "sender")
            values = data.draw(arguments(method), "arguments")
            if self._guide is not None:
                values = self._guide.mixed(data, action, values, method.func.args)
            self._call(action, values, sender)

    def _call(self, action: str, values: tuple[Value, ...], sender: Principal) -> None:
        method = self._methods[action]
        shown = " ".join(values_to_text(method.func.args, values).split())
        self._calls.append(Call(action, values, sender))
        self.call_raw(action, method.encode(values), sender, shown)
        if self._guide is not None:
            self._guide.learn(self._calls)

    def call_raw(self, method_name: str, arg: bytes, sender: Principal, shown: str = "") -> None:
        """Call a method as a step does; what it is allowed to refuse is no failure."""
        method = self._methods[method_name]
        verb = "query" if method.is_query else "update"
        sent = f'{method_name!r}, bytes.fromhex("{arg.hex()}")'
        who, told = f'Principal.from_text("{sender}")', f"  # {shown:.100}" if shown else ""
        call = self.canister.query if method.is_query else self.canister.update

        def run() -> None:
            reply = call(method_name, arg, sender=sender)
            if method.mode != "oneway":
                method.decode(reply)

        plain = f"canister.{verb}({sent}, sender={who}){told}"
        repeat = partial(CanisterMachine.call_raw, method_name=method_name, arg=arg, sender=sender)
        self._attempt(method_name, plain, f"machine.call_raw({sent}, {who}){told}", run, repeat)

    def let_pass(self, seconds: int) -> None:
        """Let time pass, and run what is due then."""

        def run() -> None:
            self.subnet.advance_time(seconds * _NANOSECONDS)
            self.subnet.run_until_idle()

        plain = f"subnet.advance_time({seconds} * 10**9), subnet.run_until_idle()"
        self._attempt(
            _WAIT, plain, f"machine.let_pass({seconds})", run, partial(CanisterMachine.let_pass, seconds=seconds)
        )

    def upgrade(self) -> None:
        """To `upgrade_to`; Motoko with enhanced orthogonal persistence keeps its heap, as icp and dfx do it."""
        wasm = str(self.upgrade_to) if isinstance(self.upgrade_to, Path) else self.upgrade_to
        keep = default_persistence(self.canister)
        run = partial(self.canister.upgrade, wasm, self.upgrade_arg, wasm_memory_persistence=keep)
        plain = f"canister.upgrade({wasm!r}, {self.upgrade_arg!r}, wasm_memory_persistence={keep!r})"
        self._attempt(_UPGRADE, plain, "machine.upgrade()", run, CanisterMachine.upgrade)

    def check(self) -> None:
        """Call all invariants."""
        known: Any = self.invariants  # a class method in some releases of Hypothesis, a list in others
        for one in known() if callable(known) else known:
            one.function(self)

    def _attempt(
        self, action: str, line: str, again: str, run: Callable[[], None], repeat: Callable[[CanisterMachine], None]
    ) -> None:
        outcome = "failed"
        try:
            run()
            outcome = "replied"
        except RejectError as error:
            outcome = error.error_code
            if outcome not in self.allowed:
                raise
        finally:
            self.steps.append(Step(action, line, again, outcome, repeat))

    def teardown(self) -> None:
        """End the example; where it has failed, write it as a test."""
        error = sys.exc_info()[1]
        has_failed = isinstance(error, Exception) and not isinstance(error, HypothesisException)
        if self._guide is not None:
            self._guide.end(has_failed=has_failed)
        self.subnet.close()
        if not has_failed:
            return
        assert isinstance(error, Exception)
        if self._guide is not None and self._begun_with:
            self._guide.shorten(partial(self._fails_so, error))
        self.keep(self.story(error))

    def _fails_so(self, error: Exception, story: Sequence[Call]) -> bool:
        """Whether this example fails in the same way, and there, where it begins with other calls."""
        rest = [step.run for step in self.steps[self._begun_with :]]
        machine = type(self)()
        machine._guide = None
        is_in_story = True
        try:
            for call in story:
                machine._call(*call)
            is_in_story = False
            for run in rest:
                run(machine)
                machine.check()
        except Exception as found:
            return (*_kind_of(found), is_in_story) == (*_kind_of(error), not rest)
        finally:
            machine.subnet.close()
        return False

    def keep(self, story: str) -> None:
        """Write a failing story where the next one, which is shorter or the same, is written too."""
        note(story)
        if self.found_in is not None:
            self.found_in.mkdir(parents=True, exist_ok=True)
            place = self.found_in / f"test_{type(self).__name__.lower()}.py"
            place.write_text(story, encoding="utf-8", errors="backslashreplace")
            note(f"written to {place}")

    def story(self, error: Exception) -> str:
        """The example as a test of its own, which fails as this did; rules of one's own are not in it.

        What the canister says stands behind code: in its first lines Python would take a comment for the name of the
        file's encoding, in which the names of methods could be anything.
        """
        words = " ".join(f"{type(error).__name__}: {error}".split())[:_TOLD_CHARACTERS].strip()
        told = f"# {''.join(char if char.isprintable() else chr(0xFFFD) for char in words)}"
        name, head = type(self).__name__, self.head()
        test = f"\n\n{told}\ndef test_{name.lower()}():"
        if head is None:
            imports = ["from perdure import Principal", f"from {type(self).__module__} import {name}"]
            body = [f"machine = {name}()", *(one.again for one in self.steps), "machine.check()"]
            return "\n".join([*imports, test, *(f"    {line}" for line in body), ""])
        imports = ["from contextlib import suppress\n", "from perdure import Principal, RejectError, Subnet"]
        allowed = f"extensions={tuple(self.extensions)!r}" if self.extensions else ""
        body = [*head, *(_doing(one, self.allowed) for one in self.steps)]
        return "\n".join(
            [*imports, test, f"    with Subnet({allowed}) as subnet:", *(f"        {line}" for line in body), ""]
        )


def _kind_of(error: Exception) -> tuple[type[Exception], str]:
    return type(error), error.error_code if isinstance(error, RejectError) else ""


def _doing(step: Step, allowed: Collection[str]) -> str:
    """A step in Python; what a canister has refused, it may refuse again."""
    return step.line if step.outcome not in allowed else f"with suppress(RejectError): {step.line}"
