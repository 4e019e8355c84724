"""Shells complete what they are to complete: real ones, at a terminal, with the Tab key.

Of zsh and fish each is tried where it is installed, and in CI it has to be.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from perdure import Principal, Subnet
from perdure.cli import main
from perdure.cli.completing import methods_in
from perdure.storage.names import Names

MODULES = Path(__file__).parents[1] / "canisters" / "modules"
PATIENCE_SECONDS = 180

CASES = {
    "perdure stable rows .perdure:sh": "perdure stable rows .perdure:shop ",
    "perdure canister call sh": "perdure canister call shop ",
    "perdure canister call shop by_": "perdure canister call shop by_email ",
    "perdure stable rows .perdure:shop users_by_e": "perdure stable rows .perdure:shop users_by_email ",
    "perdure profile .perdure:shop by_": "perdure profile .perdure:shop by_email ",
    "perdure run shop.wasm.gz by_": "perdure run shop.wasm.gz by_email ",
    "perdure run sho": "perdure run shop.wasm.gz ",
}
"""A line before Tab, and behind it: what each shell does in its own way first, then what perdure finds."""
OF_ALL_SHELLS = 3
SETTING_UP = {
    "bash": ("bash --norc --noprofile -i", 'eval "$(perdure completion bash)"'),
    "zsh": ("zsh -f -i", 'autoload -U compinit; compinit -D -u; eval "$(perdure completion zsh)"'),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a module and a state, and the command."""
    path = tmp_path_factory.mktemp("place")
    shutil.copy(MODULES / "shop.wasm.gz", path)
    with Subnet(path / ".perdure") as subnet:
        canister = subnet.install(path / "shop.wasm.gz", canister_id=Principal.from_index(0))
        names = Names(path / ".perdure")
        names.ids["shop"] = str(canister.id)
        names.save()
    (path / "bin").mkdir()
    (path / "bin" / "perdure").write_text(f'#!/bin/sh\nexec {sys.executable} -m perdure "$@"\n')
    (path / "bin" / "perdure").chmod(0o755)
    return path


def environment(place: Path) -> dict[str, str]:
    return {
        **os.environ, "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": str(place), "PS1": "> ",
        "TERM": "dumb", "COLUMNS": "200",
    }  # fmt: skip


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{shell} is not here")


class Terminal:
    """A shell at a terminal."""

    def __init__(self, command: str, place: Path) -> None:
        self.screen, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command.split(), stdin=theirs, stdout=theirs, stderr=theirs, cwd=place, env=environment(place),
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.seen = ""

    def type(self, text: str) -> None:
        self.seen = ""
        os.write(self.screen, text.encode())

    def shows(self, text: str) -> bool:
        """Whether it comes to show a text; in the end it is known that it does not."""
        until = time.monotonic() + PATIENCE_SECONDS
        while text not in re.sub(r"\x1b\[[\d;?]*[A-Za-z]|[\r\x07\x00]", "", self.seen) and time.monotonic() < until:
            if select.select([self.screen], [], [], 0.5)[0]:
                self.seen += os.read(self.screen, 4096).decode(errors="replace")
        return text in re.sub(r"\x1b\[[\d;?]*[A-Za-z]|[\r\x07\x00]", "", self.seen)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.screen)


@pytest.mark.slow
@pytest.mark.parametrize("shell", SETTING_UP)
def test_the_tab_key_completes(shell: str, place: Path) -> None:
    needs(shell)
    command, set_up = SETTING_UP[shell]
    terminal = Terminal(command, place)
    try:
        terminal.type(f"{set_up}; echo re''ady\n")
        assert terminal.shows("ready"), terminal.seen
        for line, completed in list(CASES.items())[: None if shell == "bash" else OF_ALL_SHELLS]:
            terminal.type(f"{line}\t")
            rest = completed.removeprefix(line)
            assert terminal.shows(rest), (line, terminal.seen)
            terminal.type("\x15")  # the line goes
    finally:
        terminal.end()


@pytest.mark.slow
def test_fish_completes(place: Path) -> None:
    needs("fish")
    lines = list(CASES)[:OF_ALL_SHELLS]
    asked = "\n".join(f"complete --do-complete '{line}'" for line in lines)
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"perdure completion fish | source\n{asked}"],
        cwd=place, env=environment(place), capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [CASES[line].split()[-1] for line in lines], (
        done.stderr
    )


def completed(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What bash is told of a line, in this process."""
    monkeypatch.setenv("_PERDURE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_BREAKS", " \t\n\"'><=;|&(:")
    monkeypatch.setattr(sys, "argv", ["perdure"])
    with pytest.raises(SystemExit):
        main()
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out.split()


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("perdure stable rows .perdure:", ["plain,shop"]),
        ("perdure stable rows ", ["plain,.perdure:shop", "file,"]),
        ("perdure stable rows missing:", []),
        ("perdure stable rows missing.bin ", []),
        ("perdure stable rows shop.wasm.gz ", []),  # which is no memory
        ("perdure run missing.wasm ", []),
        ("perdure canister call nobody ", []),
        ("perdure canister call --state=", ["file,"]),
        ("perdure canister call shop nothing", []),
        ("perdure compl", ["plain,completion"]),
        ("perdure completion ", ["plain,bash", "plain,zsh", "plain,fish"]),
    ],
)
def test_what_bash_is_told(line, answers, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert completed(line, monkeypatch, capsys) == answers


def test_methods_are_there_before_a_state_is(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "icp.yaml").write_text(
        "canisters: [{name: bank, build: {steps: [{type: pre-built, path: bank.wasm}]}}]\n"
    )
    shutil.copy(place / "shop.wasm.gz", tmp_path / "bank.wasm")
    assert completed("perdure canister call ba", monkeypatch, capsys) == ["plain,bank"]
    assert completed("perdure canister call bank by_", monkeypatch, capsys) == ["plain,by_email"]


HOSTILE = (
    "$(touch taken)",
    "`touch taken`",
    ";touch taken;",
    "two words",
    "*",
    "new\nplain,line",
    "\x1b[31m",
    "-rf",
    "a,b",
)


def exporting(names: Iterable[str]) -> bytes:
    """A module with a query of each name."""
    shown = "".join(f'(export "canister_query {_wat(name)}" (func $f))' for name in names)
    return bytes(wat2wasm(f"(module (func $f) {shown})"))


def _wat(name: str) -> str:
    return "".join(f"\\{byte:02x}" for byte in name.encode())


def test_no_name_is_more_than_a_name(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hostile.wasm").write_bytes(exporting(HOSTILE))
    assert " ".join(completed("perdure run hostile.wasm ", monkeypatch, capsys)) == (
        r"plain,\$\(touch\ taken\) plain,\* plain,\;touch\ taken\; plain,\`touch\ taken\` plain,a,b plain,two\ words"
    )


@pytest.mark.slow
def test_the_tab_key_runs_no_names(place: Path, tmp_path: Path) -> None:
    (tmp_path / "hostile.wasm").write_bytes(exporting(HOSTILE))
    (tmp_path / "file $(touch taken).wasm").write_bytes(exporting(["good"]))
    (tmp_path / "bin").symlink_to(place / "bin")
    command, set_up = SETTING_UP["bash"]
    terminal = Terminal(command, tmp_path)
    try:
        terminal.type(f"PATH={place / 'bin'}:$PATH; {set_up}; echo re''ady\n")
        assert terminal.shows("ready"), terminal.seen
        for line in (r"hostile.wasm \$", "hostile.wasm $", 'hostile.wasm "$', "hostile.wasm \\;", "fi"):
            terminal.type(f"perdure run {line}\t")
            assert terminal.shows("taken"), (line, terminal.seen)
            terminal.type("\n")
            terminal.type("echo do''ne\n")
            assert terminal.shows("done"), (line, terminal.seen)
    finally:
        terminal.end()
    assert not (tmp_path / "taken").exists()


def test_methods_of_what_is_no_module():
    assert methods_in(b"\0asm\1\0\0\0\xff") == frozenset()
    assert methods_in(b"") == frozenset()
