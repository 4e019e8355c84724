"""Workers on a Ray cluster: of campaigns, and of networks of subnets. Needs the extra ``fleet``.

Only bytes cross: requests and answers of a campaign, the frames of a network's workers. An actor of a network has the
same process on its node that a network would have here, and passes on what comes out of either end:

```
network ─ socket ─ pump (thread) ─ Ray ─ keeper (actor) ─ socket ─ worker process, with its state directories
```

Whoever reaches a Ray cluster runs code on it: see docs/fleet.md.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, final

from perdure.errors import HostError, UnsupportedError
from perdure.fleet.worker import named
from perdure.fleet.workers import Worker
from perdure.network.process import begin_process

__all__ = ["RayProcesses", "RayWorkers", "connect"]

_READ_BYTES: Final = 1 << 20
_STORE_BYTES: Final = 200 << 20
_ASK_SECONDS: Final = 600.0
_PATIENCE_SECONDS: Final = 30.0
"""For a cluster that is being begun; Ray itself would try for a quarter of an hour."""
_ADDRESS: Final = re.compile(r"(?:ray://)?\[?(?P<host>[^/\[\]]+)\]?:(?P<port>[0-9]{1,5})")


def _ray() -> Any:
    """Ray, which takes a second to import, and reads its environment then.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        return import_module("ray")
    except ModuleNotFoundError as error:
        raise UnsupportedError("Ray needs `pip install 'perdure[fleet]'`").coded("extra-missing") from error


def connect(address: str | None = None, count: int | None = None) -> None:
    """Be connected to a cluster: one that this process is connected to already, else that of an address.

    Args:
        address: of a cluster, ``auto`` for the one of this machine; by default what RAY_ADDRESS says, else a cluster of
            this process alone, which listens on the loopback interface, has no dashboard, and asks for a token.
        count: cores of a cluster of this process alone.

    Raises:
        UnsupportedError: Ray is not installed.
        HostError: there is no cluster, or it does not let us in.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        if "ray" not in sys.modules:  # it reads this when it is imported
            _keep_to_itself()
        settings |= {"num_cpus": count, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
        settings |= {"_node_ip_address": "127.0.0.1"}
    ray = _ray()
    if ray.is_initialized():
        return
    if address is None and os.environ.get("RAY_AUTH_MODE") != "token":
        raise HostError(
            "Ray was imported without token authentication, and a cluster is only begun with it: call "
            "perdure.fleet.on_ray.connect() before `import ray`, or set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        )
    if address is not None:
        _require_answer(address, ray.util.get_node_ip_address)
    try:
        ray.init(address=address or "local", **settings)
    except Exception as error:  # Ray's own have no class in common
        raise HostError(f"no Ray cluster at {address or 'this machine'}: {error}") from error


def _require_answer(address: str, own: Callable[[], str]) -> None:
    """Have somebody listen at an address, soon.

    Args:
        address: as Ray takes it; one that names no port is left to Ray.
        own: says this machine's address, which Ray takes for the one of the loopback interface.

    Raises:
        HostError: nobody does.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found["port"]) > 0xFFFF:
        return
    host, until = found["host"], time.monotonic() + _PATIENCE_SECONDS
    hosts = [host, own()] if host in ("127.0.0.1", "localhost", "::1") else [host]
    why = OSError("nobody listens")
    while True:
        for one in hosts:
            try:
                socket.create_connection((one, int(found["port"])), 5.0).close()
            except OSError as error:  # the name may not be known yet, either
                why = error
            else:
                return
        if time.monotonic() >= until:
            raise HostError(f"no Ray cluster at {address}: {why.strerror or why}") from why
        time.sleep(0.5)


def _keep_to_itself() -> None:
    """Have the cluster that this process begins listen on the loopback interface, and ask for a token."""
    # Ray makes the machine's address of 127.0.0.1, and listens on all, unless it is told that there is no cluster.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if not any(os.environ.get(one) for one in names) and not (Path.home() / ".ray" / "auth_token").exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


# --- campaigns


class _Doer:
    """Calls one function, which is named: nothing that was pickled here."""

    def __init__(self, work: str, directory: str, names: Sequence[str], *contents: bytes) -> None:
        self._scratch = TemporaryDirectory(prefix="perdure-fleet-")
        self._files = {}
        for name, content in zip(names, contents, strict=True):
            place = Path(self._scratch.name) / sha256(content).hexdigest()
            place.mkdir(exist_ok=True)
            (place / Path(name).name).write_bytes(content)
            self._files[name] = str(place / Path(name).name)
        if Path(directory).is_dir():
            os.chdir(directory)
        self._function = named(work)

    def ready(self) -> bytes:
        return b""

    def do(self, request: bytes) -> bytes:
        if self._files:
            request = json.dumps(json.loads(request) | {"files": self._files}).encode()
        answer: bytes = self._function(request)
        return answer


@final
class RayWorkers:
    """Workers of a campaign that are actors, with a core each; see `perdure.fleet.workers.Workers`.

    Args:
        work: the function that they call, as ``module:name``, which every node can import.
        count: how many at once; by default as many as the cluster has cores.
        address: see `connect`.
        directory: that relative names are in, on every node that has it; by default this process's own.
        files: what words of commands name, by the word: each worker gets the bytes, whatever its node has, and
            requests, which are then JSON objects, say under ``files`` where they are.
    """

    tries = 2
    """A node may go away, and nobody can tell whether what was done there had to do with it."""

    def __init__(
        self,
        work: str,
        count: int | None = None,
        address: str | None = None,
        directory: str | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        connect(address, count)
        ray = _ray()
        self._work, self._directory = work, directory or str(Path.cwd())
        self.count = count or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._names = list(files or {})
        self._contents = [ray.put(one) for one in (files or {}).values()]  # once, and to each node once
        self._actor = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Doer)

    def start(self) -> _RayWorker:
        """See `Workers`."""
        return _RayWorker(self._actor.remote(self._work, self._directory, self._names, *self._contents))

    def heard(self, workers: Collection[Worker], seconds: float | None) -> Sequence[tuple[Worker, bytes | None]]:
        """See `Workers`."""
        waited: dict[Any, _RayWorker] = {
            one.answer: one for one in workers if isinstance(one, _RayWorker) and one.answer is not None
        }
        done, _ = _ray().wait(list(waited), num_returns=1, timeout=seconds)
        return [(waited[one], waited[one].take()) for one in done]


@final
class _RayWorker:
    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self.answer: Any = actor.ready.remote()
        self._why = ""

    def give(self, request: bytes) -> None:
        """See `Worker`."""
        self.answer = self._actor.do.remote(request)

    def take(self) -> bytes | None:
        """The answer that has come; `None`: the actor is gone."""
        answer, self.answer = self.answer, None
        ray = _ray()
        try:
            found: bytes = ray.get(answer)
        except ray.exceptions.RayError as error:
            self._why = str(error).strip().splitlines()[-1][:500]
            return None
        return found

    def end(self) -> str:
        """See `Worker`."""
        with suppress(Exception):  # it is gone, or the cluster is
            _ray().kill(self._actor, no_restart=True)
        return self._why or "being killed"


# --- networks


class _Keeper:
    """Has a worker process of a network on its node, and passes on bytes; two threads: one for each direction."""

    def __init__(self, directory: str) -> None:
        if Path(directory).is_dir():  # relative names of modules are in it, where nodes have it
            os.chdir(directory)
        self._process, self._socket = begin_process()
        self._process_id = self._process.pid

    def facts(self) -> tuple[int, str]:
        return self._process_id, socket.gethostname()

    def write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def read(self) -> bytes:
        return self._socket.recv(_READ_BYTES)

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)


@final
class RayProcesses:
    """Where the worker processes of a `Network` are: each with an actor of a Ray cluster, as ``processes=`` takes it.

    An actor is placed where there is a core, or by `options`. If its node is lost, another one takes its place with the
    next call, opens the same state directories and goes on from their last durable commits; streams bring each message
    once. So directories have to be where every node reaches them, under the same names, or the network has an archive,
    of which they are made where they are not.

    Args:
        count: how many processes.
        address: see `connect`.
        options: of the actors, as ``ray.remote`` takes them: ``resources``, ``scheduling_strategy``, ``num_cpus``.
    """

    def __init__(self, count: int, address: str | None = None, options: dict[str, Any] | None = None) -> None:
        connect(address, count)
        self.count = count
        wanted = {"num_cpus": 1, **(options or {})}
        self._actor = _ray().remote(**wanted, max_restarts=0, max_task_retries=0, max_concurrency=4)(_Keeper)

    def start(self, number: int) -> tuple[_Remote, socket.socket]:
        """A new process, and this end of its pipe.

        Raises:
            HostError: no node has taken it.
        """
        ray = _ray()
        actor = self._actor.remote(str(Path.cwd()))
        try:
            pid, node = ray.get(actor.facts.remote(), timeout=_ASK_SECONDS)
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise HostError(f"no node of the Ray cluster has begun worker {number}: {error}") from error
        ours, theirs = socket.socketpair()
        remote = _Remote(actor, pid, node)
        for pump in (_pump_there, _pump_back):
            threading.Thread(
                target=pump, args=(actor, theirs, remote), name=f"perdure {pump.__name__}", daemon=True
            ).start()
        return remote, ours


@final
class _Remote:
    """A process elsewhere, by the names of `subprocess.Popen`."""

    def __init__(self, actor: Any, pid: int, node: str) -> None:
        self._actor = actor
        self.pid, self.node = pid, node
        self._gone = threading.Event()

    def send_signal(self, number: int) -> None:
        ray = _ray()
        with suppress(ray.exceptions.RayError):
            ray.get(self._actor.send_signal.remote(number), timeout=_ASK_SECONDS)

    def kill(self) -> None:
        with suppress(Exception):  # it is gone, or the cluster is
            _ray().kill(self._actor, no_restart=True)  # its process ends with it
        self._gone.set()

    def wait(self, timeout: float | None = None) -> int:
        self._gone.wait(timeout)
        return -signal.SIGKILL

    def is_gone(self) -> None:
        """Know that it is."""
        self._gone.set()


def _pump_there(actor: Any, end: socket.socket, remote: _Remote) -> None:
    """What the network sends, to the worker."""
    ray = _ray()
    with suppress(OSError, ray.exceptions.RayError):
        while data := end.recv(_READ_BYTES):
            ray.get(actor.write.remote(data))
    remote.kill()  # the network is gone, or the worker is


def _pump_back(actor: Any, end: socket.socket, remote: _Remote) -> None:
    """What the worker sends, to the network."""
    ray = _ray()
    with suppress(OSError, ray.exceptions.RayError):
        while data := ray.get(actor.read.remote()):
            end.sendall(data)
    remote.is_gone()
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
        end.close()
