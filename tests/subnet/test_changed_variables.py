"""Stable variables of a canister in Python whose class was edited: what may change, what is refused, what migrates."""

from __future__ import annotations

from pathlib import Path

import pytest
from edited import LOG, MIGRATION, MOVED, QUEUE, USERS, VARIABLES, Write

from perdure import Principal, RejectError, StorageError, Subnet, rejects
from perdure.execution import SubnetConfig
from perdure.kit import canister, migration, nat64
from perdure.stable import StableCell
from perdure.storage import StateDirectory


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            USERS,
            "    users: StableBTreeMap[nat64, User]\n",
            r"'users' held u32, .* holds u64, .*= stable\(4\).*@migration",
        ),
        (USERS, "    users: StableBTreeMap[str, User]\n", "'users' held u32, .* and holds String"),
        (LOG, "    log: StableLog[bytes]\n", "'log' held String and holds Vec<u8> now"),
        (
            USERS,
            "    users: StableBTreeSet[nat32]\n",
            r"'users' was a StableBTreeMap\[.* and is a StableBTreeSet\[u32\]",
        ),
        (
            USERS,
            "    users: StableBTreeMap[nat32, User] = stable(9)\n",
            r"'users' lay in memory 0 .* 9 now: .*= stable\(0\)",
        ),
        (USERS + LOG, LOG + USERS, r"'log' lay in memory 1 and 2 .* 0 and 1 now: .*= stable\(\(1, 2\)\)"),
        (USERS, "", r"'log' lay in memory 1 and 2"),
        (
            USERS,
            "    people: StableBTreeMap[str, User]\n",
            r"'people' takes memory 0, where 'users' .*lies.*= stable\(4\)",
        ),
        (QUEUE, "    other: StableVec[nat64] = stable(3)\n", "'other' takes memory 3, where 'queue'"),
        ("name: str", "name: int", "'users' held"),
        ("name: str", "name: str\n    age: nat8", r"'users' held candid\(User\) .*age"),
    ],
)
@pytest.mark.parametrize("way", ["opening", "upgrade"])
def test_a_variable_that_has_changed_is_named(
    tmp_path: Path, write: Write, filled: Principal, old: str, new: str, words: str, way: str
) -> None:
    with Subnet(tmp_path / "state", changed_code="keep") as subnet:
        before = subnet._durable.directory.state_hash()
    assert old in VARIABLES
    shop = write(VARIABLES.replace(old, new))
    if way == "opening":
        with pytest.raises(StorageError, match=f"(?s)nothing was written: canister .*stable variable {words}"):
            Subnet(tmp_path / "state")
        with StateDirectory.open(tmp_path / "state", read_only=True) as directory:
            assert directory.state_hash() == before
    else:
        wanted = rejects(code=5, match=f"(?s)stable variable {words}")
        with Subnet(tmp_path / "state", changed_code="keep") as subnet, wanted:
            subnet.canister(filled).upgrade(shop.Shop)
    write(VARIABLES)
    with Subnet(tmp_path / "state") as subnet:
        assert subnet.canister(filled).actor().names() == ["Ada"]
        assert subnet.canister(filled).actor().lines() == ["begun"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (USERS, USERS + "    more: StableVec[nat64] = stable(77)\n"),
        (QUEUE, QUEUE + "    more: StableVec[nat64]\n"),
        (USERS, "    users: StableBTreeMap[nat32, User] = stable(0)\n"),
        (QUEUE, ""),
        (QUEUE, "    renamed: StableMinHeap[nat64]\n"),
        ("name: str", "name: str\n    age: nat8 | None = None"),
        ("name: str", "name: str | None"),
    ],
)
def test_what_an_upgrade_may_change(tmp_path: Path, write: Write, filled: Principal, old: str, new: str) -> None:
    write(VARIABLES.replace(old, new))
    with Subnet(tmp_path / "state") as subnet:
        assert subnet.canister(filled).actor().names() == ["Ada"]
        assert subnet.canister(filled).actor().lines() == ["begun"]


def test_an_option_that_would_hide_what_is_there(tmp_path: Path, write: Write) -> None:
    """Candid lets any option stand for any other, and reads null: as data that is a loss."""
    option = VARIABLES.replace("name: str", "name: str\n    age: nat8 | None = 5")
    shop = write(option)
    with Subnet(tmp_path / "state") as subnet:
        subnet.install(shop.Shop).actor().fill()
    write(option.replace("nat8 | None = 5", "str | None = None"))
    with pytest.raises(StorageError, match=r"'users' held candid\(User\).*age.*read as null"):
        Subnet(tmp_path / "state")


def test_a_new_variable_takes_nothing_that_is_there(tmp_path: Path, write: Write, filled: Principal) -> None:
    write(VARIABLES.replace(QUEUE, ""))
    Subnet(tmp_path / "state").close()
    write(VARIABLES.replace("queue", "again"))
    with pytest.raises(
        RejectError, match=r"'again' is new and there is something in memory 3.*stable\(4\).*adopt=True"
    ):
        Subnet(tmp_path / "state")
    write(VARIABLES.replace(QUEUE, "    again: StableVec[nat64] = stable(3, adopt=True)\n"))
    with pytest.raises(RejectError, match=r"'again' is no StableVec\[u64\] in memory 3: bad magic"):
        Subnet(tmp_path / "state")
    adopted = "    again: StableMinHeap[nat64] = stable(3, adopt=True)\n"
    look = "\n    @query\n    def first(self) -> nat64 | None:\n        return self.again.peek()\n"
    write(VARIABLES.replace(QUEUE, adopted) + look)
    with Subnet(tmp_path / "state") as subnet:
        assert subnet.canister(filled).actor().first() == 5


# -- migrations


def test_a_migration_takes_over_what_a_variable_was(tmp_path: Path, write: Write, filled: Principal) -> None:
    write(MOVED + MIGRATION + "\n    @post_upgrade\n    def after(self) -> None:\n        self.log.append('after')\n")
    for _ in range(2):  # once
        with Subnet(tmp_path / "state") as subnet:
            actor = subnet.canister(filled).actor()
            assert (actor.keys(), actor.names()) == (["1"], ["Ada"])
            assert actor.lines() == ["begun", "moved 1", "after"]
    write(MOVED + MIGRATION)  # left in the class, it is not due any more
    with Subnet(tmp_path / "state") as subnet:
        assert subnet.canister(filled).actor().lines() == ["begun", "moved 1", "after"]


def test_a_migration_of_several_variables_and_of_one_that_goes(tmp_path: Path, write: Write, filled: Principal) -> None:
    both = """
    @migration
    def both(self, users: StableBTreeMap[nat32, User], queue: StableMinHeap[nat64]) -> None:
        self.log.append(f"{len(users)} {queue.peek()}")

    @migration
    def another(self, users: StableBTreeMap[nat32, User], lines: StableLog[str]) -> None:
        self.log.append("never")
"""
    write(MOVED.replace("    queue: StableMinHeap[nat64] = stable(3)\n", "") + both)
    with Subnet(tmp_path / "state") as subnet:
        assert subnet.canister(filled).actor().lines() == ["begun", "1 5"]


def test_a_migration_for_another_type_is_none(tmp_path: Path, write: Write, filled: Principal) -> None:
    write(MOVED + MIGRATION.replace("users: StableBTreeMap[nat32", "users: StableBTreeMap[nat64"))
    with pytest.raises(StorageError, match="'users' held u32"):
        Subnet(tmp_path / "state")
    write(MOVED.replace("stable(4)", "stable(0)") + MIGRATION)
    with pytest.raises(StorageError, match=r"'users' takes memory 0, where 'users' .* lies"):
        Subnet(tmp_path / "state")


@pytest.mark.parametrize(
    ("ending", "words"), [("raise ValueError('no luck')", "ValueError: no luck"), ("trap('on purpose')", "on purpose")]
)
def test_a_migration_that_fails_leaves_everything(
    tmp_path: Path, write: Write, filled: Principal, ending: str, words: str
) -> None:
    with Subnet(tmp_path / "state") as subnet:
        before = subnet.canister(filled).stable.read(0, 65536)
        version = subnet.version
    write(MOVED + MIGRATION.replace('self.log.append(f"moved {len(users)}")', ending))
    with pytest.raises(RejectError, match=f"(?s)the upgrade of canister .*{words}") as error:
        Subnet(tmp_path / "state")
    assert any(frame.startswith("by_text at shop.py:") for frame in error.value.backtrace)
    write(VARIABLES)
    with Subnet(tmp_path / "state") as subnet:
        assert subnet.canister(filled).stable.read(0, 65536) == before
        assert subnet.canister(filled).actor().names() == ["Ada"]
        assert subnet.version == version + 1  # what it cost


def test_a_migration_that_is_interrupted_leaves_everything(tmp_path: Path, write: Write, filled: Principal) -> None:
    with Subnet(tmp_path / "state") as subnet:
        before = subnet._durable.directory.state_hash()
    write(MOVED + MIGRATION.replace('self.log.append(f"moved {len(users)}")', "raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt) as error:
        Subnet(tmp_path / "state")
    assert error.value.committed is False  # type: ignore[attr-defined]
    with StateDirectory.open(tmp_path / "state", read_only=True) as directory:
        assert directory.state_hash() == before
        assert directory.verify() == []
    write(MOVED + MIGRATION)
    with Subnet(tmp_path / "state") as subnet:
        assert subnet.canister(filled).actor().names() == ["Ada"]


def test_no_limit_of_instructions_ends_a_migration(tmp_path: Path, write: Write, filled: Principal) -> None:
    """Python is not metered; the cycles of an upgrade have to be there all the same."""
    write(MOVED + MIGRATION)
    config = SubnetConfig(max_instructions_per_install_code=1_000)
    with Subnet(tmp_path / "state", config=config) as subnet:
        assert subnet.canister(filled).actor().keys() == ["1"]


def test_an_upgrade_that_cannot_be_paid(tmp_path: Path, write: Write, filled: Principal) -> None:
    with Subnet(tmp_path / "state") as subnet:
        subnet._state.canisters[filled.raw_bytes].cycles = 1_000
        subnet.canister(filled).update_settings(freezing_threshold=0)
    write(MOVED + MIGRATION)
    with pytest.raises(RejectError, match="out of cycles") as error:
        Subnet(tmp_path / "state")
    assert error.value.error_code == "IC0207"
    with Subnet(tmp_path / "state", changed_code="keep") as subnet:
        subnet.canister(filled).add_cycles(10**15)
    with Subnet(tmp_path / "state") as subnet:
        assert subnet.canister(filled).actor().keys() == ["1"]


def test_a_migration_is_declared_right() -> None:
    with pytest.raises(TypeError, match="'users' is named and annotated as a stable variable"):

        @canister
        class Untyped:
            @migration
            def move(self, users: int) -> None: ...

    with pytest.raises(TypeError, match="a parameter for each variable"):

        @canister
        class Nothing:
            @migration
            def move(self) -> None: ...

    with pytest.raises(TypeError, match="no async def"):

        @canister
        class Calls:
            @migration
            async def move(self, users: StableCell[nat64]) -> None: ...
