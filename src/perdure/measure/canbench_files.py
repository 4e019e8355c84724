"""canbench's files: its configuration, and the results that it keeps, to the byte as it writes them.

Source: canbench 0.6.0 (`canbench-bin`), and the emitter of serde_yaml 0.9, which is libyaml's.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, final

import yaml

from perdure import yaml_core
from perdure.errors import MalformedError

__all__ = [
    "FIELDS",
    "VERSION",
    "Bench",
    "Config",
    "Measurement",
    "Results",
    "parse_config",
    "parse_results",
    "rendered",
]

VERSION: Final = "0.6.0"
"""The version of canbench whose files these are, and that is written into them."""


@final
class Measurement(NamedTuple):
    """What one stretch of a benchmark took; growth in Wasm pages."""

    calls: int = 0
    instructions: int = 0
    heap_increase: int = 0
    stable_memory_increase: int = 0


FIELDS: Final = Measurement._fields


@final
class Bench(NamedTuple):
    """One benchmark: the whole of it, and its scopes by name."""

    total: Measurement
    scopes: Mapping[str, Measurement]


@final
class Results(NamedTuple):
    """A results file."""

    benches: Mapping[str, Bench]
    version: str


@final
class Config(NamedTuple):
    """A ``canbench.yml``; paths, as they are written, are relative to the directory that canbench is run in."""

    wasm_path: str
    build_cmd: str | None = None
    results_path: str = "canbench_results.yml"
    csv_results_path: str = "canbench_results.csv"
    init_args: bytes = b""
    stable_memory: str | None = None
    env_vars: str | None = None


def parse_config(text: str) -> Config:
    """Read a ``canbench.yml``; keys that canbench does not know are left alone, as it does.

    Raises:
        MalformedError: it is no YAML, a key is missing, or has a value of another kind.
    """
    found = _mapping(_loaded(text), "the file")
    texts = {
        key: _text(found[key], key)
        for key in ("wasm_path", "build_cmd", "results_path", "csv_results_path")
        if found.get(key) is not None
    }
    if "wasm_path" not in texts:
        raise MalformedError("wasm_path is missing: the module with the benchmarks, as in `wasm_path: bench.wasm`")
    hexadecimal = _nested(found, "init_args", "hex")
    try:
        init_args = bytes.fromhex(hexadecimal or "")
    except ValueError as error:
        raise MalformedError(f"init_args.hex is not hexadecimal: {hexadecimal!r:.60}") from error
    return Config(
        init_args=init_args,
        stable_memory=_nested(found, "stable_memory", "file"),
        env_vars=_nested(found, "env_vars", "file"),
        **texts,
    )


def parse_results(text: str) -> Results:
    """Read a ``canbench_results.yml``. What a measurement does not say is 0, as older versions had fewer fields.

    Raises:
        MalformedError: it is none, or a newer canbench than `VERSION` has written it.
    """
    found = _mapping(_texts(text), "the file")
    version = found.get("version", "")
    if not isinstance(version, str):
        raise MalformedError(f"version is {version!r:.40}, expected one such as {VERSION}")
    if (written_by := _release(version)) is None:
        raise MalformedError(f"version is {version!r:.40}, expected one such as {VERSION}")
    if written_by > (_release(VERSION) or ()):
        raise MalformedError(
            f"canbench is at version {VERSION} while the results were generated with version {version}. "
            "Please upgrade canbench."
        )
    benches = _mapping(found.get("benches"), "benches")
    return Results({name: _bench(value, name) for name, value in benches.items()}, version)


def _release(version: str) -> tuple[int, ...] | None:
    match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)(?:[-+].*)?", version)
    return tuple(map(int, match.groups())) if match else None


def _bench(value: object, name: str) -> Bench:
    found = _mapping(value, f"benchmark {name!r:.60}")
    scopes = _mapping(found.get("scopes") or {}, f"the scopes of {name!r:.60}")
    return Bench(
        _measurement(found.get("total"), f"the total of {name!r:.60}"),
        {scope: _measurement(one, f"scope {scope!r:.60} of {name!r:.60}") for scope, one in scopes.items()},
    )


def _measurement(value: object, what: str) -> Measurement:
    found = _mapping(value, what)
    counts = {field: found[field] for field in FIELDS if field in found}
    for field, count in counts.items():
        if not isinstance(count, str) or not re.fullmatch("[0-9]{1,20}", count) or int(count) >= 1 << 64:
            raise MalformedError(f"{field} in {what} is {count!r:.40}, expected a number from 0 to 2^64 - 1")
    return Measurement(**{field: int(count) for field, count in counts.items()})


def _texts(text: str) -> object:
    """A document whose scalars are all texts: names are, whatever they look like."""
    try:
        return yaml.load(text, yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise MalformedError(str(error) or "nested too deeply") from error


def _loaded(text: str) -> object:
    try:
        return yaml_core.load(text)
    except (ValueError, RecursionError) as error:
        raise MalformedError(str(error) or "nested too deeply") from error


def _mapping(value: object, what: str) -> Mapping[Any, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise MalformedError(f"{what} is {value!r:.40}, expected keys and values")
    return value


def _text(value: object, key: str) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise MalformedError(f"{key} is {value!r:.40}, expected text")
    return str(value)


def _nested(found: Mapping[Any, Any], key: str, name: str) -> str | None:
    if found.get(key) is None:
        return None
    value = _mapping(found[key], key)
    if value.get(name) is None:
        raise MalformedError(f"{key} has no {name}: write `{key}:` and under it `{name}: ...`")
    return _text(value[name], f"{key}.{name}")


# --- writing


def rendered(benches: Mapping[str, Bench], version: str = VERSION) -> str:
    """A results file, byte for byte as canbench writes it: names in the order of their bytes."""
    out = io.StringIO()
    emitter = _Emitter(out, allow_unicode=True, width=math.inf)  # type: ignore[arg-type]
    for event in (yaml.StreamStartEvent(), yaml.DocumentStartEvent(), *_file(benches, version)):
        emitter.emit(event)
    emitter.emit(yaml.DocumentEndEvent())
    emitter.emit(yaml.StreamEndEvent())
    return out.getvalue()


def _file(benches: Mapping[str, Bench], version: str) -> Iterator[yaml.Event]:
    yield from _block(
        {
            "benches": _block(
                {
                    name: _block(
                        {
                            "total": _counts(bench.total),
                            "scopes": _block({scope: _counts(one) for scope, one in _sorted(bench.scopes).items()}),
                        }
                    )
                    for name, bench in _sorted(benches).items()
                }
            ),
            "version": iter([_scalar(version)]),
        }
    )


def _sorted(found: Mapping[str, Any]) -> dict[str, Any]:
    return dict(sorted(found.items(), key=lambda item: item[0].encode()))


def _counts(measurement: Measurement) -> Iterator[yaml.Event]:
    return _block({name: iter([_scalar(value)]) for name, value in measurement._asdict().items()})


def _block(items: Mapping[str, Iterator[yaml.Event]]) -> Iterator[yaml.Event]:
    yield yaml.MappingStartEvent(None, None, implicit=True, flow_style=False)
    for name, value in items.items():
        yield _scalar(name)
        yield from value
    yield yaml.MappingEndEvent()


def _scalar(value: str | int) -> yaml.ScalarEvent:
    style = None if isinstance(value, int) else "|" if "\n" in value else "'" if _reads_as_another(value) else None
    return yaml.ScalarEvent(None, None, (True, True), str(value), style=style)


_ANOTHER: Final = re.compile(
    r"|~|null|Null|NULL|true|True|TRUE|false|False|FALSE"
    r"|[-+]?(?:0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+|[0-9]+)"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_FLOAT: Final = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")


def _reads_as_another(text: str) -> bool:
    """Whether serde_yaml would read a text as something else without quotes."""
    if _ANOTHER.fullmatch(text):
        return True
    return _FLOAT.fullmatch(text) is not None and math.isfinite(float(text))


class _Emitter(yaml.emitter.Emitter):
    """PyYAML's port of libyaml's emitter, which counts the length of a key in bytes and takes an empty one."""

    MAX_SIMPLE_KEY_BYTES = 128

    def check_simple_key(self) -> bool:
        event = self.event
        if not isinstance(event, yaml.ScalarEvent):
            return bool(super().check_simple_key())
        if self.analysis is None:
            self.analysis = self.analyze_scalar(event.value)
        return not self.analysis.multiline and len(event.value.encode()) <= self.MAX_SIMPLE_KEY_BYTES
