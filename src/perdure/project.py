"""A project's canisters by name: modules, interfaces, arguments and settings, from ``icp.yaml`` or ``dfx.json``.

Nothing is built here. A module is looked for where the project says, then where the tools leave what they build. What
is wrong with one canister is said when that canister is asked for, so that it stops no other.

Source: icp-cli's configuration reference and its crate ``icp``; dfx's ``dfx.json`` schema.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, final

from perdure.errors import MalformedError, StorageError, UnsupportedError
from perdure.ic.principal import Principal
from perdure.units import CYCLES, DURATIONS, SIZES, parse_amount

__all__ = [
    "LOCAL",
    "Project",
    "ProjectCanister",
    "ProjectSettings",
    "check_name",
    "instead_of_module",
    "interface_beside",
    "undescribed",
]

Said: TypeAlias = Any
"""What YAML or JSON says, whatever that is."""

LOCAL: Final = "local"
"""The environment and the network that are here."""

_MANIFESTS: Final = ("icp.yaml", "icp.yml", "dfx.json")
_CANISTER_MANIFEST: Final = "canister.yaml"
_MAX_BYTES: Final = 4 << 20
_MOST_MATCHES: Final = 100_000
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
#: `PUBLIC_CANISTER_ID:` and a name make the name of an environment variable, which has at most 128 bytes.
_MAX_NAME_BYTES: Final = 128 - len("PUBLIC_CANISTER_ID:")


def check_name(name: str, what: str = "canister") -> str:
    """The name of a canister or environment, as icp takes them, and none that reads as an option or an id.

    Raises:
        MalformedError: it is no such name.
    """
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME_BYTES:
        raise MalformedError(
            f"{what} name {name!r:.60} is not of 1 to {_MAX_NAME_BYTES} letters, digits, '_' and '-', '-' not first"
        )
    if "-" in name:
        try:
            Principal.from_text(name)
        except MalformedError:
            return name
        raise MalformedError(f"{what} name {name!r} is a principal, which stands for itself")
    return name


@final
@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """Settings as a project gives them.

    Args:
        amounts: by their names in the interface specification; sizes in bytes, durations in seconds.
        variables: environment variables.
        controllers: principals as text, or names of canisters of the project.
        log_viewers: who may read the logs, beside the controllers; ``public``: everybody; `None`: not said.
    """

    amounts: Mapping[str, int] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    controllers: tuple[str, ...] = ()
    log_visibility: Mapping[str, tuple[str, ...] | None] | None = None


@final
@dataclass(frozen=True, slots=True)
class ProjectCanister:
    """A canister as its project describes it.

    Args:
        name: of the canister.
        directory: that paths are relative to.
        modules: where its module may be, the most telling place first.
        candid: its interface, where the project names one.
        said_init: init arguments, and
        said_settings: settings, as written; read by `init_args` and `settings`.
        trouble: why nothing else is known of it.
    """

    name: str
    directory: Path
    modules: tuple[Path, ...] = ()
    candid: Path | None = None
    said_init: Said = None
    said_settings: Said = None
    trouble: str = ""

    def wasm(self) -> Path:
        """The module.

        Raises:
            StorageError: there is none in any of the places.
        """
        for path in self.modules:
            for found in (path, path.with_name(path.name + ".gz")):
                if found.is_file():
                    return found
        places = ", ".join(os.path.relpath(path, self.directory) for path in self.modules) or "nothing"
        message = f"no module of canister {self.name!r} in it: build the project first; looked for {places}"
        raise StorageError(message, self.directory).coded("not-built")

    def interface(self) -> Path | None:
        """Its ``.did``, where the project names one that is there."""
        return self.candid if self.candid is not None and self.candid.is_file() else None

    def init_args(self) -> str | bytes | None:
        """Candid text, or bytes, of its init arguments, if the project says any.

        Raises:
            MalformedError: they are not written as they should be.
            StorageError: the file that they are in cannot be read.
        """
        said = self.said_init
        if said is None or isinstance(said, str):
            return said
        if not isinstance(said, dict):
            raise MalformedError(
                f"init_args of canister {self.name!r}: {_short(said)} found, a text or mapping expected"
            )
        form = said.get("format", "candid")
        if form not in ("candid", "hex", "bin"):
            raise MalformedError(
                f"init_args of canister {self.name!r}: format {_short(form)}, expected candid, hex or bin"
            )
        if isinstance(said.get("path"), str):
            content = self._read(said["path"], "init_args")
            return content if form == "bin" else self._decoded(self._text(content, "init_args"), form)
        if form == "bin" or not isinstance(said.get("value"), str):
            raise MalformedError(f"init_args of canister {self.name!r} have neither a value nor a path")
        return self._decoded(said["value"].strip(), form)

    def settings(self) -> ProjectSettings:
        """Its settings.

        Raises:
            MalformedError: there is no setting of a name, or not of such a value.
            StorageError: the file that a variable is in cannot be read.
        """
        said = {} if self.said_settings is None else self.said_settings
        try:
            if not isinstance(said, dict):
                raise ValueError(f"{type(said).__name__} found, a mapping expected")
            unknown = [name for name in said if name not in _SETTINGS]
            if unknown:
                raise ValueError(f"no setting {_short(unknown[0])}, expected some of {', '.join(_SETTINGS)}")
            given = {name: value for name, value in said.items() if value is not None}
            return ProjectSettings(
                {name: _AMOUNTS[name](value) for name, value in given.items() if name in _AMOUNTS},
                {_utf8(name): self._variable(value) for name, value in _items(given.get("environment_variables"))},
                tuple(_texts(given.get("controllers"))),
                _visibility(given["log_visibility"]) if "log_visibility" in given else None,
            )
        except ValueError as error:
            raise MalformedError(f"settings of canister {self.name!r}: {error}") from error

    def _variable(self, said: object) -> str:
        if isinstance(said, dict) and isinstance(said.get("path"), str):
            content = self._read(said["path"], "an environment variable")
            return self._text(content, "an environment variable")
        if isinstance(said, dict | list) or said is None:
            raise ValueError(f"environment variable {_short(said)}, expected a text or {{path: FILE}}")
        return str(said).lower() if isinstance(said, bool) else _utf8(said)

    def _read(self, path: str, what: str) -> bytes:
        file = self.directory / path
        try:
            if not _is_small_file(file):
                message = f"{what} of canister {self.name!r}: not a file of at most {_MAX_BYTES} bytes"
                raise StorageError(message, file)
            return file.read_bytes()
        except OSError as error:
            raise StorageError(f"{what} of canister {self.name!r}: {(error.strerror or '').lower()}", file) from error

    def _text(self, content: bytes, what: str) -> str:
        try:
            return content.decode().strip()
        except UnicodeDecodeError as error:
            raise MalformedError(f"{what} of canister {self.name!r}: not UTF-8", error.start) from error

    def _decoded(self, text: str, form: str) -> str | bytes:
        try:
            return bytes.fromhex(text) if form == "hex" else text
        except ValueError as error:
            raise MalformedError(f"init_args of canister {self.name!r} are not hexadecimal: {text[:40]!r}") from error


# -- settings


def _amount(units: Mapping[str, int]) -> Callable[[Said], int]:
    def read(said: Said) -> int:
        if isinstance(said, bool) or not isinstance(said, int | float | str):
            raise ValueError(f"{_short(said)} is not a number with a unit")
        return parse_amount(str(said), units)

    return read


_AMOUNTS: Final[Mapping[str, Callable[[Said], int]]] = {
    "compute_allocation": _amount({"": 1}),
    "memory_allocation": _amount(SIZES),
    "freezing_threshold": _amount(DURATIONS),
    "reserved_cycles_limit": _amount(CYCLES),
    "wasm_memory_limit": _amount(SIZES),
    "wasm_memory_threshold": _amount(SIZES),
    "log_memory_limit": _amount(SIZES),
}
_SETTINGS: Final = (*_AMOUNTS, "log_visibility", "environment_variables", "controllers")


def _items(said: object) -> Iterable[tuple[Said, Said]]:
    if said is None:
        return ()
    if not isinstance(said, dict):
        raise ValueError(f"environment_variables: {type(said).__name__} found, a mapping expected")
    return said.items()


def _texts(said: object) -> Iterator[str]:
    if said is not None and not isinstance(said, list):
        raise ValueError(f"{_short(said)} is not a list of principals or names")
    for one in said or ():
        if not isinstance(one, str):
            raise ValueError(f"{_short(one)} is neither a principal nor a name")
        yield one


def _visibility(said: object) -> Mapping[str, tuple[str, ...] | None]:
    if isinstance(said, str) and said in ("controllers", "public"):
        return {said: None}
    if isinstance(said, dict) and list(said) == ["allowed_viewers"]:
        return {"allowed_viewers": tuple(_texts(said["allowed_viewers"]))}
    raise ValueError(f"log_visibility {_short(said)}, expected controllers, public or {{allowed_viewers: [...]}}")


def _short(value: object) -> str:
    """What was found, for a message; a mapping or list by its type, as aliases can make it endless."""
    return type(value).__name__ if isinstance(value, dict | list) else f"{value!r:.60}"


# -- the project


@final
@dataclass(frozen=True, slots=True)
class Project:
    """A directory with a manifest, as one of its environments sees it.

    Args:
        manifest: the file.
        canisters: by name, those that are in trouble too.
        environment: the environment's name.
        is_described: whether the file is there.
    """

    manifest: Path
    canisters: Mapping[str, ProjectCanister]
    environment: str = LOCAL
    is_described: bool = True

    @property
    def directory(self) -> Path:
        """Where the manifest is."""
        return self.manifest.parent

    @classmethod
    def find(cls, start: Path, environment: str = LOCAL) -> Project | None:
        """The project that `start` is in: the nearest manifest upwards; `None`: there is none.

        Raises:
            MalformedError: the manifest cannot be read, or knows no such environment.
            UnsupportedError: the environment is on another network.
        """
        for directory in (start.absolute(), *start.absolute().parents):
            for name in _MANIFESTS:
                if os.path.lexists(directory / name):  # also what cannot be read: it is not passed over in silence
                    return cls.load(directory / name, environment)
        return None

    @classmethod
    def without_manifest(cls, directory: Path) -> Project:
        """A directory without a manifest: no canister is described, each name is that of a module that was built."""
        return cls(directory / _MANIFESTS[0], {}, is_described=False)

    @classmethod
    def load(cls, manifest: Path, environment: str = LOCAL) -> Project:
        """The project of a manifest; raises as `find`."""
        content = _mapping(_read(manifest), manifest)
        read = _from_dfx if manifest.suffix == ".json" else _from_icp
        canisters: dict[str, ProjectCanister] = {}
        for one in read(manifest, content):
            if one.name in canisters:
                one = ProjectCanister(one.name, one.directory, trouble=f"{manifest.name} declares it twice")
            canisters[one.name] = one
        if manifest.suffix != ".json":
            canisters = _in_environment(manifest, content, canisters, environment)
        elif environment != LOCAL:
            raise MalformedError(f"{manifest.name} knows no environments, so there is no {environment!r:.60}")
        return cls(manifest, canisters, environment)

    def canister(self, name: str) -> ProjectCanister:
        """The canister of this name.

        Raises:
            KeyError: there is none.
            MalformedError: what the project says of it cannot be read.
        """
        if not self.is_described:
            return undescribed(self.directory, name)
        if name not in self.canisters:
            known = ", ".join(self.canisters) or "none"
            raise KeyError(f"{self.manifest.name} has no canister {name!r}, it has {known}")
        found = self.canisters[name]
        if found.trouble:
            raise MalformedError(f"canister {name!r} of {self.manifest.name}: {found.trouble}")
        return found


def _utf8(said: object) -> str:
    """What is said, as a text that UTF-8 has."""
    text = str(said)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{text!a:.60} has half a surrogate pair in it") from error
    return text


def _is_small_file(path: Path) -> bool:
    """Whether it can be read to its end: a device or a pipe may have none."""
    if "\0" in str(path):
        raise FileNotFoundError(errno.ENOENT, "no such file: its name has a zero byte in it")
    status = path.stat()
    return stat.S_ISREG(status.st_mode) and status.st_size <= _MAX_BYTES


def _read(path: Path) -> Said:
    try:
        if not _is_small_file(path):
            raise MalformedError(f"{path.name} is not a file of at most {_MAX_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return json.loads(text)
        from perdure import yaml_core  # most users of a state directory have no use for it

        return yaml_core.load(text)
    except (ValueError, RecursionError, OSError) as error:
        raise MalformedError(f"{path.name} cannot be read: {error}") from error


def _mapping(value: object, path: Path) -> dict[str, Said]:
    if not isinstance(value, dict):
        raise MalformedError(f"{path.name} holds {type(value).__name__}, expected a mapping")
    return value


def _part(entry: object, key: str) -> dict[str, Said]:
    value = entry.get(key) if isinstance(entry, dict) else None
    return value if isinstance(value, dict) else {}


def _text(entry: Mapping[str, object], key: str) -> str | None:
    value = entry.get(key)
    return value if isinstance(value, str) else None


def _list(content: dict[str, Said], key: str, path: Path) -> list[Said]:
    value = content.get(key)
    if value is not None and not isinstance(value, list):
        raise MalformedError(f"{key} of {path.name}: {type(value).__name__} found, a list expected")
    return value or []


# -- icp.yaml


def _from_icp(manifest: Path, content: dict[str, Said]) -> Iterator[ProjectCanister]:
    directory = manifest.parent
    for number, entry in enumerate(_list(content, "canisters", manifest)):
        if isinstance(entry, str):
            try:
                paths = list(_referenced(directory, entry))
            except MalformedError as error:
                yield ProjectCanister(entry, directory, trouble=error.message)
                continue
            for path in paths:
                yield _guarded(path.name, path, partial(_icp_file, directory, path))
        else:
            name = _text(entry, "name") if isinstance(entry, dict) else None
            yield _guarded(
                f"[{number}]" if name is None else name, directory, partial(_icp_canister, directory, directory, entry)
            )


def _guarded(name: str, directory: Path, read: Callable[[], ProjectCanister]) -> ProjectCanister:
    """What `read` finds; where it cannot, a canister in trouble."""
    try:
        return read()
    except MalformedError as error:
        return ProjectCanister(name, directory, trouble=error.message)


def _referenced(directory: Path, pattern: str) -> Iterator[Path]:
    """Directories that an entry means: of a pattern those with a manifest, as icp takes them; else the one it names."""
    if not any(mark in pattern for mark in "*?[{"):
        yield Path(os.path.normpath(directory / pattern))
        return
    base = Path(pattern[:1]) if pattern.startswith("/") else directory
    try:
        found = []
        for count, one in enumerate(base.glob(pattern.lstrip("/")), 1):
            if count > _MOST_MATCHES:
                raise MalformedError(f"{pattern!r:.60} matches more than {_MOST_MATCHES} files: name the canisters")
            if _has_manifest(one):
                found.append(one)
        yield from sorted(found)
    except (ValueError, NotImplementedError, OSError) as error:
        raise MalformedError(f"{pattern!r:.60} is no pattern: {error}") from error


def _has_manifest(directory: Path) -> bool:
    return os.path.exists(directory / _CANISTER_MANIFEST)  # noqa: PTH110 -- also where nobody may look: then not


def _icp_file(project: Path, directory: Path) -> ProjectCanister:
    file = directory / _CANISTER_MANIFEST
    if not file.is_file():
        raise MalformedError(f"there is no {os.path.relpath(file, project)}")
    return _icp_canister(project, directory, _mapping(_read(file), file))


def _icp_canister(project: Path, directory: Path, entry: object) -> ProjectCanister:
    if not isinstance(entry, dict):
        raise MalformedError(f"{type(entry).__name__} found, a mapping expected")
    said_name = _text(entry, "name")
    if said_name is None:
        raise MalformedError("it has no name")
    name = check_name(said_name)
    configuration = _part(_part(entry, "recipe"), "configuration")
    steps = _part(entry, "build").get("steps")
    said = [step.get("path") for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    said += [configuration.get("wasm"), configuration.get("path")]
    modules = [directory / path for path in said if isinstance(path, str)]
    modules.append(project / ".icp/cache/artifacts" / name)
    modules += _cargo_targets(project, _text(configuration, "package") or name)
    candid = configuration.get("candid")
    return ProjectCanister(
        name,
        directory,
        tuple(modules),
        directory / candid if isinstance(candid, str) else None,
        entry.get("init_args"),
        entry.get("settings"),
    )


def _in_environment(
    manifest: Path, content: dict[str, Said], canisters: dict[str, ProjectCanister], name: str
) -> dict[str, ProjectCanister]:
    """The canisters that an environment has, with its settings and init arguments over their own."""
    known = {}
    for entry in _list(content, "environments", manifest):
        file = manifest.parent / entry if isinstance(entry, str) else manifest
        found = _mapping(_read(file) if isinstance(entry, str) else entry, file)
        known[_text(found, "name") or ""] = found
    if name not in known and name not in (LOCAL, "ic"):
        listed = ", ".join(dict.fromkeys((LOCAL, *known)))
        raise MalformedError(f"{manifest.name} has no environment {name!r:.60}, it has {listed}")
    environment = known.get(name, {})
    network = _text(environment, "network") or (LOCAL if name != "ic" else "ic")
    networks = {_text(one, "name"): one for one in _list(content, "networks", manifest) if isinstance(one, dict)}
    if network == "ic" or networks.get(network, {}).get("mode") == "connected":
        raise UnsupportedError(
            f"environment {name!r} is on the network {network!r}, and perdure runs canisters here: use icp for it"
        )
    chosen = _list(environment, "canisters", manifest)
    names = [one for one in canisters if environment.get("canisters") is None or one in chosen]
    settings, init_args = _part(environment, "settings"), _part(environment, "init_args")
    return {one: _overridden(canisters[one], settings.get(one), init_args.get(one)) for one in names}


def _overridden(canister: ProjectCanister, settings: object, init_args: object) -> ProjectCanister:
    said = canister.said_settings
    if isinstance(said, dict) and isinstance(settings, dict):
        variables = {**_part(said, "environment_variables"), **_part(settings, "environment_variables")}
        said = {**said, **settings, **({"environment_variables": variables} if variables else {})}
    elif settings is not None:
        said = settings
    init = canister.said_init if init_args is None else init_args
    return replace(canister, said_init=init, said_settings=said)


def _cargo_targets(project: Path, package: str) -> list[Path]:
    file = package.replace("-", "_") + ".wasm"
    return [project / f"target/wasm32-{system}/release" / file for system in ("unknown-unknown", "wasip1", "wasi")]


# -- without a manifest


def undescribed(directory: Path, name: str) -> ProjectCanister:
    """A canister that no manifest describes, by its name: where the tools leave a module of that name."""
    check_name(name)
    modules = [directory / folder / f"{name}.wasm" for folder in (".", "build", "dist", f".dfx/local/canisters/{name}")]
    return ProjectCanister(name, directory, (*modules[:1], *_cargo_targets(directory, name), *modules[1:]))


def interface_beside(module: Path) -> Path | None:
    """The ``.did`` of a module: beside it, or for one that cargo has built where its package has it."""
    plain = module.name.removesuffix(".gz").removesuffix(".wasm")
    names = dict.fromkeys((plain, plain.replace("_", "-")))
    places = [module.parent / f"{name}.did" for name in names]
    above = [one.parent for one in module.absolute().parents if one.name == "target"]
    if above:
        folders = (".", "src", "candid", *(folder for name in names for folder in (name, f"src/{name}")))
        places += [above[0] / folder / f"{name}.did" for folder in folders for name in names]
    return next((one for one in places if one.is_file()), None)


# -- dfx.json


def _from_dfx(manifest: Path, content: dict[str, Said]) -> Iterator[ProjectCanister]:
    canisters = content.get("canisters", {})
    for name, entry in _mapping(canisters, manifest).items():
        yield _guarded(name, manifest.parent, partial(_dfx_canister, manifest.parent, name, entry))


def _dfx_canister(directory: Path, name: str, entry: object) -> ProjectCanister:
    if not isinstance(entry, dict):
        raise MalformedError(f"{type(entry).__name__} found, a mapping expected")
    check_name(name)
    said = entry.get("wasm")
    built = directory / ".dfx/local/canisters" / name
    modules = [directory / said] if isinstance(said, str) and "://" not in said else []
    modules.append(built / f"{name}.wasm")
    modules += _cargo_targets(directory, _text(entry, "package") or name)
    candid, init_file = entry.get("candid"), entry.get("init_arg_file")
    return ProjectCanister(
        name,
        directory,
        tuple(modules),
        directory / candid if isinstance(candid, str) and "://" not in candid else None,
        {"path": init_file} if isinstance(init_file, str) else entry.get("init_arg"),
        entry.get("initialization_values"),
    )


_NO_MODULE: Final = {
    ".yaml": "a manifest: `perdure canister install --all` installs what it describes",
    ".json": "a manifest: `perdure canister install --all` installs what it describes",
    ".did": "an interface in Candid, which has no code",
    ".most": "the types of Motoko's stable variables, which have no code",
    ".py": "Python: its class is what is installed, `from {stem} import ...`, `Subnet().install(...)`; "
    "see docs/python-canisters.md",
    ".mo": "a source in Motoko: `moc` compiles it",
    ".rs": "a source in Rust: `cargo build --target wasm32-unknown-unknown --release` compiles it",
    ".zst": "packed by zstd, which nobody takes: gzip is",
}
"""Files that are given in a module's place, by their ends: what they are, and what to do."""


def instead_of_module(path: Path) -> str | None:
    """What a file is that was given for a module and is none, and what to do; `None`: its name does not say."""
    what = _NO_MODULE.get(path.suffix.lower().replace(".yml", ".yaml"))
    return None if what is None else what.replace("{stem}", path.stem)
