"""The pytest plugin: each test gets a subnet of its own, a fork of one that is prepared once a session.

pytest imports this in every project that has perdure installed. So it imports nothing of perdure until a fixture is
asked for, and hooks only what costs nothing where no canister is involved.

    @pytest.mark.canister("ledger", args=({"symbol": "TST"},))       # prepared once, forked for each test
    def test_transfer(canister, alice):
        assert canister("ledger").actor(alice).transfer(...) == {"Ok": 1}

What all tests share is prepared by overriding one fixture:

    @pytest.fixture(scope="session")
    def perdure_baseline(perdure_baseline):
        perdure_baseline.install("build/ledger.wasm")
        return perdure_baseline
"""

from __future__ import annotations

import inspect
import os
import re
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import pytest

if TYPE_CHECKING:
    from perdure.errors import RejectError
    from perdure.ic.principal import Principal
    from perdure.measure.heat import Heat
    from perdure.measure.report import Budget
    from perdure.project import Project
    from perdure.subnet import Canister, Subnet
    from perdure.subnet.outcalls import Outcalls
    from perdure.upgrade import Report as UpgradeReport

pytest_plugins = ["perdure.kit.plugin_measure", "perdure.kit.plugin_replies"]

__all__ = [
    "Baselines",
    "alice",
    "bob",
    "canister",
    "check_upgrade",
    "identity",
    "install",
    "outcalls",
    "perdure_baseline",
    "served",
    "subnet",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plugin's options."""
    group = parser.getgroup("perdure", "Internet Computer canisters")
    group.addoption(
        "--perdure-snapshot",
        metavar="DIR",
        help="begin every test from this canister snapshot, as `icp canister snapshot download` writes it",
    )
    parser.addini(
        "perdure_scope",
        "who shares a subnet, by the fixtures subnet, install and canister: function (each test its own), class, "
        "module, package or session",
        default="function",
    )
    group.addoption(
        "--perdure-report",
        "--cycles",
        action="store_true",
        dest="perdure_report",
        help="show instructions, cycles and pages of all canisters by method, and append them to the job's summary",
    )
    group.addoption(
        "--perdure-report-file",
        metavar="FILE",
        help="write the same as Markdown",
    )
    group.addoption(
        "--perdure-budgets",
        metavar="FILE",
        help="fail where a method takes more instructions than this file says; see docs/measuring.md",
    )
    group.addoption(
        "--perdure-report-structures",
        action="store_true",
        help="have the report tell pages by structure of stable memory, too",
    )
    group.addoption(
        "--perdure-heatmap",
        metavar="DIR",
        help="write for each test a map of the memories that it touches, as SVG",
    )


_UNWRITTEN: Final = pytest.StashKey[list[str]]()
_BUDGETS: Final = pytest.StashKey["dict[tuple[str, str], Budget]"]()
_LONG_NAME: Final = 100
"""Of a file, in characters."""


def _scope(fixture_name: str, config: pytest.Config) -> Any:
    return config.getini("perdure_scope")


def pytest_configure(config: pytest.Config) -> None:
    """Name the plugin's markers."""
    config.addinivalue_line(
        "markers",
        "max_instructions(count): fail where what the test's canisters execute takes more instructions than this.",
    )
    config.addinivalue_line(
        "markers",
        "canister(name, wasm=None, args=None, controllers=(), cycles=None, candid=None): have a canister of the "
        "project, or this module, installed before the test; done once a session for all tests with the same markers.",
    )
    config.addinivalue_line(
        "markers",
        "extension(*names): let the test's canisters use what goes beyond the network's rules, such as direct; "
        "see docs/memories.md.",
    )
    pictures = config.getoption("--perdure-heatmap")
    if pictures is not None and (config.rootpath / pictures).exists() and not (config.rootpath / pictures).is_dir():
        raise pytest.UsageError(
            f"--perdure-heatmap {pictures}: a file, expected a directory for a picture of each test"
        )
    path = config.getoption("--perdure-budgets")
    if path is not None:
        config.stash[_BUDGETS] = _read_budgets(config.rootpath / path, path)


def _read_budgets(path: Path, named: str) -> dict[tuple[str, str], Budget]:
    from perdure.errors import MalformedError
    from perdure.measure.report import parse_budgets

    try:
        if path.is_char_device() or path.is_block_device():
            raise pytest.UsageError(f"--perdure-budgets {named}: a device, and no file that has an end")
        return dict(parse_budgets(path.read_text(encoding="utf-8")))
    except (MalformedError, OSError, UnicodeDecodeError) as error:
        raise pytest.UsageError(f"--perdure-budgets {named}: {error}") from error


# -- fixtures

_SUBNET: Final = pytest.StashKey[tuple["Subnet", "dict[Principal, int]"]]()
"""A test's subnet, and the last lines of its canisters' logs as the test begins, by their numbers."""


@final
class Baselines:
    """Prepared subnets by the markers that they were prepared for, each made once.

    Args:
        baseline: what every one of them begins as.
        project: where canisters are looked up by name; found when first needed.
    """

    def __init__(self, baseline: Subnet, root: Path) -> None:
        self._root = root
        self._project: Project | None = None
        self._prepared: dict[tuple[str, ...], tuple[Subnet, dict[str, Principal]]] = {(): (baseline, {})}

    @property
    def project(self) -> Project:
        """The project around the tests; without a manifest one whose canisters have the names of built modules."""
        from perdure.project import Project

        if self._project is None:
            self._project = Project.find(self._root) or Project.without_manifest(self._root)
        return self._project

    def prepared(self, markers: list[pytest.Mark]) -> tuple[Subnet, dict[str, Principal]]:
        """The subnet with the extensions and canisters that markers ask for, outermost first, and their ids by name."""
        key: tuple[str, ...] = ()
        for marker in markers:
            before, key = key, (*key, repr((marker.args, sorted(marker.kwargs.items(), key=lambda item: item[0]))))
            if key not in self._prepared:
                subnet, ids = self._prepared[before]
                fork = subnet.fork(extensions=marker.args if marker.name == "extension" else ())
                if marker.name == "extension":
                    self._prepared[key] = fork, ids
                    continue
                name, installed = self.install_marked(fork, ids, marker)
                self._prepared[key] = fork, {**ids, name: installed.id}
        return self._prepared[key]

    def install_marked(self, subnet: Subnet, ids: Mapping[str, Principal], marker: pytest.Mark) -> tuple[str, Canister]:
        """Install what one marker asks for, beside the canisters that have `ids`."""
        options = dict(marker.kwargs)
        if len(names := marker.args or [options.pop(key) for key in ("name",) if key in options]) != 1:
            raise TypeError(f'a marker names one canister, @pytest.mark.canister("ledger"), found {names!r:.100}')
        (name,) = names
        wasm, args = options.pop("wasm", None), options.pop("args", None)
        if wasm is None:
            return name, self.install_named(subnet, ids, name, args, **options)
        return name, subnet.install(self.file(wasm), args, **self.placed(options))

    def file(self, given: Any) -> Any:
        """What is given as a path, from the directory of pytest's configuration on; anything else as it is."""
        return self._root / given if isinstance(given, str) else given

    def placed(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of an installation, with the ``.did`` where it is."""
        from perdure.subnet import Subnet
        from perdure.units import meant

        known = {*inspect.signature(Subnet.install).parameters} - {"self", "arg"} | {"args"}
        for name in options.keys() - known:
            raise TypeError(f"nothing of an installation is called {name!r:.100}: {meant(name, known)}")
        candid = options.get("candid")
        return (
            {**options, "candid": self.file(candid)} if candid is not None and ":" not in str(candid) else {**options}
        )

    def install_named(
        self, subnet: Subnet, ids: Mapping[str, Principal], name: str, args: Any = None, **options: Any
    ) -> Canister:
        """Install a canister of the project, with the settings and, if there are no other, the arguments it says.

        The canisters of the project that are there, which have `ids`, and this one learn each other's ids.
        """
        from perdure.subnet.deployment import configure

        options = self.placed(options)
        described = self.project.canister(name)
        wasm = described.wasm()
        if args is None:
            args = described.init_args()
        candid = options.get("candid") or described.interface()
        made = subnet.create_canister(**{key: value for key, value in options.items() if key != "candid"})
        configure(subnet, self.project, {**ids, name: made.id}, [name])
        made.install(wasm, args, candid=candid)
        return made


@pytest.fixture(scope="session")
def perdure_baseline(pytestconfig: pytest.Config) -> Subnet:
    """The subnet that every test's subnet is a fork of. Override it to prepare what all tests share."""
    from perdure import Subnet

    snapshot = pytestconfig.getoption("--perdure-snapshot")
    return Subnet() if snapshot is None else Subnet.open(snapshot)


@pytest.fixture(scope="session")
def _perdure_baselines(perdure_baseline: Subnet, pytestconfig: pytest.Config) -> Baselines:
    return Baselines(perdure_baseline, pytestconfig.rootpath)


@pytest.fixture(scope=_scope)
def _perdure_prepared(
    request: pytest.FixtureRequest, _perdure_baselines: Baselines
) -> Iterator[tuple[Subnet, dict[str, Principal]]]:
    markers = [*request.node.iter_markers("extension"), *list(request.node.iter_markers("canister"))[::-1]]
    prepared, ids = _perdure_baselines.prepared(markers)
    fork = prepared.fork()
    logged = {one.id: one.logs()[-1:] for one in fork.canisters}
    request.node.stash[_SUBNET] = fork, {name: last[0].sequence for name, last in logged.items() if last}
    named = dict(ids)
    with _counted(request, fork, named):
        yield fork, named
    del request.node.stash[_SUBNET]
    fork.close()


@pytest.fixture(scope=_scope)
def subnet(_perdure_prepared: tuple[Subnet, dict[str, Principal]]) -> Subnet:
    """A subnet of the test's own: what it does is seen by no other test, unless `perdure_scope` says otherwise."""
    return _perdure_prepared[0]


@pytest.fixture(scope=_scope)
def outcalls(subnet: Subnet) -> Outcalls:
    """Answers HTTPS outcalls of the test's subnet: ``outcalls.get("https://a.example/price").respond(json=...)``.

    What nothing answers is rejected, in words that name the URL. See `perdure.subnet.outcalls`.
    """
    return subnet.outcalls


@pytest.fixture(scope=_scope)
def served(subnet: Subnet) -> Iterator[str]:
    """The URL at which the test's subnet is served meanwhile; needs the extra ``serve``."""
    with subnet.serve() as url:
        yield url


@pytest.fixture(scope=_scope)
def install(subnet: Subnet, _perdure_baselines: Baselines) -> Callable[..., Canister]:
    """Installs a module: ``install("build/ledger.wasm", {"symbol": "TST"})``, init arguments as Python values.

    The path, and that of ``candid="ledger.did"``, are relative to the directory of pytest's configuration. Keywords are
    those of `Subnet.install`.
    """

    def run(wasm: Any, *args: Any, **options: Any) -> Canister:
        argument = options.pop("arg", None)
        options = _perdure_baselines.placed(options)
        return subnet.install(
            _perdure_baselines.file(wasm), (args or None) if argument is None else argument, **options
        )

    return run


@pytest.fixture(scope=_scope)
def canister(
    _perdure_prepared: tuple[Subnet, dict[str, Principal]], _perdure_baselines: Baselines
) -> Callable[..., Canister]:
    """Canisters by name: ``canister("ledger")``, prepared by a marker, else a new one from the project's manifest.

    Without a manifest the name is that of a module that was built: ``ledger.wasm`` here, or in cargo's target.
    """
    subnet, ids = _perdure_prepared

    def find(name: str, **options: Any) -> Canister:
        if name not in ids:
            ids[name] = _perdure_baselines.install_named(subnet, ids, name, **options).id
        return subnet.canister(ids[name])

    return find


@pytest.fixture(scope="session")
def check_upgrade(pytestconfig: pytest.Config) -> Callable[..., UpgradeReport]:
    """Fails the test where an upgrade is not safe: ``check_upgrade("snapshots/ledger", "build/ledger.wasm")``.

    The first argument is a canister, a snapshot's directory, or ``STATE_DIR:CANISTER``; paths are relative to the
    directory of pytest's configuration. Keywords are those of `perdure.upgrade.check_canister`; ``expect`` is the
    verdict that passes, by default ``safe``.
    """

    def run(source: Any, new: Any, arg: Any = None, *, expect: str = "safe", **options: Any) -> UpgradeReport:
        from perdure.upgrade import check

        __tracebackhide__ = True
        source, new = (str(pytestconfig.rootpath / one) if isinstance(one, str) else one for one in (source, new))
        report = check(source, new, arg, **options)
        if report.verdict != expect:
            pytest.fail(str(report), pytrace=False)
        return report

    return run


@pytest.fixture(scope="session")
def identity() -> Callable[[str], Principal]:
    """Anybody by name, the same one every time: ``identity("carol")``."""
    return _somebody


@pytest.fixture(scope="session")
def alice() -> Principal:
    """Somebody, the same one every time."""
    return _somebody("alice")


@pytest.fixture(scope="session")
def bob() -> Principal:
    """Somebody else."""
    return _somebody("bob")


def _somebody(name: str) -> Principal:
    from perdure.ic.principal import Principal

    if not isinstance(name, str):
        raise TypeError(f'somebody has a name, identity("carol"), found {name!r:.100}')
    return Principal.self_authenticating(name.encode())


# -- what it costs

_OF_TEST: Final = pytest.StashKey[Any]()
_OF_ALL: Final = pytest.StashKey[Any]()


def _wants_report(config: pytest.Config) -> bool:
    names = ("perdure_report", "--perdure-report-file", "--perdure-budgets", "--perdure-report-structures")
    return any(config.getoption(name) for name in names)


@contextmanager
def _counted(request: pytest.FixtureRequest, subnet: Subnet, ids: Mapping[str, Principal]) -> Iterator[None]:
    """Count what a test's canisters execute, where somebody wants to know."""
    limit = request.node.get_closest_marker("max_instructions")
    is_shared = request.scope != "function"  # by tests that may have a marker each
    pictures = request.config.getoption("--perdure-heatmap")
    wants_structures = request.config.getoption("--perdure-report-structures")
    if limit is None and not is_shared and not pictures and not _wants_report(request.config):
        yield
        return
    from perdure.measure.report import Report

    report = request.node.stash[_OF_TEST] = Report()
    report.watch(subnet._world, lambda raw_id: next((name for name, one in ids.items() if one.raw_bytes == raw_id), ""))
    with subnet.heat() if pictures or wants_structures else nullcontext() as heat:
        yield
    if heat is not None:
        heat.name({one.raw_bytes: name for name, one in ids.items()})
    for use in heat.uses_of_methods() if wants_structures and heat is not None else ():
        report.add_structure(*use)
    if pictures and heat is not None:
        _draw(heat, request.config.rootpath / pictures, request.node.nodeid)
    if not is_shared:
        request.node.user_properties.append(("perdure_instructions", report.total_instructions))
    request.config.stash.setdefault(_OF_ALL, Report()).merge(report.plain())


def _draw(heat: Heat, directory: Path, test: str) -> None:
    """Write a picture for each canister that a test has touched the memory of."""
    canisters = list(dict.fromkeys(canister for canister, _ in heat.memories))
    for canister in canisters:
        name = test if len(canisters) == 1 else f"{test}-{canister}"
        plain = re.sub(r"[^A-Za-z0-9_-]+", ".", name.replace(".py::", ".")).strip(".")
        if len(plain) > _LONG_NAME or "[" in name:  # what tells them apart may be lost
            plain = f"{plain[:_LONG_NAME].strip('.')}-{zlib.crc32(name.encode(errors='replace')):08x}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{plain}.svg").write_text(heat.svg(canister=canister), encoding="utf-8")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, None]:
    """Fail a test that has executed more than its marker allows."""
    reports = [node.stash[_OF_TEST] for node in item.listchain() if _OF_TEST in node.stash]
    report = reports[-1] if reports else None
    before = 0 if report is None or _OF_TEST in item.stash else report.total_instructions
    outcome = yield
    marker = item.get_closest_marker("max_instructions")
    if marker is None or report is None or outcome.excinfo is not None:
        return
    (limit,) = marker.args
    taken = report.total_instructions - before
    if taken > limit:
        dearest = max(report.rows(), key=lambda row: row.max_instructions)
        text = (
            f"{taken:,} instructions, {taken - limit:,} more than "
            f"max_instructions({limit:,}); most in one call: {dearest.max_instructions:,}, "
            f"{dearest.canister} {dearest.method}"
        )
        outcome.force_exception(pytest.fail.Exception(text, pytrace=False))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of xdist has counted."""
    plain = getattr(node, "workeroutput", {}).get("perdure_report")
    if plain:
        from perdure.measure.report import Report

        node.config.stash.setdefault(_OF_ALL, Report()).merge(plain)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what was counted to xdist, or write it and hold it against the budgets."""
    report = session.config.stash.get(_OF_ALL, None)
    workeroutput = getattr(session.config, "workeroutput", None)
    if report is None or not _wants_report(session.config):
        return
    if workeroutput is not None:
        workeroutput["perdure_report"] = report.plain()
        return
    summary = os.environ.get("GITHUB_STEP_SUMMARY") if session.config.getoption("perdure_report") else None
    for path, mode in ((session.config.getoption("--perdure-report-file"), "w"), (summary, "a")):
        if path:
            try:
                with Path(path).open(mode, encoding="utf-8") as file:
                    file.write(report.markdown())
            except OSError as error:
                session.config.stash.setdefault(_UNWRITTEN, []).append(f"{path}: {error.strerror}")
    failed = session.config.stash.get(_UNWRITTEN, None) or any(_over(session.config))
    if failed and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _over(config: pytest.Config) -> tuple[list[str], list[str]]:
    """Methods that took more than their budgets, and budgets of methods that nobody has."""
    report, budgets = config.stash.get(_OF_ALL, None), config.stash.get(_BUDGETS, None)
    if report is None or budgets is None:
        return [], []
    return [str(one) for one in report.exceeded(budgets)], report.misnamed(budgets)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what was counted, and what was too much."""
    for line in config.stash.get(_UNWRITTEN, []):
        terminalreporter.line(f"report of canisters not written to {line}", red=True)
    report, budgets = config.stash.get(_OF_ALL, None), config.stash.get(_BUDGETS, None)
    if report is None:
        return
    if config.getoption("perdure_report") or config.getoption("--perdure-report-structures"):
        terminalreporter.section("instructions and cycles")
        for line in report.lines():
            terminalreporter.line(line)
    exceeded, misnamed = _over(config)
    for title, lines in (("over budget", exceeded), ("budgets of nothing", misnamed)):
        if lines:
            terminalreporter.section(title, red=True)
        for line in lines:
            terminalreporter.line(line)
    if budgets is not None and (unused := report.unused(budgets)):
        terminalreporter.section("budgets not held against anything", yellow=True)
        for line in unused:
            terminalreporter.line(line)


# -- reports


_OWN_FIXTURES: Final = ("_perdure_prepared", "canister", "install", "outcalls", "subnet")
_SHARED: Final = """each test has a subnet of its own, so `subnet`, `install` and `canister` have a test's scope.
What several tests share is prepared once, by @pytest.mark.canister or by overriding the fixture perdure_baseline;
a fixture of a wider scope takes perdure_baseline and works on perdure_baseline.fork().
With `perdure_scope = "module"` in pytest's configuration, the tests of a module share one subnet, and what each does to
it the next one sees."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Tell of a failed test what its canisters have to do with it, and leave perdure's own frames out."""
    error = None if call.excinfo is None else _rejection(call.excinfo.value)
    if call.excinfo is not None and not item.config.getoption("fulltrace", default=False):
        from perdure.kit.plugin_frames import without_own_frames  # the tests that pass do without

        without_own_frames(call.excinfo)
    outcome = yield
    if call.excinfo is None:
        return
    report = outcome.get_result()
    if error is not None and error.backtrace:
        _put_first(report, error)
    if report.failed and (lines := _logged(item)):
        report.sections.append(("Captured canister log", "\n".join(lines)))
    told = str(call.excinfo.value)
    if told.startswith("ScopeMismatch") and any(f" {name} " in told or f"'{name}'" in told for name in _OWN_FIXTURES):
        report.sections.append(("perdure", _SHARED))


def _logged(item: pytest.Item) -> list[str]:
    """What the canisters of a test's subnet have printed, and the traps that they ended in."""
    found = next((node.stash[_SUBNET] for node in reversed(item.listchain()) if _SUBNET in node.stash), None)
    if found is None:
        return []
    subnet, seen = found
    return [
        f"{one.id}: {record.content.decode(errors='backslashreplace')}"
        for one in subnet.canisters
        for record in one.logs()
        if record.sequence > seen.get(one.id, -1)
    ]


def _rejection(error: BaseException | None) -> RejectError | None:
    """The rejection that an exception is, or comes from. By name: a project without canisters never imports it."""
    seen = 0
    while error is not None and seen < 20:
        kind = type(error)
        if kind.__name__ == "RejectError" and kind.__module__ == "perdure.errors":
            return error  # type: ignore[return-value]
        error, seen = error.__cause__ or error.__context__, seen + 1
    return None


def _put_first(report: pytest.TestReport, error: RejectError) -> None:
    from _pytest._code.code import ExceptionChainRepr, ReprEntryNative, ReprTraceback

    from perdure.errors import located

    long = report.longrepr
    if not isinstance(long, ExceptionChainRepr):
        return
    message = error.message.splitlines()[0] if error.message else ""
    lines = [f"{error.error_code} {message}\n", *(f"    {frame}\n" for frame in located(error.backtrace))]
    first = ReprTraceback([ReprEntryNative(["Canister backtrace, innermost first:\n", *lines])], None, style="native")
    long.chain = [(first, None, "In the test that called it:"), *long.chain]
