"""Runs the tests and examples of the `pocket-ic` package, github.com/dfinity/pocketic-py, against ours.

    python tests/conformance/pocket_ic.py DIR

They import `pocket_ic`; that name is made to mean `perdure.pocket_ic`, and nothing else about them is changed. They
import `ic` too: ic-py has to be installed beside perdure, in an environment of its own if its pinned antlr4 is in the
way. Prints each failure and the counts. A test that wants a replica's state directory fails with
`UnsupportedError`, as it should; any other failure exits 1.
"""

from __future__ import annotations

import importlib.util
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path

import perdure.pocket_ic
from perdure import UnsupportedError


class Result(unittest.TestResult):
    """Counts, and keeps apart what is refused on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[str] = []
        self.refused: list[tuple[str, str]] = []

    def addSuccess(self, test: unittest.TestCase) -> None:
        """A test passed."""
        self.passed.append(test.id())

    def addError(self, test: unittest.TestCase, err: tuple) -> None:  # type: ignore[type-arg,override]
        """A test raised."""
        if isinstance(err[1], UnsupportedError):
            self.refused.append((test.id(), str(err[1])))
        else:
            super().addError(test, err)


def suites(directory: Path) -> Iterator[unittest.TestSuite]:
    """The tests of each file."""
    for path in sorted([*directory.glob("tests/*_test.py"), *directory.glob("examples/*/*_test.py")]):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield unittest.defaultTestLoader.loadTestsFromModule(module)


def main(directory: Path) -> int:
    """Run the suite in `directory`."""
    if importlib.util.find_spec("ic") is None:
        print("ic-py is not installed here: pip install ic-py, best in an environment of its own")
        return 2
    sys.modules["pocket_ic"] = perdure.pocket_ic
    result = Result()
    for suite in suites(directory):
        suite.run(result)
    for name, reason in result.refused:
        print("REFUSED", name, reason)
    failed = [*result.failures, *result.errors]
    for test, trace in failed:
        print("FAILED", test.id(), trace, sep="\n")
    print(f"pocket_ic: {len(result.passed)} passed, {len(failed)} failed, {len(result.refused)} refused")
    return 1 if failed or not result.passed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
