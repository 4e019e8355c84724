"""Where a subnet looks up code that is no Wasm: any version of a class by its bytes, the one of today by its name.

What a state names and nobody has given is imported by its name. Where that fails, the code is *absent*: its canisters
can be looked at and given other code, and their messages wait.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, final

from perdure.canister import CanisterModule, HasModule, WasmState, memory_kinds
from perdure.errors import MalformedError
from perdure.memory import Memory
from perdure.python import blank
from perdure.python.identity import file_of, module_of

if TYPE_CHECKING:
    from perdure.python.instance import PythonInstance
    from perdure.python.method import Migration, PythonMethod
    from perdure.python.module import PythonModule
    from perdure.python.variables import Declared, ModelDeclaration, Schema, Variable

__all__ = ["AbsentModule", "Catalogue"]

_PRE_UPGRADE: Final = "canister_pre_upgrade"


@final
class AbsentModule:
    """Code that a state names and that is not here; implements `CanisterModule`.

    Args:
        wasm: the bytes that stand for it.
        found: what they say.
    """

    def __init__(self, wasm: bytes, found: blank.Blank) -> None:
        self.wasm = wasm
        self.module_hash = hashlib.sha256(wasm).digest()
        self.name, self.schema = found.name, found.schema
        self.custom_sections = found.sections
        self.absent = (
            f"the code of {found.name!r} is not here in this version: upgrade the canister to the class as it is now, "
            "canister.upgrade(...)"
        )
        """Why it is not here, and what to do."""
        self.is_64 = False
        self.operators = 0
        self.global_types: tuple[str, ...] = ()
        self.memories = memory_kinds()
        self.bucket_wasm_pages = 128
        self.methods: Mapping[str, PythonMethod] = {}
        self.variables: Mapping[str, Variable] = {}
        self.models: Mapping[str, ModelDeclaration] = {}
        self.moves: Mapping[str, Migration] = {}
        self.classes: dict[str, type] = {}

    @property
    def declares(self) -> Schema:
        """What it declared; `MalformedError`: that does not read."""
        from perdure.python.variables import Schema

        return Schema.decode(self.schema)

    @property
    def place(self) -> str:
        """``module:Class``, where it could be imported."""
        try:
            return self.declares.place or self.name
        except MalformedError:
            return self.name

    @property
    def exported_methods(self) -> frozenset[str]:
        """Its entry points. Code that is not here does nothing before it goes."""
        try:
            return frozenset(self.declares.exports) - {_PRE_UPGRADE}
        except MalformedError:
            return frozenset()

    def instantiate(self, state: WasmState) -> PythonInstance:
        """An instance over `state`, whose memories can be read."""
        from perdure.python.instance import PythonInstance
        from perdure.python.overlay import OverlayMemory

        memories = {name: OverlayMemory(image) for name, image in state.memories.items()}
        return PythonInstance(self, memories, has_run=state.global_values is not None)

    def new_object(self, instance: PythonInstance) -> Any:
        """Nothing that could do anything."""
        return _Nothing()

    def class_named(self, name: str) -> type:
        """None is here."""
        raise MalformedError(f"the class {name} is not here: {self.absent}")

    def pending(self, old: Schema) -> list[tuple[Migration, list[Declared]]]:
        """None."""
        return []

    def objections(self, old: Schema, memory_of: Callable[[int], Memory] | None = None) -> list[str]:
        """None: it writes nothing."""
        return []

    def __repr__(self) -> str:
        return f"<canister {self.name}, not here>"


class _Nothing:
    pass


@final
class Catalogue:
    """The classes that a subnet, its forks and its past states run.

    Args:
        given: a class, or several, that `perdure.kit.canister` has made canisters.
        every_version: whether there may be several versions of one, each for the states that name it.

    Raises:
        TypeError: one of them is no canister.
        ValueError: two of them have one name.
    """

    def __init__(self, given: object = (), *, every_version: bool = False) -> None:
        self._by_wasm: dict[bytes, CanisterModule] = {}
        self._by_name: dict[str, CanisterModule] = {}
        for owner in given if isinstance(given, Iterable) and not isinstance(given, str) else (given,):
            module = self.add(owner)
            other = self._by_name.setdefault(module.name, module)
            if other is not module and not every_version:
                raise ValueError(
                    f"two classes are called {module.name!r}: a state directory could not tell whose its canisters "
                    "are; give each a name of its own, @canister(name=...)"
                )

    def add(self, owner: object) -> CanisterModule:
        """Have the code of a class at hand.

        Raises:
            TypeError: it has none.
        """
        if not isinstance(owner, HasModule):
            raise TypeError(
                f"{owner!r:.200} is no module, no path, and no class made a canister by perdure.kit.canister"
            )
        module = owner.__canister_module__()
        self._by_wasm[module.wasm] = module
        return module

    def find(self, wasm: bytes, *, look: bool = False) -> CanisterModule | None:
        """The code that bytes stand for, which may be absent; `None`: they are no canister in Python.

        Args:
            wasm: the bytes.
            look: whether to import what is named, where nobody has given it.
        """
        known = self._by_wasm.get(wasm)
        if known is not None and not (look and known.absent):
            return known
        found = blank.read(wasm)
        if found is None:
            return None
        absent = self._by_wasm[wasm] = known if isinstance(known, AbsentModule) else AbsentModule(wasm, found)
        if look:
            self.current(absent)
        return self._by_wasm[wasm]  # which may be here now

    def current(self, absent: AbsentModule) -> PythonModule | None:
        """The version of today of code that a state names; `None`: it is not here, and `absent` says why."""
        try:
            module = self._by_name.get(absent.name) or _imported(absent)
        except LookupError as error:
            absent.absent = (
                f"the code of {absent.name!r} is not here: {error}. Give the class, Subnet(path, code=[...]), or have "
                "its file where Python finds it (PYTHONPATH=. for this directory); a class that was renamed or moved "
                f"keeps its name with @canister(name={absent.name!r})"
            )
            return None
        self._by_wasm[module.wasm] = self._by_name[absent.name] = module
        return module  # type: ignore[return-value]  # what is added by name is of this engine


def _imported(absent: AbsentModule) -> PythonModule:
    """The class of this name, out of the module that it was in.

    A name comes out of a file that may come from anywhere. So a module is looked at before it is run: only what speaks
    of perdure is imported.

    Raises:
        LookupError: it cannot be had; says what was tried.
    """
    from perdure.python.module import PythonModule

    place, _, path = absent.place.partition(":")
    tried = f"tried to import {path} from {place}"
    if "<locals>" in path:
        raise LookupError(f"{place}:{path} is made within a function, where nothing can import it")
    if not all(part.isidentifier() for part in place.split(".")):
        raise LookupError(f"{tried}: that is no module's name")
    module_name = module_of(place)
    if module_name not in sys.modules:
        _look_at(module_name, tried)
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:
        raise LookupError(f"{tried}: {type(error).__name__}: {error}") from error
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    for owner in (found, *vars(module).values()):
        if isinstance(owner, type) and isinstance(owner, HasModule):
            try:
                code = owner.__canister_module__()
            except TypeError:  # it inherits from one
                continue
            if isinstance(code, PythonModule) and code.name == absent.name:
                return code
    raise LookupError(f"{tried}: there is no canister of this name in {place}")


def _look_at(module_name: str, tried: str) -> None:
    """Raise `LookupError` unless a module that nobody has imported yet is a file that speaks of perdure."""
    file = file_of(module_name)
    if file is None:
        raise LookupError(f"{tried}: there is no module {module_name}")
    try:
        speaks = b"perdure" in file.read_bytes()
    except OSError as error:
        raise LookupError(f"{tried}: {error}") from error
    if not speaks:
        raise LookupError(f"{tried}: {file} does not use perdure")
