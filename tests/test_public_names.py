"""The public names, and how each is called, are those of `public_names.txt`.

After a change that is meant, `python tests/test_public_names.py` writes the file anew; its difference is what the
change says to users, and belongs into `changes/`. CONTRIBUTING.md tells how a name goes.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

FILE = Path(__file__).with_name("public_names.txt")
FACES = (
    "perdure",
    "perdure.candid",
    "perdure.inspection",
    "perdure.kit",
    "perdure.pocket_ic",
    "perdure.stable",
    "perdure.subnet",
    "perdure.upgrade",
    "perdure.values",
)
"""What the documentation imports from, tools for perdure's own tests and benchmarks apart."""


def signature(value: object) -> str:
    try:
        return str(inspect.signature(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""


def parts(value: type) -> Iterator[str]:
    """What a class and those that it is made of have that is public, with the constructor where one calls it."""
    if issubclass(value, enum.Enum):
        yield from (f".{member}" for member in value.__members__)
        return
    made_of = [one for one in reversed(value.__mro__) if one.__module__.startswith("perdure.")]
    if issubclass(value, BaseException):
        made_of = [value]
    for name, found in sorted({name: found for one in made_of for name, found in vars(one).items()}.items()):
        if name.startswith("_"):
            continue
        if isinstance(found, property):
            yield f".{name}"
        elif isinstance(found, classmethod | staticmethod):
            yield f".{name}{signature(found.__func__)}"
        elif inspect.isfunction(found):
            yield f".{name}{signature(found)}"
        elif inspect.isdatadescriptor(found):
            yield f".{name}"


def lines() -> Iterator[str]:
    first: dict[object, str] = {}
    for face in FACES:
        module = import_module(face)
        for name in sorted(module.__all__):
            value = getattr(module, name)
            if not inspect.isclass(value):
                yield f"{face}.{name}{signature(value) if callable(value) else ''}"
                continue
            if (other := first.setdefault(value, f"{face}.{name}")) != f"{face}.{name}":
                yield f"{face}.{name} is {other}"
                continue
            made = "" if issubclass(value, BaseException | enum.Enum) else signature(value)
            yield f"{face}.{name}{made}"
            if value.__module__.startswith("perdure."):
                yield from (f"{face}.{name}{part}" for part in parts(value))


def test_public_names_are_called_as_before() -> None:
    found, written = list(lines()), FILE.read_text(encoding="utf-8").splitlines()
    gone, new = sorted(set(written) - set(found)), sorted(set(found) - set(written))
    assert (gone, new) == ([], []), "if that is meant, run: python tests/test_public_names.py"


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n", encoding="utf-8")
