"""Profiles: every total is that of a run without one, and nothing else tells the two apart."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import wasmtime

from perdure import Canister, RejectError, Subnet
from perdure.embedder import Compiler, Engine
from perdure.errors import located
from perdure.execution import SubnetConfig
from perdure.execution.events import Ended, Trapped
from perdure.measure.formats import changes_table, parse_folded
from perdure.measure.profile import Profile

ROOT = Path(__file__).parents[2]
Built = Callable[[str], Path]
Story = Callable[[Subnet], None]
Run = Callable[..., tuple[int, str, str]]


def call(canister: Canister, method: str, arg: bytes = b"", **options: object) -> None:
    with suppress(RejectError):
        canister.update(method, arg, **options)  # type: ignore[arg-type]


def number(value: int, size: int = 8) -> bytes:
    return value.to_bytes(size, "little")


KV_CALLS = [
    ("stable64_grow", number(3)),
    ("inc", b""),
    ("put", b"\x05\0\0\0hello world"),
    ("append", number(1024) + number(10)),
    ("stable64_write", number(131072) + b"another page"),
    ("stable64_write", number(3 * 65536 - 2) + b"beyond the end"),
    ("change_and_trap", b""),
    ("trap", b"because"),
    ("unreachable", b""),
    ("divide", bytes(16)),
    ("reply_twice", b""),
    ("reject", b"no"),
    ("debug_print", b"said"),
    ("heap_grow", number(2)),
    ("echo", b"e" * 10_000),
    ("silent", b""),
    ("nothing of the kind", b""),
]


def kv(built: Built, name: str) -> Story:
    def story(subnet: Subnet) -> None:
        canister = subnet.install(built(name), bytes(8))
        for method, arg in KV_CALLS:
            call(canister, method, arg)
        canister.query("count")
        canister.upgrade(built(name))
        with subnet.anchor():
            call(canister, "inc")
        subnet.fork().canister(canister.id).update("inc")
        canister.reinstall(built(name), bytes(8))
        canister.load_snapshot(canister.take_snapshot())
        call(canister, "inc")

    return story


def universal(program: type, built: Built, name: str) -> Story:
    from perdure_tests_universal import Hook  # type: ignore[import-not-found]

    def story(subnet: Subnet) -> None:
        make = program
        one, two = (subnet.install(built(name), bytes(make())) for _ in range(2))
        raw = two.id.raw_bytes
        say, trap = make().reply(b"pong"), make().trap(b"no")
        for callee in (say, trap):
            answer = make().reply(make().stable64_grow(1).drop().data(b"answered"))
            call(one, "update", bytes(make().call(raw, "update", callee, on_reply=answer, on_reject=answer)))
            failing = make().call(
                raw, "update", callee, on_reply=trap, on_reject=trap, on_cleanup=make().stable64_grow(1).drop()
            )
            call(one, "update", bytes(failing))
            composite = bytes(make().call(raw, "query", callee, on_reply=answer, on_reject=answer))
            with suppress(RejectError):
                one.query("composite_query", composite)
        call(one, "update", bytes(make().repeat(1_000_000_000, make().get(0).drop()).reply(b"")))
        call(
            one, "update", bytes(make().hook(Hook.HEARTBEAT, make().set(0, 7)).hook(Hook.GLOBAL_TIMER, trap).reply(b""))
        )
        call(one, "update", bytes(make().global_timer_set(subnet.time_ns + 5).drop().reply(b"")))
        subnet.advance_time(10)
        subnet.tick()
        subnet.tick()
        with pytest.raises(RejectError):
            one.upgrade(built(name), bytes(trap))
        one.upgrade(built(name), bytes(make()))

    return story


def insert_many(built: Built) -> Story:
    def story(subnet: Subnet) -> None:
        actor = subnet.install(built("insert_many")).actor()
        for start in range(3):
            actor.insert_many([(key * 7919 % 1009, key) for key in range(start * 100, start * 100 + 100)])
        actor.get(7)

    return story


def motoko(built: Built, kind: str) -> Story:
    def story(subnet: Subnet) -> None:
        canister = subnet.install(built(f"motoko_{kind}_v1"))
        actor = canister.actor()
        for count in range(3):
            actor.inc()
            actor.put("k" * count, count)
        canister.upgrade(built(f"motoko_{kind}_v2"), wasm_memory_persistence="keep" if kind == "eop" else None)

    return story


def rust(built: Built) -> Story:
    def story(subnet: Subnet) -> None:
        ledger = subnet.install(built("ledger"), '(record { symbol = "TST"; fee = 1; holders = vec {} })')
        ledger.upgrade(built("ledger"), '(record { symbol = "TST"; fee = 1; holders = vec {} })')
        canister = subnet.install(built("save_restore"))
        for method in sorted(canister.module.exported_methods):
            kind, _, name = method.partition(" ")
            if kind == "canister_update":
                call(canister, name, number(3))

    return story


STORIES = {
    "kv32": lambda built, program: kv(built, "kv32"),
    "kv64": lambda built, program: kv(built, "kv64"),
    "universal32": lambda built, program: universal(program, built, "universal32"),
    "universal64": lambda built, program: universal(program, built, "universal64"),
    "insert_many": lambda built, program: insert_many(built),
    "motoko_classical": lambda built, program: motoko(built, "classical"),
    "motoko_eop": lambda built, program: motoko(built, "eop"),
    "rust": lambda built, program: rust(built),
}


def told(subnet: Subnet, story: Story) -> tuple[list[object], list[object]]:
    """What happened, and what is there at the end."""
    with subnet.events() as stream:
        story(subnet)
        happened = list(stream)
    left: list[object] = [subnet.time_ns]
    for one in subnet.canisters:
        content = [one.memories[name].read(0, one.memories[name].size() << 16) for name in sorted(one.memories)]
        left += [one.status(), one.globals, one.logs(), [hashlib.sha256(memory).digest() for memory in content]]
    return happened, left


@pytest.mark.slow
@pytest.mark.parametrize("name", STORIES)
def test_totals_are_those_of_a_run_without_a_profile(name: str, built: Built, universal) -> None:
    story = STORIES[name](built, universal.Program)
    config = SubnetConfig(max_instructions_per_message=20_000_000)
    plain = told(Subnet(config=config), story)
    subnet = Subnet(config=config)
    with subnet.profile() as profile:
        seen = told(subnet, story)
    assert seen == plain
    ends = [event for event in plain[0] if isinstance(event, Ended | Trapped)]
    assert len(ends) >= 4
    assert profile.total_instructions == sum(event.instructions for event in ends)
    assert profile.lost_calls == 0
    assert min(profile.inclusive()) >= 0


def test_nothing_is_left_of_a_profile(built: Built, tmp_path: Path) -> None:
    """A state directory's history, version and bytes are the same, and the code runs as it is again."""
    hashes = []
    for is_profiled in (False, True):
        with Subnet(tmp_path / str(is_profiled), history=None) as subnet:
            canister = subnet.install(built("kv32"), bytes(8))
            if is_profiled:
                with subnet.profile() as profile:
                    canister.update("inc")
                assert profile.total_instructions > 0
            else:
                canister.update("inc")
            canister.update("inc")
            if is_profiled:
                assert {cost.name: cost.calls for cost in profile.functions()}["update inc"] == 1
            subnet.checkpoint()
            history = [(one.version, one.message, one.state_hash) for one in subnet._durable.directory.history()]
            hashes.append((subnet.version, history, canister.heap.read(0, canister.heap.size() << 16)))
    assert hashes[0] == hashes[1]


CHAIN = """(module
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
  (memory 1)
  (table 2 funcref)
  (elem (i32.const 0) $leaf $other)
  (func $leaf (nop) (nop) (nop))
  (func $other (call $leaf) (call $leaf))
  (func $down (param $n i32)
    (if (local.get $n) (then (call $down (i32.sub (local.get $n) (i32.const 1)))) (else (call $leaf))))
  (func (export "canister_update run")
    (drop (call $grow (i64.const 1)))
    (call $write (i64.const 0) (i64.const 0) (i64.const 5000))
    (call_indirect (i32.const 0)) (call_indirect (i32.const 1)) (call $down (i32.const 3))
    (call $reply))
  (func (export "canister_update deep") (param) (call $down (i32.const 3000)) (call $reply))
  (func (export "canister_update forever") (call $down (i32.const -1)) (call $reply)))"""


def test_a_profile_says_who_called_whom() -> None:
    subnet = Subnet()
    canister = subnet.install(bytes(wasmtime.wat2wasm(CHAIN)))
    with subnet.profile() as profile:
        canister.update("run")
    calls = {cost.name: cost.calls for cost in profile.functions()}
    assert calls["leaf"] == 4
    assert calls["down"] == 4
    write = next(cost for cost in profile.functions() if cost.name == "ic0.stable64_write")
    assert (write.calls, write.size_bytes) == (1, 5000)
    lines = profile.folded().splitlines()
    stacks = {line.rpartition(" ")[0]: int(line.rpartition(" ")[2]) for line in lines}
    entry = next(stack for stack in stacks if stack.endswith(";other;leaf")).removesuffix(";other;leaf")
    assert f"{entry};down;down;down;down;leaf" in stacks
    assert sum(stacks.values()) == profile.total_instructions
    down = next(cost for cost in profile.functions() if cost.name == "down")
    assert down.self_instructions < down.instructions < profile.total_instructions  # a recursive one counts once
    centres = {centre.name: centre for centre in profile.centres()}
    assert centres["stable writes"].size_bytes == 5000
    assert "heap page charges" not in centres
    assert profile.table().startswith(f"{profile.total_instructions:,} instructions\n")


def test_running_out_of_stack_is_the_same_kind_of_trap() -> None:
    subnet = Subnet()
    canister = subnet.install(bytes(wasmtime.wat2wasm(CHAIN)))
    with subnet.profile() as profile, subnet.events() as stream:
        with pytest.raises(RejectError, match="stack"):
            canister.update("forever")
        canister.update("deep")
    ends = [event for event in stream if isinstance(event, Ended | Trapped)]
    assert profile.total_instructions == sum(event.instructions for event in ends)
    assert max(len(line.split(";")) for line in profile.folded().splitlines()) <= 402


FALLS = """(module
  (import "ic0" "trap" (func $trap (param i32 i32)))
  (import "ic0" "msg_arg_data_copy" (func $copy (param i32 i32 i32)))
  (memory 1)
  (func $end (if (i32.load8_u (i32.const 1)) (then (call $trap (i32.const 0) (i32.const 1))) (else (unreachable))))
  (func $even (param i32)
    (if (local.get 0) (then (call $odd (i32.sub (local.get 0) (i32.const 1)))) (else (call $end))))
  (func $odd (param i32) (call $even (i32.sub (local.get 0) (i32.const 1))))
  (func (export "canister_update fall")
    (call $copy (i32.const 0) (i32.const 0) (i32.const 2)) (call $even (i32.load8_u (i32.const 0)))))"""


@pytest.mark.parametrize("depth", [0, 6, 8, 14, 16, 18, 20, 100])
@pytest.mark.parametrize("by_call", [False, True])
def test_a_backtrace_is_as_long_as_without_a_profile(depth: int, by_call: bool) -> None:
    def trapped(profiled: bool) -> tuple[tuple[str, ...], list[bytes], tuple[str, ...]]:
        subnet = Subnet()
        canister = subnet.install(bytes(wasmtime.wat2wasm(FALLS)))
        with subnet.profile() if profiled else nullcontext(), pytest.raises(RejectError) as caught:
            canister.update("fall", bytes([depth, by_call]))
        return caught.value.backtrace, [record.content for record in canister.logs()], located(caught.value.backtrace)

    plain = trapped(profiled=False)
    assert plain == trapped(profiled=True)
    assert len(plain[0]) == min(20 - by_call, depth + 3)


def test_names_stay_on_their_lines(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wat = CHAIN.replace("$leaf", '$"a\\n[u8; 4] 7\\r\\1b[2J"').replace("canister_update run", "canister_update ru\\nn")
    monkeypatch.chdir(tmp_path)
    Path("names.wasm").write_bytes(bytes(wasmtime.wat2wasm(wat)))
    files = ["run.folded", "run.txt", "run.json"]
    assert run("profile", "names.wasm", "ru\nn", *(word for name in files for word in ("-o", name)))[::2] == (0, "")
    assert all(line.isprintable() for name in files for line in Path(name).read_text().splitlines())
    assert r"a\u{a}[u8; 4] 7\u{d}\u{1b}[2J" in Path("run.txt").read_text()
    code, out, _ = run("profile", "names.wasm", "ru\nn", "--against", "run.folded")
    assert (code, len(out.splitlines())) == (0, 2)  # nothing has changed


def test_formats(tmp_path: Path) -> None:
    subnet = Subnet()
    canister = subnet.install(bytes(wasmtime.wat2wasm(CHAIN.replace("$leaf", '$"a<b>&;\\"leaf"'))))
    with subnet.profile() as profile:
        canister.update("run")
    shown = json.loads(profile.speedscope("a name"))
    is_speedscope(shown)
    (one,) = shown["profiles"]
    assert (one["type"], one["unit"], one["endValue"]) == ("evented", "none", profile.total_instructions)
    depth = 0
    for before, event in zip([{"at": 0}, *one["events"]], one["events"], strict=False):
        assert before["at"] <= event["at"]
        depth += 1 if event["type"] == "O" else -1
        assert depth >= 0
        assert event["frame"] < len(shown["shared"]["frames"])
    assert depth == 0

    values = pprof_values(gzip.decompress(profile.pprof()))
    assert sum(value[1] for value in values) == profile.total_instructions
    assert sum(value[2] for value in values) == 5000

    root = ET.fromstring(profile.svg("<title>"))
    titles = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles[0] == "<title>"
    assert any(title.startswith('a<b>&;"leaf: ') for title in titles), titles


def is_speedscope(shown: dict[str, object]) -> None:
    """What speedscope's schema asks for (file-format-schema.json of npm speedscope 1.25.0), for evented profiles."""
    assert shown["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    assert set(shown) <= {"$schema", "shared", "profiles", "name", "activeProfileIndex", "exporter"}
    assert set(shown["shared"]) == {"frames"}
    frames = shown["shared"]["frames"]
    for frame in frames:
        assert isinstance(frame["name"], str)
        kinds = {"name": str, "file": str, "line": int, "col": int}
        assert all(type(value) is kinds[key] for key, value in frame.items())
    for profile in shown["profiles"]:
        assert set(profile) == {"type", "name", "unit", "startValue", "endValue", "events"}
        assert profile["type"] == "evented"
        assert profile["unit"] in {"none", "nanoseconds", "microseconds", "milliseconds", "seconds", "bytes"}
        for event in profile["events"]:
            assert set(event) == {"type", "at", "frame"}
            assert event["type"] in {"O", "C"}
            assert type(event["at"]) is int
            assert 0 <= event["frame"] < len(frames)


def test_files_say_where_functions_begin(built: Built) -> None:
    subnet = Subnet()
    canister = subnet.install(built("branches"))
    with subnet.profile() as profile:
        canister.update("add", number(3))
    source = (Path(__file__).parents[1] / "canisters/c/branches.c").read_text().splitlines()
    file, line = profile.places["step"]
    assert (file, source[line - 1]) == ("c/branches.c", "static u64 step(u64 value) {")
    assert f" step (c/branches.c:{line})\n" in profile.table()
    shown = json.loads(profile.speedscope())
    is_speedscope(shown)
    assert {"name": "step", "file": file, "line": line} in shown["shared"]["frames"]
    again = Profile()
    again.loads(profile.dumps())
    assert (again.table(), again.speedscope()) == (profile.table(), profile.speedscope())


GO = shutil.which("go") or next(map(str, ROOT.glob("build/canisters/venv/lib/*/site-packages/go/bin/go")), None)
"""Go as it is here, or as `tests/canisters/build.py` has installed it."""


@pytest.mark.skipif(
    GO is None or not os.environ.get("PPROF"), reason="PPROF=1 and Go: it builds its pprof first, minutes"
)
@pytest.mark.slow
def test_pprof_reads_it(built: Built, tmp_path: Path) -> None:
    subnet = Subnet()
    canister = subnet.install(built("branches"))
    with subnet.profile() as profile:
        canister.update("add", number(4))
    (tmp_path / "it.pb.gz").write_bytes(profile.pprof())
    command = [str(GO), "tool", "pprof", "-top", "-lines", str(tmp_path / "it.pb.gz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert f"of {profile.total_instructions} total" in done.stdout
    assert f"reply_with c/ic0.h:{profile.places['reply_with'][1]}" in done.stdout


def pprof_values(data: bytes) -> list[list[int]]:
    """The values of the samples in a `profile.proto`."""

    def fields(data: bytes) -> list[tuple[int, object]]:
        found, at = [], 0

        def varint() -> int:
            nonlocal at
            value = shift = 0
            while True:
                byte = data[at]
                at += 1
                value |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    return value

        while at < len(data):
            key = varint()
            if key & 7 == 0:
                found.append((key >> 3, varint()))
            else:
                size = varint()
                found.append((key >> 3, data[at : at + size]))
                at += size
        return found

    def unpacked(data: bytes) -> list[int]:
        values, value, shift = [], 0, 0
        for byte in data:
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                values.append(value)
                value = shift = 0
        return values

    samples = [body for field, body in fields(data) if field == 2]
    return [unpacked(next(body for field, body in fields(sample) if field == 2)) for sample in samples]


def test_two_profiles_are_compared() -> None:
    before = parse_folded("a;b 10\na;c 5\na 1\n")
    now = parse_folded("a;b 30\na;d 5\na 1\n")
    assert changes_table(before, now).splitlines()[1:] == [
        "              16               36              +20  +125.00  total",
        "              10               30              +20  +200.00  b",
        "               5                0               -5  -100.00  c",
        "               0                5               +5      new  d",
    ]


def test_what_does_not_fit_counts_for_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more paths than there is room for the total stays right, and the table says so."""
    monkeypatch.setattr("perdure.instrument.profile.MAX_NODES", 1_000)
    levels = 10
    functions = "".join(
        f"(func ${side}{level} (param $n i32)"
        + (
            f"(if (i32.and (local.get $n) (i32.const 1)) "
            f"(then (call $a{level + 1} (i32.shr_u (local.get $n) (i32.const 1)))) "
            f"(else (call $b{level + 1} (i32.shr_u (local.get $n) (i32.const 1)))))"
            if level < levels
            else "(nop)"
        )
        + ")"
        for level in range(levels + 1)
        for side in "ab"
    )
    text = f"""(module (import "ic0" "msg_reply" (func $reply)) {functions}
      (func (export "canister_update run") (local $n i32)
        (loop $next (call $a0 (local.get $n)) (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $next (i32.lt_u (local.get $n) (i32.const {1 << levels}))))
        (call $reply)))"""
    subnet = Subnet(compiler=Compiler(Engine(), None))
    canister = subnet.install(bytes(wasmtime.wat2wasm(text)))
    with subnet.profile() as profile, subnet.events() as stream:
        canister.update("run")
    assert len(profile) == 1_000
    assert profile.lost_calls > 1_000
    assert profile.total_instructions == sum(event.instructions for event in stream if isinstance(event, Ended))
    assert "calls had no room" in profile.table()


def test_very_many_and_very_deep_paths_are_shown_in_part() -> None:
    paths, place = Profile(), 0
    for depth in range(2_000):
        place = paths.child(place, "down")
        paths.count(place, 1, depth)
    for number in range(30_000):
        paths.count(paths.child(0, f"f{number}"), 1, number)
    shown = paths.shown()
    assert len(shown) <= 20_000
    assert shown.total_instructions == paths.total_instructions
    assert max(line.count(";") for line in paths.folded().splitlines()) < 400


def test_profiles_add_up() -> None:
    one, two = parse_folded("a;b 10\n"), parse_folded("a;b 5\nc 1\n")
    total = Profile()
    total.add(one)
    total.add(two)
    assert total.folded() == "a;b 15\nc 1\n"


def test_the_command(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chain.wasm").write_bytes(bytes(wasmtime.wat2wasm(CHAIN)))
    files = ["run.svg", "run.json", "run.pb.gz", "run.folded", "run.txt"]
    code, out, err = run("profile", "chain.wasm", "run", *(word for name in files for word in ("-o", name)))
    assert (code, err) == (0, "")
    assert out == Path("run.txt").read_text()
    assert " down\n" in out
    assert all(Path(name).stat().st_size for name in files)
    told = json.loads(run("profile", "chain.wasm", "run", "run", "--json")[1])
    total = sum(int(line.rpartition(" ")[2]) for line in Path("run.folded").read_text().splitlines())
    assert told["instructions"] > total
    code, out, _ = run("profile", "chain.wasm", "run", "--against", "run.folded")
    assert (code, len(out.splitlines())) == (0, 2)  # nothing has changed
    code, out, err = run("profile", "chain.wasm", "run", "forever")
    assert code == 1
    assert " down\n" in out
    assert "stack" in err

    with Subnet("state") as subnet:
        canister = subnet.install("chain.wasm")
        canister.update("run")
        canister.write_snapshot("snapshot")
    before = [path.read_bytes() for path in sorted(Path("state").rglob("*")) if path.is_file()]
    for source in (f"state:{canister.id}", "snapshot"):
        assert json.loads(run("profile", source, "run", "--json")[1])["instructions"] > 0
    assert [path.read_bytes() for path in sorted(Path("state").rglob("*")) if path.is_file()] == before
    code, _, err = run("canister", "call", canister.id, "run", "--state", "state", "--profile", "call.folded")
    assert (code, err) == (0, "")
    assert ";down;down" in Path("call.folded").read_text()


@pytest.mark.parametrize("command", ["profile", "coverage", "heatmap"])
def test_a_module_may_come_out_of_a_pipe(command: str, run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    wasm = bytes(wasmtime.wat2wasm(CHAIN))
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(wasm))
    writer.start()
    code, out, err = run(command, tmp_path / "pipe", "run")
    writer.join()
    assert (code, err) == (0, "")
    assert out
    code, _, err = run(command, "/dev/zero", "run")
    assert code
    assert "/dev/zero is a device, a module is a file" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["chain.wasm"], "nothing ran"),
        (["chain.wasm", "nope"], "no method 'nope'"),
        (["chain.wasm", "run", "-o", "x.png"], "x.png ends with none of .svg"),
        (["chain.wasm", "run", "--against", "chain.wasm"], "chain.wasm is no file of folded stacks"),
        (["nowhere", "run"], "nowhere"),
    ],
)
def test_the_command_tells_what_is_wrong(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chain.wasm").write_bytes(bytes(wasmtime.wat2wasm(CHAIN)))
    code, out, err = run("profile", *words)
    assert (code, out) == (2, "")
    assert said in err
