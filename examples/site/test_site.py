"""The site over HTTP, as a browser asks for it."""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from perdure import Subnet, rejects

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from guestbook import deploy  # noqa: E402


@pytest.fixture
def ask():
    """Asks the served site: status, type and body."""
    with Subnet() as subnet:
        site = deploy(subnet, HERE / "frontend")
        with subnet.serve() as url:
            host = f"{site.id}.raw.localhost:{url.rpartition(':')[2]}"

            def asked(path, body=None):
                request = urllib.request.Request(url + path, data=body, headers={"Host": host})
                try:
                    with urllib.request.urlopen(request) as found:
                        return found.status, found.headers["content-type"], found.read()
                except urllib.error.HTTPError as error:
                    return error.code, error.headers["content-type"], error.read()

            asked.site = site
            yield asked


def test_the_frontend_is_shown(ask):
    status, kind, body = ask("/")
    assert (status, kind) == (200, "text/html")
    assert b"<h1>Guestbook</h1>" in body
    assert ask("/style.css")[1] == "text/css"
    assert ask("/missing")[0] == 404


def test_the_guestbook_is_written_by_posts(ask):
    assert json.loads(ask("/guestbook")[2]) == []
    assert ask("/guestbook", "grüezi".encode())[0] == 201
    assert json.loads(ask("/guestbook")[2]) == ["grüezi"]
    assert ask("/guestbook", b"x" * 1_001)[0] == 413
    assert ask("/guestbook", b"\xff")[0] == 400
    assert len(json.loads(ask("/guestbook")[2])) == 1


def test_files_are_set_by_controllers_only(ask):
    with rejects(match="only controllers"):
        ask.site.actor().put("/index.html", b"mine")
