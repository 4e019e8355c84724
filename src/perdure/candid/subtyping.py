"""Subtyping, and what a service upgrade breaks.

With Candid's rule that every type is a subtype of every option, ``a <: b`` is a plain conjunction: no rule is ever
tried and taken back. So a pair is checked by a worklist with a set of pairs already seen, which is also the
coinductive reading of recursive types. No recursion, and at most one visit for each pair of nodes.

Spec: "Upgrading and Subtyping", "Rules".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

from perdure.candid.deep import Meter
from perdure.candid.types import (
    Empty,
    Field,
    Func,
    Int,
    Nat,
    Null,
    Opt,
    Prim,
    PrincipalType,
    Record,
    Reserved,
    Service,
    Type,
    Variant,
    Vec,
    brief,
    is_nullable,
    resolve,
)

__all__ = ["Incompatibility", "equal_types", "explain", "service_subtype", "subtype"]

_PAIR_STEPS = 16


@final
@dataclass(frozen=True, slots=True)
class Incompatibility:
    """One place where a type is not a subtype of another.

    Args:
        path: from the outside in: ``('method "transfer"', "argument 1 (to)", "field memo")``.
        message: what is wrong there.
        remedy: what would make it right.
        severity: ``"error"`` breaks callers; ``"warning"``: they read null where there is a value of a changed type.
    """

    path: tuple[str, ...]
    message: str
    remedy: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        place = " > ".join(self.path)
        return f"{place + ': ' if place else ''}{self.message}; {self.remedy}"


@final
@dataclass(frozen=True, slots=True)
class _Pair:
    """A question, ``sub <: sup``, and where it came up.

    Args:
        inbound: whether callers provide values of `sub` (an argument), rather than the service (a result).
        lenient: within an option, where a "no" only makes nulls.
    """

    sub: Type
    sup: Type
    path: tuple[str, ...] = ()
    inbound: bool = False
    lenient: bool = False

    def at(self, sub: Type, sup: Type, *path: str) -> _Pair:
        return _Pair(sub, sup, self.path + path, self.inbound, self.lenient)


_Step: TypeAlias = "_Pair | tuple[str, str]"


def subtype(sub: Type, sup: Type, meter: Meter | None = None) -> bool:
    """Whether ``sub <: sup``; each pair looked at is charged to `meter`.

    Raises:
        MalformedError: the meter ran out.
    """
    seen: set[tuple[int, int]] = set()
    pending: list[tuple[Type, Type]] = [(sub, sup)]
    while pending:
        a, b = (resolve(one) for one in pending.pop())
        if (id(a), id(b)) in seen:
            continue
        seen.add((id(a), id(b)))
        if isinstance(b, Opt):
            continue
        for step in _steps(_Pair(a, b)):
            if not isinstance(step, _Pair):
                return False
            if meter is not None:
                meter.charge(_PAIR_STEPS)
            pending.append((step.sub, step.sup))
    return True


def explain(sub: Type, sup: Type) -> list[Incompatibility]:
    """Every reason why `sub` is not a subtype of `sup`, and every place where an option hides that; [] if none.

    The wording is that of an upgrade: `sub` is the new type, `sup` the old one.
    """
    found: list[Incompatibility] = []
    seen: set[tuple[int, int, bool, bool]] = set()
    pending = [_Pair(sub, sup)]
    while pending:
        pair = pending.pop()
        a, b = resolve(pair.sub), resolve(pair.sup)
        key = id(a), id(b), pair.inbound, pair.lenient
        if key in seen:
            continue
        seen.add(key)
        steps = list(_steps(_Pair(a, b, pair.path, pair.inbound, pair.lenient)))
        pending.extend(reversed([step for step in steps if isinstance(step, _Pair)]))
        severity: Literal["error", "warning"] = "warning" if pair.lenient else "error"
        reasons = [step for step in steps if not isinstance(step, _Pair)]
        found.extend(Incompatibility(pair.path, message, remedy, severity) for message, remedy in reasons)
    return found


def service_subtype(new: Type, old: Type) -> list[Incompatibility]:
    """What breaks for callers that know `old` when the service becomes `new`; [] if the upgrade is safe.

    Errors break calls. Warnings mark fields and cases that a party will read as null although there is a value.
    """
    return sorted(explain(new, old), key=lambda one: one.severity)


def equal_types(a: Type, b: Type) -> bool:
    """Whether two types are the same once names are unrolled. Names of fields do not count, their ids do."""
    seen: set[tuple[int, int]] = set()
    pending: list[tuple[Type, Type]] = [(a, b)]
    while pending:
        x, y = (resolve(one) for one in pending.pop())
        if x is y or (id(x), id(y)) in seen:
            continue
        seen.add((id(x), id(y)))
        inner = _same_head(x, y)
        if inner is None:
            return False
        pending.extend(inner)
    return True


def _same_head(x: Type, y: Type) -> list[tuple[Type, Type]] | None:
    match x, y:
        case (Opt(a), Opt(b)) | (Vec(a), Vec(b)):
            return [(a, b)]
        case (Record(a), Record(b)) | (Variant(a), Variant(b)) if [one.id for one in a] == [one.id for one in b]:
            return [(one.type, other.type) for one, other in zip(a, b, strict=True)]
        case Func(), Func() if x.modes == y.modes and (len(x.args), len(x.results)) == (len(y.args), len(y.results)):
            return list(zip(x.args + x.results, y.args + y.results, strict=True))
        case Service(a), Service(b) if [one.name for one in a] == [one.name for one in b]:
            return [(one.type, other.type) for one, other in zip(a, b, strict=True)]
        case Prim(), Prim() if x == y:
            return []
    return None


def _steps(pair: _Pair) -> Iterator[_Step]:
    """The questions that decide a pair of resolved types, or a message and remedy where the answer is no."""
    sub, sup = pair.sub, pair.sup
    if sup is Reserved or sub is Empty or (sub == sup and isinstance(sub, Prim)):
        return
    match sub, sup:
        case _, Opt(content):
            if sub is not Null and sub is not Reserved:
                inner = sub.content if isinstance(sub, Opt) else sub
                yield _Pair(inner, content, pair.path, pair.inbound, lenient=True)
        case Vec(element), Vec(wanted):
            yield pair.at(element, wanted, "element")
        case Record(), Record():
            yield from _record_steps(pair, sub.fields, sup.fields)
        case Variant(), Variant():
            yield from _variant_steps(pair, sub.fields, sup.fields)
        case Func(), Func():
            yield from _func_steps(pair, sub, sup)
        case Service(), Service():
            yield from _service_steps(pair, sub, sup)
        case _:
            if not ((sub is Nat and sup is Int) or (isinstance(sub, Service) and sup is PrincipalType)):
                yield _changed(pair)


def _changed(pair: _Pair) -> tuple[str, str]:
    old, new = (pair.sub, pair.sup) if pair.inbound else (pair.sup, pair.sub)
    message = f"{_short(old)} became {_short(new)}"
    if pair.lenient:
        return message, "values are read as null; add a field or case of another name instead"
    return message, "keep the old type, or add an optional field or a method of another name"


def _short(type_: Type) -> str:
    text = brief(type_, 3)
    return text if len(text) <= 120 else text[:117] + "..."


def _name(one: Field) -> str:
    return str(one.id) if one.name is None else one.name


def _record_steps(pair: _Pair, fields: tuple[Field, ...], wanted: tuple[Field, ...]) -> Iterator[_Step]:
    have = {one.id: one for one in fields}
    for one in wanted:
        found = have.get(one.id)
        if found is not None:
            yield pair.at(found.type, one.type, f"field {_name(one)}")
        elif not is_nullable(one.type):
            if pair.inbound:
                message = f"field {_name(one)} : {_short(one.type)} is needed now, and old callers do not send it"
                yield message, f"make it optional: {_name(one)} : opt {_short(one.type)}"
            else:
                message = f"field {_name(one)} : {_short(one.type)} is gone, and old callers need it"
                yield message, "keep it; an optional field may go"


def _variant_steps(pair: _Pair, fields: tuple[Field, ...], wanted: tuple[Field, ...]) -> Iterator[_Step]:
    have = {one.id: one for one in wanted}
    for one in fields:
        found = have.get(one.id)
        if found is not None:
            yield pair.at(one.type, found.type, f"case {_name(one)}")
        elif pair.inbound:
            yield f"case {_name(one)} is gone, and old callers may send it", "keep the case"
        else:
            message = f"case {_name(one)} is new, and old callers do not know it"
            yield message, "return it as `opt variant`, or from a new method"


def _func_steps(pair: _Pair, sub: Func, sup: Func) -> Iterator[_Step]:
    if sub.modes != sup.modes:
        old, new = (" ".join(sorted(one.modes)) or "update" for one in (sup, sub))
        yield f"{old} became {new}", "keep the mode, or add a method of another name"
    inbound = not pair.inbound
    yield from _list_steps(pair, (sup.args, sub.args), sub.arg_names, "argument", inbound)
    yield from _list_steps(pair, (sub.results, sup.results), sup.result_names, "result", pair.inbound)


def _list_steps(
    pair: _Pair,
    lists: tuple[tuple[Type, ...], tuple[Type, ...]],
    names: tuple[str | None, ...],
    what: str,
    inbound: bool,
) -> Iterator[_Step]:
    """Arguments and results compare as records of fields 0, 1, 2, ... do."""
    subs, sups = lists
    for index, sup in enumerate(sups):
        named = names[index] if index < len(names) else None
        label = f"{what} {index + 1}" + (f" ({named})" if named else "")
        if index < len(subs):
            yield _Pair(subs[index], sup, (*pair.path, label), inbound, pair.lenient)
        elif not is_nullable(sup) and inbound:
            yield f"{label} : {_short(sup)} is needed now, and old callers do not send it", "make it optional"
        elif not is_nullable(sup):
            yield f"{label} : {_short(sup)} is gone, and old callers need it", "keep it"


def _service_steps(pair: _Pair, sub: Service, sup: Service) -> Iterator[_Step]:
    have = {one.name: one for one in sub.methods}
    for one in sup.methods:
        found = have.get(one.name)
        if found is None:
            yield f'method "{one.name}" is gone', "keep it, even if it only rejects, until nobody calls it"
        else:
            yield pair.at(found.type, one.type, f'method "{one.name}"')
