"""Build the test canisters from their sources, and compare them with the committed modules.

    python tests/canisters/build.py [--write] [NAME or LANGUAGE ...]

Without ``--write`` nothing is changed: each module is built under ``build/canisters`` and its SHA-256 compared with
``hashes.json``; the exit status is 1 where one differs. With ``--write`` the modules and their hashes are replaced.

Toolchains come from the package registries alone: PyPI's ``ziglang`` for C (its own virtual environment), npm for
Motoko and azle, rustup and crates.io for Rust. The recorded hash is that of the plain module; larger modules are
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
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "build" / "canisters"
HASHES = HERE / "hashes.json"

ZIGLANG = "ziglang==0.17.0"
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
    """

    name: str
    language: str
    source: str
    build: Callable[[Recipe], bytes]
    directory: str = "tests/canisters/modules"

    def path(self, size_bytes: int) -> Path:
        """The committed file, for a module of ``size_bytes``."""
        suffix = ".wasm" if size_bytes <= PLAIN_LIMIT_BYTES else ".wasm.gz"
        return ROOT / self.directory / (self.name + suffix)


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Run a command; show what it printed only where it fails."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


# --- C and text ------------------------------------------------------------------------------------------------------


def zig_python() -> Path:
    """The interpreter of a virtual environment with the pinned compiler, made on first use."""
    python = WORK / "venv" / "bin" / "python"
    marker = WORK / "venv" / ZIGLANG
    if not marker.exists():
        run(sys.executable, "-m", "venv", "--clear", WORK / "venv")
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ZIGLANG)
        marker.touch()
    return python


def c_module(target: str) -> Callable[[Recipe], bytes]:
    """A freestanding C module: no libc, every export by attribute."""

    def build(recipe: Recipe) -> bytes:
        out = WORK / f"{recipe.name}.wasm"
        flags = ("-std=c17", "-O2", "-Wall", "-Wextra", "-Werror", "-nostdlib", "-Wl,--no-entry", "-g0")
        files = ("-I", str(HERE / "c"), "-o", str(out), str(HERE / recipe.source))
        env = {"ZIG_GLOBAL_CACHE_DIR": str(WORK / "zig-cache"), "ZIG_LOCAL_CACHE_DIR": str(WORK / "zig-cache")}
        run(zig_python(), "-m", "ziglang", "cc", f"--target={target}-freestanding", *flags, *files, env=env)
        return out.read_bytes()

    return build


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
    remaps = [(path, "crates") for path in registries] + [(HERE / "rust", "canisters")]
    return "\x1f".join(f"--remap-path-prefix={path}={name}" for path, name in remaps)


def rust_module(recipe: Recipe) -> bytes:
    """A Rust canister of the workspace ``rust``, with the toolchain that its ``rust-toolchain.toml`` names."""
    workspace, target = HERE / "rust", "wasm32-unknown-unknown"
    run("rustup", "toolchain", "install", cwd=workspace)
    run("cargo", "fetch", "--locked", "--target", target, cwd=workspace)
    arguments = ("--locked", "--release", "--target", target, "--target-dir", WORK / "target")
    run(
        "cargo",
        "build",
        *arguments,
        "--package",
        recipe.name,
        cwd=workspace,
        env={"CARGO_ENCODED_RUSTFLAGS": rust_flags()},
    )
    return (WORK / "target" / target / "release" / f"{recipe.name}.wasm").read_bytes()


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


def check(name: str, module: bytes) -> None:
    """Stop where a module imports anything but functions of ``ic0``, or where the engine would not take it."""
    import wasmtime

    foreign = [(space, field) for space, field, kind in imports(module) if space != "ic0" or kind != 0]
    if foreign:
        raise SystemExit(f"{name}: imports {foreign}, which no canister may")
    config = wasmtime.Config()
    config.wasm_memory64 = True
    wasmtime.Module.validate(wasmtime.Engine(config), module)


# --- the modules -----------------------------------------------------------------------------------------------------

MOTOKO_CLASSICAL = motoko_module("motoko@3.13.0", "base")
MOTOKO_EOP = motoko_module("motoko@4.10.0", "core")

RECIPES: tuple[Recipe, ...] = (
    Recipe("kv32", "c", "c/kv.c", c_module("wasm32")),
    Recipe("kv64", "c", "c/kv.c", c_module("wasm64")),
    Recipe("stable_access", "c", "c/stable_access.c", c_module("wasm32")),
    Recipe("save_restore", "c", "c/save_restore.c", c_module("wasm32")),
    Recipe("universal32", "c", "universal/universal.c", c_module("wasm32")),
    Recipe("universal64", "c", "universal/universal.c", c_module("wasm64")),
    Recipe("globals", "wat", "wat/globals.wat", wat_module),
    Recipe("motoko_classical_v1", "motoko", "motoko/classical_v1.mo", MOTOKO_CLASSICAL),
    Recipe("motoko_classical_v2", "motoko", "motoko/classical_v2.mo", MOTOKO_CLASSICAL),
    Recipe("motoko_eop_v1", "motoko", "motoko/eop_v1.mo", MOTOKO_EOP),
    Recipe("motoko_eop_v2", "motoko", "motoko/eop_v2.mo", MOTOKO_EOP),
    Recipe("azle", "typescript", "typescript", azle_module),
    Recipe("ledger", "rust", "rust/ledger", rust_module),
    Recipe("messenger", "rust", "rust/messenger", rust_module),
    Recipe("structures", "rust", "rust/structures", rust_module),
    Recipe("insert_many", "rust", "rust/insert_many", rust_module, "src/perdure/demo"),
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
        "source": f"tests/canisters/{recipe.source}",
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
        check(recipe.name, module)
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
