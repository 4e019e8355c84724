"""What a release says comes from `changes/`, all of it, and once."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("gather_changes", ROOT / "tools" / "gather_changes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "changes").mkdir()
    (tmp_path / "changes" / "README.md").write_text("how")
    (tmp_path / "changes" / "10.added.md").write_text("Ten is there.\n\nTwice.\nTwice.\n")
    (tmp_path / "changes" / "9.added.md").write_text("Nine is there.\n")
    (tmp_path / "changes" / "9.fixed.md").write_text("Nine works.\n")
    (tmp_path / "changes" / "9.changed.md").write_text("Deprecated: `old`; write `new`.\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n<!-- releases, newest first -->\n\n## 0.1.0 (then)\n")
    return tmp_path


def test_a_section(tool, place):
    assert tool.gathered(place / "changes") == (
        "### Deprecated\n\n- `old`; write `new`. (#9)\n\n"
        "### Added\n\n- Nine is there. (#9)\n- Ten is there. (#10)\n- Twice. (#10)\n\n"
        "### Fixed\n\n- Nine works. (#9)\n"
    )


def test_a_release(tool, place):
    section = tool.gathered(place / "changes")
    tool.release(place, "0.2.0", "2026-12-01")
    text = (place / "CHANGELOG.md").read_text()
    assert text == (
        f"# Changelog\n\n<!-- releases, newest first -->\n\n## 0.2.0 (2026-12-01)\n\n{section}\n## 0.1.0 (then)\n"
    )
    assert [path.name for path in (place / "changes").iterdir()] == ["README.md"]
    with pytest.raises(SystemExit, match="nothing in changes"):
        tool.release(place, "0.3.0", "2026-12-02")
    (place / "changes" / "1.fixed.md").write_text("One.\n")
    with pytest.raises(SystemExit, match=r"has a section 0\.2\.0"):
        tool.release(place, "0.2.0", "2026-12-02")
    assert (place / "changes" / "1.fixed.md").exists()


def test_a_version_is_one(tool, place):
    with pytest.raises(SystemExit, match="is no version"):
        tool.release(place, "0.2.0 (now)\n## 0.1.0", "2026-12-02")


def test_files_of_other_names_are_refused(tool, place):
    (place / "changes" / "11.removed.md").write_text("Gone.\n")
    with pytest.raises(SystemExit, match=r"11\.removed\.md: expected"):
        tool.gathered(place / "changes")


def test_what_is_no_file_of_its_own_is_refused(tool, place):
    (place / "changes" / "12.added.md").symlink_to(place / "CHANGELOG.md")
    with pytest.raises(SystemExit, match=r"12\.added\.md: expected a file"):
        tool.gathered(place / "changes")


@pytest.mark.parametrize("line", ["Runs <script>alert(1)</script>.", "Ends here <!-- and so on", "```", "</ul>"])
def test_a_line_is_text_and_code(tool, place, line):
    (place / "changes" / "9.fixed.md").write_text(f"`List<nat>` and `a <b>` and 1 < 2 work.\n{line}\n")
    with pytest.raises(SystemExit, match=r"9\.fixed\.md: .* expected text"):
        tool.release(place, "0.2.0", "2026-12-01")
    assert (place / "changes" / "10.added.md").exists()
    (place / "changes" / "9.fixed.md").write_text("`List<nat>` and `a <b>` and 1 < 2 work.\n")
    tool.release(place, "0.2.0", "2026-12-01")


def test_every_change_here_is_a_line_of_its_own(tool):
    lines = [line for _, _, path in tool.files(ROOT / "changes") for line in path.read_text("utf-8").splitlines()]
    assert [line for line in lines if line and not re.match(r"[`\w*(]", line)] == []
    assert [line for line in lines if re.match(r"[a-z]", line)] == [], "a change is one line, not wrapped"
    assert "### Added" in tool.gathered(ROOT / "changes")
