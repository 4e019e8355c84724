r"""The service of a canister: its methods, ready to encode arguments and decode results.

>>> service = load("service : {\n  // Says hello.\n  greet : (name : text) -> (text) query }")
>>> service.methods["greet"].signature
'greet : (name : text) -> (text) query'
>>> service.methods["greet"].encode(["Ada"]).hex()
'4449444c00017103416461'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Literal, final

from perdure.candid.codec import Codec
from perdure.candid.did import Loader, Program, parse, parse_types
from perdure.candid.types import Func, Method, Rec, Service, Type, Value, quote, resolve
from perdure.errors import MalformedError

__all__ = ["OWN", "ServiceMethod", "ServiceType", "from_program", "load"]

OWN: Final = "its "
"""How the source of what a module says of itself begins."""

Mode = Literal["update", "query", "composite_query", "oneway"]


@final
@dataclass(frozen=True, slots=True)
class ServiceMethod:
    """A method.

    Args:
        name: in Candid, which may be any text.
        func: its type.
        docs: the comment above it.
    """

    name: str
    func: Func
    docs: str
    _args: Codec = field(repr=False, compare=False)
    _results: Codec = field(repr=False, compare=False)

    @property
    def mode(self) -> Mode:
        """How it is called."""
        modes: tuple[Mode, ...] = ("query", "composite_query", "oneway")
        return next((mode for mode in modes if mode in self.func.modes), "update")

    @property
    def is_query(self) -> bool:
        """Whether it is called by a query."""
        return self.mode in ("query", "composite_query")

    @property
    def signature(self) -> str:
        """As in a ``.did`` file."""
        return f"{quote(self.name)} : {self.func.signature}"

    def encode(self, args: Sequence[Value]) -> bytes:
        """The message for a call; optional arguments at the end may be left out.

        Raises:
            ValueError: an argument that is not of its type.
        """
        return self._args.encode(args)

    def decode(self, reply: bytes) -> tuple[Value, ...]:
        """The results in a reply.

        Raises:
            MalformedError: a reply of another type.
        """
        return self._results.decode(reply)


@final
@dataclass(frozen=True, slots=True)
class ServiceType:
    """What a canister offers.

    Args:
        methods: by name.
        type: the same as a Candid type, for subtyping.
        init: types of the arguments of install and upgrade; ``None`` if the interface does not say.
        names: the type definitions.
        docs: the comment above the service.
        source: where it is from, in words, as far as that is known.
    """

    methods: Mapping[str, ServiceMethod]
    type: Service
    init: tuple[Type, ...] | None = None
    names: Mapping[str, Rec] = field(default_factory=dict)
    docs: str = ""
    source: str = field(default="", compare=False)

    def encode_init(self, args: Sequence[Value]) -> bytes:
        """The message for install or upgrade.

        Raises:
            ValueError: an argument that is not of its type, or the interface has no init arguments.
        """
        return Codec(self.init or ()).encode(args)


def _method(one: Method) -> ServiceMethod:
    func = resolve(one.type)
    if not isinstance(func, Func):
        raise MalformedError(f"method {one.name!r} of type {one.type}, expected a function")
    docs = one.docs or (one.type.docs if isinstance(one.type, Rec) else "")
    return ServiceMethod(one.name, func, docs, Codec(func.args), Codec(func.results))


def from_program(program: Program, init: tuple[Type, ...] | None = None) -> ServiceType:
    """The service of a parsed ``.did`` file.

    Raises:
        MalformedError: it has none.
    """
    if program.service is None:
        raise MalformedError("the interface has no service")
    methods = {one.name: _method(one) for one in program.service.methods}
    known = program.init if init is None else init
    return ServiceType(
        MappingProxyType(methods), program.service, known, MappingProxyType(dict(program.types)), program.docs
    )


def load(
    text: str | bytes, *, args: str | bytes | None = None, loader: Loader | None = None, file: str = ""
) -> ServiceType:
    """The service that an interface describes.

    Args:
        text: of the ``.did`` file, or of a module's ``candid:service`` section.
        args: of its ``candid:args`` section, the types of the init arguments.
        loader: for imports; see ``did.parse``.
        file: its name, for the loader.

    Raises:
        MalformedError: not Candid, or without a service.
    """
    interface, init = _decoded(text), None if args is None else _decoded(args)
    if loader is None:
        return _load(interface, init)
    return _service(parse(interface, loader, file), init)


@lru_cache(maxsize=64)
def _load(interface: str, init: str | None) -> ServiceType:
    """Kept, as each test may ask for the service of one module anew, and its codecs are compiled only once."""
    return _service(parse(interface), init)


def _service(program: Program, init: str | None) -> ServiceType:
    return from_program(program, None if init is None else parse_types(init, program.types))


def _decoded(text: str | bytes) -> str:
    try:
        return text if isinstance(text, str) else text.decode()
    except UnicodeDecodeError as error:
        raise MalformedError("the interface is not UTF-8", error.start) from error
