"""Canisters of a state directory as sources: the pieces of their images are mapped, and known to be shared."""

from pathlib import Path

import pytest

from perdure.candid import field_hash
from perdure.canister import PageDelta
from perdure.errors import StorageError
from perdure.ic.principal import Principal
from perdure.inspection.diff import diff
from perdure.inspection.find import find
from perdure.inspection.open import open_source
from perdure.inspection.pages import changed_pages
from perdure.memory import WASM_PAGE_BYTES, BytesMemory
from perdure.stable import StableBTreeMap, types
from perdure.stable.region import Region
from perdure.storage import CanisterChange, Message, StateDirectory

CANISTER = Principal.from_index(5)


def commit(directory: StateDirectory, data: bytes, *pages: int) -> None:
    """Commit whole pages of 4 KiB of `data`; all of them if none is named."""
    runs = [(4096 * page, data[4096 * page : 4096 * page + 4096]) for page in pages] or [(0, data)]
    change = CanisterChange({"stable": PageDelta(len(data) // WASM_PAGE_BYTES, runs)})
    directory.commit(Message(kind="update"), {CANISTER.raw_bytes: change}, apply=True)


@pytest.fixture
def state(tmp_path):
    """A state of two commits, the second not yet in a checkpoint."""
    memory = BytesMemory()
    mapping = StableBTreeMap.create(memory, types.u64, types.text)
    mapping.update((number, f"number {number}") for number in range(1000))
    before = bytes(memory.data)
    path = tmp_path / "state"
    with StateDirectory.open(path) as directory:
        commit(directory, before)
        directory.checkpoint()
        mapping[3] = "three"
        after = bytes(memory.data)
        commit(directory, after, *(page for page in range(len(after) // 4096) if differs(before, after, page)))
    return path, before, after


def differs(one: bytes, other: bytes, page: int) -> bool:
    return one[4096 * page : 4096 * page + 4096] != other[4096 * page : 4096 * page + 4096]


def test_the_last_commit_is_seen(state):
    path, _, after = state
    with open_source(f"{path}:{CANISTER}") as source:
        assert source.memory.read(0, len(after)) == after
        (found,) = find(source).structures
        assert (found.kind, found.entries) == ("btreemap", 1000)


def test_commits_since_the_checkpoint_are_seen(state):
    """They are in the log only, so pages of this look alone cover the file; the layers must not claim it for them."""
    path, _, after = state
    with StateDirectory.open(path) as directory, open_source(f"{path}:{CANISTER}") as one:
        changed = after[:4096] + bytes(4096) + after[8192:]
        commit(directory, changed, 1)
        with open_source(f"{path}:{CANISTER}") as other:
            assert other.memory.read(0, len(changed)) == changed
            ranges = [(0, len(after))]
            regions = Region.whole(one.memory), Region.whole(other.memory)
            pages = changed_pages(*regions, ranges, ranges, one.layers, other.layers)
            assert pages.ranges.tolist() == [[1, 2]]


def test_two_looks_at_one_state_share_their_layers(state):
    path, _, _ = state
    with open_source(f"{path}:{CANISTER}") as one, open_source(f"{path}:{CANISTER}") as other:
        (found,) = diff(find(one), find(other))
        assert found.status == "same"
        assert found.pages[1] < found.pages[0]


def test_against_a_dump_from_before(state, tmp_path):
    path, before, _ = state
    dump = tmp_path / "before.bin"
    dump.write_bytes(before)
    with open_source(str(dump)) as one, open_source(f"{path}:{CANISTER}") as other:
        (found,) = diff(find(one), find(other))
        assert [(change.key, change.after) for change in found.changes] == [((3).to_bytes(8, "big"), b"three")]


def test_a_canister_that_is_not_there(state):
    path, _, _ = state
    for name in (str(Principal.from_index(6)), "backend"):
        with pytest.raises(StorageError, match=str(CANISTER)):
            open_source(f"{path}:{name}")


def test_the_module_of_the_canister_names_fields(state):
    path, _, _ = state
    module = (Path(__file__).parents[1] / "canisters" / "modules" / "ledger.wasm.gz").read_bytes()
    with StateDirectory.open(path) as directory:
        change = CanisterChange(module_hash=directory.put_blob(module))
        directory.commit(Message(kind="update"), {CANISTER.raw_bytes: change}, apply=True)
    with open_source(f"{path}:{CANISTER}") as source:
        assert source.labels[field_hash("balance")] == "balance"


def test_a_canister_without_a_module_names_none(state):
    path, _, _ = state
    with open_source(f"{path}:{CANISTER}") as source:
        assert dict(source.labels) == {}
