"""Executes the assertions of WebAssembly's test scripts, in canisters with memories of their own.

Each module of a script becomes a canister under the policy *declared*. Each assertion and each action is a query that
is appended to it: it calls the exported function, compares in Wasm what comes back, bit by bit, and ends in
``unreachable`` where that is something else. What it did to the memories is kept for those after it, as the scripts
want it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import wasmtime

from perdure import canister as rules
from perdure.canister import CanisterFacts, Context, Env, Method, Return, Trap, WasmState
from perdure.embedder import Compiler, WasmInstance, shared_engine
from perdure.errors import PerdureError
from perdure.instrument import REPLICA, Options
from perdure.storage import TemporaryImage, TemporaryStore
from perdure.wasm import (
    Export,
    ExternKind,
    Immediate,
    Import,
    Limits,
    MemoryType,
    Module,
    decode,
    encode,
    locals_end,
    map_indices,
)

__all__ = ["Assertion", "Execution", "assertion_of", "split"]

OPTIONS = Options(extensions=("memories=declared",))
POLICY = replace(REPLICA, max_exported_methods=1 << 20, max_method_name_bytes=1 << 30)
KINDS = ("assert_return", "assert_trap", "assert_exhaustion", "invoke")
LINKED = ("about linking modules to each other", "instantiates a module that traps")
DROPPED = "a dropped data segment is there again in the next message, as on the network"
DIFFERENT = {("data_drop0.wast", 22): DROPPED, ("bulk.wast", 172): DROPPED}
"""What is otherwise in a canister, by script and line."""
HEAD = re.compile(r'\(\s*invoke\s+(\$\S+\s+)?("(?:[^"\\]|\\.)*")', re.DOTALL)
VALUE = re.compile(r"\(\s*([a-z0-9]+)\.(const|null|extern|func)\s*([^()]*)\)", re.DOTALL)


class Assertion(NamedTuple):
    """One of them: what it is, the function's name, arguments and results as text; why it cannot be executed here."""

    line: int
    kind: str
    name: str
    arguments: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    unfit: str = ""


def assertion_of(line: int, head: str, form: str, named: bool) -> Assertion | None:
    """The assertion that a form is; `named`: a module that it names is the current one."""
    if head not in (*KINDS, "assert_unlinkable", "assert_uninstantiable"):
        return None
    if head not in KINDS:
        return Assertion(line, head, "", unfit=LINKED[0])
    action = HEAD.search(form)
    if action is None:
        return Assertion(line, head, "", unfit=LINKED[1] if "(module" in form else "reads a global")
    if action[1] and not named:
        return Assertion(line, head, "", unfit="calls another module than the last one")
    end = _closing(form, action.start())
    arguments = [match[0] for match in VALUE.finditer(form[action.end() : end])]
    results = [match[0] for match in VALUE.finditer(form[end:])] if head == "assert_return" else []
    values = " ".join((*arguments, *results))
    unfit = "values that are references" if re.search(r"\b(ref|funcref|externref)\b", values) else ""
    if re.search(r"\(either\b", form[end:]):
        unfit = "several results are right"
    return Assertion(line, head, action[2], tuple(arguments), tuple(results), unfit)


def after_linking(assertions: Sequence[Assertion]) -> list[Assertion]:
    """Those behind a module that was linked to this one, and may have changed what it has, are not to be executed."""
    found: list[Assertion] = []
    linked = ""
    for one in assertions:
        found.append(one._replace(unfit=one.unfit or linked))
        if one.unfit in LINKED:
            linked = "another module may have changed what this one has"
    return found


def _closing(text: str, start: int) -> int:
    depth, quoted, at = 0, False, start
    while at < len(text):
        letter = text[at]
        if letter == "\\" and quoted:
            at += 1
        elif letter == '"':
            quoted = not quoted
        elif not quoted and letter in "()":
            depth += 1 if letter == "(" else -1
            if depth == 0:
                return at + 1
        at += 1
    return len(text)


BITS = {"f32": ("i32", "0x7fc00000"), "f64": ("i64", "0x7ff8000000000000")}


def _compared(result: str) -> str:
    """Instructions that trap where the value on the stack is not this one."""
    match = VALUE.fullmatch(result)
    assert match is not None
    kind, value = match[1], match[3].strip()
    otherwise = "if unreachable end"
    if kind == "v128":
        return f"{_compared_lanes(value)} i8x16.ne v128.any_true {otherwise}"
    if kind not in BITS:
        return f"{kind}.const {value} {kind}.ne {otherwise}"
    integer, quiet = BITS[kind]
    bits = f"{integer}.reinterpret_{kind}"
    if value.startswith("nan:") and value[4:5].isalpha():
        return f"{bits} {integer}.const {quiet} {integer}.and {integer}.const {quiet} {integer}.ne {otherwise}"
    return f"{bits} {kind}.const {value} {bits} {integer}.ne {otherwise}"


NAN_LANES = {
    "f32x4": ("i32x4", "0x7fc00000", "nan:0x400000"),
    "f64x2": ("i64x2", BITS["f64"][1], "nan:0x8000000000000"),
}


def _compared_lanes(value: str) -> str:
    """A vector to compare with; where a lane may be any NaN, only the bits that all of them have are looked at."""
    shape, *lanes = value.split()
    if shape not in NAN_LANES or not re.search("nan:[ac]", value):
        return f"v128.const {value}"
    integers, quiet, nan = NAN_LANES[shape]
    is_any = [lane.startswith(("nan:canonical", "nan:arithmetic")) for lane in lanes]
    mask = " ".join(quiet if one else "-1" for one in is_any)
    expected = " ".join(nan if one else lane for one, lane in zip(is_any, lanes, strict=True))
    return f"v128.const {integers} {mask} v128.and v128.const {shape} {expected}"


def _appended(module: Module, assertions: Sequence[Assertion]) -> Module:
    """The module with an exported query for each assertion, by its place."""
    functions = {item.name: item.index for item in module.exports if item.kind is ExternKind.FUNCTION}
    texts, targets = [], []
    for place, one in enumerate(assertions):
        name = one.name[1:-1].encode().decode("unicode_escape") if "\\" in one.name else one.name[1:-1]
        kind = module.function_type(functions[name])
        targets.append(functions[name])
        params = " ".join(item.text for item in kind.params)
        results = " ".join(item.text for item in kind.results)
        arguments = " ".join(argument.strip()[1:-1] for argument in one.arguments)
        checks = " ".join(_compared(result) for result in reversed(one.results))
        if one.kind != "assert_return":
            checks = "drop " * len(kind.results)
        texts.append(
            (
                f'(import "t" "f{place}" (func $f{place} (param {params}) (result {results})))',
                f"(func {arguments} call $f{place} {checks})",
            )
        )
    helper = decode(
        bytes(wasmtime.wat2wasm(f"(module {' '.join(a for a, _ in texts)} {' '.join(b for _, b in texts)})"))
    )
    first_type, first_function = len(module.types), module.function_count
    count = len(assertions)
    maps = {
        Immediate.FUNCTION: lambda index: targets[index] if index < count else first_function + index - count,
        Immediate.TYPE: lambda index: first_type + index,
    }
    codes = tuple(
        code._replace(body=map_indices(code.body, maps, locals_end(code.body)), offset=-1) for code in helper.codes
    )
    exports = tuple(
        Export(f"canister_query a{place}", ExternKind.FUNCTION, first_function + place) for place in range(count)
    )
    return replace(
        module,
        types=module.types + helper.types,
        function_type_indices=module.function_type_indices
        + tuple(first_type + index for index in helper.function_type_indices),
        codes=module.codes + codes,
        exports=module.exports + exports,
    )


def with_heap(module: Module) -> Module:
    """The memory that test scripts import from ``spectest`` is one of 1 Wasm page, 2 at most: a canister's heap."""
    memories = [item for item in module.imports if item.kind is ExternKind.MEMORY]
    if not memories or memories[0][:2] != ("spectest", "memory"):
        return module
    heap = Import("env", "memory", ExternKind.MEMORY, MemoryType(Limits(1, 2)))
    return replace(module, imports=tuple(heap if item is memories[0] else item for item in module.imports))


class Execution:
    """The canisters of one script; counts what became of its assertions."""

    compiler = Compiler(shared_engine(), None, capacity=1)

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    def run(self, wasm: bytes | str, assertions: Sequence[Assertion]) -> None:
        """Execute the assertions that come after a module, which is its bytes or why there are none."""
        assertions = [
            one._replace(unfit=one.unfit or DIFFERENT.get((self.name, one.line), ""))
            for one in after_linking(assertions)
        ]
        fit = [one for one in assertions if not one.unfit]
        for one in assertions:
            if one.unfit:
                self.counts[f"not applicable: {one.unfit}"] += 1
        if not fit:
            return
        reason = wasm if isinstance(wasm, str) else ""
        instance = None
        if not isinstance(wasm, str):
            try:
                module = with_heap(decode(wasm))
                if any(item.module != "env" for item in module.imports):
                    reason = "the module imports from others"
                else:
                    instance = self._instance(_appended(module, fit))
            except (PerdureError, KeyError, wasmtime.WasmtimeError) as error:
                reason = f"no canister: {str(error).splitlines()[0][:90]}"
        if instance is None:
            self.counts[f"not applicable: {reason}"] += len(fit)
            return
        try:
            for place, one in enumerate(fit):
                self._execute(instance, place, one)
        finally:
            instance.close()

    def _instance(self, module: Module) -> WasmInstance:
        code = self.compiler.compile(encode(module), OPTIONS, policy=POLICY)
        store = TemporaryStore()
        instance = code.instantiate(WasmState({name: TemporaryImage(store) for name in code.memories}))
        instance.commit()
        if "canister_start" in code.exported_methods:
            self._enter(instance, "canister_start", Context.START)
            instance.commit()
        return instance

    @staticmethod
    def _enter(instance: WasmInstance, export: str, context: Context = Context.UPDATE) -> Return | Trap:
        return instance.run(Method(export), Env(context, CanisterFacts(), rules.Limits(), needs_to_respond=False))

    def _execute(self, instance: WasmInstance, place: int, one: Assertion) -> None:
        outcome = self._enter(instance, f"canister_query a{place}")
        wanted = Trap if one.kind in {"assert_trap", "assert_exhaustion"} else Return
        if isinstance(outcome, Return):
            instance.commit()
        else:
            instance.roll_back()
        if isinstance(outcome, wanted):
            self.counts["executed as the script says" if one.kind != "invoke" else "actions"] += 1
        else:
            found = outcome.code.name if isinstance(outcome, Trap) else "returned"
            self.failures.append(f"{self.name}:{one.line}: {one.kind} {one.name}: {found}")


def split(forms: Iterator[tuple[int, str, str]]) -> Iterator[tuple[int, str, list[tuple[int, str, str]]]]:
    """Modules of a script with the forms that come after each: line, text, forms."""
    current: tuple[int, str] | None = None
    after: list[tuple[int, str, str]] = []
    for line, head, form in forms:
        if head == "module" and not re.match(r"\(\s*module\s+(instance|definition)\b", form):
            if current is not None:
                yield (*current, after)
            current, after = (line, form), []
        else:
            after.append((line, head, form))
    if current is not None:
        yield (*current, after)
