"""Canisters as Python objects: methods by their Candid names, with signatures, help and values checked by type."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol, TypeVar, final

from perdure.candid.into import into
from perdure.candid.service import OWN, ServiceMethod, ServiceType
from perdure.candid.types import Type, Value, is_nullable
from perdure.ic.principal import ANONYMOUS, Principal
from perdure.subnet import given
from perdure.units import meant

__all__ = ["Actor", "ActorMethod", "Callee"]

T = TypeVar("T")

_ORDER: Final = ("update", "query", "composite_query", "oneway")


class Callee(Protocol):
    """What an actor calls: a canister, in raw bytes."""

    def update(self, method: str, arg: bytes = b"", *, sender: Principal = ..., cycles: int = ...) -> bytes:
        """The reply to an update; raises RejectError."""

    def query(self, method: str, arg: bytes = b"", *, sender: Principal = ...) -> bytes:
        """The reply to a query; raises RejectError."""


@final
class _Note:
    """A Candid type as the annotation of a parameter, printed bare by help()."""

    __slots__ = ("type",)

    def __init__(self, type_: Type) -> None:
        self.type = type_

    def __repr__(self) -> str:
        return str(self.type)


def _parameter_name(given: str | None, index: int, taken: set[str]) -> str:
    name = given if given and given.isidentifier() else f"arg{index}"
    if keyword.iskeyword(name):
        name += "_"
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _signature(method: ServiceMethod) -> inspect.Signature:
    """The signature in Python; optional arguments at the end have the default None."""
    func = method.func
    names = (*func.arg_names, *(None for _ in func.args))
    taken: set[str] = set()
    required = max((index for index, one in enumerate(func.args, 1) if not is_nullable(one)), default=0)
    parameters = [
        inspect.Parameter(
            _parameter_name(name, index, taken),
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty if index < required else None,
            annotation=_Note(one),
        )
        for index, (one, name) in enumerate(zip(func.args, names, strict=False))
    ]
    results = ", ".join(map(str, func.results))
    returns = _Note(func.results[0]) if len(func.results) == 1 else (f"({results})" if results else None)
    return inspect.Signature(parameters, return_annotation=returns)


@final
class ActorMethod:
    """A method of a canister, to be called.

    Returns None, the result, or a tuple of results, by how many there are. Arguments may be given by name. With
    ``actor.users.returning(list[User])()``, results come as the caller's own classes.
    """

    def __init__(self, actor: Actor, method: ServiceMethod) -> None:
        self._actor = actor
        self._method = method
        self.__name__ = method.name
        self.__qualname__ = method.name
        self.__signature__ = _signature(method)
        self.__doc__ = f"{method.docs}\n\n{method.signature}" if method.docs else method.signature

    def __call__(self, *args: object, **kwargs: object) -> Value:
        """Call the method; raises ValueError or TypeError for wrong arguments, RejectError if it is rejected."""
        if kwargs or len(args) != len(self._method.func.args):
            try:
                bound = self.__signature__.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{self._method.signature}: {error}") from None
            bound.apply_defaults()
            args = bound.args
        return self._actor.__call_method__(self._method, args)

    def returning(self, target: type[T]) -> Callable[..., T]:
        """The method with its result made `target`: a dataclass, ``list[User]``, ...; see ``candid.into``.

        A call raises ValueError if the result does not fit.
        """

        def call(*args: object, **kwargs: object) -> T:
            return into(target, self(*args, **kwargs))

        return call

    async def later(self, *args: object, **kwargs: object) -> Value:
        """The call as something to await: ``await actor.greet.later("Ada")``.

        It runs in a thread: the event loop goes on, and so do calls of other canisters. Who stops waiting stops
        nothing: a message runs to its end.
        """
        from asyncio import to_thread

        return await to_thread(self, *args, **kwargs)

    def text(self, *args: object, **kwargs: object) -> str:
        """Call the method; its reply as Candid text, with the names and types that the interface has."""
        from perdure.candid import values_to_text

        found, types = self(*args, **kwargs), self._method.func.results
        values = (found,) if len(types) == 1 else found or ()
        return values_to_text(types, values)

    def __repr__(self) -> str:
        return f"<{self._method.mode} {self._method.signature}>"


@final
class Actor:
    """A canister as seen by one sender: ``actor.greet("Ada")``.

    A method whose name is no Python identifier is ``actor["its name"]``, and so is one that is called `as_`. Everything
    else about the canister is on the canister, so no method name can clash.

    Args:
        canister: answers raw calls.
        service: its methods.
        sender: of every call.
        cycles: that go with every update.
    """

    __slots__ = ("__weakref__", "_canister", "_cycles", "_methods", "_sender", "_service")

    def __init__(
        self, canister: Callee, service: ServiceType, sender: Principal = ANONYMOUS, *, cycles: int = 0
    ) -> None:
        self._canister = canister
        self._service = service
        self._sender = sender
        self._cycles = cycles
        # Made when first asked for: a signature takes longer to make than most calls take.
        self._methods: dict[str, ActorMethod] = {}

    def as_(self, sender: Principal) -> Actor:
        """The same as another sender: ``actor.as_(alice).greet("Ada")``."""
        sender = given.principal(sender, "the sender")
        return Actor(self._canister, self._service, sender, cycles=self._cycles)

    def __getattr__(self, name: str) -> ActorMethod:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._lookup(name, AttributeError)

    def __getitem__(self, name: str) -> ActorMethod:
        return self._lookup(name, KeyError)

    def _lookup(self, name: str, error: type[Exception]) -> ActorMethod:
        found = self._methods.get(name)
        if found is not None:
            return found
        known = self._service.methods
        if name not in known:
            raise error(f"no method {name!r}, {meant(name, known)}")
        return self._methods.setdefault(name, ActorMethod(self, known[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._service.methods)

    def __dir__(self) -> list[str]:
        return sorted(name for name in self._service.methods if name.isidentifier())

    def __call_method__(self, method: ServiceMethod, args: Sequence[object]) -> Value:
        """Call `method`; for `ActorMethod`. A dunder, so that no Candid name hides it."""
        arg = method.encode(args)
        if method.is_query:
            reply = self._canister.query(method.name, arg, sender=self._sender)
        elif self._cycles:
            reply = self._canister.update(method.name, arg, sender=self._sender, cycles=self._cycles)
        else:
            reply = self._canister.update(method.name, arg, sender=self._sender)
        if method.mode == "oneway":
            return None
        results = method.decode(reply)
        if len(results) == 1:
            return results[0]
        return results or None

    def __repr__(self) -> str:
        lines = [f"<actor of {self._called()} as {self._sender}{self._source()}"]
        ordered = sorted(self._service.methods.values(), key=lambda one: (_ORDER.index(one.mode), one.name))
        return "\n  ".join([*lines, *(one.signature for one in ordered)]) + ">"

    def _called(self) -> str:
        """The canister, for short."""
        return str(getattr(self._canister, "id", repr(self._canister)))

    def _source(self) -> str:
        """What says the methods, where it is not the module."""
        source = self._service.source
        return f", by {source}" if source and not source.startswith(OWN) else ""

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(
            f"<tr><td>{one.mode}</td><td><code>{escape(one.signature)}</code></td><td>{escape(one.docs)}</td></tr>"
            for one in sorted(self._service.methods.values(), key=lambda one: (_ORDER.index(one.mode), one.name))
        )
        title = escape(f"{self._called()} as {self._sender}{self._source()}")
        return f"<table><caption>{title}</caption><tr><th>mode</th><th>method</th><th>about</th></tr>{rows}</table>"
