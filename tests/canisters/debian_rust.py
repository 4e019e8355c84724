"""Rust for wasm32-wasip1 where rustup has no such target: Debian's compiler, and its standard library built from source.

Debian's ``rustc-web`` brings the sources of the library but no build of it for this target. What a C library has to
provide is taken from the C compiler of the other canisters.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

VERSION = "1.96.0+dfsg1-1~deb12u2"
PACKAGES = (
    *(f"{name}={VERSION}" for name in ("rustc-web", "libstd-rust-web-1.96", "libstd-rust-web-dev", "rust-web-src")),
    "libllvm22",
)
TARGET = "wasm32-wasip1"

Run = Callable[..., None]


def environment(root: Path, libc: Path, run: Run) -> dict[str, str]:
    """The compiler's environment, everything unpacked and built under `root` on first use.

    Args:
        root: a directory of its own.
        libc: the static C library, with crt1-reactor.o not needed: Rust's dynamic libraries have no start.
        run: runs a command.
    """
    usr = root / "usr"
    env = {
        "RUSTC": str(usr / "bin" / "rustc"),
        "LD_LIBRARY_PATH": f"{usr / 'lib/x86_64-linux-gnu'}:{usr / 'lib/llvm-22/lib'}",
    }
    libraries = usr / "lib/rustlib" / TARGET / "lib"
    if not libraries.exists():
        shutil.rmtree(root, ignore_errors=True)
        (root / "debs").mkdir(parents=True)
        run("apt-get", "download", *PACKAGES, cwd=root / "debs")
        for package in sorted((root / "debs").iterdir()):
            run("dpkg", "-x", package, root)
        build_library(root, env, run)
        libraries.mkdir(parents=True)
        for name, rlib in sorted(newest(root / "target" / TARGET / "release/deps")):
            shutil.copy(rlib, libraries / f"{name}.rlib")
        (libraries / "self-contained").mkdir()
    shutil.copy(libc, libraries / "self-contained" / "libc.a")
    return env


def build_library(root: Path, env: dict[str, str], run: Run) -> None:
    """Build the standard library, with the flags that the compiler's own build has."""
    source = next((root / "usr/src").glob("rustc-*")) / "library"
    flags = (
        "-Zforce-unstable-if-unmarked",
        "-Cembed-bitcode=yes",
        f"--remap-path-prefix={source}=library",
        f"--remap-path-prefix={Path(os.environ.get('CARGO_HOME', Path.home() / '.cargo')) / 'registry/src'}=crates",
    )
    own = {"RUSTC_BOOTSTRAP": "1", "CARGO_ENCODED_RUSTFLAGS": "\x1f".join(flags), "__CARGO_DEFAULT_LIB_METADATA": "web"}
    arguments = ("--release", "--target", TARGET, "--target-dir", root / "target")
    for package in (("std", "--features", "panic-unwind,backtrace"), ("panic_abort",)):
        run("cargo", "build", *arguments, "--package", *package, cwd=source, env={**env, **own})


def newest(directory: Path) -> Iterator[tuple[str, Path]]:
    """The libraries by name; of several builds of one name the last."""
    rlibs = sorted(directory.glob("*.rlib"), key=lambda path: path.stat().st_mtime)
    return iter({re.sub("-[0-9a-f]+$", "", path.stem): path for path in rlibs}.items())


def flags() -> Iterator[str]:
    """What the compiler needs to find a linker: the one that rustup's toolchain has."""
    sysroot = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True).stdout.strip()
    linker = next(Path(sysroot).glob("lib/rustlib/*/bin/rust-lld"))
    yield from ("-Clinker-flavor=wasm-ld", f"-Clinker={linker}")
