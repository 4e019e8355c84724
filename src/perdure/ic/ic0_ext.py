"""What goes beyond the network's rules: extensions by name, and the functions of ``ic0_ext`` that they bring.

None is on unless a subnet asks for it. The functions are rows as those of `perdure.ic.ic0`; the Internet Computer has
none of them, so a module that imports one installs here alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from perdure.errors import ExtensionError
from perdure.ic.ic0 import START_CONTEXTS, ByteCharge, SystemFunction

__all__ = [
    "DIRECT",
    "EXTENSIONS",
    "EXTENSION_FUNCTIONS",
    "HOSTED",
    "MODULE",
    "DirectAccess",
    "checked_extensions",
    "has_memories",
    "how_to_allow",
]

MODULE: Final = "ic0_ext"
"""Where the functions are imported from."""

EXTENSIONS: Final[Mapping[str, str]] = {
    "direct": "loads and stores between stable memory and the Wasm stack",
    "memories": "memories that are imported by name, each with a lifetime",
    "memories=index": "memory 1 of a module as stable memory",
    "memories=declared": "memories that a module declares beside its heap, as more of it",
    "schema": "upgrades are refused to modules that declare other stable memory than there is",
}
"""What each extension brings, by the name that it is asked for by."""


def checked_extensions(names: Iterable[str], kept: Iterable[str] = ()) -> tuple[str, ...]:
    """Names of extensions and those that are on already, sorted, each once.

    Raises:
        ExtensionError: there is none of a name, or two of them are two answers to one question.
    """
    found = {names} if isinstance(names, str) else set(names)
    if unknown := found - EXTENSIONS.keys():
        name = min(unknown)
        raise ExtensionError(f"no extension is named {name!r:.80}: there are {', '.join(EXTENSIONS)}")
    found |= set(kept)
    policies = sorted(name for name in found if name.startswith("memories"))
    if len(policies) > 1:
        raise ExtensionError(f"extensions {' and '.join(policies)}: modules have their memories by one policy")
    return tuple(sorted(found))


def has_memories(extensions: Iterable[str]) -> bool:
    """Whether canisters may have memories that the network does not know, by whatever policy."""
    return any(name.startswith("memories") for name in extensions)


def how_to_allow(extension: str) -> str:
    """Who meets what belongs to an extension that is off is told this."""
    return (
        f"it belongs to the extension {extension!r}, which the Internet Computer does not have: "
        f"Subnet(extensions=({extension!r},)), perdure run --extension {extension} and perdure canister install "
        f"--extension {extension} turn it on"
    )


class DirectAccess(NamedTuple):
    """A load or store of stable memory as a function: ``i64.load32_u`` is ``stable64_load32_u_i64``."""

    instruction: str
    """By its name in the text format, of the memory that it reaches."""
    value_type: str
    size_bytes: int
    is_store: bool

    @property
    def name(self) -> str:
        """Of the function."""
        return f"stable64_{self.instruction.partition('.')[2]}_{self.value_type}"


def _direct(instruction: str) -> DirectAccess:
    value_type, _, operation = instruction.partition(".")
    bits = operation.removeprefix("load").removeprefix("store").partition("_")[0]
    return DirectAccess(instruction, value_type, int(bits or value_type[1:]) // 8, operation.startswith("store"))


_INSTRUCTIONS = """
i32.load i32.load8_s i32.load8_u i32.load16_s i32.load16_u
i64.load i64.load8_s i64.load8_u i64.load16_s i64.load16_u i64.load32_s i64.load32_u f32.load f64.load
i32.store i32.store8 i32.store16 i64.store i64.store8 i64.store16 i64.store32 f32.store f64.store
"""

DIRECT: Final[Mapping[str, DirectAccess]] = {access.name: access for access in map(_direct, _INSTRUCTIONS.split())}
"""The functions of the extension ``direct``, by name."""


def _row(access: DirectAccess) -> SystemFunction:
    return SystemFunction(
        name=access.name,
        parameters=("i64", access.value_type) if access.is_store else ("i64",),
        result=None if access.is_store else access.value_type,
        contexts=START_CONTEXTS,
        instructions=0,
        byte_charges=(),
        only_32_bit=False,
        specified=False,
    )


HOSTED: Final[Mapping[str, SystemFunction]] = {
    "call_memory_add": SystemFunction(
        name="call_memory_add",
        parameters=("I", "I", "I", "I"),
        result=None,
        contexts=frozenset({"U", "Ry", "Rt", "T"}),
        instructions=500,
        byte_charges=(ByteCharge(1, "copy"), ByteCharge(3, "copy")),
        only_32_bit=False,
        specified=False,
    )
}
"""The functions that the host carries out, by name: all of the extension ``memories``."""

EXTENSION_FUNCTIONS: Final[Mapping[str, tuple[str, SystemFunction]]] = {
    **{name: ("direct", _row(access)) for name, access in DIRECT.items()},
    **{name: ("memories", row) for name, row in HOSTED.items()},
}
"""Extension and row of each function of ``ic0_ext``, by name."""
