"""Metering against figures by hand, and against a second, slow metering written in another style."""

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import wasmtime

from perdure.errors import MalformedError
from perdure.instrument.costs import SCHEDULES, CostSchedule
from perdure.instrument.metering import Rewrite, rewrite_codes
from perdure.instrument.scanning import count_instructions, opcode_histogram
from perdure.wasm import (
    OPCODE_BY_NAME,
    OPCODES,
    Code,
    ConstExpr,
    Export,
    ExternKind,
    FuncType,
    Global,
    GlobalType,
    Immediate,
    Instruction,
    MemArg,
    Module,
    ValType,
    decode,
    encode,
    encode_instruction,
    encode_signed,
    encode_unsigned,
    instructions,
    locals_end,
)

SCHEDULE = SCHEDULES["2025"]
COUNTER, OUT, CHARGE32, CHARGE64, GROW, FLAG = 900, 901, 902, 903, 904, 905
METERED = Rewrite(SCHEDULE, COUNTER, OUT, CHARGE32, CHARGE64)
MODULES = Path(__file__).parents[1] / "canisters" / "modules"


# ------------------------------------------------------------------------------- reading what was made


def text_of(instruction: Instruction) -> str:
    name = OPCODES[instruction.opcode].name
    return " ".join([name, *map(str, instruction.immediates)]) if instruction.immediates else name


def listing(body: bytes) -> str:
    """The instructions of a metered body; charges as ``[cost]``, checks as ``[?]``, dynamic charges as ``[n]``."""
    text = "\n".join(map(text_of, instructions(body, locals_end(body))))
    check = f"global.get {COUNTER}\ni64.const 0\ni64.lt_s\nif -64\ncall {OUT}\nend"
    text = text.replace(check, "[?]")
    text = re.sub(rf"global.get {COUNTER}\ni64.const (\d+)\ni64.sub\nglobal.set {COUNTER}", r"[\1]", text)
    text = text.replace(f"call {CHARGE32}", "[n]").replace(f"call {CHARGE64}", "[N]")
    return text.replace(" -64", "").replace("\n", "; ")


def compiled(wat: str) -> Module:
    return decode(bytes(wasmtime.wat2wasm(wat)))


def metered(instruction_text: str, rewrite: Rewrite = METERED) -> str:
    module = compiled(
        '(module (import "ic0" "a" (func)) (import "ic0" "b" (func)) (memory 1) (table 1 funcref) (data "x")'
        f" (type $t (func)) (elem func 0) (func (param $p i32) (local $l i64) {instruction_text}))"
    )
    (code,) = rewrite_codes(module.codes, rewrite)
    return listing(code.body)


# ------------------------------------------------------------------------------------- by hand: blocks


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", "[1]; [?]; end"),
        ("nop nop", "[3]; [?]; nop; nop; end"),
        ("block nop end", "[2]; [?]; block; nop; end; end"),
        ("block nop end nop", "[2]; [?]; block; nop; end; [1]; nop; end"),
        ("loop nop end", "[1]; [?]; loop; [1]; [?]; nop; end; end"),
        ("loop end nop", "[1]; [?]; loop; [?]; end; [1]; nop; end"),
        (
            "local.get 0 if nop else nop nop end nop",
            "[4]; [?]; local.get 0; if; [1]; nop; else; [2]; nop; nop; end; [1]; nop; end",
        ),
        ("local.get 0 if else end", "[4]; [?]; local.get 0; if; else; end; end"),
        ("local.get 0 br_if 0 nop", "[4]; [?]; local.get 0; br_if 0; [1]; nop; end"),
        ("local.get 0 br_table 0 0", "[4]; [?]; local.get 0; br_table (0, 0); end"),
        ("block local.get 0 br_table 0 end nop", "[4]; [?]; block; local.get 0; br_table (0,); end; [1]; nop; end"),
        ("block br 0 end nop", "[3]; [?]; block; br 0; end; [1]; nop; end"),
        ("return", "[2]; [?]; return; end"),
        ("unreachable", "[2]; [?]; unreachable; end"),
        ("block end block end nop", "[1]; [?]; block; end; block; end; [1]; nop; end"),
        ("block br 0 block end br 0 end", "[3]; [?]; block; br 0; block; end; [2]; br 0; end; end"),
        ("unreachable return br 0 unreachable", "[2]; [?]; unreachable; return; br 0; unreachable; end"),
        ("return nop", "[2]; [?]; return; [1]; nop; end"),
        ("return_call 0", "[4]; [?]; return_call 0; end"),
        ("local.get 0 return_call_indirect (type $t)", "[62]; [?]; local.get 0; return_call_indirect 0 0; end"),
        ("call 0 call 1 nop", "[12]; [?]; call 0; call 1; nop; end"),
        ("local.get 0 call_indirect (type $t)", "[12]; [?]; local.get 0; call_indirect 0 0; end"),
        ("local.get 0 memory.grow drop", "[303]; [?]; local.get 0; memory.grow 0; drop; end"),
        ("data.drop 0 elem.drop 0", "[601]; [?]; data.drop 0; elem.drop 0; end"),
        ("nop block loop nop end end nop", "[2]; [?]; nop; block; loop; [1]; [?]; nop; end; end; [1]; nop; end"),
    ],
)
def test_blocks(body, expected):
    assert metered(body) == expected


BULK = """
local.get 0 local.get 0 local.get 0 memory.fill
local.get 0 local.get 0 local.get 0 memory.copy
local.get 0 local.get 0 local.get 0 memory.init 0
"""


def test_bulk_operations_are_charged_by_their_length():
    three = "local.get 0; local.get 0; local.get 0; [n]; "
    expected = f"[310]; [?]; {three}memory.fill 0; {three}memory.copy 0 0; {three}memory.init 0 0; end"
    assert metered(BULK) == expected


def test_lengths_are_as_wide_as_addresses():
    module = compiled(
        """(module (memory i64 1) (data "x") (table i64 1 funcref) (elem func 0)
        (func (param $a i64) (param $n i32)
          local.get 0 i32.const 0 local.get 0 memory.fill
          local.get 0 local.get 0 local.get 0 memory.copy
          local.get 0 i32.const 0 local.get 1 memory.init 0
          local.get 0 i32.const 0 local.get 1 table.init 0
          local.get 0 local.get 0 local.get 0 table.copy
          local.get 0 ref.null func local.get 0 table.fill 0))"""
    )
    (code,) = rewrite_codes(module.codes, replace(METERED, is_64=True, is_table_64=True))
    text = listing(code.body)
    assert re.findall(r"(\[[nN]\]); ([a-z]+\.[a-z]+)", text) == [
        ("[N]", "memory.fill"),
        ("[N]", "memory.copy"),
        ("[n]", "memory.init"),
        ("[n]", "table.init"),
        ("[N]", "table.copy"),
        ("[N]", "table.fill"),
    ]
    assert text.startswith("[619]; ")


# -------------------------------------------------------------------------------------- by hand: edits


def test_calls_of_imports_are_redirected():
    rewrite = replace(METERED, redirects={0: 700})
    expected = "[11]; [?]; call 700; call 1; end"
    assert metered("call 0 call 1", rewrite) == expected
    assert metered("return_call 0", rewrite) == "[4]; [?]; return_call 700; end"
    assert metered("block return_call 0 end nop", rewrite) == "[4]; [?]; block; return_call 700; end; [1]; nop; end"


def test_padded_calls_are_redirected():
    padded = bytes.fromhex("00 10 80 80 80 80 00 10 81 80 80 80 00 12 80 00 0b")
    (code,) = rewrite_codes([Code(padded)], replace(METERED, redirects={0: 1, 1: 300}))
    assert listing(code.body) == "[14]; [?]; call 1; call 300; return_call 1; end"


def test_what_only_looks_like_a_call_is_left():
    body = b"\0" + b"\x41\x10\x1a" + b"\x42\x10\x1a" + b"\x44" + b"\x10\0" * 4 + b"\x1a\x20\x10\x1a\x10\x10\x0b"
    (code,) = rewrite_codes([Code(body)], Rewrite(redirects={0: 99, 16: 3}))
    assert code.body == body[:-2] + b"\x03\x0b"


def test_memory_grow_becomes_a_call():
    rewrite = replace(METERED, memory_grow={0: GROW})
    assert metered("local.get 0 memory.grow drop", rewrite) == f"[303]; [?]; local.get 0; call {GROW}; drop; end"
    second = b"\0\x41\0\x40\x01\x1a\x41\0\x40\x80\0\x1a\x0b"
    (code,) = rewrite_codes([Code(second)], Rewrite(memory_grow={0: GROW}))
    assert listing(code.body) == f"i32.const 0; memory.grow 1; drop; i32.const 0; call {GROW}; drop; end"


def test_drops_raise_a_flag():
    flag = f"i32.const 1; global.set {FLAG}; "
    expected = f"[602]; [?]; {flag}data.drop 0; nop; {flag}elem.drop 0; end"
    assert metered("data.drop 0 nop elem.drop 0", replace(METERED, drop_flag_global=FLAG)) == expected


def test_without_a_schedule_only_edits_are_made():
    rewrite = Rewrite(redirects={1: 2}, memory_grow={0: GROW}, drop_flag_global=FLAG)
    assert metered("loop call 0 call 1 end", rewrite) == "loop; call 0; call 2; end; end"
    assert metered("data.drop 0", rewrite) == f"i32.const 1; global.set {FLAG}; data.drop 0; end"
    assert metered(BULK, rewrite) == metered(BULK, Rewrite())
    code = Code(b"\0\x03\x40\x0c\0\x0b\x0b")
    assert rewrite_codes([code], rewrite)[0] is code


def test_locals_are_kept():
    body = bytes.fromhex("02 80 80 00 7f 03 7b 0b")
    (code,) = rewrite_codes([Code(body)], METERED)
    assert code.body.startswith(body[:-1])
    assert code.body.endswith(b"\x0b\x0b")
    assert listing(code.body) == "[1]; [?]; end"


def test_no_bodies():
    assert rewrite_codes([], METERED) == ()


# ----------------------------------------------------------------------------------- every instruction


def published_costs() -> dict[str, tuple[int, int]]:
    """The replica's costs by our names: with a 32-bit and with a 64-bit heap."""
    table = {}
    for line in re.sub(r"\n +", " ", Path(__file__).with_name("instruction_costs_2025.txt").read_text()).splitlines():
        if not line.startswith("#"):
            costs, _, names = line.partition(": ")
            narrow, _, wide = costs.partition("/")
            table |= {our_name(name): (int(narrow), int(wide or narrow)) for name in names.split()}
    return table


def our_name(camel: str) -> str:
    prefix, rest = re.fullmatch(
        r"(I8x16|I16x8|I32x4|I64x2|F32x4|F64x2|[IF](?:32|64)|V128|Local|Global|Table|Memory|Data|Elem|Ref)?(.*)", camel
    ).groups()
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", rest).lower()
    for wrong, right in (("ext_", "ext"), ("q15_", "q15"), ("and_not", "andnot"), ("p_m", "pm")):
        snake = (
            snake.replace(wrong, right) if wrong in {"ext_", "and_not", "p_m"} else snake.replace("q15_mulr", "q15mulr")
        )
    return f"{prefix.lower()}.{snake}" if prefix else snake


ENDS_BLOCK = {
    "else",
    "end",
    "br",
    "br_if",
    "br_table",
    "return",
    "unreachable",
    "return_call",
    "return_call_indirect",
    "loop",
    "if",
}


def sample(kind: Immediate, rng: random.Random) -> object:
    match kind:
        case Immediate.MEMARG:
            return MemArg(rng.randrange(4), rng.choice([0, 5, 300, 1 << 31]))
        case Immediate.LABELS:
            return tuple(rng.randrange(200) for _ in range(rng.randrange(1, 6)))
        case Immediate.BLOCK_TYPE:
            return rng.choice([-0x40, -1, -2, -3, -4, 0, 5, 200])
        case Immediate.VAL_TYPES:
            return (rng.choice([0x7F, 0x7E, 0x7B, 0x6F]),)
        case Immediate.HEAP_TYPE:
            return rng.choice([0x70, 0x6F])
        case Immediate.F32 | Immediate.F64 | Immediate.V128 | Immediate.LANES:
            return rng.randbytes({Immediate.F32: 4, Immediate.F64: 8}.get(kind, 16))
        case Immediate.I32 | Immediate.I64:
            return rng.choice([0, 1, 0x0B, 0x10, -1, -3, 0x0E, 64, 0xFC, 1000, -(1 << 31), (1 << 31) - 1])
        case Immediate.LANE:
            return rng.randrange(256)
        case _:
            return rng.choice([0, 1, 2, 3, 4, 11, 13, 14, 16, 64, 127, 128, 253, 300, 70000])


@pytest.mark.parametrize("is_64", [False, True])
def test_every_instruction_costs_what_the_replica_charges(is_64):
    published = published_costs()
    assert published.keys() <= OPCODE_BY_NAME.keys()
    rng = random.Random(1)
    rewrite = replace(METERED, is_64=is_64)
    for opcode in OPCODES.values():
        if opcode.name in ENDS_BLOCK | {"block"}:
            continue
        immediates = tuple(sample(kind, rng) for kind in opcode.immediates)
        body = b"\0" + encode_instruction(opcode, immediates) + b"\x0b"
        (code,) = rewrite_codes([Code(body)], rewrite)
        expected = published.get(opcode.name, (1, 1))[is_64] + 1
        charges = re.findall(r"\[(\d+)\]", listing(code.body))
        assert charges == [str(expected)], opcode.name


def test_every_block_instruction_costs_what_the_replica_charges():
    published = published_costs()
    for name in ENDS_BLOCK | {"block"}:
        assert SCHEDULE.cost(name, is_64=False) == published[name][0], name
        assert SCHEDULE.cost(name, is_64=True) == published[name][1], name


def test_a_schedule_names_known_instructions():
    with pytest.raises(ValueError, match=r"no instruction is named i32\.frobnicate"):
        CostSchedule("x", {"i32.frobnicate": 1}, {})
    with pytest.raises(ValueError, match="else and end must cost 0"):
        CostSchedule("x", {"else": 0}, {})


def test_large_costs_are_exact():
    costs = {"i32.add": 1000, "memory.size": 255, "loop": 3, "drop": 0, "br": 12, "return": 999}
    schedule = CostSchedule("dear", costs | {"else": 0, "end": 0}, {})
    rewrite = replace(METERED, schedule=schedule)
    assert metered("local.get 0 local.get 0 i32.add drop", rewrite) == (
        "[1003]; [?]; local.get 0; local.get 0; i32.add; drop; end"
    )
    assert (
        metered("br 0 br 0 return memory.size", rewrite) == "[13]; [?]; br 0; br 0; return; [255]; memory.size 0; end"
    )
    assert metered("nop return br 0 nop", rewrite) == "[1001]; [?]; nop; return; br 0; [1]; nop; end"
    assert metered("nop loop memory.size drop end", rewrite) == (
        "[5]; [?]; nop; loop; [255]; [?]; memory.size 0; drop; end; end"
    )


# ----------------------------------------------------------- a second metering, slow, in another style


@dataclass
class Point:
    """The replica's injection point."""

    position: int
    cost: int
    reentrant: bool = False
    dynamic: bool = False


def reference_points(code: list[Instruction], is_64: bool) -> Iterator[Point]:
    published = published_costs_cached()
    point = Point(0, 1, reentrant=True)
    for position, instruction in enumerate(code):
        name = OPCODES[instruction.opcode].name
        if name in {"memory.fill", "memory.copy", "memory.init", "table.fill", "table.copy", "table.init"}:
            yield Point(position, 0, dynamic=True)
        point.cost += published.get(name, (1, 1))[is_64]
        if name in ENDS_BLOCK:
            yield point
            point = Point(position + 1, 0, reentrant=name == "loop")


CACHE: dict[str, tuple[int, int]] = {}


def published_costs_cached() -> dict[str, tuple[int, int]]:
    CACHE.update(CACHE or published_costs())
    return CACHE


def reference_metering(body: bytes, is_64: bool = False) -> bytes:
    start = locals_end(body)
    code = list(instructions(body, start))
    injected: dict[int, bytes] = {}
    counter = encode_unsigned(COUNTER)
    for point in sorted(reference_points(code, is_64), key=lambda point: point.dynamic):
        text = b""
        if point.cost:
            text += b"\x23" + counter + b"\x42" + encode_signed(point.cost) + b"\x7d\x24" + counter
        if point.reentrant:
            text += b"\x23" + counter + b"\x42\0\x53\x04\x40\x10" + encode_unsigned(OUT) + b"\x0b"
        if point.dynamic:
            wide = is_64 and OPCODES[code[point.position].opcode].name in {"memory.fill", "memory.copy"}
            text += b"\x10" + encode_unsigned(CHARGE64 if wide else CHARGE32)
        injected[point.position] = injected.get(point.position, b"") + text
    pieces = [injected.get(index, b"") + body[item.start : item.end] for index, item in enumerate(code)]
    return body[:start] + b"".join(pieces)


def live(body: bytes) -> list[str]:
    """The instructions that can be reached, going by structure alone; the charges among them."""
    reached, depth, dead_at = [], 0, None
    for text in listing(body).split("; "):
        name = text.split()[0]
        if name in {"end", "else"} and dead_at == depth:
            dead_at = None
        if dead_at is None:
            reached.append(text)
        depth += (name in {"block", "loop", "if"}) - (name == "end")
        if (
            name in {"br", "br_table", "return", "unreachable", "return_call", "return_call_indirect"}
            and dead_at is None
        ):
            dead_at = depth
    return reached


def assert_equal_metering(body: bytes, is_64: bool = False) -> None:
    (code,) = rewrite_codes([Code(body)], replace(METERED, is_64=is_64))
    assert live(code.body) == live(reference_metering(body, is_64))
    assert without_charges(code.body) == without_charges(body)


def without_charges(body: bytes) -> list[str]:
    return [text for text in listing(body).split("; ") if not text.startswith("[")]


def random_body(rng: random.Random, length: int) -> bytes:
    """Structured but otherwise arbitrary instructions, their integers padded now and then."""
    names = [name for name in OPCODE_BY_NAME if name not in {"else", "end"}]
    frequent = ["block", "loop", "if", "br_if", "br_table", "br", "return", "unreachable", "memory.copy", "local.get"]
    simd = rng.random() < 0.5
    if not simd:
        names = [name for name in names if OPCODE_BY_NAME[name].number < 0xFD00]
    pieces, open_blocks = [], []
    for _ in range(length):
        choice = rng.random()
        if open_blocks and choice < 0.15:
            if open_blocks.pop() == "if" and choice < 0.05:
                pieces.append(b"\x05")
                open_blocks.append("else")
            else:
                pieces.append(b"\x0b")
            continue
        name = rng.choice(frequent if choice < 0.5 else names)
        opcode = OPCODE_BY_NAME[name]
        pieces.append(
            padded(encode_instruction(opcode, tuple(sample(kind, rng) for kind in opcode.immediates)), opcode, rng)
        )
        if name in {"block", "loop", "if"}:
            open_blocks.append(name)
    return b"\0" + b"".join(pieces) + b"\x0b" * (len(open_blocks) + 1)


def padded(encoded: bytes, opcode: object, rng: random.Random) -> bytes:
    kinds = opcode.immediates
    if rng.random() < 0.8 or len(kinds) != 1 or kinds[0] not in {Immediate.FUNCTION, Immediate.LOCAL, Immediate.LABEL}:
        return encoded
    room = 6 - len(encoded)
    return encoded[:-1] + bytes((encoded[-1] | 0x80,)) + b"\x80" * rng.randrange(room) + b"\0" if room > 0 else encoded


@pytest.mark.parametrize("seed", range(40))
def test_random_code_is_metered_as_the_reference_does(seed):
    rng = random.Random(seed)
    for _ in range(6):
        assert_equal_metering(random_body(rng, rng.randrange(60)), is_64=bool(seed % 2))


@pytest.mark.parametrize("name", ["kv32.wasm", "universal32.wasm", "save_restore.wasm", "stable_access.wasm"])
def test_real_code_is_metered_as_the_reference_does(name):
    module = decode((MODULES / name).read_bytes())
    for code in module.codes:
        assert_equal_metering(code.body, module.is_64)


# --------------------------------------------------------------------------------------------- running


PROGRAM = """
(module
  (memory (export "memory") 1)
  (table 2 funcref) (elem (i32.const 0) func $fib $sum)
  (type $unary (func (param i32) (result i32)))
  (func $fib (param i32) (result i32)
    (if (result i32) (i32.lt_u (local.get 0) (i32.const 2)) (then (local.get 0))
      (else (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1)))
                     (call $fib (i32.sub (local.get 0) (i32.const 2)))))))
  (func $sum (param $n i32) (result i32) (local $s i32)
    (block $out (loop $more
      (br_if $out (i32.eqz (local.get $n)))
      (local.set $s (i32.add (local.get $s) (local.get $n)))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br $more)))
    (local.get $s))
  (func $pick (param i32) (result i32)
    (block $c (block $b (block $a (br_table $a $b $c (local.get 0)))
      (return (i32.const 10))) (return (i32.div_u (i32.const 100) (i32.const 3))))
    (return_call $sum (local.get 0)))
  (func $fill (param i32) (result i32)
    (memory.fill (i32.const 0) (i32.const 7) (local.get 0))
    (memory.copy (i32.const 1000) (i32.const 0) (local.get 0))
    (i32.load8_u offset=1000 (i32.const 0)))
  (func $indirect (param i32) (result i32)
    (call_indirect (type $unary) (i32.const 9) (i32.and (local.get 0) (i32.const 1))))
  (export "fib" (func $fib)) (export "sum" (func $sum)) (export "pick" (func $pick))
  (export "fill" (func $fill)) (export "indirect" (func $indirect)))
"""


def linked(module: Module, codes: Iterable[bytes], counter: int) -> bytes:
    """The module with these bodies, a counter, and the three functions that metered code calls."""
    first = module.function_count
    kinds = (FuncType(), FuncType((ValType.I32,), (ValType.I32,)), FuncType((ValType.I64,), (ValType.I64,)))
    load = b"\x23" + encode_unsigned(counter)
    store = b"\x7d\x24" + encode_unsigned(counter)
    charge32 = b"\0" + load + b"\x20\0\xad" + store + b"\x20\0\x0b"
    charge64 = b"\0" + load + b"\x20\0" + store + b"\x20\0\x0b"
    return encode(
        replace(
            module,
            types=module.types + kinds,
            function_type_indices=module.function_type_indices + tuple(len(module.types) + index for index in range(3)),
            globals=(*module.globals, Global(GlobalType(ValType.I64, mutable=True), ConstExpr.i64(1 << 40))),
            exports=(*module.exports, Export("counter", ExternKind.GLOBAL, counter)),
            codes=tuple(map(Code, [*codes, b"\0\0\x0b", charge32, charge64])),
        )
    ), first


def with_real_indices(module: Module) -> Rewrite:
    first = module.function_count
    return Rewrite(SCHEDULE, len(module.all_global_types), first, first + 1, first + 2, is_64=module.is_64)


def run(wasm: bytes, name: str, argument: int) -> tuple[object, int]:
    store = wasmtime.Store()
    exports = wasmtime.Instance(store, wasmtime.Module(store.engine, wasm), []).exports(store)
    result = exports[name](store, argument)
    return result, (1 << 40) - exports["counter"].value(store)


@pytest.mark.parametrize(
    ("name", "argument", "result", "count"),
    [
        # prologue, local.get, i32.const, i32.lt_u, if (2), local.get
        ("fib", 1, 1, 7),
        # as above but for the last; then get const sub call (8), get const sub call (8), add; and fib(1), fib(0)
        ("fib", 2, 1, 6 + 17 + 2 * 7),
        # before the loop 1; per round eqz test 4, then 4 + 4 + 2; the last round 4; local.get
        ("sum", 0, 0, 1 + 4 + 1),
        ("sum", 10, 55, 1 + 10 * 14 + 4 + 1),
        ("pick", 0, 10, 4 + 2),
        ("pick", 1, 33, 4 + 13),
        # local.get and return_call, then sum(5)
        ("pick", 5, 15, 4 + 4 + 1 + 5 * 14 + 4 + 1),
        # prologue, 2 x (3 + 100 + 300 bytes), const and load
        ("fill", 300, 7, 1 + 2 * 103 + 600 + 2),
        ("indirect", 1, 45, 1 + 4 + 10 + (1 + 9 * 14 + 4 + 1)),
    ],
)
def test_running_costs_what_it_should(name, argument, result, count):
    module = compiled(PROGRAM)
    rewrite = with_real_indices(module)
    wasm, _ = linked(module, [code.body for code in rewrite_codes(module.codes, rewrite)], rewrite.counter_global)
    assert run(wasm, name, argument) == (result, count)


@pytest.mark.parametrize("path", sorted(MODULES.glob("*.wasm")), ids=lambda path: path.stem)
def test_metered_modules_are_valid(path):
    module = decode(path.read_bytes())
    rewrite = replace(with_real_indices(module), redirects={0: 0})
    wasm, _ = linked(module, [code.body for code in rewrite_codes(module.codes, rewrite)], rewrite.counter_global)
    wasmtime.Module.validate(wasmtime.Engine(), wasm)


# ------------------------------------------------------------------------------- counting and bad code


def test_instructions_are_counted():
    module = compiled(PROGRAM)
    slow = sum(1 for code in module.codes for _ in instructions(code.body, locals_end(code.body)))
    assert count_instructions(module.codes) == slow
    assert count_instructions([]) == 0


def test_a_histogram_knows_prefixed_instructions():
    body = b"\0\x41\0\xfc\x00\xfc\x8a\x00\0\0\xfd\x0c" + bytes(16) + b"\xfd\xff\x01\xfd\xff\x81\0\x0b"
    assert opcode_histogram(Code(body)) == {0x41: 1, 0xFC00: 1, 0xFC0A: 1, 0xFD0C: 1, 0xFDFF: 2, 0x0B: 1}


@pytest.mark.parametrize(
    ("body", "offset", "message"),
    [
        (b"\0\x06\x0b", 0x101, "found bytes 06, expected an instruction"),
        (b"\0\x01\xfe\0\x0b", 0x102, "found bytes fe, expected an instruction"),
        (b"\0\xfd\x80\x02\x0b", 0x101, "found bytes fd 80 02, expected an instruction"),
        (b"\0\x01\x41\x80\x0b\x41", 0x106, "expected an i32"),
        (b"\0\x0e\x05\0\x0b", 0x102, "count of 5 labels before 2 bytes"),
        (b"\0\x0e\xff\xff\xff\xff\x7f\x0b", 0x102, "expected the number of labels of 32 bits"),
        (b"\0\x42\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x0b", 0x102, "LEB128 of more than 10 bytes"),
        (b"\x01\x01\x77\x0b", 0x2, "expected a value type"),
        (b"\0\x01\x01", 0x103, "expected its last instruction to be end"),
        (b"\0\x01\x41\x0b", 0x104, "expected its last instruction to be end"),
    ],
)
def test_bad_code_is_refused_with_its_place(body, offset, message):
    with pytest.raises(MalformedError, match=message) as caught:
        rewrite_codes([Code(body, 0x100)], METERED)
    assert caught.value.offset in {offset, offset + 0x100}
