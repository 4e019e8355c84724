"""Canisters whose code, a class of Python, is another one than when the state was left.

What an opener has of a class is its version of today. Canisters that ran another one are upgraded to it, each in a
transaction of its own, as `Canister.upgrade` does; what was declared is compared for all of them before the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

from perdure.canister import CanisterModule
from perdure.errors import MalformedError, RejectError, StorageError
from perdure.execution.lifecycle import InstallMode, InstallOptions
from perdure.ic.principal import Principal
from perdure.python.catalogue import AbsentModule, Catalogue
from perdure.subnet.residency import ResidentModule

if TYPE_CHECKING:
    from perdure.python.module import PythonModule  # not imported before a state has such a canister

__all__ = ["ChangedCode", "absent_code", "check_name", "check_takeover", "check_way", "take_up"]

ChangedCode = Literal["upgrade", "refuse", "keep"]
"""What becomes of a canister whose class has changed: see `Subnet`."""

_WAYS: Final = ("upgrade", "refuse", "keep")
_UPGRADE: Final = InstallOptions(InstallMode.UPGRADE)


class _Canister(Protocol):
    """What is asked here of a canister."""

    id: Principal

    @property
    def module(self) -> CanisterModule | None: ...

    def _install(self, options: InstallOptions, wasm: bytes, arg: bytes | None) -> None: ...


class _Subnet(Protocol):
    """What is asked here of a subnet."""

    @property
    def canisters(self) -> Sequence[_Canister]: ...


class _Changed(NamedTuple):
    canister: _Canister
    old: AbsentModule
    new: PythonModule

    @property
    def text(self) -> str:
        return f"canister {self.canister.id}, {self.old.name!r}"


def check_way(changed_code: str) -> None:
    """Raise `ValueError` unless it is a `ChangedCode`."""
    if changed_code not in _WAYS:
        raise ValueError(f"changed_code is 'upgrade', 'refuse' or 'keep', found {changed_code!r:.80}")


def absent_code(module: CanisterModule | None) -> AbsentModule | None:
    """The code of a canister, if it is not here."""
    code = module.code if isinstance(module, ResidentModule) else module
    return code if isinstance(code, AbsentModule) else None


def _changed(canisters: Iterable[_Canister], catalogue: Catalogue) -> Iterator[_Changed]:
    for canister in canisters:
        old = absent_code(canister.module)
        new = catalogue.current(old) if old is not None else None
        if old is not None and new is not None:
            yield _Changed(canister, old, new)


def take_up(canisters: Iterable[_Canister], catalogue: Catalogue, way: ChangedCode, path: str) -> None:
    """Give canisters the classes of today, or refuse.

    Raises:
        StorageError: they are not to be changed, or cannot go on with what is there; nothing has changed.
        RejectError: an upgrade was rejected; that canister is as it was, those before it are upgraded.
    """
    changed = list(_changed(canisters, catalogue))
    if not changed:
        return
    _check(changed, way, path)
    if way == "keep":
        return
    for one in changed:
        try:
            one.canister._install(_UPGRADE, one.new.wasm, None)
        except RejectError as error:
            raise RejectError(
                error.code,
                error.error_code,
                f"the upgrade of {one.text} to its changed code, at opening {path}, was rejected and the canister is "
                f"as it was; changed_code='keep' opens without it: {error.message}",
                error.backtrace,
            ) from error


def check_takeover(canister: _Canister, module: CanisterModule, catalogue: Catalogue, way: ChangedCode) -> None:
    """Refuse what `take_up` would refuse, once a canister has this code.

    Raises:
        StorageError: names the variables.
    """
    old = absent_code(module)
    new = catalogue.current(old) if old is not None else None
    if old is not None and new is not None:
        _check([_Changed(canister, old, new)], way, "snapshot")


def _check(changed: list[_Changed], way: ChangedCode, path: str) -> None:
    if way == "refuse":
        listed = "; ".join(one.text for one in changed)
        raise StorageError(
            f"code has changed and is not to be: {listed}. changed_code='upgrade' takes it up", path
        ).coded("code-changed")
    if way == "keep":
        return
    found = [f"{one.text}: {text}" for one in changed for text in _objections(one)]
    if found:
        raise StorageError(
            "an upgrade to changed code is refused, nothing was written: " + "\n".join(found), path
        ).coded("code-refused")


def _objections(one: _Changed) -> list[str]:
    try:
        return one.new.objections(one.old.declares)
    except MalformedError as error:
        return [str(error)]


def check_name(subnet: _Subnet, module: CanisterModule | None, but: bytes = b"") -> None:
    """Refuse to install a class where another one of its name is.

    Args:
        subnet: on which it is to be installed. Its canisters are not looked at for code that has no name.
        module: the class's.
        but: a canister that may have it.

    Raises:
        ValueError: a canister runs another class of this name.
    """
    if module is None or not module.name:
        return
    for canister in subnet.canisters:
        there = canister.module
        if there is None or there.name != module.name or canister.id.raw_bytes == but:
            continue
        if there.module_hash != module.module_hash:
            raise ValueError(
                f"two classes are called {module.name!r}: canister {canister.id} runs another one. If this is a new "
                "version, upgrade that canister first; if not, give it a name of its own, @canister(name=...)"
            )
