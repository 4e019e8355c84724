"""Interfaces from files, with what they import."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure import Subnet
from perdure.errors import MalformedError

MODULE = Path(__file__).parents[1] / "canisters/modules/motoko_eop_v1.wasm.gz"


@pytest.fixture
def canister():
    return Subnet().install(MODULE)


def test_imports_are_read_relative_to_the_file_that_imports(canister, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "main.did").write_text(
        'import "lib/types.did"; import service "lib/base.did"; service : { count : () -> (N) query }'
    )
    (tmp_path / "lib/types.did").write_text('import "more.did"; type N = M')
    (tmp_path / "lib/more.did").write_text('import "../main.did"; type M = nat')
    (tmp_path / "lib/base.did").write_text("service : { inc : () -> (nat) }")
    service = canister.service(tmp_path / "main.did")
    assert sorted(service.methods) == ["count", "inc"]
    assert canister.actor(candid=str(tmp_path / "main.did")).inc() == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('import "missing.did"; service : {}', "column 8: cannot import 'missing.did': .*No such file"),
        ('import "."; service : {}', "cannot import '.': .* is not a file of at most 8388608 bytes"),
        ('import "binary.did"; service : {}', "binary.did is not UTF-8"),
        ('import "huge.did"; service : {}', "cannot import 'huge.did': .* is not a file of at most 8388608 bytes"),
        ('import "/dev/zero"; service : {}', "cannot import '/dev/zero': /dev/zero is not a file of"),
    ],
)
def test_imports_that_cannot_be_read(canister, tmp_path, text, message):
    (tmp_path / "main.did").write_text(text)
    (tmp_path / "binary.did").write_bytes(b"\xff")
    with (tmp_path / "huge.did").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(MalformedError, match=message):
        canister.service(tmp_path / "main.did")


def test_a_text_has_nothing_to_import_from(canister):
    with pytest.raises(MalformedError, match="give the interface by its path"):
        canister.service('import "a.did"; service : {}')
