"""Names by which a server is asked for."""

from __future__ import annotations

import pytest

from perdure.gateway.hosts import Hosts


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("LocalHost:8000", "localhost"),
        ("127.0.0.1:1", "127.0.0.1"),
        ("127.8.9.1", "127.8.9.1"),
        ("[::1]:8000", "::1"),
        ("rwlgt-iiaaa-aaaaa-aaaaa-cai.localhost:80", "rwlgt-iiaaa-aaaaa-aaaaa-cai.localhost"),
        ("app.example.org", "app.example.org"),
        ("10.0.0.7:99", "10.0.0.7"),
        ("evil.example", None),
        ("localhost.evil.example", None),
        ("evillocalhost", None),
        ("127.0.0.1.evil.example", None),
        ("example.org.", None),
        ("10.0.0.8", None),
        ("0.0.0.0", None),
        ("localhost:8000:8000", None),
        ("", None),
        (None, None),
    ],
)
def test_names(header, name):
    assert Hosts(["example.org"], ["10.0.0.7"]).name_of(header) == name


@pytest.mark.parametrize("name", ["", "a b", "http://a", "a:80", "-a/", "*.example.org"])
def test_no_names(name):
    with pytest.raises(ValueError, match="no name of a host"):
        Hosts([name])
