"""What a canister says of its certification: the expression in the header ``IC-CertificateExpression``.

```
default_certification(ValidationArgs{certification: Certification{
  request_certification: RequestCertification{certified_request_headers: ["host"], certified_query_parameters: ["q"]},
  response_certification: ResponseCertification{certified_response_headers: ResponseHeaderList{headers: ["etag"]}}}})
```

Instead of a certification there may be ``no_certification: Empty{}``, instead of the request's
``no_request_certification: Empty{}``, and ``response_header_exclusions`` instead of ``certified_response_headers``.

Spec: "Response Verification" version 2 in the HTTP gateway protocol. What gateways take decides where it differs: there
may be white space, and strings are letters, digits and ``-``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias, final

from perdure.errors import MalformedError

__all__ = ["Certified", "RequestRule", "ResponseRule", "read_expression"]

_MAX_CHARACTERS: Final = 64 << 10
_MAX_DEPTH: Final = 16
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_NAME: Final = re.compile(r"[A-Za-z0-9_]*")
_STRING: Final = re.compile(r'"((?:[A-Za-z0-9-]|\\["n\\])*)"')


class RequestRule(NamedTuple):
    """What of the request is certified, in lower case."""

    headers: frozenset[str]
    query_parameters: frozenset[str]


class ResponseRule(NamedTuple):
    """Headers in lower case: those that are certified, or those that are not."""

    headers: frozenset[str]
    are_excluded: bool

    def covers(self, name: str) -> bool:
        """Whether the header of this name, in lower case, is certified."""
        return (name in self.headers) != self.are_excluded


class Certified(NamedTuple):
    """What is certified. `response` is `None` where nothing is, `request` where the request does not matter."""

    request: RequestRule | None
    response: ResponseRule | None


@final
class _Node(NamedTuple):
    """``name{...}``: the parts are a mapping; ``name(...)``: they are a list."""

    name: str
    parts: Mapping[str, _Value] | list[_Value]


_Value: TypeAlias = "str | list[_Value] | _Node"


def read_expression(text: str) -> Certified:
    """What an expression says.

    Raises:
        MalformedError: it is none, or one that gateways do not know.
    """
    if len(text) > _MAX_CHARACTERS:
        raise MalformedError(f"an expression of {len(text)} characters, expected at most {_MAX_CHARACTERS}")
    value, _ = _value(text, 0, 0)
    if not isinstance(value, _Node) or not isinstance(value.parts, list) or value.name != "default_certification":
        raise MalformedError(f"expected default_certification(...), found {text[:60]!r}")
    if not value.parts:
        raise MalformedError("default_certification() without ValidationArgs{...}")
    arguments = _object(value.parts[0], "ValidationArgs")
    if _chosen(arguments, "ValidationArgs", "no_certification", "certification") == "no_certification":
        return Certified(None, None)
    certification = _object(arguments["certification"], "Certification")
    request = None
    if _chosen(certification, "Certification", "no_request_certification", "request_certification")[0] == "r":
        rule = _object(certification["request_certification"], "RequestCertification")
        names = ("certified_request_headers", "certified_query_parameters")
        request = RequestRule(*(_names(_needed(rule, "RequestCertification", name), name) for name in names))
    rule = _object(_needed(certification, "Certification", "response_certification"), "ResponseCertification")
    kind = _chosen(rule, "ResponseCertification", "certified_response_headers", "response_header_exclusions")
    listed = _needed(_object(rule[kind], "ResponseHeaderList"), "ResponseHeaderList", "headers")
    return Certified(request, ResponseRule(_names(listed, kind), kind == "response_header_exclusions"))


# -- what it means


def _object(value: _Value, name: str) -> Mapping[str, _Value]:
    if not isinstance(value, _Node) or isinstance(value.parts, list) or value.name != name:
        raise MalformedError(f"expected {name}{{...}}, found {str(value)[:60]!r}")
    return value.parts


def _needed(parts: Mapping[str, _Value], owner: str, name: str) -> _Value:
    if name not in parts:
        raise MalformedError(f"{owner} without {name}")
    return parts[name]


def _chosen(parts: Mapping[str, _Value], owner: str, *names: str) -> str:
    """The one of some names that is there."""
    found = [name for name in names if name in parts]
    if len(found) != 1:
        raise MalformedError(f"{owner} with {' and '.join(found) or 'neither'}, expected one of {' and '.join(names)}")
    return found[0]


def _names(value: _Value, what: str) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise MalformedError(f"{what}: expected a list of strings, found {str(value)[:60]!r}")
    return frozenset(str(one).lower() for one in value)


# -- how it is written


def _value(text: str, at: int, depth: int) -> tuple[_Value, int]:
    if depth > _MAX_DEPTH:
        raise MalformedError(f"an expression deeper than {_MAX_DEPTH} levels", at)
    at = _skip(text, at)
    if text.startswith('"', at):
        found = _STRING.match(text, at)
        if found is None:
            raise MalformedError("a string of other characters than letters, digits and -", at)
        return found[1], found.end()
    if text.startswith("[", at):
        return _list(text, at + 1, "]", depth)
    name = _NAME.match(text, at)
    assert name is not None  # it matches nothing, too
    after = _skip(text, name.end())
    if text.startswith("(", after):
        values, after = _list(text, after + 1, ")", depth)
        return _Node(name[0], values), after
    if text.startswith("{", after):
        parts, after = _parts(text, after + 1, depth)
        return _Node(name[0], parts), after
    raise MalformedError(f"expected a string, a list, a function or an object, found {text[at : at + 20]!r}", at)


def _list(text: str, at: int, end: str, depth: int) -> tuple[list[_Value], int]:
    values: list[_Value] = []
    at = _skip(text, at)
    while not text.startswith(end, at):
        if values:
            at = _expect(text, at, ",")
        value, at = _value(text, at, depth + 1)
        values.append(value)
        at = _skip(text, at)
    return values, at + 1


def _parts(text: str, at: int, depth: int) -> tuple[dict[str, _Value], int]:
    parts: dict[str, _Value] = {}
    at = _skip(text, at)
    while not text.startswith("}", at):
        if parts:
            at = _skip(text, _expect(text, at, ","))
        name = _NAME.match(text, at)
        assert name is not None
        parts[name[0]], at = _value(text, _expect(text, name.end(), ":"), depth + 1)
        at = _skip(text, at)
    return parts, at + 1


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _expect(text: str, at: int, character: str) -> int:
    at = _skip(text, at)
    if not text.startswith(character, at):
        raise MalformedError(f"expected {character!r}, found {text[at : at + 20]!r}", at)
    return at + 1
