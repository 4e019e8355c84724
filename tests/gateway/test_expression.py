"""Expressions of certification, and what is none."""

from __future__ import annotations

import pytest

from perdure.errors import MalformedError
from perdure.gateway.expression import Certified, RequestRule, ResponseRule, read_expression

HEADERS = 'certified_response_headers: ResponseHeaderList{headers: ["ETag", "x-a"]}'
RESPONSE = f"response_certification: ResponseCertification{{{HEADERS}}}"
REQUEST = (
    'request_certification: RequestCertification{certified_request_headers: ["Host"], certified_query_parameters: []}'
)


def certified(*parts):
    return f"default_certification(ValidationArgs{{certification: Certification{{{', '.join(parts)}}}}})"


def test_what_they_say():
    found = read_expression(certified("no_request_certification: Empty{}", RESPONSE))
    assert found == Certified(None, ResponseRule(frozenset(["etag", "x-a"]), are_excluded=False))
    assert [found.response.covers(name) for name in ("etag", "x-b")] == [True, False]
    found = read_expression(
        certified(REQUEST, RESPONSE.replace("certified_response_headers", "response_header_exclusions"))
    )
    assert found.request == RequestRule(frozenset(["host"]), frozenset())
    assert [found.response.covers(name) for name in ("etag", "x-b")] == [False, True]
    nothing = "default_certification ( ValidationArgs {\n\tno_certification : Empty { }\r\n} )"
    assert read_expression(nothing) == Certified(None, None)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "expected a string, a list, a function or an object"),
        ("other()", "expected default_certification"),
        ("default_certification()", "without ValidationArgs"),
        ("default_certification(Other{})", r"expected ValidationArgs\{"),
        ("default_certification(ValidationArgs{})", "with neither, expected one of no_certification and certification"),
        (
            "default_certification(ValidationArgs{no_certification: A{}, certification: A{}})",
            "with no_certification and",
        ),
        (certified(RESPONSE), "expected one of no_request_certification and request_certification"),
        (certified(REQUEST), "Certification without response_certification"),
        (certified(REQUEST.replace("certified_query_parameters", "x"), RESPONSE), "without certified_query_parameters"),
        (certified(REQUEST.replace('["Host"]', '[A{}, "a"]'), RESPONSE), "expected a list of strings"),
        (certified(REQUEST, RESPONSE.replace("x-a", "x_a")), "other characters than letters, digits and -"),
        (certified(REQUEST, RESPONSE.replace('"x-a"]', '"x-a",]')), "expected a string"),
        (certified(REQUEST, RESPONSE)[:-1], r"expected ','"),
        ("a(" * 1000, "deeper than 16 levels"),
        ("a" * 70_000, "70000 characters, expected at most"),
    ],
)
def test_what_is_none(text, match):
    with pytest.raises(MalformedError, match=match):
        read_expression(text)
