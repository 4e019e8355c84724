"""URLs of object storage: what they lead to, and what is refused without being repeated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from perdure import Network, Subnet
from perdure.cli import perdure
from perdure.cli.paths import LocalPath
from perdure.errors import StorageError, UnsupportedError
from perdure.fleet.journal import Journal
from perdure.inspection import open_source
from perdure.storage.backup import backup
from perdure.urls import Place, check_endpoints, is_url, local_path, meant_url, parse_url


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


@pytest.mark.parametrize("text", ["s3:/backups/x", "s3//backups/x", "GS:/b", "file:/srv/a", "az//c/k"])
def test_what_is_nearly_a_url_is_told_of(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scheme = re.split("[:/]", text)[0].lower()
    with pytest.raises(StorageError, match=f"begins with {scheme}://"):
        open_source(text)
    assert meant_url(text)


@pytest.mark.parametrize("text", ["s3", "s3/x", "./s3:/x", "s3:ledger", "s3:", "gsx//y", "s3://b/k", "state:canister"])
def test_other_names_are_not(text: str) -> None:
    assert meant_url(text) == ""


@pytest.mark.parametrize("target", ["s3://me:hush@bucket/x", "s3:/bucket/x", "file:///srv/x"])
def test_no_directory_is_made_of_a_url(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Subnet("state").close()
    calls: list[Callable[[], object]] = [
        lambda: Subnet(target),
        lambda: Network(1, path=target),
        lambda: backup("state", target),
        lambda: Journal(Path(target), "fsck", (), resume=False),
    ]
    for call in calls:
        with pytest.raises(UnsupportedError, match="a URL, expected a path of this machine") as caught:
            call()
        assert "hush" not in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["state"]


def _commands(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), name)
            assert inner is not None
            yield from _commands(inner, (*words, name))
    else:
        yield words, command


def test_every_command_refuses_a_url_where_it_wants_a_path() -> None:
    found = [
        (words, one)
        for words, command in _commands(perdure)
        for one in command.params
        if isinstance(one.type, click.Path)
    ]
    assert len(found) > 50
    assert [(words, one.name) for words, one in found if not isinstance(one.type, LocalPath)] == []
    told = CliRunner().invoke(perdure, ["state", "backup", "s3://bucket/hush", "-o", "copy"])
    assert (told.exit_code, "expected a path of this machine" in told.output, "hush" in told.output) == (2, True, False)


@pytest.mark.parametrize(
    ("scheme", "name", "value"),
    [
        ("s3", "AWS_ENDPOINT_URL", "127.0.0.1:9000"),
        ("s3", "AWS_ENDPOINT_URL", "localhost"),
        ("s3", "AWS_ENDPOINT", "http://127.0.0.1:900000"),
        ("s3", "AWS_ENDPOINT_URL_S3", "https://"),
        ("az", "AZURE_STORAGE_ENDPOINT", "host:1"),
        ("gs", "GOOGLE_BASE_URL", "ftp://host"),
    ],
)
def test_an_endpoint_that_is_no_url_is_said(
    scheme: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UnsupportedError, match=f"{name} is no http:// or https:// URL"):
        open_source(f"{scheme}://bucket/key")
    others = {"s3", "gs", "az", "file"} - {scheme}
    for other in others:
        check_endpoints(other, {name: value})
    check_endpoints(scheme, {name: "http://[::1]:9000/base"})
    check_endpoints(scheme, {name: ""})
