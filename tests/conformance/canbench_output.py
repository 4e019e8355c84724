"""Runs canbench's own tests (`canbench-bin/tests/tests.rs`): each expected output against `perdure bench`.

    python tests/conformance/canbench_output.py DIR

`DIR` is a checkout of github.com/dfinity/canbench whose `tests` have been built for wasm32-unknown-unknown by the
compiler that its ``rust-toolchain.toml`` names: ``cargo build --release --target wasm32-unknown-unknown --bins``.

Prints what differs and the counts; exits 1 if an output differs.
"""

from __future__ import annotations

import difflib
import gzip
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

RUN = re.compile(
    r"fn (\w+)\(\) \{\s*(?:let name = current_test_name!\(\);\s*)?BenchTest::canister\(\"(\w+)\"\)(.*?)\.run\(",
    re.DOTALL,
)
FLAGS = {
    "with_hide_results": ["--hide-results"],
    "with_canister_output": ["--show-canister-output"],
    "with_instruction_tracing": ["--instruction-tracing"],
}


def main(root: Path) -> int:
    text = (root / "canbench-bin/tests/tests.rs").read_text()
    built = root / "target/wasm32-unknown-unknown/release"
    with (built / "gzipped_wasm.wasm").open("rb") as source:
        (built / "gzipped_wasm.wasm.gz").write_bytes(gzip.compress(source.read()))
    equal = different = 0
    for name, canister, calls in RUN.findall(text):
        words: list[str] = []
        for call, value in re.findall(r"\.(\w+)\(\"?([\w.]*)\"?\)", calls):
            valued = {"with_bench": [value], "with_noise_threshold": ["--noise-threshold", value]}
            words += valued.get(call, FLAGS.get(call, []))
        expected = root / f"canbench-bin/tests/expected/{name}.txt"
        directory = root / "tests" / canister
        with tempfile.TemporaryDirectory() as place:
            config = Path(place) / "canbench.yml"
            config.write_text(re.sub(r"build_cmd:\s*\S[^\n]*\n", "", (directory / "canbench.yml").read_text()))
            env = {**os.environ, "CANBENCH_CFG_FILE": str(config)}
            command = [sys.executable, "-m", "perdure", "bench", *words]
            done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, check=False)
        if expected.exists():
            is_equal = (done.returncode, done.stdout) == (0, expected.read_text())
        else:
            body = text[text.index(f"fn {name}()") :].split("#[test]")[0]
            said = re.findall(r'"([^"{]{12,})"', body.replace("\\n", "\n"), re.DOTALL)
            is_equal = all(one.strip() in done.stdout + done.stderr for one in said)
            is_equal &= done.returncode == (1 if "assert_err!" in body else 0)
        equal, different = equal + is_equal, different + (not is_equal)
        print(f"{'equal  ' if is_equal else 'DIFFERS'} {name}")
        if not is_equal:
            wanted = expected.read_text() if expected.exists() else ""
            print(
                "".join(difflib.unified_diff(wanted.splitlines(True), done.stdout.splitlines(True), n=0)), done.stderr
            )
    print(f"{equal} equal, {different} differ")
    return different > 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
