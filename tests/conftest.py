"""What tests of several packages share."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import wasmtime
from hypothesis import HealthCheck, settings

CANISTERS = Path(__file__).parent / "canisters"

sys.path.insert(0, str(Path(__file__).parent))

# How long an example takes says nothing here, which Hypothesis takes for granted in CI alone.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background jobs have it ignored, and so would all programs that tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _npm_folder(name: str, *packages: str) -> Path:
    folder = Path(__file__).parent.parent / "build" / "npm" / name
    told = folder / "installed.txt"
    wanted = "\n".join(packages)
    if told.exists() and told.read_text() == wanted:
        return folder
    missing = [tool for tool in ("node", "npm") if shutil.which(tool) is None]
    why = f"needs {' and '.join(missing)}" if missing else ""
    if not missing:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text("{}\n")
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *packages]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
        why = f"npm cannot install {wanted}: {done.stderr[-500:]}" if done.returncode else ""
    if why:
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    told.write_text(wanted)
    return folder


@pytest.fixture(scope="session")
def npm_folder():
    """Packages of npm, each set in a folder under ``build``. Without npm: a failure in CI, a skipped test elsewhere."""
    return _npm_folder


@pytest.fixture(scope="session")
def answering_wasm():
    """A canister that replies or rejects, and does nothing else."""
    return bytes(
        wasmtime.wat2wasm("""(module
          (import "ic0" "msg_reply" (func $reply))
          (import "ic0" "msg_reject" (func $reject (param i32 i32)))
          (memory 1)
          (func (export "canister_query reply") (call $reply))
          (func (export "canister_query reject") (call $reject (i32.const 0) (i32.const 0))))""")
    )


@pytest.fixture(scope="session")
def universal():
    """The builder of programs for the universal canister."""
    name = "perdure_tests_universal"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, CANISTERS / "universal" / "universal.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session", params=[32, 64])
def bits(request):
    """Width of the heap's addresses."""
    return request.param


@pytest.fixture(scope="session")
def universal_wasm(bits):
    """The universal canister with such a heap."""
    return (CANISTERS / "modules" / f"universal{bits}.wasm").read_bytes()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[object]:
    """A bucket of `object_servers.OurServer`, s3://bucket, with a cache of its own; the environment leads there."""
    from object_servers import OurServer

    server = OurServer()
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PERDURE_CACHE_DIR", str(tmp_path / "cache"))
    yield server
    server.close()
