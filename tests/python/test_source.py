"""What the hash of a class covers: what its code names, as far as that is of the same program."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from perdure.python.source import digest, sources, text_of

Write = Callable[..., ModuleType]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    written: set[str] = set()

    def write(**files: str) -> ModuleType:
        """Writes modules, and imports the first of them anew."""
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        written.update(name.replace("__", ".").removesuffix(".init") for name in files)
        for name in list(sys.modules):
            if name.partition(".")[0] in {one.partition(".")[0] for one in written}:
                del sys.modules[name]
        importlib.invalidate_caches()
        return importlib.import_module(next(iter(files)).replace("__", "."))

    yield write
    for name in written:
        sys.modules.pop(name, None)


MAIN = """
import math
import helpers
import helpers as aliased
from helpers import fee, Base, unused
from dataclasses import dataclass

RATE = 3
CACHE = {}
OTHER = 5

def local():
    return second()

def second():
    return RATE

@dataclass
class Record:
    x: int

    def grown(self):
        return self.x + GROWTH

GROWTH = 1

class Ledger(Base):
    limit = RATE

    def method(self, x: Record):
        CACHE[x] = 1
        return fee(x) + local() + math.pi + helpers.tax(1) + aliased.deep.very(1)

    @property
    def prop(self):
        return named_in_a_property

    # the end of the class

named_in_a_property = 1
# after it
"""
HELPERS = """
import deep

def fee(x):
    return x * BASE

BASE = 10

def tax(x):
    return x

def unused():
    pass

class Base:
    def inherited(self):
        return inherited_names()

def inherited_names():
    pass
"""
DEEP = "def very(x): return x\n"


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("main", "RATE = 3", "RATE = 4", True),
        ("main", "CACHE = {}", "CACHE = dict()", True),
        ("main", "OTHER = 5", "OTHER = 6", False),
        ("main", "return RATE", "return RATE + 1", True),
        ("main", "# the end of the class", "# the very end", True),
        ("main", "# after it", "# after all", False),
        ("main", "named_in_a_property = 1", "named_in_a_property = 2", True),
        ("main", "GROWTH = 1", "GROWTH = 2", True),
        ("main", "self.x + GROWTH", "self.x - GROWTH", True),
        ("helpers", "x * BASE", "x + BASE", True),
        ("helpers", "BASE = 10", "BASE = 11", True),
        ("helpers", "def tax(x):\n    return x", "def tax(x):\n    return -x", True),
        ("helpers", "def inherited(self):", "def inherited(self, x=1):", True),
        ("helpers", "def inherited_names():\n    pass", "def inherited_names():\n    return 1", True),
        ("helpers", "def unused():\n    pass", "def unused():\n    return 1", False),
        ("deep", "return x", "return x + 1", True),
    ],
)
def test_what_counts(write: Write, file: str, old: str, new: str, counts: bool) -> None:
    files = {"main_module": MAIN, "helpers": HELPERS, "deep": DEEP}
    before = write(**files)
    first = digest(before.Ledger, [before.Record])
    name = "main_module" if file == "main" else file
    assert old in files[name]
    after = write(**{**files, name: files[name].replace(old, new)})
    assert (digest(after.Ledger, [after.Record]) != first) is counts
    again = write(**files)
    assert digest(again.Ledger, [again.Record]) == first


def test_a_file_that_is_edited_while_it_runs(write: Write, tmp_path: Path) -> None:
    main = write(main_module=MAIN, helpers=HELPERS, deep=DEEP)
    text = text_of("main_module")
    first = digest(main.Ledger, [main.Record])
    (tmp_path / "main_module.py").write_text(MAIN.replace("RATE = 3", "RATE = 4"))
    assert digest(main.Ledger, [main.Record], text) == first
    assert digest(main.Ledger, [main.Record]) != first


def test_packages_and_relative_imports(write: Write) -> None:
    files = {
        "shop__app": "from . import rates\nfrom .rates import one as uno\nimport shop.names\nfrom .star import *\n"
        "class App:\n    def f(self):\n        return uno() + rates.two() + shop.names.three() + four()\n",
        "shop____init__": "",
        "shop__rates": "def one(): return 1\ndef two(): return 2\n",
        "shop__names": "def three(): return 3\n",
        "shop__star": "def four(): return 4\ndef five(): return 5\n",
    }
    files["shop/__init__"] = files.pop("shop____init__")
    found = sources(write(**files).App)
    assert set(found) == {"shop.app:App", "shop.rates:one", "shop.rates:two", "shop.names:three", "shop.star:four"}


def test_libraries_do_not_count(write: Write) -> None:
    main = write(
        lone="import json, pytest\nfrom pathlib import Path\nclass A:\n    def f(self): return json.loads, Path\n"
    )
    assert set(sources(main.A)) == {"lone:A"}


def make(factor: int) -> type:
    def local(x: int) -> int:
        return x * factor

    class Inner:
        def method(self) -> int:
            return local(1) + module_level()

    return Inner


def module_level() -> int:
    return 1


def test_a_class_in_a_function() -> None:
    found = sources(make(1))
    assert {name.partition(":")[2] for name in found} == {"make.<locals>.Inner", "local", "module_level"}
    assert "return x * factor" in found[next(name for name in found if name.endswith(":local"))]


def test_the_right_one_of_two() -> None:
    class Same:
        def first(self) -> None: ...

    one = Same

    class Same:  # type: ignore[no-redef]
        def second(self) -> None: ...

    assert "first" in next(iter(sources(one).values()))
    assert "second" in next(iter(sources(Same).values()))


class Outer:
    class Inner:
        def method(self) -> int:
            return module_level()


def test_a_class_in_a_class() -> None:
    names = {name.partition(":")[2] for name in sources(Outer.Inner)}
    assert names == {"Outer.Inner", "module_level"}


def test_a_long_chain_of_names(write: Write) -> None:
    lines = [f"def f{number}():\n    return f{number + 1}()" for number in range(3_000)]
    main = write(chain="\n".join([*lines, "def f3000(): pass", "class A:\n    def m(self): return f0()"]))
    assert len(sources(main.A)) == 3_002


def typed_in(text: str) -> type:
    """A class made where there is no source, as at a prompt."""
    module = ModuleType("console_without_a_file")
    sys.modules[module.__name__] = module
    try:
        exec(compile(text, "<stdin>", "exec"), module.__dict__)
        made: type = module.A
        digest(made)
        return made
    finally:
        del sys.modules[module.__name__]


TYPED = """
def helper():
    return 1

class A:
    rate = 3

    def m(self):
        return helper() + {1, 2, 3}.pop()

    @staticmethod
    def s():
        return [one for one in range(3)]
"""


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("class A:", "class A:  # a comment", False),
        ("return 1", "return 2", True),
        ("rate = 3", "rate = 4", True),
        ("range(3)", "range(4)", True),
        ("def m(self)", "def m(self, x=1)", True),
    ],
)
def test_without_source(old: str, new: str, counts: bool) -> None:
    first = digest(typed_in(TYPED))
    assert digest(typed_in(TYPED)) == first
    assert (digest(typed_in(TYPED.replace(old, new))) != first) is counts


def test_it_does_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    import os
    import subprocess

    script = f"{TYPED}\nfrom perdure.python.source import digest\nprint(digest(A).hex())"
    found = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-"],
            input=script,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(done.stdout)
    assert len(found) == 1
