"""The part of the pytest plugin that measures whatever canisters run, on any subnet of the session.

    pytest --perdure-cov                                    a table at the end, as pytest-cov has it, also under xdist
    pytest --perdure-cov --perdure-cov-report html:cov.html
    pytest --perdure-profile tests.svg                      where the instructions of all tests go

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
    from perdure.measure.profile import Profile

__all__: list[str] = []

_REPORTS: Final = {"term": "", "term-missing": "", "lcov": ".lcov", "html": ".html", "json": ".json"}
_PROFILE_ENDS: Final = (".svg", ".json", ".pb.gz", ".folded", ".txt")
_SHOWN_ROWS: Final = 20
_OPEN: Final = pytest.StashKey[ExitStack]()
_PROFILE: Final = pytest.StashKey[Any]()
_SEEN: Final = pytest.StashKey[Any]()
_ADDED: Final = pytest.StashKey[list[tuple[str, str]]]()
_COVERAGE_KEY, _PROFILE_KEY = "perdure_coverage", "perdure_profile"
_TOO_LITTLE: Final = pytest.StashKey[str]()
_LOST: Final = pytest.StashKey[int]()
_UNWRITTEN: Final = pytest.StashKey[dict[str, str]]()
"""Files that could not be written, and why."""


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
    group.addoption(
        "--perdure-profile",
        action="append",
        default=[],
        metavar="FILE",
        type=_profile_file,
        help="write where instructions go: .svg, .json for speedscope, .pb.gz, .folded or .txt; - shows it",
    )


def _profile_file(text: str) -> str:
    import argparse

    if text != "-" and not text.endswith(_PROFILE_ENDS):
        raise argparse.ArgumentTypeError(f"{text!r}, expected - or a name that ends with {', '.join(_PROFILE_ENDS)}")
    return text


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
    wants_coverage, wants_profile = config.getoption("--perdure-cov"), config.getoption("--perdure-profile")
    if wants_coverage or wants_profile:
        config.stash[_OPEN] = ExitStack()
    if wants_coverage:
        from perdure.measure.coverage import cover_everything

        config.stash[_SEEN] = config.stash[_OPEN].enter_context(cover_everything())
    if wants_profile:
        from perdure.measure.profile import profile_everything

        config.stash[_PROFILE] = config.stash[_OPEN].enter_context(profile_everything())


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave code as it is, also after a session that never began."""
    if _OPEN in config.stash:
        config.stash[_OPEN].close()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a worker of xdist has seen; of one that was killed that is gone."""
    if error and _OPEN in node.config.stash:
        node.config.stash[_LOST] = node.config.stash.get(_LOST, 0) + 1
    for key in (_COVERAGE_KEY, _PROFILE_KEY):
        if text := getattr(node, "workeroutput", {}).get(key):
            node.config.stash.setdefault(_ADDED, []).append((key, text))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what was seen to xdist, or write it."""
    config = session.config
    if _OPEN not in config.stash:
        return
    config.stash[_OPEN].close()
    seen, profile = config.stash.get(_SEEN, None), config.stash.get(_PROFILE, None)
    workeroutput = getattr(config, "workeroutput", None)
    if workeroutput is not None:
        workeroutput |= {_COVERAGE_KEY: seen.dumps()} if seen is not None else {}
        workeroutput |= {_PROFILE_KEY: profile.dumps()} if profile is not None else {}
        return
    _add(config, seen, profile)
    if profile is not None:
        from perdure.measure.profile import content_of

        for file in config.getoption("--perdure-profile"):
            if file != "-":
                _write(session, file, content_of(profile, file))
    if seen is not None:
        _finish_coverage(session, seen)


def _add(config: pytest.Config, seen: Coverage | None, profile: Profile | None) -> None:
    """Add what workers of xdist have seen."""
    for key, text in config.stash.get(_ADDED, []):
        if key == _PROFILE_KEY and profile is not None:
            profile.loads(text)
        elif seen is not None:
            from perdure.measure.coverage import Coverage

            seen.add(Coverage.loads(text))


def _finish_coverage(session: pytest.Session, seen: Coverage) -> None:
    from perdure.measure.coverage_formats import percentage, totals

    config = session.config
    files = _files(config, seen)
    for kind, file in config.getoption("--perdure-cov-report"):
        if file:
            _write(session, file, _rendered(config, seen, files, kind).encode(errors="replace"))
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


def _write(session: pytest.Session, file: str, content: bytes) -> None:
    """Write a file; the run fails, and goes on, where that cannot be."""
    try:
        (session.config.rootpath / file).write_bytes(content)
    except OSError as error:
        session.config.stash.setdefault(_UNWRITTEN, {})[file] = error.strerror or str(error)
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _rendered(config: pytest.Config, seen: Coverage, files: Mapping[str, Mapping[int, int]], kind: str) -> str:
    from perdure.measure.coverage_formats import html, lcov

    texts = {
        "html": lambda: html(seen, files, config.rootpath),
        "lcov": lambda: lcov(seen, files, config.rootpath),
        "json": seen.dumps,
    }
    return texts[kind]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what has run, what is too little, and where instructions went."""
    if _PROFILE in config.stash:
        for file in config.getoption("--perdure-profile"):
            if file != "-":
                _tell_file(terminalreporter, config, "profile of canisters", file)
                continue
            terminalreporter.section("profile of canisters")
            for line in config.stash[_PROFILE].table(_SHOWN_ROWS).splitlines():
                terminalreporter.line(line)
    if _SEEN in config.stash:
        _show_coverage(terminalreporter, config)
    if lost := config.stash.get(_LOST, 0):
        workers = "a worker was" if lost == 1 else f"{lost} workers were"
        terminalreporter.line(f"{workers} lost: what ran there is not in the figures of canisters", red=True)


def _tell_file(reporter: pytest.TerminalReporter, config: pytest.Config, what: str, file: str) -> None:
    why = config.stash.get(_UNWRITTEN, {}).get(file)
    if why is None:
        reporter.line(f"{what} written to {file}")
    else:
        reporter.line(f"{what} not written to {file}: {why}", red=True)


def _show_coverage(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    from perdure.measure.coverage_formats import table

    seen, reports = config.stash[_SEEN], config.getoption("--perdure-cov-report")
    if not reports or any(not file for _, file in reports):
        terminalreporter.section("coverage of canisters")
        for line in table(seen, _files(config, seen)).splitlines():
            terminalreporter.line(line)
    for kind, file in reports:
        if file:
            _tell_file(terminalreporter, config, f"coverage of canisters ({kind})", file)
    if _TOO_LITTLE in config.stash:
        terminalreporter.line(config.stash[_TOO_LITTLE], red=True)
