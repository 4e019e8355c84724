"""A project's canisters by name: where their modules and interfaces are, from ``icp.yaml`` or ``dfx.json``.

Nothing is built here. A module is looked for where the project says, then where the tools leave what they build.

Source: icp-cli's configuration reference; dfx's ``dfx.json`` schema.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from perdure.errors import MalformedError, StorageError

__all__ = ["Project", "ProjectCanister"]

_MANIFESTS: Final = ("icp.yaml", "icp.yml", "dfx.json")
_MAX_BYTES: Final = 4 << 20


@final
@dataclass(frozen=True, slots=True)
class ProjectCanister:
    """A canister as its project describes it.

    Args:
        name: of the canister.
        modules: where its module may be, the most telling place first.
        candid: its interface, where the project names one.
        init_args: Candid text, or bytes, of its init arguments.
    """

    name: str
    modules: tuple[Path, ...]
    candid: Path | None = None
    init_args: str | bytes | None = None

    def wasm(self) -> Path:
        """The module.

        Raises:
            StorageError: there is none in any of the places.
        """
        for path in self.modules:
            for found in (path, path.with_name(path.name + ".gz")):
                if found.is_file():
                    return found
        places = ", ".join(os.path.relpath(path) for path in self.modules) or "nowhere known"
        raise StorageError(f"no module of canister {self.name!r} here: build the project first", places)


@final
@dataclass(frozen=True, slots=True)
class Project:
    """A directory with a manifest."""

    manifest: Path
    canisters: Mapping[str, ProjectCanister]

    @property
    def directory(self) -> Path:
        """Where the manifest is."""
        return self.manifest.parent

    @classmethod
    def find(cls, start: Path) -> Project | None:
        """The project that `start` is in: the nearest manifest upwards; `None`: there is none.

        Raises:
            MalformedError: the manifest cannot be read.
        """
        for directory in (start.absolute(), *start.absolute().parents):
            for name in _MANIFESTS:
                if (directory / name).is_file():
                    return cls.load(directory / name)
        return None

    @classmethod
    def load(cls, manifest: Path) -> Project:
        """The project of a manifest.

        Raises:
            MalformedError: it cannot be read.
        """
        content = _mapping(_read(manifest), manifest)
        read = _from_dfx if manifest.suffix == ".json" else _from_icp
        return cls(manifest, {one.name: one for one in read(manifest.parent, content)})

    def canister(self, name: str) -> ProjectCanister:
        """The canister of this name.

        Raises:
            KeyError: there is none.
        """
        if name not in self.canisters:
            known = ", ".join(self.canisters) or "none"
            raise KeyError(f"{self.manifest.name} has no canister {name!r}, it has {known}")
        return self.canisters[name]


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise MalformedError(f"{path.name} has more than {_MAX_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return json.loads(text)
        import yaml  # most users of a state directory have no use for it

        return yaml.safe_load(text)
    except (ValueError, RecursionError, OSError) as error:
        raise MalformedError(f"{path.name} cannot be read: {error}") from error
    except Exception as error:  # YAMLError, which is not a ValueError
        if isinstance(error, MalformedError) or type(error).__module__.partition(".")[0] != "yaml":
            raise
        raise MalformedError(f"{path.name} cannot be read: {error}") from error


def _mapping(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError(f"{path.name} holds {type(value).__name__}, expected a mapping")
    return value


def _part(entry: Any, key: str) -> dict[str, Any]:
    value = entry.get(key) if isinstance(entry, dict) else None
    return value if isinstance(value, dict) else {}


# -- icp.yaml


def _from_icp(directory: Path, content: dict[str, Any]) -> Iterator[ProjectCanister]:
    entries = content.get("canisters")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, str):
            for path in _referenced(directory, entry):
                yield _icp_canister(directory, path.parent, _mapping(_read(path), path))
        elif isinstance(entry, dict):
            yield _icp_canister(directory, directory, entry)


def _referenced(directory: Path, pattern: str) -> Iterator[Path]:
    for path in sorted(directory.glob(pattern)):
        file = path / "canister.yaml" if path.is_dir() else path
        if file.is_file():
            yield file


def _icp_canister(project: Path, directory: Path, entry: dict[str, Any]) -> ProjectCanister:
    name = str(entry.get("name", directory.name))
    configuration = _part(_part(entry, "recipe"), "configuration")
    steps = _part(entry, "build").get("steps")
    said = [step.get("path") for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    said += [configuration.get("wasm"), configuration.get("path")]
    modules = [directory / path for path in said if isinstance(path, str)]
    modules.append(project / ".icp/cache/artifacts" / name)
    modules += _cargo_targets(project, str(configuration.get("package", name)))
    candid = configuration.get("candid")
    return ProjectCanister(
        name,
        tuple(modules),
        directory / candid if isinstance(candid, str) else None,
        _init_args(directory, entry.get("init_args")),
    )


def _init_args(directory: Path, said: Any) -> str | bytes | None:
    if not isinstance(said, dict):
        return None if said is None else str(said)
    form = said.get("format", "candid")
    if isinstance(said.get("path"), str):
        content = (directory / said["path"]).read_bytes()
        return content if form == "bin" else _decoded(content.decode(), form)
    return _decoded(str(said.get("value", "()")), form)


def _decoded(text: str, form: Any) -> str | bytes:
    try:
        return bytes.fromhex(text) if form == "hex" else text
    except ValueError as error:
        raise MalformedError(f"init_args {text[:40]!r} are not hexadecimal") from error


def _cargo_targets(project: Path, package: str) -> list[Path]:
    file = package.replace("-", "_") + ".wasm"
    return [project / f"target/wasm32-{system}/release" / file for system in ("unknown-unknown", "wasip1", "wasi")]


# -- dfx.json


def _from_dfx(directory: Path, content: dict[str, Any]) -> Iterator[ProjectCanister]:
    for name, entry in _part(content, "canisters").items():
        if not isinstance(entry, dict):
            continue
        said = entry.get("wasm")
        built = directory / ".dfx/local/canisters" / name
        modules = [directory / said] if isinstance(said, str) and "://" not in said else []
        modules.append(built / f"{name}.wasm")
        modules += _cargo_targets(directory, str(entry.get("package", name)))
        candid, init_file = entry.get("candid"), entry.get("init_arg_file")
        init = (directory / init_file).read_text(encoding="utf-8") if isinstance(init_file, str) else None
        yield ProjectCanister(
            name,
            tuple(modules),
            directory / candid if isinstance(candid, str) and "://" not in candid else None,
            init or (str(entry["init_arg"]) if "init_arg" in entry else None),
        )
