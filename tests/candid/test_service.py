import pytest

from perdure.candid.service import load
from perdure.errors import MalformedError

TEXT = """
// Counts.
type Step = func (by : nat) -> (nat);
// A counter.
service : (start : nat) -> {
  // The count.
  get : () -> (nat) query;
  all : () -> (nat) composite_query;
  step : Step;
  note : (text) -> () oneway;
}
"""


def test_a_service():
    service = load(TEXT)
    assert service.docs == "A counter."
    assert {name: one.mode for name, one in service.methods.items()} == {
        "all": "composite_query",
        "get": "query",
        "note": "oneway",
        "step": "update",
    }
    assert [name for name, one in service.methods.items() if one.is_query] == ["all", "get"]
    assert service.methods["get"].docs == "The count."
    assert service.methods["step"].docs == "Counts."
    assert service.methods["step"].signature == "step : (by : nat) -> (nat)"
    assert service.methods["step"].encode([5]) == b"DIDL\0\1\x7d\5"
    assert service.methods["step"].decode(b"DIDL\0\1\x7d\5") == (5,)
    assert service.encode_init([7]) == b"DIDL\0\1\x7d\7"


def test_init_arguments_come_from_a_section_of_their_own():
    service = load(b"type T = record { a : nat }; service : {}", args=b"(T, opt nat)")
    assert [str(one) for one in service.init] == ["T", "opt nat"]
    assert service.encode_init([{"a": 1}]).endswith(b"\1\0")
    assert load("service : {}").init is None
    assert load("service : {}").encode_init([]) == b"DIDL\0\0"


@pytest.mark.parametrize(
    ("text", "message"),
    [("type A = nat", "has no service"), (b"service : {} // \xff", "not UTF-8"), ("service : A", "not defined")],
)
def test_what_is_no_service(text, message):
    with pytest.raises(MalformedError, match=message):
        load(text)


def test_a_service_is_read_once():
    assert load(TEXT) is load(TEXT.encode())
    assert load(TEXT) is not load(TEXT, args="(nat)")
    with pytest.raises(TypeError):
        load(TEXT).methods["new"] = load(TEXT).methods["get"]
    imported = load('import "t.did"; service : { m : () -> (T) }', loader=lambda name, _: (name, "type T = nat"))
    assert imported.methods["m"].signature == "m : () -> (T)"
