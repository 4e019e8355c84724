"""A canister in Python whose class was edited: what opening its state directory makes of it."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from counting import UNIVERSAL, P
from edited import CALLS, COUNTER, MIGRATION, MOVED, QUEUE, SCRIPT, VARIABLES, Write

from perdure import ANONYMOUS, Principal, RejectError, StorageError, Subnet, UnsupportedError, rejects
from perdure.cli import perdure as perdure_command
from perdure.execution import submit_ingress
from perdure.kit import canister, ic, nat64, query, stable, update
from perdure.python.variables import Schema
from perdure.stable import StableBTreeMap, StableCell
from perdure.storage import NO_CODE, StateDirectory


def history(path: Path) -> list[str]:
    with StateDirectory.open(path, read_only=True) as directory:
        return [version.message.kind for version in reversed(directory.history())]


def forget(name: str = "shop") -> None:
    sys.modules.pop(name, None)


# -- what is kept, and what is a change


def test_the_directory_has_name_hash_and_schema(tmp_path: Path, write: Write) -> None:
    shop = write(COUNTER)
    with Subnet(tmp_path / "state") as subnet:
        counter = subnet.install(shop.Counter)
        module = counter.module
        assert module is not None
        assert counter.status().module_hash == module.module_hash
    for _ in range(2):
        with StateDirectory.open(tmp_path / "state", read_only=True) as directory:
            code = directory.canisters[counter.id.raw_bytes].code
            assert (code.name, code.hash) == ("shop:Counter", module.module_hash)
            (total,) = Schema.decode(code.schema).variables
            assert total == ("total", "StableCell", (0,), ("u64",))
    with Subnet(tmp_path / "state") as subnet:
        subnet.canister(counter.id).uninstall()
    with StateDirectory.open(tmp_path / "state", read_only=True) as directory:
        assert directory.canisters[counter.id.raw_bytes].code == NO_CODE


def test_a_class_that_has_not_changed_goes_on_whether_given_or_imported(tmp_path: Path, write: Write) -> None:
    shop = write(COUNTER)
    with Subnet(tmp_path / "state") as subnet:
        counter = subnet.install(shop.Counter)
        counter.actor().add()
    forget()
    with Subnet(tmp_path / "state") as subnet:  # imported by its name
        assert subnet.canister(counter.id).actor().add() == 2
    shop = write(COUNTER)
    for way in ("upgrade", "refuse", "keep"):
        with Subnet(tmp_path / "state", code=[shop.Counter], changed_code=way) as subnet:
            assert subnet.canister(counter.id).actor().get() == (2, 2)
    assert history(tmp_path / "state") == []


def test_a_comment_within_the_class_is_an_upgrade(tmp_path: Path, write: Write) -> None:
    """G1: a durable actor that cannot be edited is no durable actor."""
    shop = write(COUNTER)
    with Subnet(tmp_path / "state", history=None) as subnet:
        counter = subnet.install(shop.Counter)
        before = counter.status()
        counter.actor().add()
        version = subnet.version
    changed = write(COUNTER.replace("class Counter:", "class Counter:\n    # one comment"))
    with Subnet(tmp_path / "state") as subnet:
        counter = subnet.canister(counter.id)
        assert counter.actor().get() == (1, 0)  # stable memory stays, attributes begin anew
        assert counter.actor().add() == 2
        assert counter.status().module_hash != before.module_hash
        assert subnet.version == version + 2
        change = subnet._state.canisters[counter.id.raw_bytes].history[-1]
        assert change.details[0] == "code_deployment"
        assert change.details[1]["mode"] == "upgrade"
        counter.upgrade(changed.Counter)
    assert history(tmp_path / "state")[-3:] == ["upgrade_code", "call", "upgrade_code"]
    with StateDirectory.open(tmp_path / "state", read_only=True) as directory:
        assert directory.verify() == []
        kept = directory.canisters[counter.id.raw_bytes]
        assert kept.code.hash == kept.module_hash


def test_post_upgrade_runs_and_may_look(tmp_path: Path, write: Write) -> None:
    shop = write(COUNTER)
    with Subnet(tmp_path / "state") as subnet:
        counter = subnet.install(shop.Counter)
        counter.actor().add()
    write(COUNTER + "    @post_upgrade\n    def after(self) -> None:\n        self.total.value *= 100\n")
    for _ in range(2):  # once
        with Subnet(tmp_path / "state") as subnet:
            assert subnet.canister(counter.id).actor().get()[0] == 100


def test_what_the_class_names_in_its_module_is_its_code(tmp_path: Path, write: Write) -> None:
    shop = write(COUNTER)
    with Subnet(tmp_path / "state") as subnet:
        counter = subnet.install(shop.Counter)
        counter.actor().add()
        hash_ = counter.status().module_hash
    write(COUNTER.replace("return 1", "return 10"))
    with Subnet(tmp_path / "state") as subnet:
        assert subnet.canister(counter.id).status().module_hash != hash_
        assert subnet.canister(counter.id).actor().add() == 11


def test_what_it_does_not_name_is_not(tmp_path: Path, write: Write) -> None:
    shop = write(COUNTER)
    with Subnet(tmp_path / "state") as subnet:
        counter = subnet.install(shop.Counter)
        counter.actor().add()
    write(COUNTER + "\n\ndef a_test():\n    pass\n")
    with Subnet(tmp_path / "state", changed_code="refuse") as subnet:
        assert subnet.canister(counter.id).actor().get() == (1, 1)


def test_refuse(tmp_path: Path, write: Write) -> None:
    shop = write(COUNTER)
    with Subnet(tmp_path / "state") as subnet:
        counter = subnet.install(shop.Counter)
        counter.actor().add()
        before = subnet._durable.directory.state_hash()
    write(COUNTER.replace("class Counter:", "class Counter:\n    # one comment"))
    with pytest.raises(StorageError, match=r"code has changed and is not to be: canister .*'shop:Counter'"):
        Subnet(tmp_path / "state", changed_code="refuse")
    with StateDirectory.open(tmp_path / "state", read_only=True) as directory:
        assert directory.state_hash() == before
    with pytest.raises(ValueError, match="'upgrade', 'refuse' or 'keep', found 'no'"):
        Subnet(tmp_path / "state", changed_code="no")  # type: ignore[arg-type]


def test_keep_leaves_it_to_be_read_and_upgraded_by_hand(tmp_path: Path, write: Write) -> None:
    shop = write(COUNTER)
    with Subnet(tmp_path / "state") as subnet:
        counter = subnet.install(shop.Counter)
        counter.actor().add()
    argument = "    @post_upgrade\n    def after(self, total: nat64) -> None:\n        self.total.value = total\n"
    shop = write(COUNTER + argument)
    with pytest.raises(RejectError, match=r"the upgrade of canister .*was rejected.*changed_code='keep'"):
        Subnet(tmp_path / "state")
    with Subnet(tmp_path / "state", changed_code="keep") as subnet:
        counter = subnet.canister(counter.id)
        with pytest.raises(UnsupportedError, match="not here in this version"):
            counter.actor().get()
        with pytest.raises(UnsupportedError, match="not here in this version"):
            counter.actor().add()
        stable_bytes = counter.stable.read(0, 65536)
        assert stable_bytes[:3] == b"MGR"
        assert counter.service().methods.keys() == {"add", "get"}
        counter.upgrade(shop.Counter, bytes.fromhex("4449444c000178") + (7).to_bytes(8, "little"))
        assert counter.actor().get() == (7, 0)
    with Subnet(tmp_path / "state", changed_code="refuse") as subnet:
        assert subnet.canister(counter.id).actor().get() == (7, 0)


def test_two_classes_of_one_name(tmp_path: Path) -> None:
    def make(amount: int) -> type:
        @canister(name="one name")
        class Adder:
            @query
            def amount(self) -> nat64:
                return amount

        return Adder

    @canister(name="one name")
    class Other:
        @query
        def amount(self) -> nat64:
            return 3

    one = make(1)
    for other in (make(2), Other):
        with pytest.raises(ValueError, match="two classes are called 'one name'"):
            Subnet(tmp_path / "state", code=[one, other])
    Subnet(tmp_path / "state", code=[one, one]).close()
    with Subnet(tmp_path / "state", code=[one]) as subnet:
        first = subnet.install(one)
        with pytest.raises(ValueError, match=r"two classes are called 'one name': canister .* runs another one"):
            subnet.install(Other)
        empty = subnet.create_canister()
        with pytest.raises(ValueError, match="two classes are called"):
            empty.install(Other)
        second = subnet.install(one)
        first.upgrade(Other)  # one after the other
        assert (first.actor().amount(), second.actor().amount()) == (3, 1)
    with Subnet(tmp_path / "state", code=[Other]) as subnet:
        assert [one.actor().amount() for one in subnet.canisters if one.module] == [3, 3]


def test_a_class_that_is_renamed_keeps_its_name(tmp_path: Path, write: Write) -> None:
    shop = write(COUNTER)
    with Subnet(tmp_path / "state") as subnet:
        counter = subnet.install(shop.Counter)
        counter.actor().add()
    shop = write(COUNTER.replace("class Counter", "class Tally"))
    with (
        Subnet(tmp_path / "state", code=[shop.Tally]) as subnet,
        pytest.raises(UnsupportedError, match=r"tried to import Counter from shop.*@canister\(name='shop:Counter'\)"),
    ):
        subnet.canister(counter.id).actor().get()
    renamed = COUNTER.replace("class Counter", "class Tally").replace("@canister", '@canister(name="shop:Counter")')
    write(renamed)
    with Subnet(tmp_path / "state") as subnet:  # found beside the place where it was
        assert subnet.canister(counter.id).actor().add() == 2
    write(None)
    ledger = write(renamed, "ledger")
    with Subnet(tmp_path / "state", code=[ledger.Tally]) as subnet:  # moved: it has to be given once
        assert subnet.canister(counter.id).actor().add() == 3
    forget("ledger")
    write(renamed.replace("class Tally:", "class Tally:\n    # changed"), "ledger")
    with Subnet(tmp_path / "state") as subnet:
        assert subnet.canister(counter.id).actor().add() == 4


# -- code that is not here


def test_a_class_that_cannot_be_imported(tmp_path: Path, write: Write) -> None:
    shop = write(COUNTER)
    with Subnet(tmp_path / "state", history=None) as subnet:
        counter = subnet.install(shop.Counter)
        counter.actor().add()
        version = subnet.version
    write(None)
    with Subnet(tmp_path / "state") as subnet:
        counter = subnet.canister(counter.id)
        with pytest.raises(
            UnsupportedError, match=r"from shop: there is no module shop\. .*PYTHONPATH=\. for this directory"
        ):
            counter.actor().add()
        assert counter.stable.read(0, 3) == b"MGR"
        assert counter.status().stable_bytes > 0
        assert counter.logs() == ()
        assert subnet.version == version
        fork = subnet.fork()
        assert fork.canister(counter.id).stable.read(0, 3) == b"MGR"
        with pytest.raises(UnsupportedError, match="tried to import"):
            fork.canister(counter.id).query("get")
        taken = counter.take_snapshot()
        counter.load_snapshot(taken)
    write(COUNTER)
    with Subnet(tmp_path / "state") as subnet:
        assert subnet.canister(counter.id).actor().get() == (1, 1)  # attributes are there as well
    for broken, words in (("import nothing_of_this_name", "ModuleNotFoundError"), ("1 / 0", "ZeroDivisionError")):
        forget()
        with pytest.raises((ImportError, ZeroDivisionError)):
            write(f"# perdure\n{broken}")
        wanted = pytest.raises(UnsupportedError, match=f"tried to import Counter from shop: {words}")
        with Subnet(tmp_path / "state") as subnet, wanted:
            subnet.canister(counter.id).actor().get()


def test_nothing_is_imported_that_does_not_speak_of_perdure(tmp_path: Path, write: Write) -> None:
    """A name comes out of a file that may come from anywhere."""
    shop = write(COUNTER)
    with Subnet(tmp_path / "state") as subnet:
        counter = subnet.install(shop.Counter)
    forget()
    (tmp_path / "program" / "shop.py").write_text("raise SystemExit('imported')")
    with Subnet(tmp_path / "state") as subnet, pytest.raises(UnsupportedError, match="does not use perdure"):
        subnet.canister(counter.id).actor().get()
    (tmp_path / "program" / "shop.py").write_text("# perdure\nraise SystemExit('imported')")
    with Subnet(tmp_path / "state") as subnet, pytest.raises(UnsupportedError, match="SystemExit: imported"):
        subnet.canister(counter.id).actor().get()


def test_messages_and_timers_wait_for_code_that_is_not_here(tmp_path: Path, write: Write) -> None:
    source = (
        COUNTER
        + """
    @update
    def arm(self, after_ns: nat64) -> None:
        ic.set_timer(ic.time_ns + after_ns)

    @timer
    def ring(self) -> None:
        self.total.value += 1000

    @heartbeat
    def beat(self) -> None:
        pass

@canister
class Caller:
    @update
    async def ask(self, other: Principal) -> nat64:
        return await call(other, "add", signature="() -> (nat64)")

    @query
    def one(self) -> nat64:
        return 1
"""
    )
    shop = write(source)
    with Subnet(tmp_path / "state") as subnet:
        counter, caller = subnet.install(shop.Counter), subnet.install(shop.Caller)
        counter.actor().arm(10**9)
    write(source.replace("class Counter", "class Gone"))
    with Subnet(tmp_path / "state") as subnet:
        caller = subnet.canister(caller.id)
        with pytest.raises(RejectError, match="not answered"):
            caller.actor().ask(counter.id)
        subnet.advance_time(2 * 10**9)
        for _ in range(3):
            subnet.tick()
        assert subnet.run_until_idle() < 5
        assert caller.actor().one() == 1
    write(source)
    with Subnet(tmp_path / "state") as subnet:
        subnet.run_until_idle()
        assert subnet.canister(counter.id).actor().get()[0] == 1001


def test_a_class_within_a_function_has_to_be_given(tmp_path: Path) -> None:
    @canister
    class Local:
        count: StableCell[nat64] = stable(default=5)

        @query
        def get(self) -> nat64:
            return self.count.value

    with Subnet(tmp_path / "state") as subnet:
        local = subnet.install(Local)
    wanted = pytest.raises(UnsupportedError, match=r"made within a function.*code=\[\.\.\.\]")
    with Subnet(tmp_path / "state") as subnet, wanted:
        subnet.canister(local.id).actor().get()
    with Subnet(tmp_path / "state", code=[Local], changed_code="refuse") as subnet:
        assert subnet.canister(local.id).actor().get() == 5


def test_bytes_that_name_a_class_that_is_not_here_are_not_installed() -> None:
    @canister
    class Known:
        pass

    wasm = Known.__canister_module__().wasm
    with rejects(error_code="IC0505", match="is not here in this version"):
        Subnet().install(wasm)
    subnet = Subnet()
    subnet.install(Known)
    assert subnet.install(wasm).module.name.endswith("Known")


def test_a_class_that_inherits_from_a_canister_says_so_itself() -> None:
    @canister
    class Base:
        @query
        def who(self) -> str:
            return "base"

    class Derived(Base):
        pass

    with pytest.raises(TypeError, match="inherits from a canister and is none itself"):
        Subnet().install(Derived)
    assert Subnet().install(canister(Derived)).actor().who() == "base"


# -- what goes on across a change


@pytest.mark.parametrize("which", ["Asker", "Slow"])
def test_calls_in_flight(tmp_path: Path, write: Write, which: str) -> None:
    """As on the network an upgrade does not wait for them: what was awaited is gone with the code, and is rejected."""
    shop = write(CALLS)
    with Subnet(tmp_path / "state") as subnet:
        asker, slow = subnet.install(shop.Asker), subnet.install(shop.Slow)
        arg = asker.service().methods["ask"].encode([slow.id])
        request = submit_ingress(subnet._world, asker.id.raw_bytes, "ask", arg)
        while not subnet._state.canisters[slow.id.raw_bytes].open_calls:
            subnet.tick()
        contexts = [one.contexts.keys() for one in subnet._state.canisters.values()]
    write(CALLS.replace(f"class {which}:", f"class {which}:\n    # changed"))
    with Subnet(tmp_path / "state") as subnet:
        assert [one.contexts.keys() for one in subnet._state.canisters.values()] == contexts
        subnet.run_until_idle()
        with pytest.raises(RejectError, match="the method that made this call is gone"):
            subnet.response(request)
        for one in subnet._state.canisters.values():
            assert not one.contexts
            assert not one.open_calls
        assert subnet.canister(slow.id).actor().slow() == 1


def test_history_forks_and_time_travel(tmp_path: Path, write: Write) -> None:
    old = write(COUNTER)
    with Subnet(tmp_path / "state", history=None) as subnet:
        counter = subnet.install(old.Counter)
        counter.actor().add()
        before = subnet.version
    new = write(COUNTER.replace("return 1", "return 10"))
    with Subnet(tmp_path / "state") as subnet:
        assert subnet.canister(counter.id).actor().add() == 11
        fork = subnet.fork()
        assert fork.canister(counter.id).actor().add() == 21
        with subnet.anchor():
            assert subnet.canister(counter.id).actor().add() == 21
        past = subnet.at(before)
        then = past.canister(counter.id)
        assert then.status().module_hash != subnet.canister(counter.id).status().module_hash
        assert then.stable.read(0, 3) == b"MGR"
        with pytest.raises(UnsupportedError, match="not here in this version"):
            then.actor().get()
        then.upgrade(new.Counter)
        assert then.actor().add() == 11
        past.close()
    with Subnet(tmp_path / "state", code=[new.Counter, old.Counter], changed_code="keep") as subnet:
        past = subnet.at(before)
        assert past.canister(counter.id).actor().add() == 2
        past.close()
        assert subnet.canister(counter.id).actor().get()[0] == 11
    assert history(tmp_path / "state") == ["install_code", "call", "upgrade_code", "call"]


def test_replay_across_a_change(tmp_path: Path, write: Write) -> None:
    from perdure.subnet.replay import replay

    old = write(VARIABLES)
    with Subnet(tmp_path / "state", history=None) as subnet:
        shop = subnet.install(old.Shop)
        shop.actor().fill()
    new = write(MOVED + MIGRATION)
    with Subnet(tmp_path / "state") as subnet:
        subnet.canister(shop.id).actor().fill()
        end = subnet.version
    assert replay(tmp_path / "state", code=[old.Shop, new.Shop]) == (0, end, None)
    with pytest.raises(StorageError, match=r"(?s)the code of 'shop:Shop' is not here.*every version"):
        replay(tmp_path / "state")


def test_a_snapshot_from_before_the_change(tmp_path: Path, write: Write, filled: Principal) -> None:
    with Subnet(tmp_path / "state") as subnet:
        shop = subnet.canister(filled)
        taken = shop.take_snapshot()
        shop.write_snapshot(tmp_path / "downloaded")
    write(MOVED + MIGRATION)
    with Subnet(tmp_path / "state") as subnet:
        shop = subnet.canister(filled)
        assert shop.actor().lines() == ["begun", "moved 1"]
        shop.actor().fill()
        shop.load_snapshot(taken)  # of code that is not here: it is upgraded again
        assert (shop.actor().keys(), shop.actor().lines()) == (["1"], ["begun", "moved 1"])
        shop.load_snapshot(shop.upload_snapshot(tmp_path / "downloaded"))
        assert (shop.actor().keys(), shop.actor().lines()) == (["1"], ["begun", "moved 1"])


def test_a_snapshot_that_the_class_of_today_cannot_take_over(tmp_path: Path, write: Write, filled: Principal) -> None:
    with Subnet(tmp_path / "state") as subnet:
        taken = subnet.canister(filled).take_snapshot()
    write(VARIABLES.replace(QUEUE, "").replace("self.queue.push(5)", "pass"))
    Subnet(tmp_path / "state").close()
    write(VARIABLES.replace(QUEUE, "    queue: StableVec[nat64] = stable(5)\n"))
    with Subnet(tmp_path / "state") as subnet:
        shop = subnet.canister(filled)
        before = subnet._durable.directory.state_hash()
        with pytest.raises(StorageError, match="'queue' was a StableMinHeap"):
            shop.load_snapshot(taken)
        assert subnet._durable.directory.state_hash() == before
        assert shop.actor().names() == ["Ada"]
    with Subnet(tmp_path / "state", changed_code="refuse") as subnet:
        with pytest.raises(StorageError, match="code has changed and is not to be"):
            subnet.canister(filled).load_snapshot(taken)
        assert subnet._durable.directory.state_hash() == before
    with Subnet(tmp_path / "state", changed_code="keep") as subnet:
        shop = subnet.canister(filled)
        shop.load_snapshot(taken)
        with pytest.raises(UnsupportedError, match="not here in this version"):
            shop.actor().names()


def test_a_snapshot_of_a_class_that_is_still_here(write: Write) -> None:
    old = write(COUNTER)
    counter = Subnet().install(old.Counter)
    counter.actor().add()
    taken = counter.take_snapshot()
    new = write(COUNTER.replace("return 1", "return 10"))
    counter.upgrade(new.Counter)
    assert counter.actor().add() == 11
    counter.load_snapshot(taken)
    assert counter.actor().add() == 2


def test_read_only_looks_import_nothing(tmp_path: Path, write: Write) -> None:
    shop = write(COUNTER)
    with Subnet(tmp_path / "state") as subnet:
        counter = subnet.install(shop.Counter)
        counter.actor().add()
    forget()
    (tmp_path / "program" / "shop.py").write_text("# perdure\nraise RuntimeError('imported')")
    from perdure.inspection import find, open_source

    with open_source(f"{tmp_path / 'state'}:{counter.id}") as source:
        assert [one.kind for one in find(source).structures] == ["cell"]
    with StateDirectory.open(tmp_path / "state", read_only=True) as directory:
        assert directory.verify() == []
    assert "shop" not in sys.modules


# -- processes


def run(*command: str, folder: Path, expect: int = 0, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_script_a_module_and_an_import(tmp_path: Path, write: Write) -> None:
    """One class under one name, however its file is run; attributes are of classes that are found again, too."""
    write(SCRIPT)
    folder = tmp_path / "program"
    assert run("shop.py", folder=folder) == "1\n"
    assert run("-m", "shop", folder=folder) == "2\n"
    forget()
    with Subnet(tmp_path / "state", changed_code="refuse") as subnet:
        assert subnet.canisters[0].actor().facts() == (2, 2)


def test_the_command_line(tmp_path: Path, write: Write) -> None:
    shop = write(SCRIPT)
    with Subnet(tmp_path / "state") as subnet:
        counter = subnet.install(shop.Counter)
        counter.actor().add()
    name = str(counter.id)

    def perdure_(*words: str) -> Any:
        result = CliRunner().invoke(perdure_command, ["canister", *words, "--state", str(tmp_path / "state")])
        return result.exception or result.output

    assert "1" in perdure_("call", name, "facts")
    write(SCRIPT.replace("+= 1\n", "+= 100\n"))
    forget()
    assert name in perdure_("status", name)  # who looks changes nothing
    assert name in perdure_("list")
    assert history(tmp_path / "state") == []
    assert "101" in perdure_("call", name, "add")
    forget()
    write(None)
    forget()
    missing = str(perdure_("call", name, "facts"))
    assert "tried to import Counter from shop: there is no module shop" in missing
    assert "PYTHONPATH" in missing
    assert name in perdure_("status", name)
    shown = CliRunner().invoke(perdure_command, ["stable", "ls", f"{tmp_path / 'state'}:{name}"])
    assert "total" in shown.output  # the directory has what the class declared
    shown = CliRunner().invoke(perdure_command, ["stable", "rows", f"{tmp_path / 'state'}:{name}", "total", "--json"])
    assert json.loads(shown.output) == [{"value": 101}]
    with Subnet(tmp_path / "state", changed_code="keep") as subnet:
        subnet.canisters[0].write_snapshot(tmp_path / "downloaded")
    shown = CliRunner().invoke(perdure_command, ["stable", "ls", str(tmp_path / "downloaded")])
    assert "total" in shown.output
    shown = CliRunner().invoke(perdure_command, ["state", "history", str(tmp_path / "state"), "--json"])
    assert shown.exit_code == 0


def test_typed_at_a_prompt(tmp_path: Path) -> None:
    """No source and no module to import: the class has to be given, and its bytecode is what is compared."""
    text = COUNTER + "\nfrom perdure import Subnet\n"

    def typed(script: str) -> str:
        done = subprocess.run(
            [sys.executable, "-"], input=script, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
        )
        return done.stdout + done.stderr

    begin = "with Subnet('state') as subnet:\n    print(subnet.install(Counter).actor().add())\n"
    go_on = "with Subnet('state'{}) as subnet:\n    print(subnet.canisters[0].actor().add())\n"
    assert typed(text + begin) == "1\n"
    refusing = go_on.format(", code=[Counter], changed_code='refuse'")
    commented = text.replace("class Counter:", "class Counter:  # a comment")
    assert typed(commented + refusing + go_on.format("")) == "2\n3\n"  # the prompt is where it says it is
    changed = text.replace("return 1", "return 5")
    refused = "try:\n    Subnet('state', code=[Counter], changed_code='refuse')\nexcept Exception as e:\n    print(e)\n"
    found = typed(changed + refused + "\n" + go_on.format(", code=[Counter]"))
    assert "code has changed" in found
    assert found.endswith("\n8\n")
    missing = typed("from perdure import Subnet\n" + go_on.format(""))
    assert "tried to import Counter from __main__: there is no canister of this name" in missing


def test_kill_9_in_the_midst_of_it() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import code_kill_script as s; print(s.run(1, 3, s.PLACES[:6]))"
    )
    done = run("-c", script, str(Path(__file__).parent), folder=Path.cwd())
    before, after = ast.literal_eval(done)
    assert before >= 3
    assert after >= 2


def test_a_copy_that_only_reads(tmp_path: Path, write: Write) -> None:
    old = write(COUNTER)
    with Subnet(tmp_path / "state") as subnet:
        counter = subnet.install(old.Counter)
        counter.actor().add()
        before = subnet._durable.directory.state_hash()
    new = write(COUNTER.replace("return 1", "return 10"))
    copy = Subnet.read(tmp_path / "state")
    read = copy.canister(counter.id)
    assert read.stable.read(0, 3) == b"MGR"
    with pytest.raises(UnsupportedError, match="not here in this version"):
        read.actor().get()
    read.upgrade(new.Counter)
    assert read.actor().add() == 11
    assert Subnet.read(tmp_path / "state", code=[old.Counter, new.Counter]).canister(counter.id).actor().get() == (1, 1)
    with StateDirectory.open(tmp_path / "state", read_only=True) as directory:
        assert directory.state_hash() == before


# -- to Wasm and back

ROOT = Path(__file__).parents[2]
HASHES = json.loads((ROOT / "tests/canisters/hashes.json").read_text())


@pytest.mark.parametrize("durable", [False, True])
def test_from_python_to_wasm_and_back(tmp_path: Path, durable: bool) -> None:
    @canister
    class Words:
        words: StableBTreeMap[nat64, str]

        @update
        def put(self, key: nat64, word: str) -> None:
            self.words[key] = word

        @query
        def get(self, key: nat64) -> str | None:
            return self.words.get(key)

        @query
        def me(self) -> bool:
            return ic.caller == ANONYMOUS

    path = tmp_path / "state" if durable else None
    with Subnet(path, code=[Words]) as subnet:
        words = subnet.install(Words)
        words.actor().put(1, "one")
        size, content = words.stable.size(), words.stable.read(0, 2 << 16)
        words.upgrade(UNIVERSAL, b"")
        assert (words.stable.size(), words.stable.read(0, 2 << 16)) == (size, content)
        words.update("update", bytes(P().stable64_write((size << 16) - 5, b"final").reply(b"done")))
        assert words.stable.read(0, 2 << 16) == content
        fork = subnet.fork().canister(words.id)
        fork.upgrade(Words)
        assert fork.actor().get(1) == "one"
    if durable:
        with StateDirectory.open(path, read_only=True) as directory:
            assert directory.canisters[words.id.raw_bytes].code == NO_CODE
            assert directory.verify() == []
    else:
        return
    with Subnet(path, code=[Words]) as subnet:
        words = subnet.canister(words.id)
        assert words.update("update", bytes(P().reply(b"Wasm"))) == b"Wasm"
        words.upgrade(Words)
        assert words.actor().get(1) == "one"
        assert words.stable.read((size << 16) - 5, 5) == b"final"
        words.actor().put(2, "two")
    with Subnet(path, code=[Words]) as subnet:
        assert subnet.canister(words.id).actor().get(2) == "two"


def test_stable_memory_of_wasm_that_is_something_else() -> None:
    @canister
    class Cell:
        value: StableCell[nat64] = stable(default=1)

    subnet = Subnet()
    kv = subnet.install(ROOT / HASHES["kv32"]["file"], (5).to_bytes(8, "little"))
    kv.update("stable64_grow", (1).to_bytes(8, "little"))
    kv.stable.write(0, b"something else")
    with rejects(code=5, match="stable memory is no memory manager's"):
        kv.upgrade(Cell)
    assert kv.query("count") == (5).to_bytes(8, "little")
    kv.update("inc")
    assert kv.stable.read(0, 14) == b"something else"
    kv.reinstall(Cell)
    assert kv.stable.read(0, 3) == b"MGR"
    kv.reinstall(ROOT / HASHES["kv32"]["file"], (7).to_bytes(8, "little"))
    assert (kv.query("count"), kv.stable.size()) == ((7).to_bytes(8, "little"), 0)
