"""On other systems than Linux: everything can be imported, and what only looks at bytes works.

There is no such system here. So what Linux alone has is taken away before perdure is imported: functions of `os`, of
the C library, constants, `/proc`, and the name of the platform. What is then done is done in one process.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perdure import Principal, Subnet

MODULES = Path(__file__).parent / "canisters" / "modules"

TAKEN_AWAY = """
import ctypes, fcntl, mmap, os, resource, select, socket, sys, tempfile
# What looks for its own system does so before that is gone.
import cbor2, click, multiprocessing, pytest, sysconfig, urllib.request, uuid, wasmtime, webbrowser, yaml

sysconfig.get_config_vars()
LINUX = {
    os: ("memfd_create MFD_CLOEXEC eventfd fdatasync posix_fallocate posix_fadvise sched_getaffinity sched_setaffinity"
         " copy_file_range splice O_DIRECT O_PATH O_TMPFILE O_NOATIME getxattr setxattr pidfd_open"
         " setns unshare"),
    mmap: "MAP_NORESERVE MAP_POPULATE MAP_STACK MAP_DENYWRITE MAP_EXECUTABLE MADV_DONTFORK MADV_HUGEPAGE",
    select: "epoll EPOLLIN EPOLL_CLOEXEC",
    fcntl: "F_SETPIPE_SZ F_GETPIPE_SZ F_ADD_SEALS F_GET_SEALS F_OFD_SETLK F_OFD_SETLKW F_OFD_GETLK",
    resource: "prlimit RLIMIT_SIGPENDING RLIMIT_RTPRIO RLIMIT_MSGQUEUE",
    socket: "AF_NETLINK SO_PEERCRED SOCK_CLOEXEC",
}
tempfile._O_TMPFILE_WORKS = False
for module, names in LINUX.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
NO_FUNCTIONS = {"mremap", "syscall", "statx", "fallocate", "memfd_create", "eventfd", "io_submit", "prctl"}


def without(load):
    class Library(load):
        def __getattr__(self, name):
            if name in NO_FUNCTIONS:
                raise AttributeError(name)
            return super().__getattr__(name)

        def __getitem__(self, name):
            if name in NO_FUNCTIONS:
                raise AttributeError(name)
            return super().__getitem__(name)
    return Library


ctypes.CDLL, ctypes.PyDLL = without(ctypes.CDLL), without(ctypes.PyDLL)


def hook(event, arguments):
    if event == "open" and str(arguments[0]).startswith(("/proc/", "/sys/")):
        raise FileNotFoundError(2, "no such file", arguments[0])


sys.addaudithook(hook)
sys.platform = "darwin"
"""
IMPORTING = """
import importlib, pkgutil
import perdure
for found in pkgutil.walk_packages(perdure.__path__, "perdure."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
print("imported", len([name for name in sys.modules if name.startswith("perdure.")]))
"""
LOOKING = """
from perdure import cli
def command(*words):
    sys.argv = ["perdure", *words]
    try:
        cli.main()
    except SystemExit as ended:
        print("exit code", ended.code or 0)
"""


def elsewhere(script: str, place: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", TAKEN_AWAY + script]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_every_module_can_be_imported(tmp_path: Path) -> None:
    done = elsewhere(IMPORTING, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) > 400


@pytest.mark.slow
def test_what_only_looks_works(tmp_path: Path) -> None:
    """A state directory, a snapshot and a dump of one canister."""
    with Subnet(tmp_path / "state") as subnet:
        canister = subnet.install(MODULES / "shop.wasm.gz", canister_id=Principal.from_index(0))
        canister.write_snapshot(tmp_path / "snapshot")
    shutil.copy(tmp_path / "snapshot" / "stable_memory.bin", tmp_path / "dump.bin")
    sources = f"state:{canister.id}", "snapshot", "dump.bin"
    script = LOOKING + "".join(f"command('stable', 'ls', '{source}')\n" for source in sources)
    done = elsewhere(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("users_by_email") == len(sources)
    assert done.stdout.count("exit code 0") == len(sources)


@pytest.mark.slow
def test_canisters_in_python_run_and_those_of_wasm_say_why_not(tmp_path: Path) -> None:
    (tmp_path / "counter.py").write_text("""
from perdure.kit import canister, nat64, stable, update
from perdure.stable import StableCell


@canister
class Counter:
    count: StableCell[nat64] = stable(default=0)

    @update
    def inc(self) -> nat64:
        self.count.value += 1
        return self.count.value
""")
    shutil.copy(MODULES / "kv32.wasm", tmp_path)
    script = (
        LOOKING
        + """
sys.path.insert(0, "")
from counter import Counter
from perdure import Subnet
subnet = Subnet()
counter = subnet.install(Counter).actor()
counter.inc()
with subnet.anchor():
    counter.inc()
print("counted", counter.inc())
with Subnet("state") as kept:
    kept.install(Counter).actor().inc()
with Subnet("state") as kept:
    print("kept", kept.canisters[0].actor().inc())
command("run", "kv32.wasm", "inc")
command("doctor", "-q")
"""
    )
    done = elsewhere(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "counted 2" in done.stdout
    assert "kept 2" in done.stdout
    assert "perdure: canisters of Wasm run on Linux" in done.stderr
    assert "exit code 2" in done.stdout
    assert "exit code 1" in done.stdout
