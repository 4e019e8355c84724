"""The upgrade keeps what is there. NEW_WASM names the new module; build/visits.wasm by default."""

import os
import sys
from pathlib import Path

import pytest

from perdure import Subnet
from perdure.upgrade import check

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from fill import fill  # noqa: E402

NEW = Path(os.environ.get("NEW_WASM", HERE / "build" / "visits.wasm"))


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    directory = tmp_path_factory.mktemp("of") / "snapshot"
    fill(directory)
    return directory


def test_the_upgrade_is_safe(snapshot):
    report = check(str(snapshot), str(NEW))
    assert report.verdict == "safe", report.findings


def test_the_new_version_has_the_old_data(snapshot):
    with Subnet.open(snapshot) as subnet:
        (canister,) = subnet.canisters
        canister.upgrade(NEW, wasm_memory_persistence="keep")
        visits = canister.actor()
        assert (visits.total(), visits.last(), visits.greet("ada")) == (3, "carol", "welcome, ada")


def test_going_back_is_not_safe(snapshot, tmp_path):
    with Subnet.open(snapshot) as subnet:
        (canister,) = subnet.canisters
        canister.upgrade(NEW, wasm_memory_persistence="keep")
        canister.write_snapshot(tmp_path / "new")
    assert check(str(tmp_path / "new"), str(HERE / "deployed" / "visits.wasm.gz")).verdict == "breaking"
