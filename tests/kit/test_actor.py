"""Actors over a canister that answers in Python."""

import asyncio
import inspect
import pydoc
import threading
from dataclasses import dataclass

import pytest

from perdure.candid import CoercionError, encode
from perdure.candid.service import load
from perdure.candid.types import Nat, Text
from perdure.errors import RejectError
from perdure.ic.principal import ANONYMOUS, Principal
from perdure.subnet.actor import Actor

ALICE = Principal(b"alice")
SERVICE = load("""
type Account = record { owner : principal; memo : opt text };
service : {
  // Says hello.
  //
  // Politely.
  greet : (name : text) -> (text) query;
  transfer : (to : Account, amount : nat, from : opt principal, opt nat) -> (variant { Ok : nat; Err : text });
  pair : () -> (nat, text) composite_query;
  clear : () -> ();
  note : (text) -> () oneway;
  "weird name" : (nat, nat) -> (nat);
  update : (nat) -> (nat);
}
""")


@dataclass
class Account:
    owner: Principal


class Canister:
    """Keeps the calls it gets, and answers with the messages it was made with."""

    def __init__(self, **replies):
        self.replies = replies
        self.calls = []

    def __repr__(self):
        return "Canister('ledger')"

    def update(self, method, arg=b"", *, sender=ANONYMOUS, cycles=0):
        return self.called("update", method, arg, sender, cycles)

    def query(self, method, arg=b"", *, sender=ANONYMOUS):
        return self.called("query", method, arg, sender, 0)

    def called(self, kind, method, arg, sender, cycles):
        self.calls.append((kind, method, arg, sender, cycles))
        reply = self.replies[method.replace(" ", "_")]
        if isinstance(reply, Exception):
            raise reply
        return reply


def test_a_query_gets_one_result():
    canister = Canister(greet=encode([Text], ["Hello, Ada"]))
    assert Actor(canister, SERVICE, ALICE).greet("Ada") == "Hello, Ada"
    assert canister.calls == [("query", "greet", encode([Text], ["Ada"]), ALICE, 0)]


def test_calls_are_awaited_and_the_loop_goes_on():
    class Waiting(Canister):
        def called(self, *call):
            assert entered.wait(120)  # until the loop has come to the other call
            return super().called(*call)

    entered = threading.Event()
    actor = Actor(Waiting(greet=encode([Text], ["Hello"])), SERVICE, ALICE)

    async def all_of_them():
        first = asyncio.create_task(actor.greet.later("Ada"))
        await asyncio.sleep(0)
        entered.set()
        return await asyncio.gather(first, actor.greet.later(name="Bob"))

    assert asyncio.run(all_of_them()) == ["Hello", "Hello"]
    with pytest.raises(TypeError, match="greet"):
        asyncio.run(actor.greet.later(1, 2, 3))


def test_no_result_and_two_results():
    canister = Canister(clear=encode([], []), pair=encode([Nat, Text], [1, "x"]), note=b"")
    actor = Actor(canister, SERVICE)
    assert actor.clear() is None
    assert actor.pair() == (1, "x")
    assert actor.note("x") is None
    assert [(kind, sender) for kind, _, _, sender, _ in canister.calls] == [
        ("update", ANONYMOUS),
        ("query", ANONYMOUS),
        ("update", ANONYMOUS),
    ]


def test_arguments_by_name_and_left_out():
    ok = SERVICE.methods["transfer"]._results.encode([{"Ok": 7}])
    canister = Canister(transfer=ok)
    actor = Actor(canister, SERVICE)
    assert actor.transfer(amount=5, to={"owner": ALICE}) == {"Ok": 7}
    assert actor.transfer(Account(ALICE), 5) == {"Ok": 7}
    assert actor.transfer(Account(ALICE), 5, from_=None, arg3=None) == {"Ok": 7}
    assert len({arg for _, _, arg, _, _ in canister.calls}) == 1


def test_cycles_go_with_updates():
    canister = Canister(clear=encode([], []))
    Actor(canister, SERVICE, cycles=5).clear()
    assert canister.calls[0][-1] == 5


def test_wrong_arguments_never_reach_the_canister():
    canister = Canister()
    actor = Actor(canister, SERVICE)
    with pytest.raises(ValueError, match="value 0: expected text, found 5"):
        actor.greet(5)
    with pytest.raises(TypeError, match=r"transfer : .*: missing a required argument: 'amount'"):
        actor.transfer({"owner": ALICE})
    with pytest.raises(TypeError, match="too many positional arguments"):
        actor.greet("a", "b")
    assert canister.calls == []


def test_rejections_and_replies_of_other_types_are_raised():
    actor = Actor(Canister(greet=RejectError(5, "IC0503", "trapped"), clear=b"", update=encode([Text], ["x"])), SERVICE)
    with pytest.raises(RejectError, match="trapped"):
        actor.greet("x")
    with pytest.raises(CoercionError, match="text does not coerce to nat"):
        actor.update(1)


def test_method_names_never_clash():
    canister = Canister(update=encode([Nat], [1]), weird_name=encode([Nat], [3]))
    actor = Actor(canister, SERVICE)
    assert actor.update(5) == 1
    assert actor["weird name"](1, 2) == 3
    assert dir(actor) == ["clear", "greet", "note", "pair", "transfer", "update"]
    assert list(actor) == sorted(SERVICE.methods)


def test_the_same_as_another_sender():
    canister = Canister(greet=encode([Text], ["hello"]))
    assert Actor(canister, SERVICE).as_(ALICE).greet("x") == "hello"
    assert canister.calls[-1][3] == ALICE
    with pytest.raises(TypeError, match="the sender is a Principal, found 'alice'"):
        Actor(canister, SERVICE).as_("alice")


def test_unknown_methods_are_told_with_the_known_ones():
    actor = Actor(Canister(), SERVICE)
    with pytest.raises(AttributeError, match="no method 'gret', did you mean 'greet'"):
        _ = actor.gret
    with pytest.raises(KeyError, match="no method 'gret'"):
        _ = actor["gret"]
    assert not hasattr(actor, "__array__")


def test_help_has_the_comment_and_the_signature():
    actor = Actor(Canister(), SERVICE)
    assert str(inspect.signature(actor.transfer)) == (
        "(to: Account, amount: nat, from_: opt principal = None, arg3: opt nat = None)"
        " -> variant { Ok : nat; Err : text }"
    )
    assert inspect.getdoc(actor.greet) == "Says hello.\n\nPolitely.\n\ngreet : (name : text) -> (text) query"
    assert "Politely." in pydoc.render_doc(actor.greet, renderer=pydoc.plaintext)
    assert str(inspect.signature(actor.clear)) == "() -> None"


def test_reprs_show_the_interface():
    actor = Actor(Canister(), SERVICE, ALICE)
    lines = repr(actor).splitlines()
    assert lines[0] == f"<actor of Canister('ledger') as {ALICE}"
    assert lines[-1] == "  note : (text) -> () oneway>"
    assert "  greet : (name : text) -> (text) query" in lines
    assert repr(actor.greet) == "<query greet : (name : text) -> (text) query>"
    page = actor._repr_html_()
    assert "<code>greet : (name : text) -&gt; (text) query</code>" in page
    assert "Says hello." in page


def test_results_as_the_callers_own_classes():
    canister = Canister(pair=encode([Nat, Text], [1, "x"]), greet=encode([Text], ["hello"]))
    actor = Actor(canister, SERVICE)
    assert actor.greet.returning(str)("Ada") == "hello"
    assert actor.pair.returning(tuple[int, str])() == (1, "x")
    with pytest.raises(ValueError, match="expected int, found 'hello'"):
        actor.greet.returning(int)("Ada")
