"""The house, as files: no two import each other, however, none is too long to read at once, and few write files.

Layers are import-linter's (`make contracts`); it sees packages, and here are files.
"""

from __future__ import annotations

import ast
import fnmatch
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src"
LONG_MODULES = {"perdure.stable.btree"}
"""Whole because a cut would separate what is read together: RATIONALE.md says why."""


@cache
def modules() -> dict[str, Path]:
    """Files by the name under which they are imported."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


Read = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.Call | ast.BoolOp


@cache
def parsed(name: str) -> ast.Module:
    """A file."""
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


@cache
def nodes(name: str) -> list[Read]:
    """What these tests look at in a file, which is parsed once."""
    return [node for node in ast.walk(parsed(name)) if isinstance(node, Read)]


def imported(name: str) -> Iterator[str]:
    """What a file imports of perdure: anywhere in it, in functions and for the type checker too."""
    for node in nodes(name):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute here"
            for alias in node.names:
                nested = f"{node.module}.{alias.name}"
                if nested in modules():
                    yield nested
                elif node.module in modules():
                    yield str(node.module)


def test_no_files_import_each_other() -> None:
    graph = {name: set(imported(name)) - {name} for name in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


def test_no_package_is_imported_by_its_own_files() -> None:
    """A package is the face of its files; one that asked for the face would wait for itself."""
    found = [
        (name, other)
        for name in modules()
        for other in imported(name)
        if name.startswith(f"{other}.") and other != "perdure"
    ]
    assert found == []


def names_of(name: str) -> set[str]:
    """What a file binds outside functions and classes; what it imports, too."""
    found: set[str] = set()
    waiting: list[ast.AST] = [parsed(name)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
        else:
            waiting += ast.iter_child_nodes(node)
    return found


IMPORTS = re.compile(r"^ *from (perdure(?:\.\w+)*) import (?:\(([^)]*)\)|(.*))$", re.MULTILINE)


def test_what_others_import_is_there() -> None:
    """Who moves a name runs the tests of its room, and others' tests, benchmarks and tools import it, too."""
    asked: dict[tuple[str, str], Path] = {}
    for path in (path for room in ("tests", "benchmarks", "tools") for path in (ROOT.parent / room).rglob("*.py")):
        for module, several, one in IMPORTS.findall(path.read_text(encoding="utf-8")):
            names = re.sub(r"#.*| as \w+", "", several or one).replace(",", " ").split()
            asked |= dict.fromkeys(((module, name) for name in names), path)
    bound = {module: names_of(module) | {"*"} for module in {module for module, _ in asked} & modules().keys()}
    assert len(asked) > 500
    assert [
        f"{path.relative_to(ROOT.parent)}: {module}.{name}"
        for (module, name), path in asked.items()
        if f"{module}.{name}" not in modules() and not bound.get(module, set()) & {name, "__getattr__"}
    ] == []


def test_modules_can_be_read_at_once() -> None:
    lines = {name: path.read_text(encoding="utf-8").count("\n") for name, path in modules().items()}
    assert {name for name, count in lines.items() if count > 600} - LONG_MODULES == set()


def test_functions_can_be_read_at_once() -> None:
    long = [
        f"{name}.{node.name}: {size}"
        for name in modules()
        for node in nodes(name)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (size := (node.end_lineno or 0) - node.lineno + 1) > 60
    ]
    assert long == []


WRITERS = {
    "perdure.embedder.cache": "native code, which is the engine's, and is checked before it is used",
    "perdure.embedder.turns": "an empty file beside it, as a lock",
    "perdure.holes": "a file without a name beside another one, to see what reading does; room for what is there",
    "perdure.embedder.memory": "a file in memory, while an entry runs whose reads are looked at",
    "perdure.demo.c_host": "what a compiler gets, for as long as it runs",
    "perdure.inspection.whole": "what somebody asked for by name: `whole_file`",
    "perdure.inspection.export": "the same, by `whole_file`",
    "perdure.inspection.sqlite_draft": "the same, by `whole_file`",
    "perdure.cli.demo": "what somebody asked a command for, by name",
    "perdure.cli.profile": "the same",
    "perdure.cli.heatmap": "the same",
    "perdure.cli.coverage": "the same",
    "perdure.cli.bench": "the same; results are written over, as canbench does",
    "perdure.cli.fuzz": "the same",
    "perdure.cli.bindgen": "the same",
    "perdure.cli.instrument": "the same; the output may be the input",
    "perdure.cli.launcher": "the status that icp waits for; a state that somebody wants to go",
    "perdure.cli.upgrade": "the same",
    "perdure.cli.fleet.campaigns": "the same: reports, in a directory",
    "perdure.fleet.journal": "what a campaign has found, in a directory that somebody asked for by name",
    "perdure.fleet.on_ray": "what a command's words name, in scratch files of a node",
    "perdure.fleet.worker": "to the pipe that answers are asked from; to the system, that it may be ended first",
    "perdure.cli.stable.check": "the same",
    "perdure.cli.stable.compare": "the same",
    "perdure.cli.stable.database": "the same, by `whole_file`",
    "perdure.cli.stable.declare": "the same; the output may be the input",
    "perdure.cli.memory": "the same, by `whole_file`",
    "perdure.kit.plugin": "pictures, where somebody asked for them by --perdure-heatmap",
    "perdure.kit.plugin_replies": "replies on file, beside the tests",
    "perdure.kit.plugin_measure": "reports that somebody asked pytest for",
    "perdure.kit.machine": "what a state machine has found, as a test",
    "perdure.cli.stable.export": "the same: a directory for the files of an export",
}
"""Who writes files outside `storage`: no state, and nothing that perdure would read again as one."""

_WRITING = {"write_bytes", "write_text", "mkdir", "rmdir", "unlink", "rename", "symlink_to", "hardlink_to"}
_WRITING_OS = _WRITING | {"write", "pwrite", "pwritev", "writev", "replace", "remove", "makedirs", "link", "symlink"}
_WRITING_OS |= {"truncate", "ftruncate", "fallocate", "posix_fallocate", "copy_file_range", "sendfile", "mkfifo"}
_WRITING_FLAGS = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND", "O_TMPFILE"}


def _writes(call: ast.Call) -> bool:
    """Whether a call writes to the file system, as far as its words say: scratch files of `tempfile` do not count."""
    if isinstance(call.func, ast.Name):
        return call.func.id == "open" and _is_for_writing(call, 1)
    if not isinstance(call.func, ast.Attribute):
        return False
    name, owner = call.func.attr, call.func.value
    if isinstance(owner, ast.Name) and owner.id in ("os", "shutil"):
        names = {node.attr for node in ast.walk(call) if isinstance(node, ast.Attribute)}
        return (
            (owner.id == "shutil" and name not in ("which", "disk_usage", "get_terminal_size"))
            or name in _WRITING_OS
            or bool(names & _WRITING_FLAGS)
        )
    is_path_replace = (
        name == "replace" and len(call.args) == 1 and not call.keywords and ast.unparse(owner) != "dataclasses"
    )
    return name in _WRITING or is_path_replace or (name == "open" and _is_for_writing(call, 0))


def _is_for_writing(call: ast.Call, position: int) -> bool:
    modes = [*call.args[position : position + 1], *(word.value for word in call.keywords if word.arg == "mode")]
    return any(isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax+") for mode in modes)


def test_only_storage_writes_state() -> None:
    found = {
        name
        for name in modules()
        if not name.startswith("perdure.storage")
        if any(isinstance(node, ast.Call) and _writes(node) for node in nodes(name))
    }
    assert found == set(WRITERS)


def test_the_disk_is_passed_in() -> None:
    """The system's files are what a caller gets who names no others, nowhere what a function takes by itself."""
    made, chosen = [], []
    for name in (name for name, path in modules().items() if "RealDisk" in path.read_text(encoding="utf-8")):
        for node in nodes(name):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "RealDisk":
                made.append(f"{name}:{node.lineno}")
            if isinstance(node, ast.BoolOp) and ast.unparse(node) == "disk or RealDisk()":
                chosen.append(f"{name}:{node.lineno}")
    inside = [place for place in made if place.startswith("perdure.storage.disk:")]  # `RealDisk.within`
    assert len(inside) == 1
    assert sorted(set(made) - set(inside)) == sorted(chosen)


TESTS = Path(__file__).parent
TESTED_WITH = {
    "candid/test_codec.py": "candid: deep encoding errors header leb128 readers",
    "candid/test_hostile.py": "candid: decoding",
    "candid/test_text.py": "candid: lexer printing",
    "certification/test_certification.py": "certification: *",
    "cli/test_canister.py": "cli: argument canister.* lazy paths state terminal units",
    "cli/test_commands.py": "cli: demo instrument run; demo: *",
    "cli/test_completion.py": "cli: completing",
    "cli/test_extension.py": "cli: measured",
    "cli/test_memory.py": "inspection: memories",
    "cli/test_stable.py": "cli: stable.*",
    "fleet/test_lake.py": "cli: fleet.export",
    "data/test_tables.py": "data: *; inspection: model_check model_views",
    "embedder/test_engine.py": "embedder: bindings c_host code creator facts global_values header host module settings",
    "embedder/test_instance.py": "embedder: machine patience store turns",
    "embedder/test_memory.py": "embedder: mapping pagemap",
    "execution/test_execute.py": "execution: effects journal world",
    "execution/test_ingress.py": "execution: inputs scheduler",
    "execution/test_limits.py": "execution: config",
    "execution/test_lifecycle.py": "execution: clock query",
    "execution/test_management.py": "execution: cycles management.* rejects",
    "execution/test_records.py": "execution: schema state",
    "execution/test_stories.py": "execution: messages",
    "explorer/test_pages.py": "explorer: asked calls canisters changes data past site snapshots subject trials words",
    "execution/test_streams.py": "execution: delivery",
    "gateway/test_http.py": "gateway: certifier read_paths state_tree",
    "gateway/test_server.py": "gateway: budget connection workers",
    "gateway/test_site.py": "gateway: domains",
    "inspection/test_export.py": "inspection: arrow occupancy whole",
    "inspection/test_find.py": "inspection: inventory labels source",
    "inspection/test_open.py": "inspection: streams",
    "inspection/test_remote.py": "cli: archives snapshot",
    "inspection/test_looking.py": "inspection: live",
    "inspection/test_fsck.py": "inspection: canister findings overwritten tree_check; stable: compaction",
    "inspection/test_rows.py": "inspection: infer",
    "inspection/test_diff.py": "inspection: deadline pages",
    "inspection/test_sql.py": "reading_sql",
    "inspection/test_sqlite.py": "inspection: sqlite_*; stable: sqlite",
    "inspection/test_sqlite_pages.py": "inspection: sqlite_explain",
    "instrument/test_kernel.py": "instrument: abi appendix counted inline linking terms",
    "instrument/test_memories.py": "instrument: own; embedder: own",
    "instrument/test_direct.py": "ic: ic0_ext",
    "instrument/test_metering.py": "instrument: scanning costs; garbage",
    "storage/test_archiving.py": "storage: archive_log archived_topology; subnet: opening",
    "network/test_network.py": "network: kinds; subnet: routes",
    "network/test_directory.py": "storage: topology",
    "gateway/test_routing.py": "network: delegations",
    "network/test_workers.py": "network: frames members process remote worker",
    "subnet/test_exported_interface.py": "instrument: probe",
    "instrument/test_wasi.py": "instrument: reactor",
    "embedder/test_lines.py": "instrument: origins",
    "instrument/test_lowering.py": "instrument: stand_ins",
    "kit/test_pocket_ic.py": "kit: pocket_ic.*",
    "measure/test_bench.py": "measure: structures; cli: bench",
    "measure/test_costs.py": "cli: explain",
    "measure/test_heat.py": "measure: heat_map heating; cli: heatmap; embedder: touched",
    "kit/test_plugin.py": "kit: plugin_frames",
    "measure/test_coverage.py": "measure: coverage*; cli: coverage; embedder: hits; kit: plugin_measure",
    "measure/test_report.py": "subnet: last",
    "measure/test_profile.py": "measure: flame formats paths; cli: profile; instrument: profile; embedder: call_tree",
    "python/test_instance.py": "raised",
    "python/test_module.py": "python: calls heap method overlay",
    "stable/test_btreemap.py": "stable: access btree btreeset chunks node nodes raw_nodes",
    "stable/test_layout.py": "stable: headers motoko",
    "stable/test_structures.py": "stable: cell log min_heap vec slots",
    "stable/test_types.py": "stable: composed_types kind plain_types",
    "stable/test_bulk.py": "stable: gather region",
    "storage/test_archive.py": "storage: archive_format archived collecting restoring",
    "storage/test_commit_log.py": "storage: log",
    "storage/test_directory.py": "storage: changes checkpoint checkpoints committed draft history names past telling",
    "storage/test_disk.py": "storage: aio",
    "storage/test_image.py": "storage: durable mapped pieces runs temporary",
    "storage/test_kept.py": "storage: answers",
    "storage/test_snapshot.py": "storage: transport",
    "subnet/test_durable.py": "subnet: host records snapshots",
    "subnet/test_handles.py": "subnet: canister core seen subnet",
    "subnet/test_handing.py": "execution: handing; subnet: handed",
    "subnet/test_threads.py": "subnet: gate residency",
    "subnet/test_writing_from_outside.py": "subnet: memories",
    "kit/test_actor.py": "subnet: actor",
    "kit/test_canister_actor.py": "subnet: deployment management",
    "subnet/test_forked_processes.py": "subnet: copying",
    "subnet/test_lending.py": "execution: lending; subnet: copying",
    "threshold/test_keys.py": "threshold: *",
    "system_api/test_host_functions.py": "system_api: api log wording; ic: ic0 reject",
    "candid/test_types.py": "ic: principal",
    "fleet/test_sources.py": "fleet: buckets found",
    "fleet/test_campaign.py": "fleet: command jobs journal plan report worker workers",
    "cli/test_fleet.py": "cli: fleet.*",
    "upgrade/test_scenarios.py": "upgrade: attribution check* finding rehearsal stage version",
    "upgrade/test_motoko_state.py": "values: motoko_*; inspection: motoko",
    "upgrade/test_hostile.py": "upgrade: arguments patience recorded replies",
    "upgrade/test_command.py": "upgrade: html report; cli: upgrade",
    "values/test_candid_columns.py": "values: arrow",
    "values/test_codec.py": "values: cbor composed plain protobuf schema",
    "values/test_format.py": "values: annotations",
    "wasm/test_decoder.py": "wasm: encoder leb names reader",
    "wasm/test_instructions.py": "wasm: opcodes tokens",
    "test_picture.py": "raster",
    "test_project.py": "yaml_core units",
}
"""Where is tested what has no test file of its own name: it is a piece of what that file is about."""

WITHOUT_RULES = (
    "canister errors image memory pocket_ic inspection.codec inspection.schema inspection.table kit.annotations"
)
"""Names of what moved, and protocols: nothing to test but what their users do."""


def _tested_with(words: str) -> Iterator[str]:
    for part in words.split(";"):
        package, _, names = part.rpartition(":")
        for name in names.split():
            yield f"perdure.{package.strip()}.{name}" if package else f"perdure.{name}"


def test_tests_mirror_the_source_by_name() -> None:
    """A module has the test file of its name, or the table says which other one is about it, too."""
    left = {name for name, path in modules().items() if path.name not in ("__init__.py", "__main__.py")}
    left -= {f"perdure.{name}" for name in WITHOUT_RULES.split()}
    own = {name for name in left if _own_tests(name).exists()}
    assert [file for file in TESTED_WITH if not (TESTS / file).exists()] == []
    patterns = [pattern for words in TESTED_WITH.values() for pattern in _tested_with(words)]
    rest = sorted(left - own - set().union(*(fnmatch.filter(left, pattern) for pattern in patterns)))
    assert rest == [], "give them a test file of their name, or a word in TESTED_WITH"


def _own_tests(name: str) -> Path:
    *packages, last = name.split(".")[1:]
    return TESTS.joinpath(*packages, f"test_{last}.py")


def test_the_page_on_reliability_names_tests_that_are_there() -> None:
    page = (ROOT.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page)
    assert len(named) > 50
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in _tests_of(file)]
    assert missing == []


@cache
def _tests_of(file: str) -> str:
    return (TESTS / file).read_text(encoding="utf-8")
