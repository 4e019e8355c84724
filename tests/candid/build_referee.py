"""Build the program in `referee/`: ``python build_referee.py TARGET_DIRECTORY``; needs cargo, nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def cargo_environment() -> dict[str, str]:
    """Where cargo finds its toolchain and its settings, whatever HOME is: beside itself, as it was installed."""
    cargo = Path(shutil.which("cargo") or "")
    home = cargo.parent.parent
    found = {"CARGO_HOME": home, "RUSTUP_HOME": home.with_name(".rustup")}
    return {**{name: str(path) for name, path in found.items() if path.is_dir()}, **os.environ}


def build(target: Path) -> subprocess.CompletedProcess[str]:
    """Build it into a directory; where it is there already, that takes no time."""
    manifest = Path(__file__).parent / "referee" / "Cargo.toml"
    command = ["cargo", "build", "--quiet", "--locked", "--manifest-path", str(manifest), "--target-dir", str(target)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=cargo_environment())


if __name__ == "__main__":
    done = build(Path(sys.argv[1]))
    sys.stderr.write(done.stderr)
    sys.exit(done.returncode)
