"""Blocks of docs/toolchains.md run as they stand and print what they say.

Compilers are large, so which blocks run is said in TOOLCHAINS: titles with commas between them, or ``all`` for those
whose tools are there. By default it is the one that needs nothing; CI names those whose tools it installs for the test
canisters, in ``build/canisters``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "toolchains.md").read_text(encoding="utf-8")
BUILD = ROOT / "build" / "canisters"
ASKED = os.environ.get("TOOLCHAINS", "Wasm by hand").split(",")

NEEDS = {
    "C": "python -m ziglang version",
    "C with its library": "python -m ziglang version",
    "C++": "em++ --version",
    "Go": "go version",
    "Rust": "test -d $(rustc --print target-libdir --target wasm32-wasip1)",
    "Motoko": "npm --version",
    "TypeScript": "npm --version",
    "Wasm by hand": "true",
    "Named memories in C": "python -m ziglang version",
    "Named memories in Rust": "test -d $(rustc --print target-libdir --target wasm32-unknown-unknown)",
    "Named memories in Zig": "python -m ziglang version",
}
"""A command that succeeds where a section's tools are there."""


class Section(NamedTuple):
    script: str
    printed: tuple[str, ...]


def sections() -> dict[str, Section]:
    found = {}
    for part in PAGE.split("\n## ")[1:]:
        title, _, text = part.partition("\n")
        if blocks := re.findall(r"```sh\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL):
            ((script, printed),) = blocks
            found[title] = Section(script, tuple(printed.splitlines()))
    return found


SECTIONS = sections()


def shell(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a script with the tools of the test canisters, and with perdure as these tests run it."""
    commands = directory / "bin"
    commands.mkdir(exist_ok=True)
    for name, module in (("perdure", "-m perdure"), ("python", "")):
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        (commands / name).chmod(0o755)
    site = sysconfig.get_path("purelib", vars={"base": str(BUILD / "venv")})
    caches = {"ZIG_GLOBAL_CACHE_DIR": "zig-cache", "ZIG_LOCAL_CACHE_DIR": "zig-cache", "GOCACHE": "go/GOCACHE"}
    env = {
        **os.environ,
        **{name: str((BUILD if BUILD.exists() else directory) / place) for name, place in caches.items()},
        "PATH": os.pathsep.join([str(commands), str(BUILD / "venv" / "bin"), os.environ["PATH"]]),
        "PYTHONPATH": site,
        "GOFLAGS": "-buildvcs=false -trimpath",
        "CGO_ENABLED": "0",
    }
    command = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, check=False, timeout=300)


def test_every_section_says_what_it_needs() -> None:
    assert set(SECTIONS) == set(NEEDS)
    assert ASKED == ["all"] or set(ASKED) <= set(SECTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("title", SECTIONS if ASKED == ["all"] else ASKED)
def test_a_block_prints_what_it_says(title: str, tmp_path: Path) -> None:
    if ASKED == ["all"] and shell(NEEDS[title], tmp_path).returncode:
        pytest.skip(f"{title} needs: {NEEDS[title]}")
    done = shell(SECTIONS[title].script, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    shown = [
        re.sub(r"  [\d.]+ ms(, [\d,]+ instructions, [\d,]+ cycles)?$", "", line) for line in done.stdout.splitlines()
    ]
    assert [line for line in shown if line in SECTIONS[title].printed] == list(SECTIONS[title].printed), done.stdout
