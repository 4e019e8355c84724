"""What two modules say of themselves: exports, Candid, Motoko's stable types, schemas."""

from __future__ import annotations

from collections.abc import Iterator

from perdure.candid import service_subtype
from perdure.candid.service import ServiceType
from perdure.errors import MalformedError, PerdureError
from perdure.subnet.interface import has_interface
from perdure.upgrade.finding import Finding, Severity
from perdure.upgrade.rehearsal import Rehearsal
from perdure.upgrade.version import is_private
from perdure.values.compatibility import compare_schemas
from perdure.values.motoko_types import compare_stable_types, parse_stable_types
from perdure.values.schema import Schema

__all__ = ["MODULE_CHECKS", "candid", "declarations", "exports", "schemas", "services", "stable_types"]

_HOOKS = ("canister_heartbeat", "canister_global_timer", "canister_inspect_message", "canister_on_low_wasm_memory")


def exports(found: Rehearsal) -> Iterator[Finding]:
    """Methods that are gone or of another kind, where no interface says it; hooks that are gone."""
    old, new = found.old, found.new
    if new is None:
        return
    has_interfaces = old.service is not None and new.service is not None
    for name, kind in old.methods.items():
        after = new.methods.get(name)
        is_declared = has_interfaces and old.signature(name) is not None
        if after is None and not is_declared and not is_private(name):
            yield Finding(
                "method-removed",
                "breaking",
                f"method {name} is gone",
                name,
                kind,
                "nothing",
                "whoever calls it is rejected from then on",
                "keep it, even if it only rejects, until nobody calls it",
            )
        elif after is not None and after != kind and not is_declared:
            yield Finding(
                "method-kind",
                "warning" if kind == "update" and after == "query" else "breaking",
                f"method {name} became {_an(after)}",
                name,
                kind,
                after,
                "callers ask for it in another way",
                "keep the kind, or add a method of another name",
            )
    for name in _HOOKS:
        if old.exports(name) and not new.exports(name):
            yield Finding(
                "hook-removed",
                "warning",
                f"{name} is gone",
                name,
                "exported",
                "not exported",
                "what it did is not done any more",
                "make sure that this is meant",
            )


def _an(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind.replace('_', ' ')}"


def candid(found: Rehearsal) -> Iterator[Finding]:
    """Whether the new service serves the callers of the old one."""
    old, new = found.old, found.new
    if new is None or old.service is None:
        return
    if new.service is None:
        is_bad = has_interface(new.module)
        yield Finding(
            "candid-missing",
            "not certain" if is_bad else "warning",
            "the new module's interface cannot be read"
            if is_bad
            else "the new module does not say its interface any more",
            "candid:service",
            "an interface",
            "none",
            "nobody can check whether old callers are served",
            "embed it, or pass it",
        )
        return
    yield from services(old.service, new.service)
    for name in old.service.methods:
        if name in old.methods and name not in new.methods and name in new.service.methods:
            yield Finding(
                "candid-untrue",
                "breaking",
                f"method {name} is declared and not exported",
                name,
                "exported",
                "declared only",
                "calls of it are rejected",
                "export it",
            )


def services(old: ServiceType, new: ServiceType) -> Iterator[Finding]:
    """Whether a service serves the callers of another one."""
    for one in service_subtype(new.type, old.type):
        yield Finding(
            "candid",
            "breaking" if one.severity == "error" else "warning",
            one.message,
            " > ".join(one.path),
            why="callers that know the old interface " + ("fail" if one.severity == "error" else "read null there"),
            remedy=one.remedy,
        )


def stable_types(found: Rehearsal) -> Iterator[Finding]:
    """Motoko's stable variables: fields that go, types that change, what a type loses."""
    old, new = found.old, found.new
    if new is None or old.stable_types is None:
        return
    if new.stable_types is None:
        yield Finding(
            "stable-types-missing",
            "breaking",
            "the new module has no stable variables",
            "motoko:stable-types",
            "stable variables",
            "none",
            "what they hold is not read, and at the next upgrade it is gone",
            "is it the right module?",
        )
        return
    try:
        pair = parse_stable_types(old.stable_types), parse_stable_types(new.stable_types)
        differences = list(compare_stable_types(*pair))
    except MalformedError as error:
        yield Finding(
            "stable-types-unread",
            "not certain",
            f"the stable types cannot be read: {error}",
            "motoko:stable-types",
            why="whether stable variables are taken over is not known",
            remedy="ask `moc --stable-compatible`",
        )
        return
    for one in differences:
        yield Finding(
            "stable-types",
            "breaking" if one.drops_data else "warning",
            f"{one.message} ({one.code})",
            " > ".join((f"stable variable {one.variable}", *one.path)),
            one.old,
            one.new,
            _WHY[one.code]
            if one.drops_data
            else "the compiler's own check refuses it, and nothing is lost: the actor stays",
            _REMEDY[one.code],
        )


def schemas(found: Rehearsal) -> Iterator[Finding]:
    """Both declarations of stable memory, memory by memory."""
    if found.new is None:
        return
    try:
        old, new = found.old.schema, found.new.schema
    except PerdureError as error:
        yield Finding(
            "schema-malformed",
            "breaking",
            str(error),
            "perdure:schema",
            why="nobody can say what stable memory is meant to hold",
            remedy="embed a stable.yaml that `perdure stable ls` takes",
        )
        return
    if old is not None and new is not None:
        yield from declarations(old, new)


def declarations(old: Schema, new: Schema) -> Iterator[Finding]:
    """What becomes of memories that are declared otherwise."""
    for one in compare_schemas(old, new):
        severity = _SEVERITY.get(one.verdict)
        if severity is not None:
            yield Finding(
                "schema",
                severity,
                one.what,
                f"memory {one.memory}",
                one.old,
                one.new,
                why=one.why,
                remedy=one.remedy,
            )


_SEVERITY: dict[str, Severity] = {"breaking": "breaking", "silently wrong": "breaking", "one way": "warning"}
_WHY = {
    "M0169": "what it holds is discarded: with classical persistence in silence",
    "M0170": "the upgrade traps, or with classical persistence loses what the variable holds in silence",
    "M0216": "the part that the new type does not have is dropped at the upgrade",
    "M0255": "the upgrade traps",
}
_REMEDY = {
    "M0169": "keep it, or drop it in an explicit migration",
    "M0170": "keep the type, make the new field part of a new variable, or write a migration",
    "M0216": "keep the field, or drop it in an explicit migration",
    "M0255": "migrate from what the old version has",
}

MODULE_CHECKS = (exports, candid, stable_types, schemas)
