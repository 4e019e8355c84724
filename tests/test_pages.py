"""Commands that pages show are run as they stand, page by page, in a directory with what the page presumes.

Lines that install packages are not: `tests/test_packages.py` does that. What is served is ended once it has said where.
A page's blocks with ``file=NAME`` are written under that name first.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from wasmtime import wat2wasm

from perdure import Principal, Subnet
from perdure.cli import main
from perdure.storage.names import Names

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "src" / "perdure" / "demo" / "insert_many.wasm.gz"
MODULES = ROOT / "tests" / "canisters" / "modules"
INSTALLING = ("pip", "pipx", "uvx")
SHELLS_ELSEWHERE = ("docs/toolchains.md", "docs/networks.md")
"""Pages whose blocks for shells other tests run: `test_toolchains.py`, `gateway/test_clients.py`."""
OTHERS = "".join(f" -p no:{name}" for name in ("xdist", "hypothesispytest", "pytest_httpserver", "respx", "anyio"))
"""Plugins that no page speaks of: much of what a small pytest takes to begin."""
SERVING = ("serve", "explore", "network-launcher")

LEDGER = r"""
(module
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (memory 1)
  (data (i32.const 0) "DIDL\00\01\7d\05") ;; one nat, 5
  (data (i32.const 16) "DIDL\00\00")
  (@custom "icp:public candid:service" "INTERFACE")
  (func $five (call $append (i32.const 0) (i32.const 8)) (call $reply))
  (func $nothing (call $append (i32.const 16) (i32.const 6)) (call $reply))
  (func (export "canister_update transfer") (call $five))
  (func (export "canister_query balance_of") (call $five))
  (func (export "canister_update settle") (call $nothing))
  (func (export "canister_query list") (call $five))
  (func (export "canister_query http_request") (call $five))
  (func (export "canister_update refresh") (call $nothing)))
"""
INTERFACE = (
    "service : { transfer : (text, nat) -> (nat); balance_of : (principal) -> (nat) query;"
    " refresh : () -> (); settle : () -> (); list : (record {}) -> (nat) query;"
    " http_request : (record { method : text; url : text; headers : vec record { text; text }; body : blob;"
    " certificate_version : opt nat16 }) -> (nat) query }"
)


class Line(NamedTuple):
    """A command, and the line of the page that it stands in."""

    text: str
    number: int


def written(page: str) -> Iterator[tuple[str, str]]:
    """The files that a page gives, by name; a block within a tab is indented."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for indent, name, body in re.findall(r"^( *)```python file=(\S+)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        yield name, re.sub(rf"^{indent}", "", body, flags=re.MULTILINE)


def commands(page: str) -> list[Line]:
    r"""The command lines of a page: indented, in blocks for shells, or behind ``$``. A ``\`` at the end goes on."""
    found: list[Line] = []
    fence: str | None = None
    rest = ""
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        head = re.match(r"^ *```(.*)$", line)
        if head:
            fence = head[1] if fence is None else None
            continue
        if fence is None:
            shown = re.match(r"^(?: {4})+(?:\$ (.*)|((?:perdure|pip|pipx|uvx) .*))$", line)
            text = (shown[1] or shown[2]) if shown else ""
        elif fence == "sh" and page not in SHELLS_ELSEWHERE:
            text = line
        else:
            text = line[2:] if not fence and line.startswith("$ ") else ""
        if rest or text:
            rest += text if not rest else line.strip()
            if rest.endswith("\\") or rest.count("'") % 2:
                rest = rest.removesuffix("\\")
                continue
            found.append(Line(rest, number))
            rest = ""
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of its own, with the command on the path."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, arguments in {
        "perdure": "-m perdure",
        "python": "",
        "pytest": "-m pytest -p no:cacheprovider" + OTHERS,
    }.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CI", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def counter(here: Path) -> None:
    for name, body in written("docs/tutorial.md"):
        if name == "make_counter.py":
            (here / name).write_text(body)
    subprocess.run([sys.executable, "make_counter.py"], cwd=here, check=True)


def ledger(here: Path) -> None:
    module = wat2wasm(LEDGER.replace("INTERFACE", INTERFACE))
    (here / "ledger.wasm").write_bytes(module)
    with Subnet(here / ".perdure", history=None) as subnet:
        canister = subnet.install(bytes(module), canister_id=Principal.from_text("rrkah-fqaaa-aaaaa-aaaaq-cai"))
        canister.actor().refresh()
        canister.write_snapshot(here / "my-snapshot")
    names = Names(here / ".perdure")
    names.ids["ledger"] = str(canister.id)
    names.save()


def measured(here: Path) -> None:
    """A ledger, its benchmarks, and a test."""
    ledger(here)
    target = here / "target" / "wasm32-unknown-unknown" / "release"
    target.mkdir(parents=True)
    shutil.copy(MODULES / "benches.wasm.gz", target / "ledger.wasm")
    (here / "stable_memory.bin").write_bytes(b"")
    (here / "variables.csv").write_text("name,value\nCOLOUR,blue\n")
    text = (ROOT / "docs" / "measuring.md").read_text(encoding="utf-8")
    configuration, budgets = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (here / "canbench.yml").write_text(
        re.sub(r"^build_cmd: .*$", 'build_cmd: "true"', configuration, flags=re.MULTILINE)
    )
    (here / "budgets.yml").write_text(budgets)
    (here / "test_ledger.py").write_text("""
def test_a_transfer(canister):
    assert canister("ledger").actor().transfer("alice", 10) == 5
""")
    for name in ("one.json", "two.json"):
        command = [sys.executable, "-m", "perdure", "coverage", "ledger.wasm", "refresh", "-q", "-o", name]
        subprocess.run(command, cwd=here, check=True)
    shutil.copy(here / "ledger.wasm", here / "assetstorage.wasm.gz")


def bucket(here: Path) -> None:
    """A snapshot, and a state with two archives in what stands for a bucket."""
    with Subnet(here / ".perdure") as subnet:
        canister = subnet.install(DEMO)
        canister.actor().insert_many([(key, 1) for key in range(20)])
        canister.write_snapshot(here / "monday")
    names = Names(here / ".perdure")
    names.ids["ledger"] = str(canister.id)
    names.save()
    shutil.copy(DEMO, here / "new.wasm")
    shutil.copytree(here / "monday", here / "bucket" / "ledger" / "monday")


def shop(here: Path) -> None:
    (here / "build").mkdir()
    shutil.copy(DEMO, here / "build" / "shop.wasm")
    with Subnet(here / ".perdure") as subnet:
        canister = subnet.install(DEMO)
    names = Names(here / ".perdure")
    names.ids["shop"] = str(canister.id)
    names.save()


def program(here: Path) -> None:
    shutil.copy(ROOT / "tests" / "canisters" / "modules_wasi" / "wasi_c.wasm", here / "program.wasm")


class Page(NamedTuple):
    """What a page presumes, and what stands in the place of what is not here."""

    set_up: Callable[[Path], None] = lambda here: None
    replaced: tuple[tuple[str, str], ...] = ()


def beginning(here: Path) -> None:
    """A counter, and a snapshot whose users have a name."""
    counter(here)
    Subnet().install(MODULES / "shop.wasm.gz").write_snapshot(here / "my-snapshot")


QUICKLY = ("perdure demo", "perdure demo --messages 2 --entries 500")

OBJECTS = (
    ("monday accounts 17", "monday 0 00000000000000000000000000000011"),
    ("monday accounts", "monday 0"),
    ("push ./monday s3://backups/ledger/monday", "push ./monday s3://backups/ledger/tuesday"),
    ("-o ./monday", "-o ./pulled"),
    ("s3://backups", "file://{here}/bucket"),
    ("--version 1200", ""),
    ("@1200", ""),
)
"""Names of a bucket, and of what is in it."""

PAGES = {
    "README.md": Page(beginning, (QUICKLY,)),
    "docs/index.md": Page(replaced=(QUICKLY,)),
    "docs/coming-from.md": Page(),
    "docs/platforms.md": Page(),
    "docs/canister.md": Page(ledger),
    "docs/measuring.md": Page(measured, (("fail-under 90", "fail-under 10"),)),
    "docs/explorer.md": Page(ledger),
    "docs/network.md": Page(ledger),
    "docs/serving.md": Page(counter),
    "docs/object-storage.md": Page(bucket, OBJECTS),
    "docs/toolchains.md": Page(program),
    "docs/upgrades.md": Page(shop),
}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page(page: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    told = PAGES[page]
    told.set_up(place)
    for name, body in written(page):
        (place / name).write_text(body)
    skipped = not_run(page)
    ran = 0
    for line in commands(page):
        text = line.text
        for old, new in told.replaced:
            text = text.replace(old, new.format(here=place))
        words = shlex.split(text, comments=True)
        if not words or words[0] in INSTALLING or line.number in skipped:
            continue
        ran += 1
        where = f"{page}:{line.number}: {text}"
        if words[0] == "perdure" and words[1] in SERVING:
            serve(words, where)
        elif words[0] == "perdure" and not {"&&", ">", "|", "||"} & set(words):
            monkeypatch.setattr(sys, "argv", words)
            with pytest.raises(SystemExit) as ended:
                main()
            printed = capsys.readouterr()
            assert not ended.value.code, f"{where}\n{printed.out}{printed.err}"
        else:
            done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False, timeout=300)
            assert done.returncode == 0, f"{where}\n{done.stdout}{done.stderr}"
    assert ran


def serve(words: list[str], where: str) -> None:
    """Begin what does not end by itself, and end it as Ctrl-C does, once it says where it is."""
    started = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert started.stdout is not None
    said = started.stdout.readline()
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=300)
    assert "http" in said, f"{where}\n{said}{out}{err}"


def not_run(page: str) -> set[int]:
    """The lines of blocks that say that they are not run here."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    found: set[int] = set()
    for number, line in enumerate(lines, 1):
        if "<!-- not run here: " in line:
            place = number + 1 if lines[number].strip() else number + 2
            fence = lines[place - 1].lstrip().startswith("```")
            found.add(place)
            while place < len(lines) and (lines[place].strip() if not fence else not lines[place].startswith("```")):
                place += 1
                found.add(place)
    return found
