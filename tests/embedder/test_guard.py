"""A callback that an exception cuts off in its first instruction still gives a result of ours."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap

from perdure.embedder.guard import Spares


def test_the_first_instruction_is_part_of_the_try():
    script = """
        import ctypes, itertools
        from perdure.embedder.guard import covered

        interrupt = ctypes.PyDLL(None).PyErr_SetInterrupt
        interrupt.restype = ctypes.c_long

        def body(_):
            try:
                return str("went through")
            except BaseException as error:
                return type(error).__name__

        def plain(_):
            try:
                return str("went through")
            except BaseException as error:
                return type(error).__name__

        # Nothing but C runs between what makes the signal pending and the function.
        print(*map(covered(body), itertools.starmap(interrupt, [()])))
        print(body(None))
        try:
            print(*map(plain, itertools.starmap(interrupt, [()])))
        except KeyboardInterrupt:
            print("came out")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("KeyboardInterrupt\nwent through\ncame out\n", "")


def test_spares_are_never_given_twice():
    made = itertools.count(1)
    spares = Spares(lambda: next(made), lambda: next(made))
    seen = set()
    for number in range(500):
        place = spares.next
        spares.next = place + 1
        spares.causes[place] = ValueError(number)
        seen |= {spares.traps[place], spares.errors[place]}
        assert str(spares.take_cause()) == str(number)
        assert spares.take_cause() is None
    assert len(seen) == 1_000
