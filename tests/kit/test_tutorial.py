"""The tutorial and the page on Python canisters, executed as a reader would."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```python file=(\S+)\n(.*?)```|^    \$ ([^\n]+)$", re.DOTALL | re.MULTILINE)


def steps(page):
    """Files to save and commands to run, in the order of the page."""
    return BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_tutorial(tmp_path):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = []
    for name, content, command in steps("tutorial.md"):
        if name:
            (tmp_path / name).write_text(content)
            continue
        run = subprocess.run(
            shlex.split(command), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
        ran.append((command, run.stdout))
    outputs = dict(ran)
    assert len(ran) == 19
    assert "6 passed" in outputs["python -m pytest -q test_shop.py"]
    assert "bytes of stable memory" in outputs["python try_it.py"]
    assert '"status"' not in outputs["perdure canister status counter"]
    count = json.loads(outputs["perdure canister call counter count --json"])
    assert (count["response_candid"], count["response_json"]) == ("(2 : nat)", ["2"])


def test_the_page_on_python_canisters(tmp_path):
    text = (ROOT / "docs/python-canisters.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "page.py").write_text("\n".join(blocks))
    run = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_every_public_name_of_the_kit_is_documented():
    import perdure.kit

    text = (ROOT / "docs/python-canisters.md").read_text(encoding="utf-8") + (ROOT / "docs/tutorial.md").read_text()
    shown = text.replace("`nat8` ... `nat64`", "nat8 nat16 nat32 nat64").replace(
        "`int8` ... `int64`", "int8 int16 int32 int64"
    )
    missing = [name for name in perdure.kit.__all__ if not re.search(rf"\b{name}\b", shown)]
    assert missing == []
