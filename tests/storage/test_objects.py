"""A bucket: requests, conditions, and errors that tell what is wrong and nothing else."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from object_servers import OWNER, READER, OurServer, Seaweed, environment, moto_server
from perdure.errors import StorageError
from perdure.storage.objects import AlreadyThereError, Objects
from perdure.urls import parse_url


def test_small_objects(bucket: OurServer) -> None:
    objects = Objects(parse_url("s3://bucket/ignored"))
    assert objects.stat("a") is None
    objects.put("a/b c", b"12345")
    stat = objects.stat("a/b c")
    assert stat is not None
    assert (stat.key, stat.size_bytes) == ("a/b c", 5)
    assert objects.read(stat, 1, 3) == b"23"
    assert objects.read(stat, 3, 3) == b""
    assert objects.read_whole("a/b c", 5)[0] == b"12345"
    with pytest.raises(StorageError, match="5 bytes found, at most 4 expected"):
        objects.read_whole("a/b c", 4)
    with pytest.raises(AlreadyThereError):
        objects.put("a/b c", b"6", only_new=True)
    objects.put("a/d", b"", only_new=True)
    objects.put("ab", b"6")
    assert [one.key for one in objects.list("a")] == ["a/b c", "a/d"]
    objects.delete(["a/d", "nobody"])
    assert [one.key for one in objects.list("")] == ["a/b c", "ab"]
    assert b"".join(objects.stream(stat)) == b"12345"
    assert (objects.bytes_read, objects.bytes_written) == (12, 6)


def test_a_store_on_this_machine(tmp_path: Path) -> None:
    place = parse_url(f"file://{tmp_path}")
    objects = Objects(place)
    objects.put(place.under("a").key, b"12345", only_new=True)
    with pytest.raises(AlreadyThereError):
        objects.put(place.under("a").key, b"6", only_new=True)
    stat = objects.stat(place.under("a").key)
    assert stat is not None
    assert objects.read(stat, 1, 3) == b"23"
    (tmp_path / "a").write_bytes(b"others")
    with pytest.raises(StorageError, match="replaced"):
        objects.read(stat, 1, 3)


def test_what_the_system_says_of_a_store_on_this_machine_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"no directory")
    place = parse_url(f"file://{tmp_path}/file/archive")
    with pytest.raises(StorageError, match=r"cannot be read or written: (Not a directory|File exists)"):
        Objects(place).put(place.under("a").key, b"1", only_new=True)


def test_a_bucket_that_is_not_there_and_a_store_that_is_not_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with moto_server(tmp_path) as url:
        for name, value in environment(url, "key", "secret").items():
            monkeypatch.setenv(name, value)
        objects = Objects(parse_url("s3://nobody-made-it/x"))
        with pytest.raises(StorageError, match="s3://nobody-made-it/: there is no such bucket"):
            objects.put("x", b"1", only_new=True)
        with pytest.raises(StorageError, match="there is no such bucket"):
            list(objects.list("x"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StorageError, match=r"cannot be reached: .*AWS_ENDPOINT_URL"):
        Objects(parse_url("s3://bucket/x")).stat("x")


def test_an_endpoint_without_encryption_says_what_allows_it(bucket: OurServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(StorageError, match="AWS_ALLOW_HTTP=true"):
        Objects(parse_url("s3://bucket")).stat("a")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "object-denied", "refuses these credentials"),
        (403, "object-denied", "refuses these credentials"),
        (400, "object-store", "not answer as it should"),
    ],
)
def test_refusals_tell_no_secret(bucket: OurServer, status: int, code: str, words: str) -> None:
    """The server repeats the request's signature in its answer, as S3 does with a wrong one."""
    objects = Objects(parse_url("s3://bucket"))
    objects.put("a", b"1")
    stat = objects.stat("a")
    assert stat is not None
    bucket.before = lambda method, key: status
    tries = [
        lambda: objects.stat("a"),
        lambda: objects.read(stat, 0, 1),
        lambda: objects.read_whole("a", 5),
        lambda: list(objects.stream(stat)),
        lambda: list(objects.list("a")),
        lambda: objects.put("a", b"2"),
        lambda: objects.put_file("a", io.BytesIO(b"2"), 1),
        lambda: objects.delete(["a"]),
    ]
    for one in tries:
        with pytest.raises(StorageError, match=words) as caught:
            one()
        error = caught.value
        assert error.error_code == code
        assert error.__cause__ is None
        assert error.__suppress_context__
        assert not any(secret in str(error) for secret in ("AKID", "Signature=", "Credential"))


def test_a_truncated_answer(bucket: OurServer) -> None:
    objects = Objects(parse_url("s3://bucket"))
    objects.put("a", b"12345")
    stat = objects.stat("a")
    assert stat is not None
    for end in (6, 100):
        with pytest.raises(StorageError):
            objects.read(stat, 0, end)


@pytest.mark.parametrize("ignores_conditions", [False, True])
@pytest.mark.parametrize("content", [b"54321", b"1234", b"123456"])
def test_a_stream_is_of_the_object_that_was_opened(bucket: OurServer, ignores_conditions: bool, content: bytes) -> None:
    """Also where the server does not know the header."""
    bucket.ignores_conditions = ignores_conditions
    objects = Objects(parse_url("s3://bucket"))
    objects.put("a", b"12345")
    stat = objects.stat("a")
    assert stat is not None
    bucket.put("a", content)
    with pytest.raises(StorageError, match="replaced"):
        list(objects.stream(stat))


def conditions(url: str) -> None:
    """What is stood on, of any store."""
    objects = Objects(parse_url(url))
    objects.put("a", b"12345", only_new=True)
    with pytest.raises(AlreadyThereError):
        objects.put("a", b"2", only_new=True)
    stat = objects.stat("a")
    assert stat is not None
    assert objects.read(stat, 1, 3) == b"23"
    objects.put("a", b"54321")
    with pytest.raises(StorageError, match="replaced"):
        objects.read(stat, 1, 3)
    objects.put_file("large", io.BytesIO(bytes(17 << 20)), 17 << 20)
    assert [(one.key, one.size_bytes) for one in objects.list("")] == [("a", 5), ("large", 17 << 20)]
    objects.delete(["a", "large"])
    assert list(objects.list("")) == []


def patiently(one: Callable[[], bytes]) -> bytes:
    """What comes once a server that has just started has all its parts together."""
    for _ in range(600):
        try:
            return one()
        except StorageError as error:
            if error.error_code != "object-store":
                raise
            time.sleep(0.2)
    return one()


@pytest.mark.slow
def test_moto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    with moto_server(tmp_path) as endpoint:
        for name, value in environment(endpoint, *OWNER).items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        conditions("s3://bucket")


@pytest.mark.slow
def test_seaweedfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that may read and not write, wrong ones, and a server that is killed and comes back."""
    import boto3

    def identify(who: tuple[str, str]) -> None:
        for name, value in environment(store.endpoint, *who).items():
            monkeypatch.setenv(name, value)

    store = Seaweed(tmp_path)
    try:
        store.start()
        identify(OWNER)
        boto3.client("s3").create_bucket(Bucket="bucket")
        conditions("s3://bucket")
        Objects(parse_url("s3://bucket")).put("kept", b"kept")
        identify(READER)
        objects = Objects(parse_url("s3://bucket"))
        assert objects.read_whole("kept", 10)[0] == b"kept"
        with pytest.raises(StorageError, match=r"refuses these credentials \(403, AccessDenied\)"):
            objects.put("other", b"")
        identify((READER[0], "another secret"))
        with pytest.raises(StorageError, match=r"refuses these credentials \(403, SignatureDoesNotMatch\)"):
            Objects(parse_url("s3://bucket")).read_whole("kept", 10)
        identify(READER)  # what signs asks the environment anew
        store.kill()
        store.start()
        assert patiently(lambda: objects.read_whole("kept", 10)[0]) == b"kept"  # whose connections had broken
    finally:
        store.kill()
