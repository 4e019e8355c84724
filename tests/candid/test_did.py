import pytest

from perdure.candid import parse, parse_type, parse_types
from perdure.candid.types import Func, Nat, Null, Opt, Record, Text, Vec
from perdure.errors import MalformedError

LEDGER = """
// Not part of any docs.

/* a block /* nested */ comment */
type Tokens = nat; // trailing, not docs
// Where tokens are.
// Two lines.
type Account = record {
  // Who owns it.
  owner : principal;
  subaccount : opt blob;
};
type Callback = func (Tokens, text) -> () oneway;
type List = opt record { head : nat; tail : List };

// The ledger.
service ledger : (init : record { Account; nat }, opt text) -> {
  // Moves tokens.
  //
  // Fails if there are too few.
  transfer : (to : Account, amount : Tokens) -> (variant { Ok : nat; Err : text });
  balance_of : (Account) -> (Tokens) query;
  "weird name" : () -> () composite_query;
  on : Callback;
}
"""


def test_a_program():
    program = parse(LEDGER)
    assert program.name == "ledger"
    assert program.docs == "The ledger."
    assert [one.name for one in program.service.methods] == ["balance_of", "on", "transfer", "weird name"]
    assert program.init_names == ("init", None)
    assert str(program.init[0]) == "record { Account; nat }"
    transfer = program.service.methods[2]
    assert transfer.docs == "Moves tokens.\n\nFails if there are too few."
    assert transfer.type.arg_names == ("to", "amount")
    account = program.types["Account"]
    assert account.docs == "Where tokens are.\nTwo lines."
    assert {one.name: one.docs for one in account.type.fields} == {"owner": "Who owns it.", "subaccount": ""}
    assert program.types["Tokens"].docs == ""


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("blob", Vec(parse_type("nat8"))),
        ("record { nat; text }", Record.tuple_of(Nat, Text)),
        ("record { 5 : nat; text; 0x0A : nat; }", Record.of({5: Nat, 6: Text, 10: Nat})),
        ('record { "opt" : nat; text : text; nat }', Record.of({"opt": Nat, "text": Text, 1291439278: Nat})),
        ("variant { a; 1_0; b : nat }", parse_type("variant { 10 : null; a : null; b : nat }")),
        ("func (a : nat, text) -> () query", Func((Nat, Text), (), frozenset({"query"}))),
        ("opt vec null", Opt(Vec(Null))),
        ("record {}", Record()),
    ],
)
def test_types(text, type_):
    assert parse_type(text) == type_


def test_types_in_parentheses_with_definitions():
    [first, second] = parse_types("type A = opt A; (x : A, nat)")
    assert (str(first), first.type, second) == ("A", Opt(first), Nat)


FILES = {
    "main.did": 'import "types.did"; import service "base.did"; service : { extra : (T) -> () }',
    "types.did": 'type T = record { U }; import "more.did"; service : { hidden : () -> () }',
    "more.did": 'import "types.did"; type U = nat',
    "base.did": "service : { base : () -> (nat) query }",
    "constructor.did": "service : (nat) -> { base : () -> () }",
    "nothing.did": "type N = nat",
}


def loader(name, _importing):
    return name, FILES[name]


def test_imports_bring_types_and_on_request_the_service():
    program = parse(FILES["main.did"], loader, "main.did")
    assert [one.name for one in program.service.methods] == ["base", "extra"]
    assert sorted(program.types) == ["T", "U"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('import "types.did"', "which only a file can: give the interface by its path"),
        ('import service "constructor.did"', "constructor, which cannot be imported"),
        ('import service "nothing.did"', "has no service to import"),
        ('import service "base.did"; service : { base : () -> () }', "two methods called 'base'"),
    ],
)
def test_imports_that_cannot_be(text, message):
    with pytest.raises(MalformedError, match=message):
        parse(text, None if "by its path" in message else loader, "main.did")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"line 1, column 8: cannot import 'a.did': no file a.did"),
        ({"a.did": "type A = "}, r"^in a.did: line 1, column 10: found the end"),
        ({"a.did": "type A = B"}, r"^in a.did: line 1, column 10: type B is not defined"),
        ({"a.did": 'import "b.did"', "b.did": "type B = ;"}, r"^in b.did: line 1, column 10"),
    ],
)
def test_what_is_wrong_in_an_import_says_in_which(files, message):
    def load(name, _importing):
        if name not in files:
            raise FileNotFoundError(f"no file {name}")
        return name, files[name]

    with pytest.raises(MalformedError, match=message):
        parse('import "a.did"', load, "main.did")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type A = B; type B = A", "type B is defined by itself"),
        ("type A = B", "line 1, column 10: type B is not defined"),
        ("type A = nat; type A = text", "line 1, column 20: type A is defined already"),
        ("type nat = text", "found 'nat = text', expected an identifier"),
        ("type A = record { a : nat; a : text }", "fields 'a' and 'a' have the same id"),
        ("type A = variant { nat; 3 : nat; 0x3 }", "have the same id"),
        ("type A = record { 4294967296 : nat }", "expected a field id from 0 to 2**32 - 1"),
        ("type A = record { 4294967295 : nat; nat }", "the next id is 2**32"),
        ("type A = record { a }", "type a is not defined"),
        ('type A = record { "a" }', "expected `:`"),
        ("type A = func (a : nat, a : nat) -> ()", "two arguments called 'a'"),
        ("type A = func () -> (nat) oneway", "a oneway function with results"),
        ("type A = func () -> () query oneway", "modes query and oneway"),
        ("type A = service { m : nat }", "a method of type nat, expected a function"),
        ("type A = nat; service : A", "A is not a service"),
        ("service : { m : () -> (); m : () -> () }", "two methods called 'm'"),
        ("service : {}; nat", "expected the end"),
        ("type A = opt", "found the end, expected a type"),
        ("type A = nat type B = nat", "expected `;`"),
        ("type A = \x01", "found '\\x01', expected a token"),
        ('type A = record { "\\u{d800}" : nat }', "unknown escape"),
        ('type A = record { "\\ff" : nat }', "text is not UTF-8"),
        ("/* /* */", "comment without an end"),
        ("type A = " + "opt " * 200 + "nat", "nested at most 100 deep"),
    ],
)
def test_programs_that_are_refused(text, message):
    with pytest.raises(MalformedError) as caught:
        parse(text)
    assert message in str(caught.value)


def test_many_definitions_in_a_chain():
    text = "".join(f"type T{index} = record {{ T{index + 1} }}; " for index in range(3000)) + "type T3000 = nat"
    assert len(parse(text).types) == 3001
