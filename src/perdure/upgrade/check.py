"""The two doors: a canister that is there, and a source that is opened for reading."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from perdure.errors import UnsupportedError
from perdure.inspection.canister import open_canister
from perdure.subnet.subnet import Canister
from perdure.upgrade.check_python import check_python
from perdure.upgrade.patience import Patience
from perdure.upgrade.recorded import Recording, history_calls, history_outcalls, read_recording
from perdure.upgrade.rehearsal import Options, rehearse
from perdure.upgrade.report import Report, judge
from perdure.values.schema import Schema, load_schema

__all__ = ["check", "check_canister", "open_canister"]

SchemaLike = Schema | str | os.PathLike[str] | None


class CheckOptions(TypedDict, total=False):
    """What a check can be told.

    Attributes:
        title: what the report calls it; by default the canister's id.
        schema: the `stable.yaml` of the new version, of both where `old_schema` is not given.
        old_schema: that of the old one.
        candid: the interface of the new version, where the module does not say it: a path, or its text.
        old_candid: that of the old one.
        init_arg: for installing either version anew, which tells what does not follow from data.
        wasm_memory_persistence: as for `Canister.upgrade`; by default what Motoko's canisters need.
        skip_pre_upgrade: as for `Canister.upgrade`.
        replay: a file of calls and answers that were recorded, see `perdure.upgrade.recorded`; ``history``: what the
            state directory has of this canister.
        volatile: methods, and ``.fields`` of replies, that are not compared.
        require_way_back: whether it is breaking that the old module does not work on the upgraded data.
        decode_all: decode every value that a schema declares, not a sample of 1,000 of each structure.
        extensions: what the new version may use beyond what the canister may; a snapshot does not say that of itself.
        seed: of everything that is drawn.
        time_limit: in seconds, for the hooks; by default they are waited for to the network's limit.
        tell: told what is waited for.
    """

    title: str
    schema: SchemaLike
    old_schema: SchemaLike
    candid: str | None
    old_candid: str | None
    init_arg: Any
    wasm_memory_persistence: str | None
    skip_pre_upgrade: bool
    replay: str | os.PathLike[str] | Recording | None
    volatile: Sequence[str]
    require_way_back: bool
    decode_all: bool
    extensions: Sequence[str]
    seed: int
    time_limit: float | None
    tell: Callable[[str], None]


def check_canister(canister: Canister, new: object, arg: object = None, **options: Unpack[CheckOptions]) -> Report:
    """Rehearse an upgrade of a canister on forks; the canister is not touched.

    Args:
        canister: that is to be upgraded.
        new: the module, or its path; of a canister in Python the class, whose declarations alone are compared.
        arg: of the upgrade: bytes, Candid text, or a tuple of values.
        options: see `CheckOptions`.

    Raises:
        UnsupportedError: the canister has no code, or one of the two is in Python and the other is not.
        StorageError: a schema or recording cannot be read.
        MalformedError: a schema, recording or argument is none.
        HostError: this machine could not do it.
    """
    title = options.get("title") or str(canister.id)
    unknown = options.keys() - CheckOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(CheckOptions.__annotations__)
        raise TypeError(f"no option {min(unknown)!r} of a check, expected some of {known}")
    if isinstance(new, type):
        if canister.module is None or not canister.module.name:
            raise UnsupportedError(
                f"canister {canister.id} is in Wasm, and {new.__name__} in Python: nothing is compared"
            )
        if left := sorted(options.keys() - {"title", "tell"}):
            raise TypeError(f"{left[0]!r} is for modules: a canister in Python says itself what it keeps and takes")
        return check_python(canister, new, arg, title)
    after = _schema(options.get("schema"))
    recording = _recording(canister, options.get("replay"))
    chosen = Options(
        arg=arg,
        init_arg=options.get("init_arg"),
        persistence=options.get("wasm_memory_persistence"),
        skip_pre_upgrade=options.get("skip_pre_upgrade", False),
        old_schema=_schema(options.get("old_schema")) or after,
        new_schema=after,
        old_candid=options.get("old_candid"),
        new_candid=options.get("candid"),
        volatile=frozenset(options.get("volatile", ())),
        calls=recording.calls,
        answer=recording.answerer(canister),
        outcalls=recording.answer_outcalls,
        require_way_back=options.get("require_way_back", False),
        decode_all=options.get("decode_all", False),
        seed=options.get("seed", 0),
        patience=_patience(options),
    )
    if extensions := options.get("extensions", ()):
        canister = canister._subnet.fork(extensions=extensions).canister(canister.id)
    return judge(rehearse(canister, new, chosen), title)


def check(
    source: str | os.PathLike[str] | Canister, new: object, arg: object = None, **options: Unpack[CheckOptions]
) -> Report:
    """Rehearse an upgrade of what `source` names: ``STATE_DIR:CANISTER``, a snapshot's directory, or a canister.

    Arguments and errors as for `check_canister`; the source is only read.
    """
    if isinstance(source, Canister):
        return check_canister(source, new, arg, **options)
    with open_canister(os.fspath(source), extensions=options.get("extensions", ())) as canister:
        options.setdefault("title", os.fspath(source))
        return check_canister(canister, new, arg, **options)


def _patience(options: CheckOptions) -> Patience:
    limit_seconds, tell = options.get("time_limit"), options.get("tell")
    if limit_seconds is not None and limit_seconds <= 0:
        raise ValueError(f"a time limit of {limit_seconds:g} s, expected more than 0")
    return Patience(limit_seconds) if tell is None else Patience(limit_seconds, tell)


def _schema(given: SchemaLike) -> Schema | None:
    return given if given is None or isinstance(given, Schema) else load_schema(Path(given))


def _recording(canister: Canister, replay: str | os.PathLike[str] | Recording | None) -> Recording:
    if isinstance(replay, Recording):
        return replay
    if replay is None:
        return Recording()
    if replay == "history":
        return Recording(calls=history_calls(canister), outcalls=history_outcalls(canister))
    return read_recording(Path(replay), canister)
