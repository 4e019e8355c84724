"""Compares the contexts of `ic0` with the matrix in the tests of the reference implementation.

    python tests/conformance/reference_api.py FILE

FILE is ``src/IC/Test/Spec.hs`` of github.com/dfinity/ic-hs, which says of each function in which of the contexts
``I G U Q Ry Rt C F T`` it works; Q stands for a non-replicated query. Our side is the table `ic0.FUNCTIONS`, which the
linker and the kernel run by and ``tests/system/test_contexts.py`` enters every context for. Prints the counts and each
difference; exits 1 if one is not explained by a newer specification.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from perdure.ic.ic0 import FUNCTIONS

ROW = re.compile(r'^ *[\[,] t "(\w+)(?: [^"]*\\"\\"[^"]*)?"\s+(star|never|"[^"]*")', re.MULTILINE)
STAR = "I G U Q Ry Rt C F T"
CONTEXTS = {letter: "NRQ" if letter == "Q" else letter for letter in STAR.split()}
NEWER = {("msg_caller", context): "the caller is known in every context" for context in ("Ry", "Rt", "C", "T")}
NEWER["msg_reject_code", "C"] = "cleanup can ask what the callback was told"
PARTS = ("", "_size", "_copy")
RENAMED = {"call_new_call_perform": ("call_new", "call_perform")}


def functions(name: str) -> list[str]:
    """The functions that a row stands for."""
    if name in RENAMED:
        return list(RENAMED[name])
    return [name + part for part in PARTS if name + part in FUNCTIONS]


def main(path: Path) -> int:
    """Compare row by row."""
    same = explained = 0
    failures = []
    for name, where in ROW.findall(path.read_text(encoding="utf-8")):
        if where == "never":
            continue  # traps for what it does, not for where
        allowed = set((STAR if where == "star" else where.strip('"')).split())
        for function in functions(name):
            for letter, context in CONTEXTS.items():
                if (letter in allowed) == (context in FUNCTIONS[function].contexts):
                    same += 1
                elif (name, letter) in NEWER:
                    explained += 1
                else:
                    ours = "works" if context in FUNCTIONS[function].contexts else "traps"
                    failures.append(f"{function} in {letter}: {ours} here")
    for one in failures:
        print("FAILED", one)
    print(f"reference_api: {explained} differ by a newer specification")
    print(f"reference_api: {same} passed, {len(failures)} failed")
    return 1 if failures or not same else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
