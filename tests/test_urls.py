"""URLs of object storage: what they lead to, and what is refused without being repeated."""

from __future__ import annotations

import pytest

from perdure.errors import UnsupportedError
from perdure.inspection import open_source
from perdure.urls import Place, is_url, local_path, parse_url


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("s3://backups/a/b", Place("s3", "backups", "a/b")),
        ("S3://backups", Place("s3", "backups", "")),
        ("gs://backups/a/", Place("gs", "backups", "a/")),
        ("az://container/x y", Place("az", "container", "x y")),
        ("file:///srv/a", Place("file", "", "srv/a")),
    ],
)
def test_places(text: str, place: Place) -> None:
    assert is_url(text)
    assert parse_url(text) == place


def test_a_place_below() -> None:
    assert str(parse_url("s3://b/a/").under("x")) == "s3://b/a/x"
    assert str(parse_url("s3://b").under("x")) == "s3://b/x"


@pytest.mark.parametrize("text", ["s3://AKID:hush@b/k", "s3://b/k?X-Amz-Signature=hush", "az://b:hush/k"])
def test_credentials_in_a_url_are_not_repeated(text: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        parse_url(text)
    assert "hush" not in str(caught.value)
    assert caught.value.error_code == "url-with-credentials"


@pytest.mark.parametrize(
    "text", ["s3:///key", "s3://b/../c", "file://host/x", "file:///", "s3://bu cket/k", "http://b/k"]
)
def test_others_are_refused(text: str) -> None:
    with pytest.raises(UnsupportedError):
        parse_url(text)


def test_what_is_on_this_machine() -> None:
    assert local_path("file:///srv/a#heap") == "/srv/a#heap"
    assert local_path("s3://b/k") is None
    assert not is_url("./s3:")
    assert not is_url("state:canister")


def test_other_urls_are_not_repeated_either() -> None:
    with pytest.raises(UnsupportedError) as caught:
        open_source("https://me:hush@host/dump.bin?X-Amz-Signature=hush")
    assert "hush" not in str(caught.value)
