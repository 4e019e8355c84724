"""What is around a command: nobody who reads, a terminal without UTF-8, a full disk, Ctrl-C, files that are others."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perdure.cli import main
from perdure.memory import BytesMemory
from perdure.stable import StableBTreeMap, types

ROOT = Path(__file__).parents[2]
MODULES = ROOT / "tests/canisters/modules"
KV = MODULES / "kv32.wasm"
COUNTER = MODULES / "motoko_classical_v1.wasm.gz"


def perdure(*arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perdure", *arguments]
    return subprocess.run(command, cwd=cwd, text=True, check=False, timeout=300, **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a state and a snapshot of one canister, called counter."""
    made = tmp_path_factory.mktemp("place")
    for arguments in (
        ("canister", "install", "counter", "--wasm", str(COUNTER)),
        ("canister", "snapshot", "download", "counter", "-o", "snapshot"),
    ):
        done = perdure(*arguments, cwd=made, capture_output=True)
        assert done.returncode == 0, done.stderr
    return made


PRINTING = (
    ("--help",),
    ("canister", "list"),
    ("canister", "call", "counter", "count"),
    ("stable", "fsck", "snapshot"),
    ("stable", "map", "snapshot"),
    ("state", "verify", ".perdure"),
    ("run", str(KV), "count"),
)


@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_nobody_reads(place: Path, arguments: tuple[str, ...]) -> None:
    """As SIGPIPE would have it, and no word of it: a finding that nobody read is not "fine"."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as nowhere:
        done = perdure(*arguments, cwd=place, stdout=nowhere, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_at_the_other_end(place: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = perdure("canister", "list", cwd=place, stdout=full, stderr=subprocess.PIPE)
        assert (done.returncode, os.strerror(errno.ENOSPC) in done.stderr) == (2, True)
        done = perdure("canister", "call", "counter", "crash", cwd=place, stdout=full, stderr=full)
        assert done.returncode == 1


@pytest.mark.parametrize("arguments", [("stable", "map", "snapshot"), ("canister", "metadata", "counter", "x\u2028")])
def test_a_terminal_without_utf8(place: Path, arguments: tuple[str, ...]) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment["PYTHONIOENCODING"] = "ascii"
    done = perdure(*arguments, cwd=place, env=environment, capture_output=True)
    assert "Traceback" not in done.stderr
    assert (done.stdout + done.stderr).isascii()
    assert done.returncode == (0 if "map" in arguments else 2)


def test_json_of_letters_that_a_terminal_lacks_stays_json(tmp_path: Path) -> None:
    memory = BytesMemory()
    StableBTreeMap.create(memory, types.u64, types.text)[1] = (text := "ü 日本 \N{GRINNING FACE}")
    (tmp_path / "dump.bin").write_bytes(memory.data)
    (tmp_path / "stable.yaml").write_text('memories: {"page:0": {name: users, key: u64, value: text}}')
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "perdure", "stable", "rows", "dump.bin", "--nl"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert json.loads(done.stdout.decode("latin-1"))["value"] == text
    assert "ü \\u65e5\\u672c \\ud83d\\ude00".encode("latin-1") in done.stdout


@pytest.mark.parametrize("command", ["profile", "heatmap", "coverage"])
def test_a_module_that_is_not_there_is_missed_as_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["perdure", command, "ledgr.wasm", "get"])
    with pytest.raises(SystemExit):
        main()
    assert "File 'ledgr.wasm' does not exist" in capsys.readouterr().err


OTHERS = {
    "icp.yaml": ("canisters: []", "is a manifest: `perdure canister install --all`"),
    "dfx.json": ("{}", "is a manifest: `perdure canister install --all`"),
    "shop.py": ("import perdure", "is Python: its class is what is installed, `from shop import ...`"),
    "ledger.did": ("service : {}", "is an interface in Candid"),
    "text": ("hello", "it begins with b'hell'"),
    "empty": ("", "it begins with b''"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_module_is_said_to_be_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    content, said = OTHERS[name]
    (tmp_path / "other").mkdir()
    file = tmp_path / "other" / name
    file.write_text(content)
    monkeypatch.chdir(tmp_path)
    for command in (
        ("run", file),
        ("instrument", file),
        ("canister", "install", "x", "--wasm", file),
        ("upgrade-check", ".perdure:x", file),
    ):
        monkeypatch.setattr(sys, "argv", ["perdure", *map(str, command)])
        with pytest.raises(SystemExit) as exited:
            main()
        error = " ".join(capsys.readouterr().err.split())
        assert (exited.value.code, f"{name} is no Wasm module" in error, said in error) == (2, True, True), error
    assert not (tmp_path / ".perdure").exists()


def test_a_device_is_not_read_to_its_end(tmp_path: Path) -> None:
    for arguments in (
        ("run", "/dev/zero"),
        ("stable", "guard", "/dev/zero"),
        ("stable", "ls", "dump", "--schema", "/dev/zero"),
        ("canister", "install", "x", "--argument-file", "/dev/zero"),
    ):
        done = perdure(*arguments, cwd=tmp_path, capture_output=True)
        assert (done.returncode, "is a device" in done.stderr) == (2, True), done.stderr


def test_what_is_no_text_in_utf8_is_said_to_be_none(place: Path) -> None:
    for arguments, told in (
        (("canister", "call", "counter", b"count\xff"), r"no method 'count\udcff'"),
        (
            ("canister", "settings", "update", "counter", "--add-environment-variable", b"A\xff=1"),
            "is no text in UTF-8",
        ),
        (("stable", "query", ".perdure:counter", b"select '\xff'"), "is no text in UTF-8"),
    ):
        done = perdure(*arguments, cwd=place, capture_output=True)
        assert (done.returncode, told in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", [b"service : { count : () -> (nat\xff) }", b'import "other.did"; service : {}'])
def test_an_interface_that_is_not_utf8(place: Path, content: bytes) -> None:
    (place / "wrong.did").write_bytes(content)
    (place / "other.did").write_bytes(b"type N = nat\xff;")
    done = perdure("canister", "call", "counter", "count", "--candid", "wrong.did", cwd=place, capture_output=True)
    assert (done.returncode, "is not UTF-8" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr


def test_a_manifest_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    manifest = tmp_path / "icp.yaml"
    for make, undo in (
        (manifest.mkdir, manifest.rmdir),
        (lambda: manifest.symlink_to("icp.yaml"), manifest.unlink),
        (lambda: os.mkfifo(manifest), manifest.unlink),
    ):
        make()
        done = perdure("canister", "create", "a", cwd=tmp_path, capture_output=True)
        assert (done.returncode, "icp.yaml" in done.stderr) == (2, True)
        undo()
    assert not (tmp_path / ".perdure").exists()


@pytest.mark.slow
def test_ctrl_c_anywhere_leaves_nothing_behind(place: Path, tmp_path: Path) -> None:
    """At several times into commands that write; what they write is there whole, or not at all."""
    subprocess.run(["cp", "-r", str(place / ".perdure"), str(tmp_path)], check=True)
    commands = (
        ("canister", "call", "counter", "inc"),
        ("canister", "install", "kv", "--wasm", str(KV), "--mode", "reinstall", "-y"),
        ("canister", "snapshot", "download", "counter", "-o", "written"),
        ("state", "backup", ".perdure", "-o", "written"),
    )
    program = (
        "import os, signal, sys, threading\n"
        "import perdure.cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "after, sys.argv = float(sys.argv[1]), ['perdure', *sys.argv[2:]]\n"
        "timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))\n"
        "timer.daemon = True\n"  # a command that has ended is not waited for
        "timer.start()\n"
        "perdure.cli.main()\n"
    )
    codes = set()
    for index, command in enumerate(commands * 3):
        done = subprocess.run(
            [sys.executable, "-c", program, str(0.03 + 0.05 * index), *command],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        codes.add(done.returncode)
        assert done.returncode in (0, 130, -signal.SIGINT), done.stderr
        assert "Traceback" not in done.stderr or done.returncode == -signal.SIGINT, done.stderr
        written = tmp_path / "written"
        if done.returncode == 130 and written.exists():  # the signal came between the last rename and the end
            whole = ("state", "verify", "written") if command[0] == "state" else ("stable", "fsck", "written")
            looked = perdure(*whole, cwd=tmp_path, capture_output=True)
            assert looked.returncode == 0, looked.stderr
        subprocess.run(["rm", "-rf", str(written)], check=True)
        assert {path.name for path in tmp_path.iterdir()} == {".perdure"}
    assert 130 in codes
    done = perdure("state", "verify", ".perdure", cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stdout
    done = perdure("canister", "call", "counter", "count", "--json", cwd=tmp_path, capture_output=True)
    assert int(json.loads(done.stdout)["response_json"][0]) <= 3
