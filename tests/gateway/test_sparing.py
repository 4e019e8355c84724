"""Logs of a server: what clients can have written into them."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from perdure import Subnet
from perdure.gateway import Server


class Failing:
    """Pages that fail."""

    max_upload_bytes = 1

    def wants(self, request):
        return True

    def may_upload(self, request):
        return False

    def begin(self, request, client):
        raise ValueError(request.path)


def fail(server, path):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(server.url + path)
    with caught.value as answer:
        assert answer.code == 500


def test_failures_of_one_kind_fill_no_disk(caplog, monkeypatch):
    with Subnet() as subnet, Server(subnet, pages=Failing()) as server:
        for number in range(20):
            fail(server, f"/{number}")
        monkeypatch.setattr("perdure.gateway.sparing._PERIOD_SECONDS", 0.0)
        fail(server, "/last")
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        *(f"GET /{number} failed" for number in range(5)),
        "GET /last failed (15 more like it were not logged)",
    ]
