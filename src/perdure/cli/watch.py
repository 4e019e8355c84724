"""`perdure watch`: upgrade a canister whenever its module has been built anew."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Final, NamedTuple, final

import click

from perdure.cli.argument import KEPT_EXTENSION, InputFile, argument_options, extension_option, given, grouped
from perdure.cli.canister.code import How, install_one, module_of
from perdure.cli.canister.state import State, canister_argument, common
from perdure.cli.paths import LocalPath
from perdure.cli.terminal import LAYOUT, printable
from perdure.errors import PerdureError

__all__ = ["watch"]

_SUFFIXES: Final = (".wasm.gz", ".wasm")


@click.command()
@canister_argument
@click.option("--wasm", type=LocalPath(dir_okay=False, path_type=Path), help="The module; it need not be there yet.")
@click.option("-c", "--candid", type=InputFile(), help="The .did file, of a module that does not have it.")
@argument_options
@click.option("--reinstall", is_flag=True, help="Begin anew each time: all memory is lost. By default it is upgraded.")
@click.option("--anyway", is_flag=True, help="Upgrade also where the rehearsal says that it breaks something.")
@extension_option(KEPT_EXTENSION)
@click.option("--interval", type=click.FloatRange(0.05, 3600), default=0.5, metavar="SECONDS", help="Between looks.")
@common
def watch(
    state: State,
    canister: str,
    wasm: Path | None,
    candid: Path | None,
    args: str | None,
    args_file: Path | None,
    args_format: str,
    reinstall: bool,
    anyway: bool,
    extensions: tuple[str, ...],
    interval: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """Install CANISTER, and upgrade it whenever its module changes, until Ctrl-C.

    CANISTER is a name of the project or of the state directory, or a module's file, which is then its name as well.
    Build as you do: what is there when the file has stayed the same for a moment is taken. The upgrade is rehearsed
    first, and its verdict said; one that breaks something is left alone, and so is the state. Other commands may use
    the state between upgrades.

    With --json there is one object a line: event (waiting, same, installed, upgraded, reinstalled, held, failed),
    canister, and verdict, module_hash or error.

    \b
    Example:
        perdure watch ledger
        perdure watch target/wasm32-unknown-unknown/release/ledger.wasm --reinstall
    """  # noqa: D301 - click wants the backspace itself
    if canister.endswith(_SUFFIXES):
        if wasm is not None:
            raise click.UsageError(f"{canister!r:.100} is a module already: name the canister, or leave --wasm out")
        wasm = Path(canister)
        canister = next(wasm.name.removesuffix(suffix) for suffix in _SUFFIXES if canister.endswith(suffix))
    argument = given(args, args_file, args_format)
    job = _Job(state, canister, wasm, candid, argument, "reinstall" if reinstall else "auto", anyway, extensions)
    _follow(job, interval, _Teller(canister, as_json=as_json, quiet=quiet))


class _Job(NamedTuple):
    state: State
    name: str
    wasm: Path | None
    candid: Path | None
    argument: str | bytes | None
    mode: str
    anyway: bool
    extensions: tuple[str, ...]

    def module(self) -> Path | None:
        """The file to look at; `None`: there is none yet."""
        try:
            found = self.wasm or module_of(self.state, self.name, self.state.described(self.name))
        except (PerdureError, click.UsageError):
            return None
        return found if found.is_file() else None


@final
class _Teller:
    """Says what happened, a line or an object each time; what is tried again and again fails aloud once."""

    def __init__(self, name: str, *, as_json: bool, quiet: bool) -> None:
        self._name, self._as_json, self._quiet = name, as_json, quiet
        self._last = ""

    def __call__(self, event: str, text: str, **more: str) -> None:
        if event == "failed" and text == self._last:
            return
        self._last = text
        if self._as_json:
            import json

            click.echo(json.dumps({"event": event, "canister": self._name, **more}))
        elif not self._quiet or event in {"held", "failed"}:
            click.echo(printable(f"{time.strftime('%H:%M:%S')} {text}", keep=LAYOUT), err=event in {"held", "failed"})


def _follow(job: _Job, interval_seconds: float, tell: _Teller) -> None:
    """Look at the module until somebody interrupts; what goes wrong with one is said, and the next one waited for."""
    done, seen, is_waiting = b"", None, False
    while True:
        looked = _look(job)
        if looked is None:
            if not is_waiting:
                tell("waiting", f"no module of {job.name} yet: waiting for {job.wasm or 'the project to be built'}")
            is_waiting, seen = True, None
        else:
            module, stamp, content = looked
            if stamp == seen or not (is_waiting or seen):  # a moment the same: nobody is writing it
                digest = hashlib.sha256(content).digest()
                if digest != done and _take(job, module, digest, tell):
                    done = digest
            is_waiting, seen = False, stamp
        time.sleep(interval_seconds)


def _look(job: _Job) -> tuple[Path, tuple[object, ...], bytes] | None:
    """The module, what tells that it has changed, and its bytes; `None`: it is not there, or just being put there."""
    module = job.module()
    try:
        if module is None:
            return None
        found = module.stat()
        return module, (module, found.st_ino, found.st_size, found.st_mtime_ns), module.read_bytes()
    except OSError:
        return None


def _take(job: _Job, module: Path, digest: bytes, tell: _Teller) -> bool:
    """Rehearse and do one upgrade, or install; whether that is settled, or to be tried again."""
    verdict = ""
    try:
        with job.state.open(create=True, extensions=job.extensions) as subnet:
            if job.mode == "auto" and job.state.id_of(job.name) is not None:
                target = job.state.find(subnet, job.name)
                if target.module is not None:
                    if target.module.module_hash == digest:
                        tell("same", f"{job.name} has module {digest.hex()[:16]} already: waiting for another")
                        return True
                    from perdure.inspection.motoko import default_persistence  # a check has it loaded

                    argument = grouped(job.argument) if isinstance(job.argument, str) else job.argument
                    report = target.check_upgrade(
                        module, argument, title=job.name, wasm_memory_persistence=default_persistence(target)
                    )
                    verdict = report.verdict
                    if verdict == "breaking" and not job.anyway:
                        what = "the state stays as it is; --anyway upgrades, --reinstall begins anew"
                        tell("held", f"{report.to_text().rstrip()}\nnot upgraded: {what}", verdict=verdict)
                        return True
            how = How(job.mode, None, False, True, False, True)
            row = install_one(job.state, subnet, job.name, how, module, job.candid, job.argument)
    except (PerdureError, click.UsageError, OSError) as error:
        said = error.format_message() if isinstance(error, click.UsageError) else str(error)
        tell("failed", f"{job.name}: {said}", error=said)
        return getattr(error, "error_code", "") != "state-in-use"
    event = {"install": "installed", "upgrade": "upgraded", "reinstall": "reinstalled"}[row["mode"]]
    checked = f", upgrade check: {verdict}" if verdict else ""
    more = {"verdict": verdict} if verdict else {}
    text = f"{event} {job.name} {row['canister_id']}, module {row['module_hash'][:16]}{checked}"
    tell(event, text, module_hash=row["module_hash"], **more)
    return True
