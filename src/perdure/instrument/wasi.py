"""Make a module that imports WASI import ``ic0`` alone, without moving an index.

    Module ─replace_wasi▶ Module that the Internet Computer takes

Each import that is replaced keeps its place and becomes an import of ``ic0``: the function that its stand-in calls, or
``msg_reply``, which nothing calls. Calls and tables go to the stand-in::

    --stub PATTERN matches "module.name"      traps, saying its name
    the module exports __ic_custom_NAME       that function (as ic-wasi-polyfill has it)
    it is in wasi.wat                         that function, appended
    another function of WASI preview 1        an error number: 8 (badf) for fd_*, 44 (noent) for path_*, 52 (nosys)
    env.__syscall_* of emscripten             an error number: -52
    any other env.* of emscripten             traps, saying its name

What remains has nothing behind it and is refused by name. An ``_initialize`` is called by init and post_upgrade rather
than being the start function, where ``ic0.time`` may not be called. Where a linker has wrapped every export to run the
constructors, these run there too, once, instead of with each message.

Source: ``wasi_snapshot_preview1.witx``; emscripten's ``system_libs`` and ``library.js``; ic-wasi-polyfill's README.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import NamedTuple, NoReturn, final

from perdure.errors import UnsupportedError
from perdure.ic.ic0 import FUNCTIONS
from perdure.instrument.appendix import Appendix, op, redirect_elements, trap_saying
from perdure.instrument.metering import Rewrite, rewrite_codes
from perdure.instrument.reactor import WASI, Hooks, initializer_of, own_function, renamed_exports
from perdure.wasm import (
    ConstExpr,
    ExternKind,
    FuncType,
    Global,
    GlobalType,
    Immediate,
    Import,
    MemArg,
    Module,
    ValType,
    decode,
    encode,
    locals_end,
    map_indices,
)

__all__ = ["ReplacedImport", "WithoutWasi", "replace_wasi", "wasm_without_wasi"]

CUSTOM = "__ic_custom_"
LINE_BYTES = 512
"""How much of a line is held until it ends; `wasi.wat` knows it too."""

_BADF, _NOENT, _NOSYS = 8, 44, 52
_UNUSED_SLOT = "msg_reply"
_MAX_NAME_BYTES = 200
_MAX_LISTED = 10

# Preview 0 has them too; where it differs, in constants, we give an error either way.
# i is i32, I is i64; an i32 comes back from all but proc_exit.
_PREVIEW_1 = """
args_get ii                     args_sizes_get ii           environ_get ii              environ_sizes_get ii
clock_res_get ii                clock_time_get iIi          fd_advise iIIi              fd_allocate iII
fd_close i                      fd_datasync i               fd_fdstat_get ii            fd_fdstat_set_flags ii
fd_fdstat_set_rights iII        fd_filestat_get ii          fd_filestat_set_size iI     fd_filestat_set_times iIIi
fd_pread iiiIi                  fd_prestat_get ii           fd_prestat_dir_name iii     fd_pwrite iiiIi
fd_read iiii                    fd_readdir iiiIi            fd_renumber ii              fd_seek iIii
fd_sync i                       fd_tell ii                  fd_write iiii               path_create_directory iii
path_filestat_get iiiii         path_filestat_set_times iiiiIIi                         path_link iiiiiii
path_open iiiiiIIii             path_readlink iiiiii        path_remove_directory iii   path_rename iiiiii
path_symlink iiiii              path_unlink_file iii        poll_oneoff iiii            proc_exit i
proc_raise i                    sched_yield -               random_get ii               sock_accept iii
sock_recv iiiiii                sock_send iiiii             sock_shutdown ii
"""
_LETTERS = {"i": ValType.I32, "I": ValType.I64}


def _preview_1() -> dict[str, FuncType]:
    words = iter(_PREVIEW_1.split())
    types = {
        name: FuncType(tuple(_LETTERS[letter] for letter in letters if letter != "-"), (ValType.I32,))
        for name, letters in zip(words, words, strict=True)
    }
    return types | {"proc_exit": FuncType((ValType.I32,))}


PREVIEW_1: Mapping[str, FuncType] = _preview_1()
"""The functions of WASI preview 1."""

_CALLS = {
    "wasi clock_time_get": "time",
    "wasi random_get": "time",
    "wasi fd_write": "debug_print",
    "wasi proc_exit": "trap",
    "env exit": "trap",
    "env emscripten_date_now": "time",
    "env emscripten_get_now": "time",
}
"""The function of ``ic0`` that a stand-in of `wasi.wat` calls."""

# Names by which emscripten's modules are known: what its JavaScript would provide, and what its runtime exports.
_EMSCRIPTEN_IMPORTS = re.compile(r"__syscall_|_?emscripten_|invoke_|__cxa_|__assert_fail$|_?abort(_js)?$")
_EMSCRIPTEN_EXPORTS = re.compile(r"_?emscripten_|stack(Save|Restore|Alloc)$|dynCall_")

_HINTS = (
    (r"wasi:|\[export\]", "this is WASI preview 2: build for preview 1, wasm32-wasip1"),
    (r"wasi$", "this is WASI with threads, which no canister has: build without them"),
    (
        r"wbg$|__wbindgen",
        "this is wasm-bindgen: leave out the JavaScript features of crates, as of getrandom and chrono",
    ),
    (r"(gojs|go)$", "this is Go for JavaScript: build with GOOS=wasip1 -buildmode=c-shared"),
    (r"GOT\.", "this is a dynamic library: link it statically"),
)


class ReplacedImport(NamedTuple):
    """What became of an import: its stand-in in words, and the ``ic0`` function that it calls, if any."""

    module: str
    name: str
    becomes: str
    calls: str = ""


@final
@dataclass(frozen=True, slots=True)
class WithoutWasi:
    """A module that imports ``ic0`` alone, and what was done to it.

    `renamed` has new names of exports by old ones; `initializer` is the function that init and post_upgrade now call.
    """

    module: Module
    imports: tuple[ReplacedImport, ...]
    renamed: Mapping[str, str]
    initializer: str


def wasm_without_wasi(wasm: bytes, stub: Iterable[str] = ()) -> bytes:
    """`replace_wasi` from bytes, plain or gzip, to bytes, plain."""
    return encode(replace_wasi(decode(wasm), stub).module)


def replace_wasi(module: Module, stub: Iterable[str] = ()) -> WithoutWasi:
    """Replace what a module imports from WASI, from emscripten's JavaScript, and whatever `stub` names.

    Also gives exports the names that canisters have: ``canister_update_inc`` becomes ``canister_update inc``, for
    languages whose names have no spaces. The result is not validated. Doing it twice is doing it once.

    Args:
        module: a decoded module.
        stub: patterns (``*``, ``?``, ``[...]``) of imports, as ``module.name``, that shall trap when called.

    Raises:
        UnsupportedError: imports that nothing stands in for, or of wrong types; a command, which runs once and ends.
        ValueError: a pattern that no import matches.
    """
    module, initializer = initializer_of(module)
    choices = _choices(module, tuple(stub))
    appendix = Appendix(module)
    imports, slots = _slotted(module, choices, appendix)
    stand_ins = _StandIns(module, appendix, slots)
    redirects = {index: choice.make(stand_ins) for index, choice in choices.items()}
    exports, renamed = renamed_exports(item for item in module.exports if not item.name.startswith(CUSTOM))
    hooks = Hooks(module, appendix, stand_ins.flush, redirects, None if initializer is None else initializer.function)
    exports = hooks.added_to(exports)
    codes = module.codes
    if redirects:
        codes = rewrite_codes(codes, Rewrite(redirects=redirects, is_64=module.is_64))
    changed = replace(
        module,
        types=tuple(appendix.types),
        imports=imports,
        function_type_indices=module.function_type_indices + tuple(appendix.type_indices),
        codes=codes + tuple(appendix.codes),
        globals=module.globals + stand_ins.globals,
        elements=redirect_elements(module.elements, redirects),
        exports=exports,
        start=None if module.start is None else redirects.get(module.start, module.start),
    )
    reports = tuple(choice.report for choice in choices.values())
    return WithoutWasi(changed, reports, renamed, "" if initializer is None else initializer.name)


# -------------------------------------------------------------------------------------------------------------- choices


class _Choice(NamedTuple):
    """What an import becomes, and how its stand-in is made; the latter gives a function's index."""

    report: ReplacedImport
    make: Callable[[_StandIns], int]


def _choices(module: Module, patterns: tuple[str, ...]) -> dict[int, _Choice]:
    """What becomes of each imported function that is replaced, by its index."""
    functions = [
        (index, item, module.function_type(index)) for index, item in enumerate(module.imported(ExternKind.FUNCTION))
    ]
    names = {index: f"{item.module}.{item.name}" for index, item, _ in functions if not _is_ic0(item)}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names.values()):
            others = _listed([item for _, item, _ in functions if not _is_ic0(item)])
            raise ValueError(f"no imported function matches {pattern!r}; beside ic0's the module imports {others}")
    is_emscripten = _is_emscripten(module)
    choices: dict[int, _Choice] = {}
    foreign = []
    for index, item, func_type in functions:
        if index in names and any(fnmatchcase(names[index], pattern) for pattern in patterns):
            choices[index] = _trap(item, func_type)
        elif item.module in WASI:
            choices[index] = _wasi(module, item, func_type)
        elif item.module == "env" and is_emscripten:
            choices[index] = _env(module, item, func_type)
        elif item.module != "ic0":
            foreign.append(item)
        elif is_emscripten:
            _check_legalised(item, func_type, is_64=module.is_64)
    if foreign:
        _refuse_foreign(foreign)
    if choices and "_start" in module.exported_functions:
        raise UnsupportedError(
            "the module is a command: it exports _start, which runs a program once to its end. A canister is a "
            "reactor: build with -mexec-model=reactor (clang, zig cc), --no-entry (emscripten), "
            '-buildmode=c-shared (Go), or crate-type = ["cdylib"] (Rust)'
        )
    return choices


def _is_ic0(item: Import) -> bool:
    return item.module == "ic0" and item.name in FUNCTIONS


def _wasi(module: Module, item: Import, func_type: FuncType) -> _Choice:
    own = own_function(module, CUSTOM + item.name)
    if own is not None:
        if module.function_type(own) != func_type:
            raise UnsupportedError(
                f"the module exports {CUSTOM}{item.name} of type {module.function_type(own)}, "
                f"but imports {_shown(item)} of type {func_type}"
            )
        index = own
        return _Choice(ReplacedImport(item.module, item.name, f"own {CUSTOM}{item.name}"), lambda _: index)
    expected = PREVIEW_1.get(item.name)
    if expected is None:
        raise UnsupportedError(f"the module imports {_shown(item)}, which WASI preview 1 does not have")
    if found := _in_text(module, "wasi", item, expected, func_type):
        return found
    error = _BADF if item.name.startswith("fd_") else _NOENT if item.name.startswith("path_") else _NOSYS
    if func_type not in {expected, _legalised(expected)}:
        _refuse_type(item, func_type, expected)
    return _error(item, func_type, error)


def _env(module: Module, item: Import, func_type: FuncType) -> _Choice:
    if item.name.startswith("__syscall_") and func_type.results == (ValType.I32,):
        return _error(item, func_type, -_NOSYS)
    return _in_text(module, "env", item, func_type, func_type) or _trap(item, func_type)


def _in_text(module: Module, group: str, item: Import, expected: FuncType, func_type: FuncType) -> _Choice | None:
    """The function of `wasi.wat` that stands in for an import, if there is one; of several the one of its type."""
    key = f"{group} {item.name}"
    found = [index for index in _by_key().get(key, ()) if _text().function_type(index) == expected]
    if not found:
        return None
    if func_type != expected:
        _refuse_type(item, func_type, expected)
    if module.is_64 or not module.all_memories:
        what = "has a heap with 64-bit addresses" if module.is_64 else "has no memory"
        raise UnsupportedError(f"the module imports {_shown(item)} and {what}: WASI preview 1 takes 32-bit addresses")
    calls = _CALLS.get(key, "")
    return _Choice(ReplacedImport(item.module, item.name, "a stand-in", calls), lambda made: made.from_text(found[0]))


def _error(item: Import, func_type: FuncType, number: int) -> _Choice:
    report = ReplacedImport(item.module, item.name, f"error {number}")
    return _Choice(report, lambda made: made.appendix.append(func_type, op("i32.const", number)))


def _trap(item: Import, func_type: FuncType) -> _Choice:
    report = ReplacedImport(item.module, item.name, "a trap when called", "trap")
    return _Choice(report, lambda made: made.trapping(func_type, f"{item.module}.{item.name}"))


def _legalised(func_type: FuncType) -> FuncType:
    """The type for JavaScript without big integers: each i64 parameter as two i32, an i64 result as its lower half."""
    params = (half for item in func_type.params for half in (ValType.I32,) * (2 if item is ValType.I64 else 1))
    narrow = (ValType.I32 if item is ValType.I64 else item for item in func_type.results)
    return FuncType(tuple(params), tuple(narrow))


def _check_legalised(item: Import, func_type: FuncType, *, is_64: bool) -> None:
    expected = _ic0_type(item.name, is_64=is_64) if item.name in FUNCTIONS else func_type
    if func_type != expected and func_type == _legalised(expected):
        raise UnsupportedError(
            f"import ic0.{item.name} has type {func_type}, expected {expected}: emscripten took the 64-bit integers "
            "apart for JavaScript; build with -sWASM_BIGINT, or with -sSTANDALONE_WASM"
        )


def _ic0_type(name: str, *, is_64: bool) -> FuncType:
    row = FUNCTIONS[name]
    params, results = (tuple(ValType[item.upper()] for item in side(is_64)) for side in (row.params, row.results))
    return FuncType(params, results)


def _is_emscripten(module: Module) -> bool:
    imported = (item.name for item in module.imports if item.module == "env")
    return any(map(_EMSCRIPTEN_IMPORTS.match, imported)) or any(
        _EMSCRIPTEN_EXPORTS.match(item.name) for item in module.exports
    )


def _refuse_type(item: Import, found: FuncType, expected: FuncType) -> NoReturn:
    raise UnsupportedError(f"import {_shown(item)} has type {found}, expected {expected}")


def _refuse_foreign(foreign: list[Import]) -> NoReturn:
    spaces = sorted({item.module for item in foreign})
    if all(len(item.module) == 1 and len(item.name) <= 3 for item in foreign):
        hint = "names are minified, as emscripten does from -O3 on: build with -sSTANDALONE_WASM, or add -g2"
    else:
        hints = (hint for pattern, hint in _HINTS if any(re.match(pattern, space) for space in spaces))
        patterns = " ".join(f"--stub '{_cut(space)}.*'" for space in spaces[:_MAX_LISTED])
        hint = next(hints, "nothing stands in for them") + f". With {patterns} they trap when called"
    raise UnsupportedError(f"the module imports {_listed(foreign)}, which the Internet Computer does not have: {hint}")


def _listed(items: list[Import]) -> str:
    shown = ", ".join(map(_shown, items[:_MAX_LISTED]))
    return shown + (f" and {len(items) - _MAX_LISTED:,} more" if len(items) > _MAX_LISTED else "") or "none"


def _shown(item: Import) -> str:
    return _cut(f"{item.module}.{item.name}")


def _cut(name: str) -> str:
    return name[:_MAX_NAME_BYTES]


# ------------------------------------------------------------------------------------------------------------ stand-ins


@cache
def _text() -> Module:
    """`wasi.wat`, built."""
    return decode(files(__package__).joinpath("wasi.wasm").read_bytes())


@cache
def _by_key() -> dict[str, list[int]]:
    """Functions of `wasi.wat` by group and name."""
    found: dict[str, list[int]] = {}
    for item in _text().exports:
        found.setdefault(" ".join(item.name.split(" ")[:2]), []).append(item.index)
    return found


_FLUSH, _EXCHANGE = "flush", "exchange"


@final
class _StandIns:
    """Appends stand-ins, each once.

    Args:
        module: what they are appended to.
        appendix: where they go.
        slots: where each function of ``ic0`` is imported.
    """

    def __init__(self, module: Module, appendix: Appendix, slots: Mapping[str, int]) -> None:
        self.appendix = appendix
        self.globals: tuple[Global, ...] = ()
        self._module = module
        self._slots = slots
        self._made: dict[int, int] = {}
        self._first_global = len(module.all_global_types)

    @property
    def flush(self) -> int | None:
        """The function that prints what is held of a line, where anything prints."""
        return self._made.get(_named(_FLUSH)) if "debug_print" in self._slots else None

    def from_text(self, index: int) -> int:
        """A function of `wasi.wat`, with all that it calls."""
        if index not in self._made:
            self._made[index] = self._bring(index)
        return self._made[index]

    def _bring(self, index: int) -> int:
        text = _text()
        if index < text.imported_function_count:
            return self._slots[text.imports[index].name]
        func_type = text.function_type(index)
        if index == _named(_EXCHANGE):
            return self.appendix.append_code(func_type, self._exchange())
        if index == _named(_FLUSH) and "debug_print" not in self._slots:
            return self.appendix.append(func_type, b"")  # nothing prints, so nothing is held
        self.globals = self.globals or text.globals
        maps = {Immediate.FUNCTION: self.from_text, Immediate.GLOBAL: lambda number: self._first_global + number}
        body = text.codes[index - text.imported_function_count].body
        return self.appendix.append_code(func_type, map_indices(body, maps, locals_end(body)))

    def _exchange(self) -> bytes:
        """Word by word through a local: what is in the heap goes to a global, and the other way."""
        first = self._first_global + len(_text().globals)
        self.globals = _text().globals + (Global(GlobalType(ValType.I64, True), ConstExpr.i64(0)),) * (LINE_BYTES // 8)
        words = (
            op("local.get", 0)
            + op("i64.load", MemArg(3, 8 * place))
            + op("local.set", 1)
            + op("local.get", 0)
            + op("global.get", first + place)
            + op("i64.store", MemArg(3, 8 * place))
            + op("local.get", 1)
            + op("global.set", first + place)
            for place in range(LINE_BYTES // 8)
        )
        return bytes((1, 1, ValType.I64)) + b"".join(words) + op("end")

    def trapping(self, func_type: FuncType, name: str) -> int:
        """A function that traps and says which import was called."""
        text = f"{name} was called, which the Internet Computer does not have".encode()
        if len(text) > _MAX_NAME_BYTES:
            text = text[:_MAX_NAME_BYTES] + b"..."
        if not self._module.all_memories:
            return self.appendix.append(func_type, op("unreachable"))
        return self.appendix.append(func_type, trap_saying(text, self._slots["trap"], is_64=self._module.is_64))


@cache
def _named(name: str) -> int:
    return next(item.index for item in _text().exports if item.name == name)


def _slotted(
    module: Module, choices: Mapping[int, _Choice], appendix: Appendix
) -> tuple[tuple[Import, ...], dict[str, int]]:
    """The imports, replaced ones being of ``ic0``; the first index of each function of ``ic0``."""
    imports: list[Import] = []
    slots: dict[str, int] = {}
    index = 0
    for original in module.imports:
        item = original
        if item.kind is ExternKind.FUNCTION:
            if index in choices:
                name = choices[index].report.calls or _UNUSED_SLOT
                type_index = appendix.type_index(_ic0_type(name, is_64=module.is_64))
                item = Import("ic0", name, ExternKind.FUNCTION, type_index)
            if item.module == "ic0":
                slots.setdefault(item.name, index)
            index += 1
        imports.append(item)
    return tuple(imports), slots
