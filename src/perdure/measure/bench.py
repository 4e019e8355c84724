"""Run the benchmarks of a canister as canbench does: each is a query that answers with what it measured of itself.

Each runs on a canister in the same state, so several run at once, on forks of one subnet; what they measure is counted
in Wasm and depends on nothing else.
"""

from __future__ import annotations

import errno
import os
import queue
import stat
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, final

from perdure.candid import decode, encode, parse_types
from perdure.canister import CanisterInstance, EntryPoint, Env, Return, Trap
from perdure.embedder import shared_engine
from perdure.errors import MalformedError, PerdureError, RejectError
from perdure.execution.config import SubnetConfig
from perdure.ic.principal import Principal
from perdure.inspection.labels import ModuleLabels
from perdure.inspection.source import Source
from perdure.measure.canbench_files import FIELDS, Bench, Config, Measurement
from perdure.measure.structures import Owners, PageUse, inventory_of
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES
from perdure.subnet import Canister, Subnet
from perdure.subnet.residency import ResidentInstance
from perdure.wasm import decode as decode_module

__all__ = ["BenchFailedError", "Benchmarks", "Details", "Outcome", "read_file"]

_PREFIX: Final = "__canbench__"
_EXPORT: Final = f"canister_query {_PREFIX}"
_ID: Final = Principal.from_text("lxzze-o7777-77777-aaaaa-cai")
"""The first canister of an application subnet, as PocketIC numbers them."""
_CYCLES: Final = 10**18
_ZEROS_BYTES: Final = 1 << 20
_MEASUREMENT: Final = "; ".join(f"{field} : opt nat64" for field in FIELDS)
# All of it optional, as older versions of canbench-rs have fewer fields.
_RESULT: Final = parse_types(
    f"(record {{ total : opt record {{ {_MEASUREMENT} }}; "
    f"scopes : opt vec record {{ text; record {{ {_MEASUREMENT} }} }} }})"
)
_UNIT: Final = encode(parse_types("(null)"), (None,))


class BenchFailedError(PerdureError):
    """A benchmark cannot be run, in canbench's words."""


@final
class Details(NamedTuple):
    """What a benchmark's message took, what is around the measured part included. Pages are of 4 KiB."""

    instructions: int
    cycles: int
    """What an update of so many instructions costs."""
    heap_dirty_pages: int
    stable_accessed_pages: int
    stable_dirty_pages: int
    structures: tuple[PageUse, ...]
    own_dirty_pages: dict[str, int]
    """Of memories of the canister's own, by name."""


@final
class Outcome(NamedTuple):
    """One benchmark, run."""

    name: str
    bench: Bench
    details: Details | None
    printed: tuple[str, ...]
    """What the canister printed, each with the time and the canister before it."""


@final
class Benchmarks:
    """The benchmarks of a module, on a canister that is ready to run them.

    Args:
        config: what the canister is made of.
        wasm: the module.
        extensions: what it may use beyond the network's rules.

    Raises:
        BenchFailedError: a file that the configuration names cannot be read, or is none.
        RejectError: the module is refused, or its start or init code trapped.
        MalformedError: it is no module.
    """

    def __init__(self, config: Config, wasm: bytes, *, extensions: Sequence[str] = ()) -> None:
        self.names = _names(wasm)
        stable = _content(config.stable_memory, "stable memory") if config.stable_memory is not None else None
        variables = _variables(config.env_vars) if config.env_vars is not None else None
        self.subnet = Subnet(config=SubnetConfig.benchmarking(), extensions=extensions)
        self.canister = self.subnet.create_canister(canister_id=_ID, cycles=_CYCLES)
        if variables is not None:
            self.canister.update_settings(environment_variables=variables)
        self.canister.install(wasm, config.init_args)
        if stable is not None:
            _fill(self.canister, stable)

    def run(self, names: Sequence[str], *, jobs: int = 1, with_details: bool = False) -> Iterator[Outcome]:
        """Run benchmarks; what came of them, in the order of the names.

        Args:
            names: of the benchmarks.
            jobs: how many run at once.
            with_details: also tell what else they took.

        Raises:
            BenchFailedError: one was rejected, or did not answer as a benchmark does; those before it were told.
        """
        jobs = min(jobs, len(names))
        if jobs <= 1:
            yield from (_Runner(self.canister, with_details).run(name) for name in names)
            return
        runners: queue.SimpleQueue[_Runner] = queue.SimpleQueue()
        forks = [self.subnet.fork() for _ in range(jobs)]
        for fork in forks:
            runners.put(_Runner(fork.canister(_ID), with_details))

        def run(name: str) -> Outcome:
            runner = runners.get()
            try:
                return runner.run(name)
            finally:
                runners.put(runner)

        pool = ThreadPoolExecutor(jobs, thread_name_prefix="perdure-bench")
        try:
            for future in [pool.submit(run, name) for name in names]:
                yield future.result()
        except KeyboardInterrupt:
            shared_engine().stop_messages()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            for fork in forks:
                fork.close()

    def flame_graph(self, name: str) -> str:
        """Run a benchmark once more, and show where its instructions go: an SVG."""
        fork = self.subnet.fork()
        with fork, fork.profile() as profile:
            _Runner(fork.canister(_ID), with_details=False).run(name)
        return str(profile.svg(name))

    @property
    def compile_instructions(self) -> int:
        """What the network charges for compiling the module, in instructions."""
        module = self.canister.module
        return module.operators * SubnetConfig().cost_to_compile_wasm_instruction if module is not None else 0


def _names(wasm: bytes) -> list[str]:
    """The benchmarks of a module, in the order of its exports."""
    exports = decode_module(wasm).exports
    return [one.name.rpartition(_EXPORT)[2] for one in exports if one.name.startswith(_EXPORT)]


@final
class _Runner:
    """Runs benchmarks on one canister, one after the other."""

    def __init__(self, canister: Canister, with_details: bool) -> None:
        self._canister = canister
        self._with_details = with_details
        self._details: Details | None = None
        self._printed: list[str] = []

    def run(self, name: str) -> Outcome:
        self._details, self._printed = None, []
        world = self._canister._subnet._world
        world.watchers = (*world.watchers, self._note)
        try:
            reply = self._canister.query(f"{_PREFIX}{name}", _UNIT)
        except RejectError as error:
            raise BenchFailedError(
                f"Error executing benchmark {name}. Error:\n{error.error_code}: {error.message}"
            ) from error
        finally:
            world.watchers = tuple(one for one in world.watchers if one != self._note)
        return Outcome(name, _bench(name, reply), self._details, tuple(self._printed))

    def _note(self, instance: CanisterInstance, entry: EntryPoint, env: Env, result: Trap | Return) -> None:
        time = datetime.fromtimestamp(env.time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        stamp = f"{time}.{env.time_ns % 1_000_000_000:09} UTC: [Canister {self._canister.id}] "
        self._printed += [stamp + line.decode(errors="backslashreplace") for line in result.logs]
        if not self._with_details or isinstance(result, Trap) or not isinstance(instance, ResidentInstance):
            return
        world, memory, wasm = self._canister._subnet._world, instance.memories["stable"], instance.module.wasm
        found = inventory_of(Source(str(self._canister.id), memory, labels=ModuleLabels(lambda: wasm)), None)
        # Nobody pays for a query's pages, so nobody has counted them.
        written = {name: delta.changed_bytes // PAGE_BYTES for name, delta in instance.changes().memories.items()}
        self._details = Details(
            result.instructions,
            world.costs_of(instance.module).execution(result.instructions),
            written.pop("heap", 0),
            result.stable_accessed_pages,
            result.stable_dirty_pages,
            tuple(Owners(memory, found).use(*instance.stable_pages())),
            {name: pages for name, pages in written.items() if name != "stable"},
        )


def _bench(name: str, reply: bytes) -> Bench:
    try:
        (found,) = decode(reply, _RESULT)
        scopes = {str(scope): _measurement(one) for scope, one in found["scopes"] or ()}
        return Bench(_measurement(found["total"] or {}), scopes)
    except MalformedError as error:
        message = f"Error executing benchmark {name}. Error:\nerror decoding benchmark result: {error}"
        raise BenchFailedError(message) from error


def _measurement(found: Mapping[str, int | None]) -> Measurement:
    return Measurement(*(found.get(field) or 0 for field in FIELDS))


# --- what a configuration names


def read_file(path: str) -> bytes:
    """A file to its end; raises `OSError` also for a device, which may have none."""
    if "\0" in path:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    mode = os.stat(path).st_mode  # noqa: PTH116 - of what is opened next
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise OSError(errno.EINVAL, "a device, and no file that has an end")
    return Path(path).read_bytes()


def _content(path: str, what: str) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise BenchFailedError(f"Error reading {what} file {path}\nError: {_words(error)}") from error


def _words(error: OSError) -> str:
    """An error of the system as Rust words it."""
    return f"{error.strerror} (os error {error.errno})"


def _variables(path: str) -> list[dict[str, str]]:
    content = _content(path, "environment variables")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise BenchFailedError(f"Environment variables file {path} is not valid UTF-8\nError: {error}") from error
    found = []
    for line in text.removesuffix("\n").split("\n") if text else ():
        name, comma, value = line.removesuffix("\r").partition(",")
        if not comma:
            raise BenchFailedError(f"Invalid line in environment variables file {path}: '{name}'")
        found.append({"name": name.strip(), "value": value.strip()})
    return found


def _fill(canister: Canister, content: bytes) -> None:
    """Have stable memory hold these bytes, and zeros behind them."""
    stable = canister.stable
    size = stable.size()
    missing = -(-len(content) // WASM_PAGE_BYTES) - size
    if missing > 0 and stable.grow(missing) < 0:
        raise BenchFailedError(f"the stable memory file of {len(content)} bytes is larger than a stable memory")
    stable.write(0, content)
    for start in range(len(content), size * WASM_PAGE_BYTES, _ZEROS_BYTES):
        stable.write(start, bytes(min(_ZEROS_BYTES, size * WASM_PAGE_BYTES - start)))
