"""What a class is called, and where it is: the same in every process, however its file is run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec
from itertools import accumulate
from pathlib import Path
from typing import Final

__all__ = ["file_of", "is_own", "module_name", "module_of", "name_of"]

_MAIN: Final = "__main__"


def module_name(name: str) -> str:
    """A module's name; of the one that runs as ``__main__``, the name that others import it by.

    So a file that is run and the same file imported are one module. A prompt and a notebook have no other name.
    """
    if name != _MAIN:
        return name
    main = sys.modules.get(_MAIN)
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if isinstance(spec, ModuleSpec):
        return spec.name.removesuffix(f".{_MAIN}")
    stem = Path(file).stem if isinstance(file, str) else ""
    return stem if stem.isidentifier() else _MAIN


def module_of(name: str) -> str:
    """The inverse: under which name a module is found in `sys.modules`, or can be imported."""
    return _MAIN if name == module_name(_MAIN) and _MAIN in sys.modules else name


def name_of(owner: type) -> str:
    """``module:Class``."""
    return f"{module_name(owner.__module__)}:{owner.__qualname__}"


def file_of(name: str) -> Path | None:
    """The file of a module that is or could be imported; nothing is imported for it. `None`: there is none.

    What can be found without running anything is looked at before anything is run.
    """
    module = sys.modules.get(name)
    if module is not None:
        found = getattr(module, "__file__", None)
        return Path(found) if isinstance(found, str) and Path(found).is_file() else None  # "<stdin>" is none
    spec: ModuleSpec | None = None
    for full in accumulate(name.split("."), "{}.{}".format):
        places = None if spec is None else spec.submodule_search_locations
        if spec is not None and places is None:
            return None
        spec = next(_specs(full, places), None)
        if spec is None:
            return None
        if spec.origin is None and spec.submodule_search_locations is not None:
            import_module(full)  # a folder without `__init__.py`: nothing runs, and what is in it is found only so
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _specs(name: str, places: object) -> Iterator[ModuleSpec]:
    for finder in sys.meta_path:
        found = getattr(finder, "find_spec", lambda *_: None)(name, places)
        if isinstance(found, ModuleSpec):
            yield found


@cache
def _installed() -> tuple[Path, ...]:
    """Where installed packages and the standard library are."""
    import sysconfig  # of which a state directory without canisters in Python has no use

    paths = sysconfig.get_paths()
    return tuple({Path(paths[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def is_own(owner: str, name: str) -> bool:
    """Whether a module belongs to the same program as `owner`: the same package, or files in its folder.

    Args:
        owner: name of a module.
        name: of the other one; it need not be imported.
    """
    owner, name = module_of(owner), module_of(name)
    top = owner.partition(".")[0]
    if name.partition(".")[0] == top:
        return True
    if name.partition(".")[0] == __name__.partition(".")[0]:
        return False  # seen from a script in a clone of this repository
    home, file = _folder(top), file_of(name)
    if home is None or file is None or any(home.is_relative_to(one) for one in _installed()):
        return False
    file = file.resolve()
    return file.is_relative_to(home) and not any(
        one.is_relative_to(home) and file.is_relative_to(one) for one in _installed()
    )


def _folder(top: str) -> Path | None:
    """Where a module or package at the top lies."""
    file = file_of(top)
    if file is None:
        return None
    file = file.resolve()
    return file.parent.parent if file.name == "__init__.py" else file.parent
