"""The part of the pytest plugin that measures whatever canisters run, on any subnet of the session.

    pytest --perdure-cov                                    a table at the end, as pytest-cov has it, also under xdist
    pytest --perdure-cov --perdure-cov-report html:cov.html

Like `perdure.kit.plugin` it imports nothing of perdure until it is asked for something.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from perdure.measure.coverage import Coverage

__all__: list[str] = []

_REPORTS: Final = {"term": "", "term-missing": "", "lcov": ".lcov", "html": ".html", "json": ".json"}
_OPEN: Final = pytest.StashKey[ExitStack]()
_SEEN: Final = pytest.StashKey[Any]()
_ADDED: Final = pytest.StashKey[list[str]]()
_TOO_LITTLE: Final = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("perdure", "Internet Computer canisters")
    group.addoption(
        "--perdure-cov",
        action="store_true",
        help="show which functions and lines of canisters have run",
    )
    group.addoption(
        "--perdure-cov-report",
        action="append",
        default=[],
        metavar="TYPE[:FILE]",
        type=_report,
        help="term, lcov, html or json, with the file it goes to (perdure-coverage.TYPE); may be given again",
    )
    group.addoption(
        "--perdure-cov-source",
        action="append",
        default=[],
        metavar="DIR",
        help="only files in this directory; without it all but those of compilers and packages",
    )
    group.addoption(
        "--perdure-cov-fail-under",
        type=float,
        metavar="PERCENT",
        help="fail where fewer lines have run (blocks, where no lines are known)",
    )


def _report(text: str) -> tuple[str, str]:
    """A kind of report, and the file it goes to."""
    kind, _, file = text.partition(":")
    if kind not in _REPORTS or (file and not _REPORTS[kind]):
        import argparse

        raise argparse.ArgumentTypeError(
            f"{text!r}, expected one of {', '.join(_REPORTS)}, those of files as TYPE:FILE"
        )
    return kind, file or (f"perdure-coverage{_REPORTS[kind]}" if _REPORTS[kind] else "")


def pytest_configure(config: pytest.Config) -> None:
    """Have all code counted from now on, where somebody wants to know."""
    if config.getoption("--perdure-cov"):
        from perdure.measure.coverage import cover_everything

        opened = config.stash[_OPEN] = ExitStack()
        config.stash[_SEEN] = opened.enter_context(cover_everything())


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave code as it is, also after a session that never began."""
    if _OPEN in config.stash:
        config.stash[_OPEN].close()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of xdist has seen."""
    text = getattr(node, "workeroutput", {}).get("perdure_coverage")
    if text:
        node.config.stash.setdefault(_ADDED, []).append(text)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what was seen to xdist, or write it."""
    config = session.config
    if _OPEN not in config.stash:
        return
    config.stash[_OPEN].close()
    seen: Coverage = config.stash[_SEEN]
    workeroutput = getattr(config, "workeroutput", None)
    if workeroutput is not None:
        workeroutput["perdure_coverage"] = seen.dumps()
        return
    from perdure.measure.coverage import Coverage
    from perdure.measure.coverage_formats import percentage, totals

    for text in config.stash.get(_ADDED, []):
        seen.add(Coverage.loads(text))
    files = _files(config, seen)
    for kind, file in config.getoption("--perdure-cov-report"):
        if file:
            _written(config, seen, files, kind, config.rootpath / file)
    least, run = config.getoption("--perdure-cov-fail-under"), percentage(totals(seen, files))
    if least is not None and run < least:
        config.stash[_TOO_LITTLE] = f"{run:.1f} % have run, less than --perdure-cov-fail-under {least:g}"
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _files(config: pytest.Config, seen: Coverage) -> dict[str, Mapping[int, int]]:
    from perdure.measure.coverage_formats import own_files

    sources = [Path(one) for one in config.getoption("--perdure-cov-source")]
    found: dict[str, Mapping[int, int]] = own_files(seen, sources, config.rootpath)
    return found


def _written(
    config: pytest.Config, seen: Coverage, files: Mapping[str, Mapping[int, int]], kind: str, path: Path
) -> None:
    from perdure.measure.coverage_formats import html, lcov

    texts = {
        "html": lambda: html(seen, files, config.rootpath),
        "lcov": lambda: lcov(seen, files, config.rootpath),
        "json": seen.dumps,
    }
    path.write_text(texts[kind](), encoding="utf-8", errors="replace")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what has run, and what is too little."""
    if _SEEN not in config.stash:
        return
    from perdure.measure.coverage_formats import table

    seen, reports = config.stash[_SEEN], config.getoption("--perdure-cov-report")
    if not reports or any(not file for _, file in reports):
        terminalreporter.section("coverage of canisters")
        for line in table(seen, _files(config, seen)).splitlines():
            terminalreporter.line(line)
    for kind, file in reports:
        if file:
            terminalreporter.line(f"coverage of canisters written to {file} ({kind})")
    if _TOO_LITTLE in config.stash:
        terminalreporter.line(config.stash[_TOO_LITTLE], red=True)
