"""Ctrl-C is not lost where the interpreter swallows what a signal handler raises."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from perdure import Subnet
from perdure.cli.interrupts import none_is_lost
from perdure.storage.disk import RealFile

Run = Callable[..., tuple[str, str]]


class Thing:
    """Something with callbacks."""


class Deleted:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def in_a_callback() -> None:
    thing = Thing()
    weakref.finalize(thing, signal.raise_signal, signal.SIGINT)
    del thing


def in_del() -> None:
    deleted = Deleted()
    del deleted


PLACES = pytest.mark.parametrize("happen", [in_a_callback, in_del], ids=["callback", "del"])


@PLACES
def test_it_arrives_while_the_command_goes_on(happen: Callable[[], None]) -> None:
    end = time.monotonic() + 120

    def go_on() -> None:
        happen()
        while time.monotonic() < end:
            pass

    with pytest.raises(KeyboardInterrupt), none_is_lost():
        go_on()
    assert time.monotonic() < end


@PLACES
def test_it_arrives_at_the_end(happen: Callable[[], None]) -> None:
    before = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), none_is_lost():
        happen()
    assert sys.unraisablehook is before


def test_others_are_told_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda one: told.append(one.exc_type))
    with none_is_lost():
        thing = Thing()
        weakref.finalize(thing, int, "no number")
        del thing
    assert told == [ValueError]


def test_it_does_not_arrive_before_it_has_been_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a machine has other things to do, that takes longer than what brings it again waits for."""

    def start(act: Callable[[], None], _: object) -> None:
        threading.Thread(target=act, daemon=True).start()
        time.sleep(0.2)

    slow = SimpleNamespace(
        start_new_thread=start, interrupt_main=_thread.interrupt_main, allocate_lock=_thread.allocate_lock
    )
    monkeypatch.setattr("perdure.cli.interrupts._thread", slow)
    test_it_arrives_while_the_command_goes_on(in_a_callback)
    assert capsys.readouterr().err == ""


def test_a_command_ends(perdure: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `perdure heatmap --history` did not once, whose files were just being let go."""
    with Subnet(tmp_path / "s", history=None) as subnet:
        canister = subnet.install(b"\0asm\1\0\0\0")
    close, left = RealFile.close, [in_a_callback]

    def interrupted(self: RealFile) -> None:
        if left:  # once: files that the interrupted command leaves may be closed after it
            left.pop()()
        close(self)

    monkeypatch.setattr(RealFile, "close", interrupted)
    _, errors = perdure("heatmap", f"{tmp_path / 's'}:{canister.id}", "--history", code=130)
    assert errors == "interrupted\n"
