"""Gather what `changes/` says into one section for a release.

    python tools/gather_changes.py                             what is not released yet, on standard output
    python tools/gather_changes.py --release 0.2.0 --on DATE   writes it into CHANGELOG.md, and removes the files

A file is `<issue>.<added|changed|fixed>.md`, and a line of it one change.
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
KINDS = {"added": "Added", "changed": "Changed", "fixed": "Fixed"}
MARK = "<!-- releases, newest first -->\n"
DEPRECATED = "Deprecated: "
_NAME = re.compile(r"([0-9]+)\.(\w+)\.md")
_CODE = re.compile(r"`[^`]+`")
_HTML = re.compile(r"<[A-Za-z!/?]|``")
"""What would not stay within its line, in a browser at the latest."""
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]*")


def files(directory: Path) -> list[tuple[str, int, Path]]:
    """Kind, issue and path of each file, in the order in which they are told.

    Raises:
        SystemExit: one has another name.
    """
    found = []
    for path in directory.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and match[2] in KINDS and path.is_file() and not path.is_symlink():
            found.append((match[2], int(match[1]), path))
        elif path.name != "README.md":
            raise SystemExit(f"{path}: expected a file ISSUE.added.md, ISSUE.changed.md or ISSUE.fixed.md")
    return sorted(found, key=lambda one: (list(KINDS).index(one[0]), one[1]))


def gathered(directory: Path) -> str:
    """The changes as Markdown, by kind; what is deprecated comes first, as it asks for something to be done.

    Raises:
        SystemExit: a file has another name, or a line is more than text and code.
    """
    by_title: dict[str, list[str]] = {"Deprecated": []} | {title: [] for title in KINDS.values()}
    for kind, issue, path in files(directory):
        for line in path.read_text(encoding="utf-8").splitlines():
            text = line.strip().removeprefix("- ")
            if found := _HTML.search(_CODE.sub("", text)):
                raise SystemExit(f"{path}: {found[0]!r} in {text!r:.80}: expected text, and `code` within one line")
            if text:
                is_deprecation = text.startswith(DEPRECATED)
                title = "Deprecated" if is_deprecation else KINDS[kind]
                item = f"- {text.removeprefix(DEPRECATED)} (#{issue})"
                if item not in by_title[title]:  # a union of two branches may have it twice
                    by_title[title].append(item)
    return "\n".join(f"### {title}\n\n" + "\n".join(items) + "\n" for title, items in by_title.items() if items)


def release(root: Path, version: str, on: str) -> None:
    """Write a section into CHANGELOG.md and remove the files it comes from.

    Raises:
        SystemExit: there is nothing to release, such a release, no place for it, or what `gathered` refuses.
    """
    if not _VERSION.fullmatch(version):
        raise SystemExit(f"{version!r} is no version")
    path, changes = root / "CHANGELOG.md", root / "changes"
    text, section = path.read_text(encoding="utf-8"), gathered(changes)
    if not section:
        raise SystemExit("nothing in changes/ to release")
    if f"## {version} " in text:
        raise SystemExit(f"{path} has a section {version}")
    if MARK not in text:
        raise SystemExit(f"{path}: expected a line {MARK.strip()!r}")
    before, _, after = text.partition(MARK)
    path.write_text(f"{before}{MARK}\n## {version} ({on})\n\n{section}{after}", encoding="utf-8")
    for _, _, file in files(changes):
        file.unlink()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", metavar="VERSION")
    parser.add_argument("--on", metavar="DATE", default=datetime.datetime.now(tz=datetime.UTC).date().isoformat())
    options = parser.parse_args()
    if options.release:
        release(ROOT, options.release, options.on)
    else:
        sys.stdout.write(gathered(ROOT / "changes"))


if __name__ == "__main__":
    main()
