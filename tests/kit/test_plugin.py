"""The pytest plugin, in projects of its users."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path

import pytest

from perdure import Subnet

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow  # each test is a process of its own
CACHE = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")


@pytest.fixture
def pytester(pytester, monkeypatch):
    """Runs as users run it, in a process of its own, but keeps what was compiled before."""
    monkeypatch.setenv("XDG_CACHE_HOME", CACHE)
    pytester.plugins = []
    monkeypatch.setattr(
        pytester, "runpytest", lambda *args: pytester.runpytest_subprocess("-p", "no:cacheprovider", *args)
    )
    return pytester


@pytest.fixture
def project(pytester, built):
    """A project with two canisters in ``icp.yaml``."""
    path = built("motoko_classical_v1")
    pytester.makefile(
        ".yaml",
        icp=f"""
        canisters:
          - name: counter
            build:
              steps:
                - type: pre-built
                  path: {path}
          - name: ledger
            build:
              steps:
                - type: pre-built
                  path: {built("ledger")}
            init_args: '(record {{ symbol = "TST"; fee = 1; holders = vec {{}} }})'
        """,
    )
    return pytester


def without_interface(module):
    """A module, section by section, but for custom ones."""
    yield module[:8]
    at = 8
    while at < len(module):
        size, shift, end = 0, 0, at + 1
        while True:
            byte = module[end]
            size, shift, end = size | (byte & 127) << shift, shift + 7, end + 1
            if byte < 128:
                break
        if module[at]:
            yield module[at : end + size]
        at = end + size


def passed(result, count, **others):
    result.assert_outcomes(passed=count, **others)


def test_each_test_has_a_subnet_of_its_own(project, built):
    project.makepyfile(
        f"""
        def test_one(install):
            counter = install({str(built("motoko_classical_v1"))!r})
            assert counter.actor().inc() == 1

        def test_two(install, subnet):
            assert subnet.canisters == ()
            assert install({str(built("motoko_classical_v1"))!r}).actor().inc() == 1

        def test_values(install, alice, bob):
            ledger = install({str(built("ledger"))!r}, {{"symbol": "X", "fee": 1, "holders": [(alice, 100)]}})
            assert ledger.actor(alice).transfer({{"to": bob, "amount": 5}}) == {{"Ok": 1}}
        """
    )
    passed(project.runpytest(), 3)


def test_canisters_of_the_project_by_name(project):
    project.makepyfile(
        """
        import pytest

        def test_named(canister):
            assert canister("ledger").actor().symbol() == "TST"
            assert canister("counter").actor().inc() == 1
            assert canister("counter").actor().inc() == 2

        def test_unknown(canister):
            with pytest.raises(KeyError, match="icp.yaml has no canister 'nothing', it has counter, ledger"):
                canister("nothing")
        """
    )
    passed(project.runpytest(), 2)


def test_markers_prepare_once(project):
    project.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.canister("counter")
        seen = set()

        @pytest.mark.parametrize("number", range(3))
        def test_fresh(canister, subnet, number):
            assert canister("counter").actor().inc() == 1
            seen.add(canister("counter").id)
            assert len(seen) == 1

        @pytest.mark.canister("ledger", args=({"symbol": "ABC", "fee": 2, "holders": []},))
        def test_both(canister, subnet):
            assert len(subnet.canisters) == 2
            assert canister("ledger").actor().symbol() == "ABC"
        """
    )
    passed(project.runpytest("--strict-markers"), 4)


def test_a_marker_turns_an_extension_on(project):
    project.makepyfile(
        """
        import pytest
        import wasmtime
        from perdure import RejectError

        text = '(module (import "ic0_ext" "stable64_load_i64" (func (param i64) (result i64))) (memory 1))'
        MODULE = bytes(wasmtime.wat2wasm(text))

        @pytest.mark.extension("direct")
        @pytest.mark.canister("loads", wasm=MODULE)
        def test_on(subnet, canister):
            assert subnet.extensions == ("direct",)
            assert canister("loads").status().module_hash

        def test_off(subnet):
            with pytest.raises(RejectError, match="extension 'direct'"):
                subnet.install(MODULE)
        """
    )
    passed(project.runpytest("--strict-markers"), 2)


def test_the_baseline_can_be_prepared(project, built):
    project.makeconftest(
        f"""
        import pytest

        @pytest.fixture(scope="session")
        def perdure_baseline(perdure_baseline):
            counter = perdure_baseline.install({str(built("motoko_classical_v1"))!r})
            for _ in range(5):
                counter.actor().inc()
            return perdure_baseline
        """
    )
    project.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(20))
        def test_prepared(subnet, number):
            (counter,) = subnet.canisters
            assert counter.actor().inc() == 6
        """
    )
    passed(project.runpytest(), 20)


def test_under_xdist(project):
    project.makepyfile(
        """
        import pytest

        @pytest.mark.canister("counter")
        @pytest.mark.parametrize("number", range(6))
        def test_parallel(canister, number):
            assert canister("counter").actor().inc() == 1

        @pytest.mark.canister("counter")
        def test_crash(canister):
            canister("counter").actor().crash()
        """
    )
    result = project.runpytest("-n", "2")
    passed(result, 6, failed=1)
    result.stdout.fnmatch_lines(["Canister backtrace, innermost first:", "IC0503 *", "*test_under_xdist.py:*"])


def test_a_failing_test_shows_the_canisters_backtrace_first(project):
    project.makepyfile(
        """
        import pytest
        from perdure import rejects

        @pytest.mark.canister("counter")
        def test_crash(canister):
            canister("counter").actor().crash()

        @pytest.mark.canister("counter")
        def test_other_rejection(canister):
            with rejects(match="something else"):
                canister("counter").actor().crash()

        def test_own_failure():
            assert 1 == 2
        """
    )
    result = project.runpytest()
    passed(result, 0, failed=3)
    output = result.stdout.str()
    first, second, third = re.split(r"_+ test_\w+ _+\n", output)[1:4]
    for part in (first, second):
        assert part.index("Canister backtrace") < part.index("In the test that called it:") < part.index("def test_")
        assert "    crash\n" in part
    assert "Canister backtrace" not in third


def test_12_an_error_of_the_users_shows_no_frames_of_perdure(project, monkeypatch):
    """The numbers are those of the list of what newcomers stumbled over."""
    monkeypatch.delenv("CI", raising=False)  # pytest repeats whole errors in its summary there
    project.makepyfile(
        """
        import pytest

        @pytest.mark.canister("counter")
        def test_crash(canister):
            canister("counter").actor().crash()

        def test_no_module(install):
            install(b"no module")
        """
    )
    output = project.runpytest().stdout.str()
    assert output.count("RejectError: IC05") == 2
    assert "subnet.py" not in output
    assert "gate.py" not in output


def test_13_a_failing_test_shows_what_its_canisters_printed(project):
    text = (
        '(module (import "ic0" "debug_print" (func $print (param i32 i32))) (import "ic0" "msg_reply" (func $reply)) '
        '(memory 1) (data (i32.const 0) "said this")'
        '(func (export "canister_update say") (call $print (i32.const 0) (i32.const 9)) (call $reply)))'
    )
    project.makepyfile(
        f"""
        import wasmtime
        WASM = bytes(wasmtime.wat2wasm({text!r}))

        def test_fails(install):
            install(WASM).update("say")
            assert False

        def test_passes(install):
            install(WASM).update("say")
        """
    )
    result = project.runpytest()
    passed(result, 1, failed=1)
    result.stdout.fnmatch_lines(["*Captured canister log*", "lxzze-o7777-77777-aaaaa-cai: said this"])
    assert result.stdout.str().count("cai: said this") == 1


def test_29_a_fixture_of_a_wider_scope_is_told_what_to_use(project):
    project.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module")
        def ledger(install):
            return install("ledger.wasm")

        def test_it(ledger):
            pass
        """
    )
    project.runpytest().stdout.fnmatch_lines(["*a fixture of a wider scope takes perdure_baseline*"])


def test_29_or_all_tests_of_a_module_share_a_subnet(project):
    project.makefile(".ini", pytest="[pytest]\nperdure_scope = module\n")
    project.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.canister("counter")

        @pytest.fixture(scope="module")
        def counter(canister, identity, alice):
            assert identity("alice") == alice != identity("carol") == identity("carol")
            found = canister("counter")
            found.actor(identity("carol")).inc()
            return found

        def test_first(counter):
            assert counter.actor().inc() == 2

        def test_second(counter):
            assert counter.actor().inc() == 3

        def test_third(counter):
            counter.actor().crash()
        """
    )
    result = project.runpytest()
    passed(result, 2, failed=1)
    result.stdout.fnmatch_lines(["*Captured canister log*", "*assertion failed*"])


def test_from_a_python_canister(project):
    project.makepyfile(
        """
        from perdure.kit import canister as made, nat, query

        @made
        class Constant:
            @query
            def value(self) -> nat:
                return 5

        def test_class(install):
            assert install(Constant).actor().value() == 5
        """
    )
    passed(project.runpytest(), 1)


def test_18_what_a_python_canister_raises_is_shown_where_it_was_raised(project):
    project.makepyfile(
        """
        from perdure.kit import canister as made, nat, query

        @made
        class Shelf:
            @query
            def value(self, key: nat) -> nat:
                return {1: 2}[key]

        def test_class(install):
            install(Shelf).actor().value(7)
        """
    )
    output = project.runpytest().stdout.str()
    assert "return {1: 2}[key]" in output
    assert "KeyError: 7" in output
    assert "instance.py" not in output


def test_from_a_snapshot(pytester, built):
    canister = Subnet().install(built("motoko_classical_v1"))
    canister.actor().inc()
    canister.write_snapshot(pytester.path / "snapshot")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(2))
        def test_it(subnet, number):
            (counter,) = subnet.canisters
            assert counter.actor().inc() == 2
        """
    )
    passed(pytester.runpytest("--perdure-snapshot", "snapshot"), 2)


def test_a_dfx_project(pytester, built):
    content = {"canisters": {"counter": {"type": "custom", "wasm": str(built("motoko_classical_v1"))}}}
    (pytester.path / "dfx.json").write_text(json.dumps(content))
    pytester.makepyfile("def test_it(canister):\n    assert canister('counter').actor().inc() == 1")
    passed(pytester.runpytest(), 1)


def test_without_a_project(pytester):
    pytester.makepyfile("def test_it(canister):\n    canister('counter')")
    result = pytester.runpytest()
    passed(result, 0, failed=1)
    result.stdout.fnmatch_lines(
        ["E *StorageError: *: no module of canister 'counter' in it: build the project first; *"]
    )


def test_without_a_project_names_are_those_of_modules(pytester, built):
    module = gzip.decompress(built("ledger").read_bytes())
    target = pytester.path / "target/wasm32-unknown-unknown/release"
    target.mkdir(parents=True)
    (target / "ledger.wasm").write_bytes(b"".join(without_interface(module)))
    (pytester.path / "ledger.did").write_text(
        "service : (record { symbol : text; fee : nat; holders : vec record { principal; nat } }) -> "
        "{ symbol : () -> (text) query }"
    )
    pytester.makepyfile(
        """
        import pytest

        ARG = '(record { symbol = "TST"; fee = 1 : nat; holders = vec {} })'
        WASM = "target/wasm32-unknown-unknown/release/ledger.wasm"
        SHORT = "service : { symbol : () -> (text) query }"

        def test_the_interface_is_the_projects(canister):
            assert canister("ledger", args=ARG).actor().symbol() == "TST"

        @pytest.mark.canister("marked", wasm=WASM, args=ARG, candid=SHORT)
        def test_a_marker_gives_one(canister, install):
            assert list(canister("marked").actor()) == ["symbol"]
            installed = install(WASM, arg=ARG, candid="ledger.did")
            assert installed.actor().symbol() == "TST"
        """
    )
    passed(pytester.runpytest(), 2)


def test_projects_that_do_not_use_it_load_nothing_of_it(pytester):
    pytester.makepyfile(
        """
        import sys

        def test_nothing():
            loaded = {name for name in sys.modules if name.startswith("perdure")}
            assert loaded <= {"perdure", "perdure.kit", "perdure.kit.plugin", "perdure.kit.plugin_measure",
                              "perdure.kit.plugin_replies", "perdure.errors", "perdure.ic",
                              "perdure.ic.principal", "perdure.memory"}
            assert "wasmtime" not in sys.modules
        """
    )
    passed(pytester.runpytest(), 1)


def test_outcalls_are_answered_by_a_fixture(pytester):
    (pytester.path / "asking.py").write_text((Path(__file__).parents[1] / "subnet" / "oracle.py").read_text())
    pytester.makepyfile(
        """
        import sys, pathlib
        sys.path.insert(0, str(pathlib.Path(__file__).parent))
        from asking import Oracle

        URL = "https://a.example/price"

        def test_answered(subnet, outcalls):
            outcalls.get(URL).respond(json=12.5)
            assert subnet.install(Oracle).actor().fetch(URL) == "200 12.5"

        def test_not_answered(subnet, outcalls):
            assert outcalls.calls == ()
            subnet.install(Oracle).actor().fetch(URL)
        """
    )
    result = pytester.runpytest()
    passed(result, 1, failed=1)
    result.stdout.fnmatch_lines(["*GET https://a.example/price was not made*"])


def test_what_is_typed_wrong_is_told_without_frames_of_perdure(project, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    project.makepyfile(
        """
        import pytest

        @pytest.mark.canister("counter", wasm="nothere.wasm")
        def test_no_file(canister): ...

        @pytest.mark.canister("counter", wams="counter.wasm")
        def test_no_keyword(canister): ...

        @pytest.mark.canister
        def test_no_name(canister): ...

        @pytest.mark.canister("counter", args=7)
        def test_no_tuple(canister): ...

        def test_no_sender(canister):
            canister("counter").actor("alice")

        def test_nobody(identity):
            identity(3)
        """
    )
    output = project.runpytest().stdout.str()
    for told in (
        "No such file or directory",
        "nothing of an installation is called 'wams': did you mean 'wasm'?",
        "a marker names one canister",
        "an init argument is a tuple of values",
        "the sender is a Principal, found 'alice'",
        'somebody has a name, identity("carol"), found 3',
    ):
        assert f"Error: {told}" in output or told in output, told
    for inner in ("core.py", "gate.py", "subnet.py", "interface.py", "pathlib", "in install_marked", "actor.py"):
        assert inner not in output, inner
